"""The preconditions of the target for storing vectors, with the statements that meet them."""

from collections.abc import Sequence
from typing import Final

from cdc_embed.change.document import Table, TableColumn
from cdc_embed.finding import Finding, Severity, judge
from cdc_embed.postgres.session import Session
from cdc_embed.sql import queries
from cdc_embed.target.index import IndexFacts
from cdc_embed.target.registry import applied_migrations, missing_migrations

PLAIN_TYPES: Final = (
    *("smallint", "integer", "bigint", "numeric", "real", "double", "oid", "boolean", "bytea"),
    *("uuid", "date", "time", "interval", "inet", "cidr", "macaddr", "bit"),
)
"""The types whose text form is ASCII."""
SOUND_PGVECTOR: Final = (0, 8, 4)
"""The first version in which vacuum of an HNSW index cannot go wrong."""


def vector_extension(session: Session) -> tuple[str, str] | None:
    """Return (version, schema) of the installed pgvector."""
    with session.transaction("pg_extension") as cursor:
        cursor.execute(queries("target/schema")["vector_extension"])
        row = cursor.fetchone()
    return None if row is None else (row[0], row[1])


def check_vector_extension(session: Session) -> Finding:
    """Check that pgvector is installed, or that ``setup`` can install it."""
    installed = vector_extension(session)
    if installed is not None:
        version = installed[0]
        sound = tuple(int(part) for part in version.split(".")) >= SOUND_PGVECTOR
        return judge(
            "pgvector",
            sound,
            f"pgvector {version}" + ("" if sound else ": vacuum of an HNSW index can go wrong"),
            "alter extension vector update;  -- to 0.8.4 or later",
            Severity.WARNING,
        )
    with session.transaction("pg_available_extensions") as cursor:
        cursor.execute(queries("target/schema")["vector_available"])
        available = cursor.fetchone()
    if available is None:
        return Finding(
            id="pgvector_available",
            ok=False,
            message="pgvector is not on the target's server",
            fix="install pgvector (https://github.com/pgvector/pgvector), then: cdc-embed setup",
        )
    return Finding(
        id="pgvector",
        ok=False,
        message="pgvector is not installed in the target database",
        fix="create extension vector;  -- or: cdc-embed setup",
    )


def check_encoding(session: Session, source: str, tables: Sequence[Table]) -> Finding:
    """Check that the target can store every text of the source.

    A key must be stored; a text that cannot be stored becomes a dead letter.
    """
    encoding = session.encoding()
    if encoding in {"UTF8", source}:
        return Finding(id="encoding", ok=True, message=f"the target's encoding is {encoding}")
    worded = [table.full_name for table in tables if any(map(_is_text, table.key))]
    what = f"keys of {', '.join(worded)}" if worded else "texts, which become dead letters"
    return Finding(
        id="encoding",
        ok=False,
        severity=Severity.ERROR if worded else Severity.WARNING,
        message=f"the target's encoding is {encoding}, the source's {source}: "
        f"it cannot store all {what}",
        fix="use a target database with encoding 'UTF8'",
    )


def _is_text(column: TableColumn) -> bool:
    """Return whether a key column can have letters beyond ASCII, as every type that is not
    known."""
    return not column.type.startswith(PLAIN_TYPES)


def check_index(table_name: str, found: IndexFacts) -> Finding:
    """Check that searches of a table have the configured index, as far as it is due."""
    state = f"index {found.state}: {found.problem}"
    if not found.problem:
        state = "has its index" if found.state == "ready" else "index.kind is none"
    return judge(
        "index",
        found.problem is None or found.state == "building" or not found.due,
        f"{table_name}: {state}",
        f"run the service, or: cdc-embed index rebuild --table {table_name}",
        Severity.WARNING,
    )


def check_temporary(session: Session) -> Finding:
    """Check that the role may create temporary tables, through which each batch is written."""
    with session.transaction("pg_database") as cursor:
        cursor.execute(queries("target/schema")["may_create_temporary"])
        may, role, database = cursor.fetchone()
    return judge(
        "temporary",
        may,
        f"role {role} {'may' if may else 'may not'} create temporary tables in the target",
        f"grant temporary on database {database} to {role};",
    )


def check_creating(session: Session, schema: str) -> list[Finding]:
    """Check that the role may create in our schema, as each new index needs; none without one."""
    rows = session.fetch("schema", queries("target/schema")["may_create"], {"schema": schema})
    return [
        judge(
            "create",
            may,
            f"role {role} {'may' if may else 'may not'} create in schema {name}"
            + ("" if may else ", so no index can be made"),
            f"grant create on schema {name} to {role};",
            Severity.WARNING,
        )
        for may, role, name in rows
    ]


def check_migrations(session: Session, schema: str) -> Finding:
    """Check that the target's tables are those that this version writes."""
    missing = missing_migrations(applied_migrations(session, schema))
    state = f"lacks {', '.join(missing)}" if missing else "is up to date"
    return judge("migrations", not missing, f"schema {schema} {state}", "run: cdc-embed setup")
