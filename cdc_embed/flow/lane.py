"""The lane in which rows that were read from the source get their place in the order of the log.

Reconcile runs in a thread of its own and knows neither batches nor positions. It hands over a
``Slice``, rows as one snapshot shows them; the loop gives it a place between two ranges of the
log, and what came of it goes back through a ``Future``. What a slice must know of the log (which
rows were touched by transactions that its snapshot does not see) is gathered here.
"""

from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Event, Lock
from typing import Final

from cdc_embed.change.action import Row
from cdc_embed.change.batch import RowId
from cdc_embed.change.compare import Verdict
from cdc_embed.change.document import Key, Table
from cdc_embed.change.event import Change, Op
from cdc_embed.change.snapshot import Snapshot
from cdc_embed.change.unseen import Unseen
from cdc_embed.flow.facts import BatchFacts
from cdc_embed.lsn import LSN, ZERO

ANY_NUMBER: Final = 1 << 60
"""A number above every number of rows, because the log does not tell how many a TRUNCATE takes
away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Rows to be compared with what is stored of them."""

    table: Table
    rows: Mapping[Key, Row | None]
    """The rows by key; None if the source has no such row."""
    snapshot: Snapshot
    repair: bool
    """Whether what is stored is made equal to them."""
    sample: bool = False
    """Whether they are embedded afresh, too, and the vectors compared."""
    retry: bool = False
    """Whether dead letters are tried once more, with ``repair``."""
    embedded: BatchFacts | None = None
    """The results for the texts of deferred rows. Such a slice compares nothing."""
    deferrals: int = 0
    """The number of slices that had deferred rows before it was read, for ``embedded``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """The result of a slice, once it is committed."""

    verdicts: dict[Key, Verdict] = field(default_factory=dict)
    hidden: frozenset[Key] = frozenset()
    """The rows for which the snapshot can be too old, so that they are read again."""
    rest: Mapping[Key, Row | None] = field(default_factory=dict)
    """The rows that would have made the batch too large, or that wait for the embedder. They are
    handed over again as they are."""
    away: bool = False
    """Whether the embedder takes nothing."""


@dataclass(slots=True)
class Offer:
    """A slice that waits for its place."""

    slice: Slice
    answer: "Future[Examined]" = field(default_factory=Future)


class Lane:
    """The exchange between the thread that reconciles and the loop."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._offers: deque[Offer] = deque()
        self._closed = False
        self._unseen: Unseen | None = None
        self._watched: dict[RowId, bool] = {}
        self._moves: Counter[Table] = Counter()
        self._trusted: list[Table] = []
        self._distrusted: list[tuple[Table, Future[None]]] = []
        self.deferred = Event()
        """An event that is set when a batch is committed of which a text waits for the embedder."""
        self.deferrals = 0
        """The slices that deferred rows. An older read of these rows does not count any more,
        because no transaction tells it from a newer one. The loop's."""
        self.durable: LSN = ZERO
        """The position up to which the target reflects the log; the loop's."""
        self.awaited: LSN = ZERO
        """The position up to which the target must reflect the log before the thread that
        reconciles goes on."""
        self.wake: Callable[[], None] = lambda: None
        """A function that tells the loop that a slice waits; the loop's."""

    # -- for the thread that reconciles --------------------------------------------------------

    def remember_touched(self) -> None:
        """Remember from here on which rows the log touches."""
        with self._lock:
            self._unseen = self._unseen or Unseen()

    def drop_seen(self, snapshot: Snapshot) -> None:
        """Forget rows that ``snapshot`` sees, because nothing older is handed over from here on."""
        with self._lock:
            if self._unseen is not None:
                self._unseen.drop_seen(snapshot)

    def forget_touched(self) -> None:
        """Forget every touched row, because nothing is being read any more."""
        with self._lock:
            self._unseen = None
            self._moves.clear()

    def submit(self, slice: Slice) -> "Future[Examined]":  # noqa: A002  the word of this room
        """Hand rows over; the answer is cancelled when the connection ends first."""
        offer = Offer(slice)
        with self._lock:
            if self._closed:
                offer.answer.cancel()
            else:
                self._offers.append(offer)
        self.wake()
        return offer.answer

    def watch(self, rows: Collection[RowId]) -> None:
        """Note from here on whether the log touches these rows."""
        with self._lock:
            self._watched = dict.fromkeys(rows, False)

    def touched(self) -> set[RowId]:
        """Return the watched rows that the log touched since."""
        with self._lock:
            return {row for row, touched in self._watched.items() if touched}

    def moves(self, table: Table) -> int:
        """Return the number of rows that came or went in the log since touched rows are
        remembered."""
        with self._lock:
            return self._moves[table]

    def trust(self, table: Table) -> None:
        """Tell the loop that a table is compared, so that its stored rows prove what the log leaves
        out."""
        with self._lock:
            self._trusted.append(table)

    def distrust(self, table: Table) -> "Future[None]":
        """Ask the loop to take nothing for proven of a table's stored rows; done when it does."""
        done: Future[None] = Future()
        with self._lock:
            if self._closed:
                done.cancel()
            else:
                self._distrusted.append((table, done))
        self.wake()
        return done

    # -- for the loop --------------------------------------------------------------------------

    def mark_touched(self, change: Change) -> None:
        """Remember the rows that a received change touches, if anything is being read."""
        with self._lock:
            if self._unseen is not None:
                self._unseen.mark_touched(change)
                if change.op is not Op.UPDATE or change.old_key is not None:
                    self._moves[change.table] += ANY_NUMBER if change.op is Op.TRUNCATE else 1
            if not self._watched:
                return
            if change.op is Op.TRUNCATE:
                self._watched |= {row: True for row in self._watched if row[0] is change.table}
            for key in (change.key, change.old_key):
                if key is not None and (change.table, key) in self._watched:
                    self._watched[change.table, key] = True

    @property
    def waiting(self) -> bool:
        return bool(self._offers)

    @property
    def waits(self) -> bool:
        """Whether the thread that reconciles waits for the loop."""
        return self.waiting or self.distrusts or self.durable < self.awaited

    @property
    def distrusts(self) -> bool:
        """Whether a table is to be distrusted. Nothing is dispatched before all in flight is
        committed."""
        return bool(self._distrusted)

    def pass_trust(self, trust: Callable[[Table], None]) -> None:
        """Hand on which tables are compared."""
        with self._lock:
            tables, self._trusted = self._trusted, []
        for table in tables:
            trust(table)

    def settle_distrust(self, distrust: Callable[[Table], None]) -> None:
        """Hand on the tables whose stored rows prove nothing any more; nothing is in flight."""
        with self._lock:
            asked, self._distrusted = self._distrusted, []
            gone = {table for table, _ in asked}
            self._trusted = [table for table in self._trusted if table not in gone]
        for table, done in asked:
            distrust(table)
            done.set_result(None)

    def next_slice(self) -> tuple[Offer, frozenset[Key]] | None:
        """Return the next slice with its hidden rows; answer one that is hidden altogether."""
        with self._lock:
            while self._offers:
                offer = self._offers.popleft()
                if not offer.answer.set_running_or_notify_cancel():
                    continue
                part = offer.slice
                if part.embedded is not None and part.deferrals == self.deferrals:
                    return offer, frozenset()  # each deferred row says what a read must see
                hidden: frozenset[Key] | None = None
                if self._unseen is not None and part.embedded is None:
                    self._unseen.drop_seen(part.snapshot)
                    hidden = self._unseen.hidden(part.snapshot, part.table, part.rows.keys())
                if hidden is not None and len(hidden) < len(part.rows):
                    return offer, hidden
                offer.answer.set_result(Examined(hidden=frozenset(part.rows)))
        return None

    def close(self) -> None:
        """Cancel everything that waits, because the connection ends."""
        with self._lock:
            self._closed = True
            for offer in self._offers:
                offer.answer.cancel()
            self._offers.clear()
            for _, done in self._distrusted:
                done.cancel()
            self._distrusted.clear()
