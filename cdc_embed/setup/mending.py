"""Our own tables in the target, made again after other hands dropped some of them.

The migrations make all of them in a schema beside ours, from which those that are gone are taken.
Nothing is made up. A position that is gone is a gap in the history, and without the record of the
spaces nobody knows which model made the stored vectors. A copy of the schema without rows, as tests
and staging have it, holds nothing. What is empty there is made again, of whatever version it is.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Final

from cdc_embed.errors import PreflightError
from cdc_embed.postgres.ddl import Ddl
from cdc_embed.setup.connections import RUN_SETUP, Connections
from cdc_embed.sql import migrations, queries
from cdc_embed.target.registry import (
    applied_migrations,
    filled_tables,
    missing_migrations,
    vector_tables,
)
from cdc_embed.target.schema import SERVICE_TABLES, make_again_ddl, set_logged_ddl
from cdc_embed.target.vectors import OWN_COLUMNS

MADE_WITH: Final = {
    "space": ("embedding_table", "dead_letter", "reconcile"),
    "embedding_table": ("reconcile",),
    "dead_letter": ("reconcile",),
    "deferred": ("reconcile",),
}
"""The tables that are made again together with another one, because their rows mean nothing without
it. A table without a row in ``reconcile`` is compared whole."""
_COMMENT: Final = re.compile(r"comment on table \{schema\}\.(\w+) is\s*'([^']*)'")


def lost_tables(databases: Connections) -> list[str]:
    """Return our own tables that do not exist, and ``migration`` also if its rows are gone. Return
    none before ``setup``, in a copy without rows, or if migrations are missing."""
    found = _found(databases)
    if "migration" in found:
        applied = applied_migrations(databases.target, databases.config.target.schema)
        if not applied and _is_by_comments(found):
            return ["migration", *_gone(found)] if _filled(databases, found) else []
        made = not missing_migrations(applied)
    else:
        made = _is_by_comments(found) or bool(_vectors(databases))
    return _gone(found) if made else []


def is_bare(databases: Connections) -> bool:
    """Return whether the schema is a copy without rows, such as ``pg_dump --schema-only`` makes."""
    schema, found = databases.config.target.schema, _found(databases)
    if "migration" not in found or applied_migrations(databases.target, schema):
        return False
    return _is_by_comments(found) and not _filled(databases, found)


def _found(databases: Connections) -> dict[str, str | None]:
    """Return our own tables that exist, or others of their names, with their comments."""
    return {name: comment for name, (comment, _) in _service_tables(databases).items()}


def _service_tables(databases: Connections) -> dict[str, tuple[str | None, bool]]:
    """Return (comment, whether a crash leaves its rows) of each of them, by its name."""
    values = {"schema": databases.config.target.schema, "names": list(SERVICE_TABLES)}
    statement = queries("target/mending")["service_tables"]
    rows = databases.target.fetch("schema", statement, values)
    return {name: (comment, logged) for name, comment, logged in rows}


def _gone(found: Iterable[str]) -> list[str]:
    return [name for name in SERVICE_TABLES if name not in found]


def _is_by_comments(found: Mapping[str, str | None]) -> bool:
    return any(found.get(name) == comment for name, comment in _comments())


def _vectors(databases: Connections) -> list[str]:
    """Return the tables of vectors, whether they are registered or not."""
    own = {column.name for column in OWN_COLUMNS}
    tables = vector_tables(databases.target, databases.config.target.schema)
    return [name for name, stored in tables.items() if own <= stored.columns.keys()]


def _filled(databases: Connections, names: Iterable[str]) -> list[str]:
    return filled_tables(databases.target, databases.config.target.schema, names)


def _unlogged_tables(databases: Connections) -> list[str]:
    """Return our own tables that a crash empties, as somebody made them; none before ``setup``."""
    if not applied_migrations(databases.target, databases.config.target.schema):
        return []
    return [name for name, (_, logged) in _service_tables(databases).items() if not logged]


def _comments() -> list[tuple[str, str]]:
    """Return our own tables with their comments, which no other program's have."""
    return [found for _, _, text in migrations("target") for found in _COMMENT.findall(text)]


def expect_tables(databases: Connections) -> None:
    """Raise when one of our own tables is gone, of which all others then lack something."""
    lost = lost_tables(databases)
    if lost:
        _expect_gone(databases, lost)
        raise _lost(databases, lost)
    schema = databases.config.target.schema
    for name in _unlogged_tables(databases):
        problem = f"{schema}.{name} is unlogged: a crash empties it"
        raise PreflightError(where="target database", problem=problem, hint=RUN_SETUP)


def mend_ddl(databases: Connections, *, rebuild: bool) -> list[Ddl]:
    """Return the statements that make the tables right that are gone, or unlogged; none if there
    are none."""
    lost = [*SERVICE_TABLES] if is_bare(databases) else lost_tables(databases)
    if not lost:
        return _set_logged_ddl(databases)
    _expect_gone(databases, lost)
    if "space" in lost and not rebuild and _filled(databases, _vectors(databases)):
        raise _lost(databases, lost)
    schema = databases.config.target.schema
    names = {*lost, *(name for gone in lost for name in MADE_WITH.get(gone, ()))}
    made = [name for name in SERVICE_TABLES if name in names]
    return [make_again_ddl(schema, made)]


def _set_logged_ddl(databases: Connections) -> list[Ddl]:
    """Have our own tables survive a crash. Every row is compared then, because a crash before can
    have emptied them."""
    schema, names = databases.config.target.schema, _unlogged_tables(databases)
    if not names:
        return []
    return [
        *(set_logged_ddl(schema, name) for name in names),
        make_again_ddl(schema, ["reconcile"]),
    ]


def _expect_gone(databases: Connections, lost: list[str]) -> None:
    """Raise when a table is not gone, but was renamed or moved to another schema."""
    schema = databases.config.target.schema
    values = {"schema": schema, "names": lost, "comments": json.dumps(dict(_comments()))}
    statement = queries("target/mending")["moved_tables"]
    moved = {name: rest for name, *rest in databases.target.fetch("schema", statement, values)}
    if moved:
        said = [f"{schema}.{name} was renamed to {now}" for name, (now, _) in moved.items()]
        back = [back for _, back in moved.values()]
        raise PreflightError(where="target database", problem="; ".join(said), hint="\n".join(back))


def _lost(databases: Connections, lost: Iterable[str]) -> PreflightError:
    listed = ", ".join(f"{databases.config.target.schema}.{name}" for name in lost)
    problem = f"{listed} does not exist any more, or has lost its rows"
    if "space" not in lost:
        return PreflightError(where="target database", problem=problem, hint=RUN_SETUP)
    return PreflightError(
        where="target database",
        problem=f"{problem}, so it is not known which model made the stored vectors",
        hint="embed every text again: cdc-embed setup --rebuild",
    )
