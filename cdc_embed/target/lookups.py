"""Look-ups of stored rows, for the flow.

One thread looks up while another one writes, because each has a session of its own. While an index
is built, which takes a session for hours, both use the writer's, because look-ups and batches are
short, and a service has one connection more at the most, whatever it does.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cdc_embed.change.batch import RowId
from cdc_embed.change.compare import Stored
from cdc_embed.change.document import Key, Table
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
from cdc_embed.postgres.session import Session
from cdc_embed.target.statements import Statements

StoredVector = tuple[bytes, NDArray[np.float32]]
"""A stored vector: (chunk hash, float32 array (d,))."""

_T = TypeVar("_T")


class LookUps:
    """Reads the stored rows of one slot's tables, as of the last commit."""

    def __init__(
        self, reader: Session, writer: Session, statements: Mapping[Table, Statements]
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._statements = statements
        self._lent = False

    def lend_connection(self) -> None:
        """Look up in the writer's session from now on, so that another session can be opened."""
        self._lent = True
        self._reader.close_when_free()

    def take_connection_back(self) -> None:
        """Look up in a session of its own again."""
        self._lent = False

    @property
    def _session(self) -> Session:
        if not self._lent:
            return self._reader
        self._reader.close_when_free()  # a connection that began meanwhile has used it
        return self._writer

    def look_up(self, rows: Sequence[RowId]) -> dict[RowId, State]:
        """Return the stored states of ``rows``, as of the last commit."""
        found: dict[RowId, State] = {}
        for table, keys in _by_table(rows).items():
            statements = self._statements[table]
            with self._session.transaction(table.embedding_table) as cursor:
                cursor.execute(statements["look_up"], statements.keys(keys))
                for place, *stored in cursor.fetchall():
                    found[table, keys[place - 1]] = _state(*stored)
        return found

    def look_up_whole(self, rows: Sequence[RowId]) -> dict[RowId, Stored]:
        """Return the stored documents of ``rows`` with all their chunks, as of the last commit."""
        found: dict[RowId, Stored] = {}
        for table, keys in _by_table(rows).items():
            statements = self._statements[table]
            with self._session.transaction(table.embedding_table) as cursor:
                cursor.execute(statements["look_up_whole"], statements.keys(keys))
                for place, *stored, whole, end in cursor.fetchall():
                    state = _state(*stored)
                    found[table, keys[place - 1]] = Stored(state, bool(whole), end or 0)
        return found

    def vectors(self, table: Table, keys: Sequence[Key]) -> dict[tuple[Key, int], StoredVector]:
        """Return the stored vectors of some documents, by key and chunk."""
        statements = self._statements[table]
        with self._session.transaction(table.embedding_table) as cursor:
            cursor.execute(statements["stored_vectors"], statements.keys(keys))
            return {
                (keys[place - 1], chunk): (bytes(digest), _vector(text))
                for place, chunk, digest, text in cursor.fetchall()
            }

    def find_donors(self, chunks: Iterable[tuple[Table, bytes]]) -> set[tuple[Table, bytes]]:
        """Return those chunks (by table and hash) that are stored already."""
        found = set()
        for table, hashes in _by_table(chunks).items():
            statements = self._statements[table]
            with self._session.transaction(table.embedding_table) as cursor:
                cursor.execute(statements["find_donors"], {"hashes": hashes, **statements.values})
                found |= {(table, bytes(row[0])) for row in cursor.fetchall()}
        return found


def _state(deferred: bool, xid: int | None, *stored: Any) -> State:
    document_hash, metadata_hash, from_log, refused, reason, error = stored
    if deferred:
        return Deferred(xid)
    if refused is not None:
        return Refused(bytes(refused), reason, error)
    if document_hash is None:
        return ABSENT
    if not len(document_hash):
        return UNKNOWN
    return Known(bytes(document_hash), bytes(metadata_hash or b""), LOG if from_log else READ)


def _vector(text: str) -> NDArray[np.float32]:
    return np.fromstring(text[1:-1], np.float32, sep=",")


def _by_table(pairs: Iterable[tuple[Table, _T]]) -> dict[Table, list[_T]]:
    grouped: dict[Table, list[_T]] = {}
    for table, value in pairs:
        grouped.setdefault(table, []).append(value)
    return grouped
