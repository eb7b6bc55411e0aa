"""The states of stored rows that are known without asking the target, and their proof.

For each row it holds the stored fingerprint, or the refused one, or that the row is deferred, or
that nothing is stored, or that it is not known. Batches in flight are looked at first, newest
first, then a bounded cache of what is committed. A row in neither must be looked up in the target.
Nothing enters the cache before its batch is committed, so a rollback needs no undoing but a
``replan``.

The rule of provenance, here and nowhere else: a stored row proves what a later change leaves out
(an unchanged value) only if its text came by the log, and not while its table is compared. A text
that was read from the source can be ahead of the log. It can belong to a later version, or to
another row that took the key since. A row of a table that is compared can have missed changes. A
deferred row has missed its last change, so its stored document is of an older version.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from cdc_embed.change.batch import RowId
from cdc_embed.change.document import Table

CACHED_ROWS = 100_000
"""The number of rows whose fingerprints are kept, those that changed last, about 40 MB."""


class Provenance(Enum):
    """The way by which a stored text came, and so whether it proves what a change leaves out."""

    LOG = "it came by the log: it proves"
    UNCOMPARED = "it is stored as if by the log, but its table is not compared: it proves nothing"
    READ = "it was read from the source, maybe ahead of the log: it proves nothing"


LOG, UNCOMPARED, READ = Provenance


@dataclass(frozen=True, slots=True)
class Known:
    """Chunks of the document with this fingerprint are stored, and metadata with this hash."""

    fingerprint: bytes
    metadata: bytes = b""
    provenance: Provenance = Provenance.LOG

    def unproven(self) -> "Known":
        """Return the same without its proof, because its table is compared."""
        if self.provenance is not Provenance.LOG:
            return self
        return replace(self, provenance=Provenance.UNCOMPARED)


@dataclass(frozen=True, slots=True)
class Refused:
    """The document is a dead letter; no chunk is stored."""

    fingerprint: bytes
    """The fingerprint of the text, followed by the hash of the metadata if the database refused
    them."""
    reason: str = field(default="", compare=False)
    error: str = field(default="", compare=False)

    def refuses(self, text: bytes, metadata: bytes = b"") -> bool:
        """Return whether it is the letter of a text and its metadata, by their hashes."""
        return self.fingerprint in {text, text + metadata}


@dataclass(frozen=True, slots=True)
class Deferred:
    """The text waits for the embedder. The stored document is older, and proves nothing."""

    xid: int | None = None
    """The transaction that a read of the row must see; None if every read does."""


class Nothing(Enum):
    ABSENT = "no chunk and no dead letter is stored"
    UNKNOWN = "what is stored says nothing of the row's last version"


ABSENT = Nothing.ABSENT
UNKNOWN = Nothing.UNKNOWN

State = Known | Refused | Deferred | Nothing
States = Mapping[RowId, State]


def proof(state: State | None) -> Known | None:
    """Return the stored version that an unchanged value is unchanged from, if it is proven."""
    return state if isinstance(state, Known) and state.provenance is LOG else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The states of the rows that a planned batch touches, once it is committed."""

    states: States
    truncated: frozenset[Table]
    hashes: frozenset[tuple[Table, bytes]]
    """The hashes of the chunks that it writes, by table. Later batches can take their vectors from
    there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """The basis of a plan, the target when the plan's turn comes, as far as it is known.

    It holds until a batch before it is not written as planned.
    """

    states: dict[RowId, State]
    """The states of rows that need no look-up."""
    arriving: frozenset[tuple[Table, bytes]] = frozenset()
    """The hashes of chunks that the batches before it will have stored, by table."""
    trusted: frozenset[Table] = frozenset()
    """The tables whose stored rows prove what the log leaves out, if they came by the log."""

    def stored(self, row: RowId, found: State) -> State:
        """Return the state of a row that was looked up, unproven if its table is not trusted."""
        if isinstance(found, Known) and row[0] not in self.trusted:
            return found.unproven()
        return found


class Knowledge:
    """The overlay of planned batches over the cache of committed ones, for one connection."""

    def __init__(self, capacity: int = CACHED_ROWS) -> None:
        self._capacity = capacity
        self._committed: dict[RowId, State] = {}
        self._older: dict[RowId, State] = {}
        """The cache's older half. It is dropped as a whole, because one dict that shrinks and grows
        at once keeps more memory than it holds."""
        self._in_flight: deque[Outcome] = deque()
        self._trusted: set[Table] = set()

    def basis(self, rows: Iterable[RowId], *, cached: bool = True) -> Basis:
        """Return the basis of a plan for these rows.

        ``cached=False``: only batches in flight count, committed rows are looked up.
        """
        states = {}
        for row in rows:
            state = self._find_in_flight(row)
            if state is None and cached:
                state = self._committed.get(row) or self._older.get(row)
            if state is not None:
                states[row] = state
        arriving = frozenset().union(*(outcome.hashes for outcome in self._in_flight))
        return Basis(states=states, arriving=arriving, trusted=frozenset(self._trusted))

    def planned(self, outcome: Outcome) -> None:
        """Take in that a batch with this outcome is on its way, after all others."""
        self._in_flight.append(outcome)

    def committed(self) -> None:
        """Take in that the oldest batch in flight is committed as it was planned."""
        outcome = self._in_flight.popleft()
        if outcome.truncated:
            gone = outcome.truncated
            for half in self._halves:
                for row in [row for row in half if row[0] in gone]:
                    del half[row]
        for row, state in outcome.states.items():
            if isinstance(state, Refused):  # looked up, because a user can drop the letter
                self._forget(row)
            else:
                self._committed[row] = state
        if len(self._committed) > self._capacity // 2:
            self._committed, self._older = {}, self._committed

    def replan(self, rows: Iterable[RowId]) -> None:
        """Drop every plan, because the oldest cannot be written; look its rows up again."""
        self._in_flight.clear()
        for row in rows:
            self._forget(row)

    def trust(self, table: Table) -> None:
        """Take in that the table is compared, so that its stored rows prove what the log leaves
        out."""
        self._trusted.add(table)

    def distrust(self, table: Table) -> None:
        """Take in that stored rows of the table prove nothing any more; nothing is in flight."""
        self._trusted.discard(table)
        for half in self._halves:
            for row, state in half.items():
                if row[0] is table and isinstance(state, Known):
                    half[row] = state.unproven()

    @property
    def _halves(self) -> tuple[dict[RowId, State], dict[RowId, State]]:
        return self._committed, self._older

    def _forget(self, row: RowId) -> None:
        for half in self._halves:
            half.pop(row, None)

    def _find_in_flight(self, row: RowId) -> State | None:
        for outcome in reversed(self._in_flight):
            if row in outcome.states:
                return outcome.states[row]
            if row[0] in outcome.truncated:
                return ABSENT
        return None
