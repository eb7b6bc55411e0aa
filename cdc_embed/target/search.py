"""The documents nearest to a vector, through the search view.

The HNSW index finds chunks, but a search asks for documents, so more chunks are read until there
are enough documents. A filter can leave too few rows of the index; then the search continues
exactly, without the index.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pgvector import Vector
from psycopg2 import sql

from cdc_embed.change.document import Key, Table
from cdc_embed.config.sections import IndexConfig
from cdc_embed.postgres.ddl import compose
from cdc_embed.postgres.session import Session

DISTANCE: Final = {"cosine": "<=>", "l2": "<->", "inner_product": "<#>"}
CHUNKS_FOR_A_DOCUMENT: Final = 4
MOST_CANDIDATES: Final = 1000
"""The limit of pgvector's hnsw.ef_search."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A document, with the distance of its nearest chunk."""

    table: Table
    key: Key
    chunk: int
    distance: float
    text: str | None


class Searcher:
    """Searches the tables of one target."""

    def __init__(
        self, session: Session, schema: str, index: IndexConfig, extension: tuple[str, str]
    ) -> None:
        self._session = session
        self._schema = schema
        self._index = index
        self._iterates = tuple(int(part) for part in extension[0].split(".")) >= (0, 8)
        self._extension_schema = extension[1]

    def search(
        self, table: Table, vector: NDArray[np.float32], k: int, where: Mapping[str, str]
    ) -> list[Hit]:
        """Return the ``k`` nearest documents whose columns have the values ``where``, nearest
        first.

        ``vector``: float32 array (d,). Raises ``RowRefusedError`` for a value that its column's
        type does not accept.
        """
        with self._session.transaction(table.search_view, rows=True) as cursor:
            hits = self._grow(cursor, table, vector, k, where)
            if len(hits) < k and where:
                cursor.execute("set local enable_indexscan = off")
                hits = self._grow(cursor, table, vector, k, where)
        return hits

    def _grow(
        self,
        cursor: Any,
        table: Table,
        vector: NDArray[np.float32],
        k: int,
        where: Mapping[str, str],
    ) -> list[Hit]:
        limit = k * CHUNKS_FOR_A_DOCUMENT
        while True:
            self._tune(cursor, limit)
            values: dict[str, Any] = {f"w{n}": value for n, value in enumerate(where.values())}
            values |= {"vector": Vector(vector).to_text(), "limit": limit}
            cursor.execute(self._statement(table, len(vector), where), values)
            rows = cursor.fetchall()
            nearest: dict[Key, Hit] = {}
            for *key, chunk, distance, text in rows:
                hit = Hit(table=table, key=tuple(key), chunk=chunk, distance=distance, text=text)
                nearest.setdefault(hit.key, hit)
            if len(nearest) >= k or len(rows) < limit:
                return list(nearest.values())[:k]
            limit *= 4

    def _tune(self, cursor: Any, limit: int) -> None:
        """Let the index return as many candidates as needed, and let it continue after a filter."""
        cursor.execute(f"set local hnsw.ef_search = {min(max(limit, 40), MOST_CANDIDATES)}")
        if self._iterates:
            cursor.execute("set local hnsw.iterative_scan = strict_order")

    def _statement(self, table: Table, dimensions: int, where: Mapping[str, str]) -> sql.Composed:
        columns = {column.name: column.type for column in (*table.key, *table.metadata)}
        conditions = [
            sql.SQL("v.{} = {}::{}").format(
                sql.Identifier(name), sql.Placeholder(f"w{place}"), sql.SQL(columns[name])
            )
            for place, name in enumerate(where)
        ]
        extension = sql.SQL(self._extension_schema)
        return compose(
            "target/store",
            "nearest",
            keys=sql.SQL(", ").join(
                sql.SQL("format('%%s', v.{})").format(sql.Identifier(column.name))
                for column in table.key
            ),
            distance=sql.SQL("v.embedding operator({}.{}) %(vector)s::{}.{}({})").format(
                extension,
                sql.SQL(DISTANCE[self._index.distance]),
                extension,
                sql.SQL(self._index.type),
                sql.Literal(dimensions),
            ),
            view=sql.Identifier(self._schema, table.search_view),
            where=sql.SQL("where {}").format(sql.SQL(" and ").join(conditions))
            if conditions
            else sql.SQL(""),
        )
