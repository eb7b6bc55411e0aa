"""Our own tables in the target, made again after other hands dropped some of them.

The migrations make all of them in a schema beside ours, from which those that are gone are taken.
Nothing is made up: a position that is gone is a gap in the history, and without the record of the
spaces nobody knows which model made the stored vectors.
"""

import re
from collections.abc import Iterable
from typing import Final

from cdc_embed.errors import PreflightError
from cdc_embed.postgres.ddl import Ddl
from cdc_embed.setup.connections import RUN_SETUP, Connections
from cdc_embed.sql import migrations, queries
from cdc_embed.target.registry import applied_migrations, missing_migrations, vector_tables
from cdc_embed.target.schema import SERVICE_TABLES, make_again_ddl
from cdc_embed.target.vectors import OWN_COLUMNS

MADE_WITH: Final = {
    "space": ("embedding_table", "dead_letter", "reconcile"),
    "embedding_table": ("reconcile",),
    "dead_letter": ("reconcile",),
    "deferred": ("reconcile",),
}
"""Tables that mean nothing without another one. Without a comparison every row is compared."""
_COMMENT: Final = re.compile(r"comment on table \{schema\}\.(\w+) is\s*'([^']*)'")


def lost_tables(databases: Connections) -> list[str]:
    """Return our own tables that are gone; none before ``setup``, or if migrations are missing."""
    target, schema = databases.target, databases.config.target.schema
    values = {"schema": schema, "names": list(SERVICE_TABLES)}
    rows = target.fetch("schema", queries("target/mending")["service_tables"], values)
    found = dict(rows)
    if "migration" in found:
        made = not missing_migrations(applied_migrations(target, schema))
    else:
        made = any(found.get(name) == comment for name, comment in _comments()) or any(
            {column.name for column in OWN_COLUMNS} <= stored.columns.keys()
            for stored in vector_tables(target, schema).values()
        )
    return [name for name in SERVICE_TABLES if name not in found] if made else []


def _comments() -> list[tuple[str, str]]:
    """Return our own tables with their comments, which no other program's have."""
    return [found for _, _, text in migrations("target") for found in _COMMENT.findall(text)]


def expect_tables(databases: Connections) -> None:
    """Raise when one of our own tables is gone, of which all others then lack something."""
    lost = lost_tables(databases)
    if lost:
        raise _lost(databases, lost)


def mend_ddl(databases: Connections, *, rebuild: bool) -> list[Ddl]:
    """Return the statement that makes the tables again that are gone; none if all are there."""
    lost = lost_tables(databases)
    if not lost:
        return []
    if "space" in lost and not rebuild:
        raise _lost(databases, lost)
    schema = databases.config.target.schema
    names = {*lost, *(name for gone in lost for name in MADE_WITH.get(gone, ()))}
    made = [name for name in SERVICE_TABLES if name in names]
    return [make_again_ddl(schema, made)]


def _lost(databases: Connections, lost: Iterable[str]) -> PreflightError:
    listed = ", ".join(f"{databases.config.target.schema}.{name}" for name in lost)
    problem = f"{listed} does not exist any more"
    if "space" not in lost:
        return PreflightError(where="target database", problem=problem, hint=RUN_SETUP)
    return PreflightError(
        where="target database",
        problem=f"{problem}, so it is not known which model made the stored vectors",
        hint="embed every text again: cdc-embed setup --rebuild",
    )
