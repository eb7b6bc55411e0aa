"""The simulated target: stored documents, dead letters and the position, changed together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from cdc_embed.change.action import (
    REFUSED_METADATA,
    Action,
    Annotate,
    Defer,
    Forget,
    Metadata,
    Move,
    RowRefusal,
    Write,
    letter_of,
)
from cdc_embed.change.batch import RowId
from cdc_embed.change.compare import Stored as Found
from cdc_embed.change.document import Chunk, Document, Key, Table, fingerprint
from cdc_embed.change.knowledge import (
    ABSENT,
    LOG,
    READ,
    UNKNOWN,
    Deferred,
    Known,
    Refused,
    State,
)
from cdc_embed.change.plan import Plan
from cdc_embed.change.shape import LeafChanges
from cdc_embed.errors import HistoryGapError, TargetUnavailableError
from cdc_embed.lsn import LSN
from cdc_embed.postgres.side import RowRefusedError
from cdc_embed.target.ledger import DONE, RUNNING, Comparison
from cdc_embed.target.write import Actions, MissingDonorError, Vectors, actions_by_table
from cdc_embed.wire.messages import (
    UNCHANGED,
)
from tests.builders import checkpoint
from tests.unit.simulation.data import TABLES, refused_by_database, vector
from tests.unit.simulation.partitions import Noted


class Piece(NamedTuple):
    """One stored chunk."""

    place: int
    hash: bytes
    end: int
    vector: Any


class Stored(NamedTuple):
    """One stored document; with an empty hash it proves nothing any more."""

    document_hash: bytes
    pieces: tuple[Piece, ...]
    metadata: tuple[str | None, ...] = ()
    metadata_hash: bytes = b""
    reread: bool = False

    @property
    def has_first(self) -> bool:
        return self.pieces[0].place == 0


@dataclass
class Tables:
    """The tables that a target transaction changes: all of them or none."""

    chunks: dict[RowId, Stored] = field(default_factory=dict)
    letters: dict[RowId, bytes] = field(default_factory=dict)
    deferred: dict[RowId, int | None] = field(default_factory=dict)


class Target:
    """The target's rows and position; the order of a batch's steps is ``target/write.py``'s."""

    def __init__(self, confirmed: LSN) -> None:
        self.now = Tables()
        self.comparisons: dict[Table, Comparison] = {
            t: Comparison(table_name=t.full_name, state=DONE) for t in TABLES
        }
        self.noted = {t: Noted() for t in TABLES}
        self.answers_lost = 0
        self.interrupt: Callable[[], None] = lambda: None
        self.checkpoint = checkpoint(confirmed_lsn=confirmed)

    # -- look-ups ----------------------------------------------------------------------------------

    def look_up(self, rows: Sequence[RowId]) -> dict[RowId, State]:
        found = {row: self._state(row) for row in rows}
        self.interrupt()
        return found

    def look_up_whole(self, rows: Sequence[RowId]) -> dict[RowId, Found]:
        found = {row: self._whole(row) for row in rows}
        self.interrupt()
        return found

    def find_donors(self, chunks: Sequence[tuple[Table, bytes]]) -> set[tuple[Table, bytes]]:
        stored = {
            (row[0], piece.hash)
            for row, stored in self.now.chunks.items()
            for piece in stored.pieces
        }
        self.interrupt()
        return stored & set(chunks)

    def keys(self, source: Table) -> list[Key]:
        """In an order that is not the source's."""
        return sorted((key for t, key in self.now.chunks if t is source), reverse=True)

    def _state(self, row: RowId, *, whole: bool = False) -> State:
        if row in self.now.deferred:
            return Deferred(self.now.deferred[row])
        if row in self.now.letters:
            beside = row in self.now.chunks
            return Refused(self.now.letters[row], REFUSED_METADATA if beside else "")
        stored = self.now.chunks.get(row)
        if stored is None or not (whole or stored.has_first):
            return ABSENT
        if not stored.document_hash:
            return UNKNOWN
        return Known(stored.document_hash, stored.metadata_hash, READ if stored.reread else LOG)

    def _whole(self, row: RowId) -> Found:
        state, stored = self._state(row, whole=True), self.now.chunks.get(row)
        if stored is None:
            return Found(state, whole=False, end=0)
        places = [piece.place for piece in stored.pieces]
        return Found(
            state, len(places) == max(places) + 1, max(piece.end for piece in stored.pieces)
        )

    # -- writes ------------------------------------------------------------------------------------

    def write(self, plan: Plan, vectors: Vectors, batch_seq: int) -> None:
        if batch_seq == self.checkpoint.batch_seq:
            return
        if batch_seq != self.checkpoint.batch_seq + 1:
            raise HistoryGapError(slot="s", problem="the batch before this one was not written")
        after = Tables(dict(self.now.chunks), dict(self.now.letters), dict(self.now.deferred))
        for source, actions in actions_by_table(plan).items():
            self._write(after, plan, source, actions, vectors)
        self.now = after
        position, end_lsn = self.checkpoint.position, self.checkpoint.end_lsn
        if plan.batch.last is not None:
            assert plan.batch.last > position, "no change is written twice"
            position, end_lsn = plan.batch.last, max(end_lsn, plan.batch.end_lsn)
        self.checkpoint = replace(
            self.checkpoint, position=position, end_lsn=end_lsn, batch_seq=batch_seq
        )
        self._lose_answer()

    def refused_rows(self, plan: Plan, _vectors: Vectors) -> dict[RowId, RowRefusal]:
        return {
            row: RowRefusal("refused", _refused_places(action))
            for row, action in plan.actions.items()
            if self._refuses(action)
        }

    def _refuses(self, action: Action) -> bool:
        """A value that an action brings; one that it keeps is stored already."""
        values: list[object] = []
        if isinstance(action, Write):
            values += [chunk.text for chunk in action.document.chunks]
        if isinstance(action, Write | Move | Annotate):
            values += action.metadata.values
        return any(map(refused_by_database, values))

    def record_progress(self, lsn: LSN, _batch_seq: int) -> None:
        confirmed = max(self.checkpoint.confirmed_lsn, lsn)
        self.checkpoint = replace(self.checkpoint, confirmed_lsn=confirmed)
        self._lose_answer()

    def _write(
        self, after: Tables, plan: Plan, source: Table, actions: Actions, vectors: Vectors
    ) -> None:
        rows = {(source, key): action for key, action in actions.items()}
        if any(self._refuses(action) for action in actions.values()):
            raise RowRefusedError
        donors = {
            piece.hash: piece.vector
            for row, stored in self.now.chunks.items()
            if row[0] is source
            for piece in stored.pieces
        }
        staged: dict[RowId, Stored] = {}
        for row, action in rows.items():
            logged = row in plan.batch.images
            if isinstance(action, Write):
                staged[row] = self._stage(source, action, {**donors, **vectors}, logged=logged)
            elif isinstance(action, Move):
                staged[row] = self._move(source, action)
        settled = {row for row, action in rows.items() if not isinstance(action, Defer)}
        gone = {row for row in settled if not isinstance(rows[row], Forget | Annotate)}
        if source in plan.batch.truncated:
            noted = (*after.chunks, *after.letters, *after.deferred)
            gone |= (settled := {row for row in noted if row[0] is source})
        for row in gone:
            after.chunks.pop(row, None)
            after.letters.pop(row, None)
        for row in settled:
            after.deferred.pop(row, None)
        after.chunks |= staged
        for row, action in rows.items():
            stored = after.chunks.get(row)
            if isinstance(action, Annotate):
                if stored is None or not stored.has_first:
                    raise MissingDonorError("simulated")
                after.chunks[row] = stored._replace(
                    metadata=_kept(action.metadata, stored),
                    metadata_hash=action.metadata.hash,
                    reread=action.state.provenance is READ or row not in plan.batch.images,
                )
            elif isinstance(action, Forget) and stored is not None:
                after.chunks[row] = stored._replace(document_hash=b"")
            elif isinstance(action, Defer):
                after.deferred[row] = action.xid
            letter = letter_of(action)
            if letter is not None:
                after.letters[row] = letter.fingerprint

    def _stage(self, source: Table, write: Write, vectors: Vectors, *, logged: bool) -> Stored:
        chunks, metadata = write.document.chunks, write.metadata
        if any(chunk.hash not in vectors for chunk in chunks):
            raise MissingDonorError("simulated")
        pieces = tuple(
            Piece(place, chunk.hash, chunk.end, vectors[chunk.hash])
            for place, chunk in enumerate(chunks)
        )
        before = self._origin(source, metadata.origin) if metadata.origin is not None else None
        return Stored(
            write.document.fingerprint,
            pieces,
            _kept(metadata, before),
            metadata.hash,
            write.reread or not logged,
        )

    def _move(self, source: Table, move: Move) -> Stored:
        before = self._origin(source, move.origin)
        if before.document_hash != move.fingerprint:
            raise MissingDonorError("simulated")
        metadata = move.metadata
        return before._replace(
            metadata=_kept(metadata, before), metadata_hash=metadata.hash, reread=False
        )

    def _origin(self, source: Table, key: Key) -> Stored:
        stored = self.now.chunks.get((source, key))
        if stored is None or not stored.has_first:
            raise MissingDonorError("simulated")
        return stored

    def _lose_answer(self) -> None:
        if self.answers_lost:
            self.answers_lost -= 1
            raise TargetUnavailableError(problem="the answer to a commit was lost")

    def note_leaves(self, source: Table, found: dict[int, str], changes: LeafChanges) -> None:
        """Take the present leaves into account, and what follows from their changes."""
        self.noted[source].note(found, changes)
        comparison = self.comparisons[source]
        if comparison.state == DONE and (changes.compared or changes.orphans):
            self.comparisons[source] = replace(comparison, state=RUNNING, stage="leaves")

    # -- damage ------------------------------------------------------------------------------------

    def lose(self, row: RowId) -> None:
        """Somebody deleted a document, or its dead letter."""
        self.now.chunks.pop(row, None)
        self.now.letters.pop(row, None)

    def age(self, row: RowId, document: Document) -> None:
        """A document is that of another text, as when changes were missed; or of no row."""
        metadata = ("old",) if row[0].metadata else ()
        self.now.letters.pop(row, None)
        self.now.chunks[row] = Stored(
            document.fingerprint,
            tuple(Piece(n, c.hash, c.end, vector(c.hash)) for n, c in enumerate(document.chunks)),
            metadata,
            row[0].hash_metadata(metadata) or b"",
        )

    def break_off(self, row: RowId, *, first: bool) -> None:
        """One chunk of several is missing."""
        stored = self.now.chunks.get(row)
        if stored is not None and len(stored.pieces) > 1:
            left = stored.pieces[1:] if first else stored.pieces[:-1]
            self.now.chunks[row] = stored._replace(pieces=left)


def _kept(metadata: Metadata, before: Stored | None) -> tuple[str | None, ...]:
    """Metadata values, unchanged ones as they are stored."""
    return tuple(
        (before.metadata[place] if before is not None else None) if value is UNCHANGED else value
        for place, value in enumerate(metadata.values)
    )


def pieces(_: Table, text: str) -> Document:
    """A document with a chunk for each column."""
    chunks, start = [], 0
    for part in text.split("\n\n"):
        chunks.append(Chunk(part, start, start + len(part), fingerprint(part)))
        start += len(part) + 2
    return Document(fingerprint(text), tuple(chunks))


def _refused_places(action: Action) -> tuple[int, ...]:
    """The metadata values that are refused; none if the text is, too."""
    if not isinstance(action, Write | Move | Annotate):
        return ()
    chunks = action.document.chunks if isinstance(action, Write) else ()
    if any(refused_by_database(chunk.text) for chunk in chunks):
        return ()
    values = enumerate(action.metadata.values)
    return tuple(place for place, value in values if refused_by_database(value))
