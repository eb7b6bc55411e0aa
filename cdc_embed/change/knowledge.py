"""What is known of the target without asking it.

For each row: the fingerprint that is stored, or refused, or that nothing is stored, or that it is
not known. Batches in flight are looked at first, newest first, then a bounded cache of what is
committed. A row in neither must be looked up in the target. Nothing enters the cache before its
batch is committed, so a rollback needs no undoing but a ``clear``.
"""

from collections import OrderedDict, deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from cdc_embed.change.batch import RowId
from cdc_embed.change.document import Table

CACHED_ROWS = 200_000
"""About 40 MB: fingerprints of the rows that changed last."""


@dataclass(frozen=True, slots=True)
class Known:
    """Chunks of the document with this fingerprint are stored, and metadata with this hash."""

    fingerprint: bytes
    metadata: bytes = b""


@dataclass(frozen=True, slots=True)
class Reread:
    """Chunks of this text are stored, but it was read from the source, not from the log.

    The read may have been ahead of the log, so the text may belong to a later version, or to
    another row that took the key since. It can be compared with, but it proves nothing about the
    version that a later change calls unchanged.
    """

    fingerprint: bytes
    metadata: bytes = b""


@dataclass(frozen=True, slots=True)
class Refused:
    """The document is a dead letter; no chunk is stored."""

    fingerprint: bytes
    """Of its text; followed by the hash of its metadata where the database refused the two."""
    reason: str = field(default="", compare=False)
    error: str = field(default="", compare=False)

    def refuses(self, text: bytes, metadata: bytes = b"") -> bool:
        """Whether it is the letter of a text and its metadata, by their hashes."""
        return self.fingerprint in {text, text + metadata}


class Nothing(Enum):
    ABSENT = "no chunk and no dead letter is stored"
    UNKNOWN = "what is stored says nothing of the row's last version"


ABSENT = Nothing.ABSENT
UNKNOWN = Nothing.UNKNOWN

State = Known | Reread | Refused | Nothing
States = Mapping[RowId, State]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a planned batch makes of the rows it touches, once it is committed."""

    states: States
    truncated: frozenset[Table]
    hashes: frozenset[tuple[Table, bytes]]
    """Chunks that it writes: later batches may take their vectors from there."""
    kept: frozenset[RowId] = frozenset()
    """Rows that it leaves as they are: what it says of them is so only if it was so before."""

    def without(self, rows: Collection[RowId]) -> "Outcome":
        """The same, but for those of the rows that are only kept."""
        if self.kept.isdisjoint(rows):
            return self
        gone = self.kept & set(rows)
        return replace(self, states={r: s for r, s in self.states.items() if r not in gone})


class Knowledge:
    """The overlay of planned batches over the cache of committed ones."""

    def __init__(self, capacity: int = CACHED_ROWS) -> None:
        self._capacity = capacity
        self._committed: OrderedDict[RowId, State] = OrderedDict()
        self._in_flight: deque[Outcome] = deque()
        self._refused: set[RowId] = set()
        """Rows that the database refused while the next batch was prepared, maybe upon them."""

    def known(self, rows: Iterable[RowId]) -> dict[RowId, State]:
        """The states of those rows that need no look-up."""
        found = {}
        for row in rows:
            state = self._find(row)
            if state is not None:
                found[row] = state
        return found

    def arriving(self) -> frozenset[tuple[Table, bytes]]:
        """Chunks that batches in flight will have stored before the next batch is written."""
        return frozenset().union(*(outcome.hashes for outcome in self._in_flight))

    def in_flight(self, rows: Iterable[RowId]) -> dict[RowId, State]:
        """What batches in flight make of those rows that they touch."""
        return {row: s for row in rows if (s := self._find_in_flight(row)) is not None}

    def planned(self, outcome: Outcome) -> None:
        """A batch with this outcome is on its way, after all others."""
        self._in_flight.append(outcome.without(self._refused))
        self._refused.clear()

    def committed(self, outcome: Outcome) -> None:
        """The oldest batch in flight is committed, and this is what came of it.

        Where the database refused a row, later batches may have left it as it is because they took
        it for stored: what they say of it is not so.
        """
        planned = self._in_flight.popleft()
        refused = {
            row
            for row, state in outcome.states.items()
            if isinstance(state, Refused) and planned.states.get(row) != state
        }
        if refused:
            self._refused |= refused
            self._in_flight = deque(later.without(refused) for later in self._in_flight)
        if outcome.truncated:
            kept = (
                (row, s) for row, s in self._committed.items() if row[0] not in outcome.truncated
            )
            self._committed = OrderedDict(kept)
        for row, state in outcome.states.items():
            letter = isinstance(state, Refused)  # somebody may drop it: it is looked up
            if letter or row not in planned.states:
                self._committed.pop(row, None)
                continue
            self._committed[row] = state
            self._committed.move_to_end(row)
        while len(self._committed) > self._capacity:
            self._committed.popitem(last=False)

    def distrust(self, table: Table) -> None:
        """Nothing is in flight, and stored rows of the table prove nothing any more."""
        for row, state in self._committed.items():
            if row[0] is table and isinstance(state, Known):
                self._committed[row] = Reread(state.fingerprint, state.metadata)

    def clear(self) -> None:
        """Forget everything: another connection, epoch or writer starts afresh."""
        self._committed.clear()
        self._in_flight.clear()
        self._refused.clear()

    def _find(self, row: RowId) -> State | None:
        found = self._find_in_flight(row)
        return self._committed.get(row) if found is None else found

    def _find_in_flight(self, row: RowId) -> State | None:
        for outcome in reversed(self._in_flight):
            if row in outcome.states:
                return outcome.states[row]
            if row[0] in outcome.truncated:
                return ABSENT
        return None
