"""One table's part of a batch's transaction, in an order that survives key swaps.

First copy the chunks in. Then take reused vectors and moved documents from the rows stored *before*
any delete. Then delete the touched keys' other chunks, update those that are kept, insert the new
ones, and last the dead letters and the deferred rows.

A trigger or a rule of the user's can drop rows without an error. So each statement whose number of
rows is certain must have had that number.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdc_embed.change.action import (
    Action,
    Annotate,
    Defer,
    Forget,
    Move,
    Refuse,
    Skip,
    Supersede,
    Write,
    letter_of,
)
from cdc_embed.change.document import Key, Table
from cdc_embed.change.event import Change
from cdc_embed.change.knowledge import READ
from cdc_embed.change.plan import Plan
from cdc_embed.errors import TargetRefusedError
from cdc_embed.target import copy
from cdc_embed.target.letters import storable
from cdc_embed.target.pieces import Piece, assign
from cdc_embed.target.statements import Statements
from cdc_embed.wire.messages import UNCHANGED

Vectors = Mapping[bytes, NDArray[np.float32]]
"""The new vectors, by chunk hash: float32 arrays (d,)."""

Actions = dict[Key, Action]


class MissingDonorError(Exception):
    """A stored chunk whose vector or metadata was to be reused is gone or was changed. Nothing was
    written."""

    def __init__(self, embedding_table: str) -> None:
        self.embedding_table = embedding_table
        super().__init__("a stored vector to be reused is gone; its text is embedded instead")


def dropped(table: str, problem: str) -> TargetRefusedError:
    """Return the error of statements that changed fewer rows than they must."""
    said = f"{problem}, and no error was raised: a trigger or rule of yours on it drops changes"
    return TargetRefusedError(
        table=table,
        problem=said,
        hint="drop that trigger or rule (cdc-embed doctor names it); the table is tried again by "
        "itself",
    )


def actions_by_table(plan: Plan) -> dict[Table, Actions]:
    """Return the actions that write, by table; truncated tables are always included."""
    grouped: dict[Table, Actions] = {table: {} for table in plan.batch.truncated}
    for (table, key), action in plan.actions.items():
        if not isinstance(action, Skip | Supersede):
            grouped.setdefault(table, {})[key] = action
    return grouped


class TableWriter:
    """Writes the actions of one table through an open transaction's cursor.

    ``changes`` holds the changes of the log behind the actions; a row without one was read.
    """

    def __init__(
        self,
        cursor: Any,
        changes: Mapping[Key, Change],
        statements: Statements,
        vectors: Vectors,
        *,
        half: bool,
    ) -> None:
        self._cursor = cursor
        self._changes = changes
        self._statements = statements
        self._vectors = vectors
        self._half = half

    def write(self, actions: Actions, *, truncated: bool) -> None:
        writes = {key: a for key, a in actions.items() if isinstance(a, Write)}
        moves = {key: a for key, a in actions.items() if isinstance(a, Move)}
        notes = {key: a for key, a in actions.items() if isinstance(a, Annotate)}
        letters = {key: letter for key, a in actions.items() if (letter := letter_of(a))}
        forgotten = [key for key, a in actions.items() if isinstance(a, Forget)]
        kept = new = 0
        if writes:
            kept = self._stage(writes, {} if truncated else self._pieces(writes))
            new = sum(len(write.document.chunks) for write in writes.values()) - kept
        if moves:
            new += self._stage_moves(moves)
        self._clear(actions, letters, truncated=truncated)
        if kept:
            self._update_kept(kept)
        if writes or moves:
            self._insert("insert_chunks", self._statements.values, new)
        if notes:
            self._annotate(notes)
        if forgotten:
            self._execute("forget_documents", self._statements.keys(forgotten))
        if letters:
            self._insert_letters(letters)
        deferred = {key: a for key, a in actions.items() if isinstance(a, Defer)}
        if deferred:
            self._insert_deferred(deferred)

    def _clear(self, actions: Actions, letters: Mapping[Key, Refuse], *, truncated: bool) -> None:
        """Delete what is stored of the rows, and their dead letters; they are deferred no more."""
        if truncated:
            for name in ("delete_all_chunks", "delete_all_letters", "delete_all_deferred"):
                self._execute(name, self._statements.values)
            self._expect_deleted("any_left_of_all", {})
            return
        settled = [key for key, action in actions.items() if not isinstance(action, Defer)]
        replaced = [key for key in settled if not isinstance(actions[key], Forget | Annotate)]
        if replaced:
            self._execute("delete_chunks", self._statements.keys(replaced))
            self._expect_deleted("any_left", self._statements.keys(replaced))
            cleared = [key for key in replaced if key not in letters]
            self._execute("delete_letters", self._statements.keys(cleared))
        if settled:
            self._execute("delete_deferred", self._statements.keys(settled))

    def _pieces(self, writes: Mapping[Key, Write]) -> dict[Key, list[Piece]]:
        """Return the rows of the documents with several chunks, of which the equal ones are kept.

        A vector in hand was embedded because the stored one is not to be used.
        """
        hashes = {
            key: [chunk.hash for chunk in write.document.chunks]
            for key, write in writes.items()
            if len(write.document.chunks) > 1
        }
        if not hashes:
            return {}
        self._execute("stored_chunks", self._statements.keys(hashes))
        stored: dict[Key, dict[int, bytes]] = {key: {} for key in hashes}
        keys = list(hashes)
        for place, number, digest in self._cursor.fetchall():
            if bytes(digest) not in self._vectors:
                stored[keys[place - 1]][number] = bytes(digest)
        return {key: assign(wanted, stored[key]) for key, wanted in hashes.items()}

    def _update_kept(self, kept: int) -> None:
        self._execute("update_chunks", self._statements.values)
        if self._cursor.rowcount != kept:
            raise self._missing_donor()

    def _stage(self, writes: Mapping[Key, Write], pieces: Mapping[Key, list[Piece]]) -> int:
        """Copy the chunks of these documents in; return how many of them are kept."""
        rows = copy.CopyInput(self._rows(writes, pieces))
        self._cursor.copy_expert(self._statements["copy_stage"], rows)
        chunks = (chunk for write in writes.values() for chunk in write.document.chunks)
        if any(chunk.hash not in self._vectors for chunk in chunks):
            self._execute("fill_from_donors", self._statements.values)
            self._expect_none("missing_donors")
        keeping = {key: write for key, write in writes.items() if write.metadata.origin is not None}
        if keeping:
            self._keep_metadata(keeping)
        return sum(piece.kept for row in pieces.values() for piece in row)

    def _keep_metadata(self, writes: Mapping[Key, Write]) -> None:
        listed = [write.metadata for write in writes.values()]
        values = {
            **self._statements.keys(writes),
            **self._statements.origins(m.origin for m in listed if m.origin is not None),
            **self._statements.metadata(listed),
        }
        self._execute("keep_metadata", values)
        self._expect_none("missing_metadata")

    def _expect_none(self, name: str) -> None:
        """Raise if a staged row found no stored row to take from, because the plan is out of
        date."""
        self._execute(name, {})
        if self._cursor.fetchone()[0]:
            raise self._missing_donor()

    def _missing_donor(self) -> MissingDonorError:
        return MissingDonorError(self._statements.table.embedding_table)

    def _annotate(self, notes: Mapping[Key, Annotate]) -> None:
        values = {
            **self._statements.keys(notes),
            **self._statements.metadata([note.metadata for note in notes.values()]),
            **self._provenance({k: n.state.provenance is READ for k, n in notes.items()}),
        }
        self._execute("annotate", values)
        self._execute("missing_annotations", values)
        if self._cursor.fetchone()[0]:
            raise self._missing_donor()

    def _provenance(self, reread: Mapping[Key, bool]) -> dict[str, list[str | None]]:
        """Return each row's place in the log; None for a row that was read from the source."""
        changes = [None if was else self._changes.get(key) for key, was in reread.items()]
        return {
            "commit_lsns": [str(c.position.commit_lsn) if c else None for c in changes],
            "committed_ats": [c.committed_at.isoformat() if c else None for c in changes],
        }

    def _rows(
        self, writes: Mapping[Key, Write], pieces: Mapping[Key, list[Piece]]
    ) -> Iterator[Sequence[bytes]]:
        """Yield the staged rows in binary COPY fields; a vector that is reused is still missing.

        A text that was read again has no commit LSN, because it is not from the log.
        """
        store_text = self._statements.table.store_text
        for key, write in writes.items():
            change = self._changes.get(key)
            metadata = write.metadata
            for place, chunk in enumerate(write.document.chunks):
                piece = pieces[key][place] if key in pieces else Piece(place, False)
                vector = self._vectors.get(chunk.hash)
                yield [
                    *(copy.text(value) for value in key),
                    copy.int4(place),
                    copy.int4(piece.number),
                    copy.boolean(piece.kept),
                    copy.NULL if vector is None else copy.vector(vector, half=self._half),
                    copy.text(chunk.text if store_text else None),
                    copy.int4(chunk.start),
                    copy.int4(chunk.end),
                    copy.raw(write.document.fingerprint),
                    copy.raw(chunk.hash),
                    copy.int8(change.position.commit_lsn if change and not write.reread else None),
                    copy.timestamp(change.committed_at if change else None),
                    copy.NULL if metadata.origin is not None else copy.raw(metadata.hash),
                    *(copy.text(None if v is UNCHANGED else v) for v in metadata.values),
                ]

    def _stage_moves(self, moves: Mapping[Key, Move]) -> int:
        """Copy the chunks of moved documents in; return their number."""
        values = {
            **self._statements.keys(moves),
            **self._statements.origins(move.origin for move in moves.values()),
            **self._statements.metadata([move.metadata for move in moves.values()]),
            **self._provenance(dict.fromkeys(moves, False)),
            "fingerprints": [move.fingerprint for move in moves.values()],
        }
        self._execute("stage_moves", values)
        chunks: int = self._cursor.rowcount
        self._execute("count_staged_moves", values)
        if self._cursor.fetchone()[0] != len(moves):
            raise self._missing_donor()
        return chunks

    def _insert_letters(self, letters: Mapping[Key, Refuse]) -> None:
        encoding = self._cursor.connection.get_parameter_status("server_encoding")
        values = {
            **self._statements.keys(letters),
            "fingerprints": [letter.fingerprint for letter in letters.values()],
            "reasons": [letter.reason for letter in letters.values()],
            "errors": [storable(letter.error, encoding) for letter in letters.values()],
        }
        self._insert("insert_letters", values, len(letters))

    def _insert_deferred(self, deferred: Mapping[Key, Defer]) -> None:
        values = {
            **self._statements.keys(deferred),
            **self._provenance(dict.fromkeys(deferred, False)),
            "xids": [action.xid for action in deferred.values()],
        }
        self._insert("insert_deferred", values, len(deferred))

    def _insert(self, name: str, values: Mapping[str, Any], rows: int) -> None:
        """Insert as many rows; raise if fewer are stored."""
        self._execute(name, values)
        if self._cursor.rowcount < rows:
            raise self._dropped(f"{self._cursor.rowcount} of {rows} rows were stored ({name})")

    def _expect_deleted(self, name: str, values: Mapping[str, Any]) -> None:
        self._execute(name, values)
        if self._cursor.fetchone()[0]:
            raise self._dropped("a row that was deleted is still there")

    def _dropped(self, problem: str) -> TargetRefusedError:
        return dropped(self._statements.table.embedding_table, problem)

    def _execute(self, name: str, values: Mapping[str, Any]) -> None:
        self._cursor.execute(self._statements[name], values)
