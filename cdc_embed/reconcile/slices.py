"""Rows of the source, read slice by slice, for reconcile and verify.

Scans, waits, and hands rows over to the loop. It compares nothing and decides nothing, because both
are the work of ``flow``. The first slice waits until every transaction has ended that was running
when the rows that the log touches began to be remembered. Changes that were received before then,
by this process or an earlier one, could not be known otherwise.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as NotYetError
from dataclasses import dataclass, field
from threading import Event
from typing import Final, TypeVar

from cdc_embed.change.action import Row
from cdc_embed.change.compare import KeyColumn
from cdc_embed.change.document import Key, Table
from cdc_embed.flow.facts import BatchFacts
from cdc_embed.flow.lane import Examined, Lane, Slice
from cdc_embed.lsn import LSN
from cdc_embed.metrics import Metrics
from cdc_embed.reconcile.counts import TableCounter
from cdc_embed.source.coverage import Undelivered
from cdc_embed.source.rows import RowReader, Scan
from cdc_embed.target.leaves import Leaves
from cdc_embed.target.ledger import Ledger
from cdc_embed.target.stored import StoredDocuments

SLICE_ROWS: Final = 1000
POLL_SECONDS: Final = 0.5
SAVE_SECONDS: Final = 1.0
MOST_SUSPECTS: Final = 1000
"""The rows that are compared again together; more would only take memory."""
RETRY_SECONDS: Final = 0.05
"""The pause before rows are read again that could not be read or compared."""
AWAY_SECONDS: Final = 1.0
"""The pause before rows are handed over again that wait for the embedder."""
BLOCKED_SECONDS: Final = 0.25
"""The pause before running transactions are listed again."""


T = TypeVar("T")


class StoppedError(Exception):
    """The connection or the service ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """One table to be kept equal, and the vector space of its documents."""

    table: Table
    space: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingPace:
    """The sizes and pauses of the work on rows that are read."""

    rows_per_second: int = 0
    """The most rows of a scan in a second; 0 without a limit."""
    slice_rows: int = SLICE_ROWS
    """The rows that are read together at the most."""
    suspects: int = MOST_SUSPECTS
    """The rows that ``verify`` compares again together."""
    poll: float = POLL_SECONDS
    """The seconds between two checks whether the term has ended, while the loop compares rows."""
    save: float = SAVE_SECONDS
    """The seconds between two records of a table's progress."""
    rounds: float = 0.5
    """The seconds between two looks at whether there is something to do."""
    trouble: float = 2.0
    """The seconds before the next round after a database did not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """The time for which one instance holds the slot, from one connection to its end."""

    lane: Lane
    """The way of rows into the order of the log."""
    epoch: int
    ended: Event


class SliceReader:
    """Reads rows of the source and hands them over to be compared."""

    def __init__(
        self,
        *,
        term: Term,
        rows: RowReader,
        stored: StoredDocuments,
        wal_end: Callable[[], LSN],
        pace: ReadingPace,
    ) -> None:
        self._lane = term.lane
        self._ended = term.ended
        self._rows = rows
        self._stored = stored
        self._wal_end = wal_end
        self._pace = pace
        self._deferrals = 0
        self.waiting_for = ""
        """The transactions that the first slice waits for; for ``status``."""

    def begin(self, on_wait: Callable[[str], None]) -> None:
        """Remember the rows that the log touches, and wait for the transactions before that.

        ``on_wait`` is called with the names of the transactions that are waited for.
        """
        self._lane.remember_touched()
        before = self._rows.next_xid()
        while (snapshot := self._rows.snapshot()).xmin < before:
            self._lane.drop_seen(snapshot)  # the wait can be long, and much is written meanwhile
            self.waiting_for = ", ".join(self._rows.running_before(before)) or "a transaction"
            on_wait(f"the end of {self.waiting_for}")
            self.pause(BLOCKED_SECONDS)
        self.waiting_for = ""

    def end(self) -> None:
        """Stop remembering rows."""
        self._lane.forget_touched()

    # -- reading -----------------------------------------------------------------------------------

    def scan(
        self, table: Table, after: Key | None, leaf: int | None = None
    ) -> Iterator[tuple[Scan, Key | None]]:
        """Read the table, or one leaf, in the order of its key; yield slices, each with its last
        key."""
        rate, most = self._pace.rows_per_second, self._pace.slice_rows
        most = min(most, rate) or most
        while True:
            began = time.monotonic()
            found = self._rows.scan(table, after, most, leaf)
            if found is None:  # the table was rewritten meanwhile, so the rows could not be seen
                self.pause(RETRY_SECONDS)
                continue
            if found.rows:
                after = next(reversed(found.rows))
                yield found, after
            if not found.more:
                return
            if rate:
                spent = time.monotonic() - began
                self.pause(max(0.0, len(found.rows) / rate - spent))

    def orphans(self, table: Table, after: Key | None) -> Iterator[tuple[Scan, Key | None]]:
        """Find stored keys without a row in the source, in the order of the target."""
        most = self._pace.slice_rows
        while keys := self._stored.stored_keys(table, after, most):
            after = keys[-1]
            for scan in self._read_parts(self._rows.scan_missing, table, keys):
                yield scan, after
        letters = self._stored.letter_keys(table)
        for start in range(0, len(letters), most):
            part = letters[start : start + most]
            for scan in self._read_parts(self._rows.scan_missing, table, part):
                yield scan, after

    def read_keys(self, table: Table, keys: Collection[Key]) -> Iterator[Scan]:
        """Read some rows by key, part by part."""
        return self._read_parts(self._rows.scan_keys, table, keys)

    def key_columns(self, table: Table) -> list[KeyColumn]:
        """Return the columns of the table's key, as the catalogue has them now."""
        return self._rows.key_columns(table)

    def _read_parts(
        self, read: Callable[[Table, Collection[Key]], Scan | None], table: Table,
        keys: Collection[Key],
    ) -> Iterator[Scan]:  # fmt: skip
        """Repeat a read until it has every key, and the table is not rewritten meanwhile."""
        while keys:
            found = read(table, keys)
            if found is None:
                self.pause(RETRY_SECONDS)
                continue
            yield found
            keys = found.rest

    # -- handing over ------------------------------------------------------------------------------

    def hand_over(
        self, table: Table, scan: Scan, *, repair: bool, sample: bool = False, retry: bool = False
    ) -> Iterator[Examined]:
        """Have the loop compare rows, in parts if they are many.

        Gives the verdicts of each part. Rows that the log touched after the read are named in
        ``hidden`` and not compared.
        """
        rows: Mapping[Key, Row | None] = scan.rows
        while rows:
            part = Slice(
                table=table,
                rows=rows,
                snapshot=scan.snapshot,
                repair=repair,
                sample=sample,
                retry=retry,
            )
            examined = self._answer_of(self._lane.submit(part))
            yield examined
            rows = examined.rest
            if examined.away:
                self.pause(AWAY_SECONDS)

    def hand_over_all(
        self, table: Table, scan: Scan, *, repair: bool, sample: bool = False, retry: bool = False
    ) -> Iterator[Examined]:
        """Have the loop compare rows; read hidden rows again until all are compared."""
        scans: Iterable[Scan] = [scan]
        while True:
            hidden: set[Key] = set()
            for part in scans:
                for examined in self.hand_over(
                    table, part, repair=repair, sample=sample, retry=retry
                ):
                    hidden |= examined.hidden
                    yield examined
            if not hidden:
                return
            self.pause(RETRY_SECONDS)
            scans = self.read_keys(table, hidden)

    def read_deferred(self, table: Table, keys: Collection[Key]) -> Iterator[Scan]:
        """Read deferred rows by key, part by part, to be handed over before the next part."""
        self._deferrals = self._lane.deferrals
        for scan in self.read_keys(table, keys):
            yield scan
            self._deferrals = self._lane.deferrals

    def hand_over_deferred(self, table: Table, scan: Scan, embedded: BatchFacts) -> frozenset[Key]:
        """Have the loop write deferred rows that are embedded; return those to be read again."""
        part = Slice(
            table=table,
            rows=scan.rows,
            snapshot=scan.snapshot,
            repair=True,
            embedded=embedded,
            deferrals=self._deferrals,
        )
        return self._answer_of(self._lane.submit(part)).hidden

    def distrust(self, table: Table) -> None:
        """Have the loop forget all that it knows of the table's stored rows."""
        self._answer_of(self._lane.distrust(table))

    # -- waiting -----------------------------------------------------------------------------------

    def wait_until_durable(self) -> None:
        """Wait until the target reflects everything that is committed now."""
        end = self._lane.awaited = self._wal_end()
        while self._lane.durable < end:
            self.pause(RETRY_SECONDS)

    def pause(self, seconds: float) -> None:
        """Wait; raise ``StoppedError`` when the term ends first."""
        if self._ended.wait(seconds):
            raise StoppedError

    def _answer_of(self, answer: "Future[T]") -> T:
        while True:
            try:
                return answer.result(self._pace.poll)
            except NotYetError:
                self.pause(0)
            except CancelledError:
                raise StoppedError from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The things that backfill, verify and retry work with during one term."""

    term: Term
    slices: SliceReader
    scopes: Sequence[Scope]
    ledger: Ledger
    stored: StoredDocuments
    leaves: Leaves
    undelivered: Undelivered
    metrics: Metrics
    pace: ReadingPace
    counts: TableCounter
    has_news: Callable[[Table], bool] = lambda _: False
    """A function that says whether partitions came, went or were changed, and not all that follows
    from it is compared yet."""
    unproven: dict[str, str] = field(default_factory=dict)
    """The tables whose rows could not all be read in this term, and the reasons."""

    @property
    def tables(self) -> list[Table]:
        """The tables to be kept equal, in the order of the configuration."""
        return [scope.table for scope in self.scopes]

    @property
    def problems(self) -> dict[str, str]:
        """The reasons of the tables that are paused or not proven, by name."""
        return {**self.unproven, **self.undelivered.problems}
