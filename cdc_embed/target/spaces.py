"""The canaries of the vector spaces, and the statements that keep spaces and models together.

A canary is the vector of a known-good text, stored with its space. It says whether the model that
answers now is the one that made the stored vectors. ``setup`` decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from psycopg2 import sql

from cdc_embed.change.document import fingerprint
from cdc_embed.postgres.ddl import Ddl, compose
from cdc_embed.postgres.session import Session
from cdc_embed.target.registry import applied_migrations

Vector = NDArray[np.float32]

CANARY_MIGRATION: Final = 11
"""The migration that adds the canaries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSpace:
    """The space of one table of vectors, with its canary."""

    table_name: str
    embedding_table: str
    id: int
    model: str
    dimensions: int
    document_prompt: str
    query_prompt: str
    canary: Vector | None
    shared: bool
    """Whether another slot's tables are in it, too."""
    search_view: str | None
    """The name of the search view; None if it was dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """The vector of the known-good text that a model gives now."""

    model: str
    vector: Vector
    found_window: int
    """The tokens of one text that were found out; 0 if they are configured."""


def has_canaries(session: Session, schema: str) -> bool:
    """Return whether the schema has the form that is read here."""
    return CANARY_MIGRATION in applied_migrations(session, schema)


def slot_spaces(session: Session, schema: str, slot: str) -> list[StoredSpace]:
    """Return the space of each table of vectors that a slot keeps."""
    statement = _compose("canaries", schema=sql.Identifier(schema))
    return [
        StoredSpace(
            table_name=row[0],
            embedding_table=row[1],
            id=row[2],
            model=row[3],
            dimensions=row[4],
            document_prompt=row[5],
            query_prompt=row[6],
            canary=None if row[7] is None else np.array(row[7], dtype=np.float32),
            shared=row[8],
            search_view=row[9],
        )
        for row in session.fetch("space", statement, {"schema": schema, "slot": slot})
    ]


def stored_windows(session: Session, schema: str) -> dict[int, int]:
    """Return the window that each space's texts were cut with, by its number, where it is known."""
    if not has_canaries(session, schema):
        return {}
    return dict(session.fetch("space", _compose("windows", schema=sql.Identifier(schema))))


def keep_canary(session: Session, schema: str, slot: str, canary: Canary) -> None:
    """Store a canary with the spaces of a slot's tables that have none."""
    values = {
        "canary": canary.vector.tolist(),
        "window": canary.found_window,
        "model": canary.model,
        "slot": slot,
    }
    with session.transaction("space") as cursor:
        cursor.execute(_compose("keep_canary", schema=sql.Identifier(schema)), values)


def replace_canary_ddl(schema: str, space: StoredSpace, canary: Canary) -> Ddl:
    """Replace the canary of a space without vectors."""
    statement = _compose(
        "replace_canary",
        schema=sql.Identifier(schema),
        canary=sql.Literal(canary.vector.tolist()),
        window=sql.Literal(canary.found_window),
        space=sql.Literal(space.id),
    )
    return Ddl(f"record what model {space.model} is now", statement)


def retire_ddl(schema: str, space: StoredSpace, retired: str) -> Ddl:
    """Give a space another name, so that its vectors are those of another model."""
    statement = _compose(
        "retire_space",
        schema=sql.Identifier(schema),
        retired=sql.Literal(retired),
        space=sql.Literal(space.id),
    )
    return Ddl(f"another model answers to {space.model}: rename the former one's space", statement)


def rename_ddl(schema: str, slot: str, former: StoredSpace, model: str) -> Ddl:
    """Give the spaces of a model its new name, but for those that other slots write into."""
    statement = _compose(
        "rename_spaces",
        schema=sql.Identifier(schema),
        model=sql.Literal(model),
        former=sql.Literal(former.model),
        dimensions=sql.Literal(former.dimensions),
        document_prompt=sql.Literal(former.document_prompt),
        query_prompt=sql.Literal(former.query_prompt),
        slot=sql.Literal(slot),
    )
    return Ddl(f"model {former.model} is called {model} now, its vectors stay", statement)


def has_model(session: Session, schema: str, model: str) -> bool:
    """Return whether a space has the name of this model already."""
    statement = _compose("has_model", schema=sql.Identifier(schema))
    found: bool = session.fetch("space", statement, {"model": model})[0][0]
    return found


def has_vectors(session: Session, schema: str, space: StoredSpace) -> bool:
    """Return whether the table of vectors of a space has any."""
    statement = _of_table("has_vectors", schema, space)
    found: bool = session.fetch(space.embedding_table, statement)[0][0]
    return found


def draw_vectors(
    session: Session, schema: str, spaces: Sequence[StoredSpace], count: int
) -> list[tuple[str, Vector]]:
    """Return texts of these spaces, drawn at random, with their stored vectors.

    Where no text is stored, those are drawn that the search view reads from the source.
    """
    tables = [_of_table("drawn_vectors", schema, space) for space in spaces]
    statement = sql.SQL("select * from ({}) as stored order by random() limit {}").format(
        sql.SQL(" union all ").join(tables), sql.Literal(count)
    )
    rows: Sequence[Any] = session.fetch("embedding_table", statement)
    if not rows:
        rows = [row for space in spaces for row in _draw_shown(session, schema, space, count)]
    return [(text, np.array(vector, dtype=np.float32)) for text, vector in rows[:count]]


def _draw_shown(
    session: Session, schema: str, space: StoredSpace, count: int
) -> list[tuple[str, Any]]:
    """Return texts that the search view shows, with their vectors; a text that has changed in the
    source has none."""
    if space.search_view is None:
        return []
    view = sql.Identifier(schema, space.search_view)
    drawn = _compose("drawn_texts", view=view, count=sql.Literal(count))
    texts = {fingerprint(text): text for (text,) in session.fetch(space.search_view, drawn)}
    statement = _of_table("vectors_of", schema, space)
    rows = session.fetch(space.embedding_table, statement, {"hashes": list(texts)})
    return [(texts[bytes(digest)], vector) for digest, vector in rows]


def _of_table(name: str, schema: str, space: StoredSpace) -> sql.Composed:
    table = sql.Identifier(schema, space.embedding_table)
    return _compose(name, table=table, space=sql.Literal(space.id))


def _compose(query: str, **parts: sql.Composable) -> sql.Composed:
    return compose("target/spaces", query, **parts)
