"""The names of our objects in the target, as far as somebody else's objects have them.

The schema can be one that the application has, too. ``setup`` replaces views and functions, and
takes a table that is there for its own, so it must find out before whether they are ours.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any, Final

from cdc_embed.change.document import Table, TableColumn
from cdc_embed.errors import PreflightError
from cdc_embed.finding import Finding, judge
from cdc_embed.setup.connections import RUN_SETUP, Connections
from cdc_embed.setup.mending import is_bare, lost_tables
from cdc_embed.sql import migrations, queries
from cdc_embed.target.registry import MARK, Registered, applied_migrations, registered_tables
from cdc_embed.target.schema import ALL, MOST, NEW, SERVICE_TABLES, TELLING, TELLING_COLUMNS
from cdc_embed.target.source_functions import function_names
from cdc_embed.target.vectors import index_names, shadow_name

_CREATES: Final = re.compile(r"create table \{schema\}\.(\w+)")


def names_taken(databases: Connections, tables: Iterable[Table]) -> list[Finding]:
    """Return a finding for each name that ``setup`` needs and that is somebody else's."""
    found = _service_tables_taken(databases)
    known = registered_tables(databases.target, databases.config.target.schema)
    if found:
        return found
    return [f for table in tables for f in _taken_from(databases, table, known)]


def expect_own_tables(databases: Connections) -> None:
    """Raise when somebody else's table has the place of one of our own that ``setup`` made."""
    schema = databases.config.target.schema
    if not applied_migrations(databases.target, schema):
        return
    for what in strangers(databases, SERVICE_TABLES, vectors={}).values():
        raise PreflightError(
            where="target database",
            problem=f"{what} exists, and is not ours",
            hint=f"rename it, then {RUN_SETUP}",
        )


def renamed_vectors(
    databases: Connections, mine: Registered, known: Iterable[Registered]
) -> tuple[str, str] | None:
    """Return what a table of vectors that somebody renamed, or moved to another schema, is called
    now, and the way back."""
    schema = databases.config.target.schema
    values = {
        "schema": schema,
        "name": mine.embedding_table,
        "view": mine.search_view,
        "indexes": index_names(mine.embedding_table),
        "registered": [each.embedding_table for each in known],
    }
    found = databases.target.fetch("schema", queries("target/schema")["renamed_vectors"], values)
    for now, back in found:
        return f"the table of vectors {schema}.{mine.embedding_table} was renamed to {now}", back
    return None


def expect_free_shadow(databases: Connections, table: Table) -> None:
    """Raise when somebody else has the name of a table's shadow, which ``setup`` drops if it is
    there, or those of its indexes."""
    name = shadow_name(table)
    for what in strangers(databases, {name, *index_names(name)}, vectors={name: NEW}).values():
        raise PreflightError(
            where=f"table {table.full_name}",
            problem=f"{what} exists, and is not ours",
            hint=f"rename it, then {RUN_SETUP}",
            table=table.full_name,
        )


def strangers(
    databases: Connections,
    names: Collection[str],
    *,
    vectors: Mapping[str, int],
    key: Iterable[TableColumn] = (),
) -> dict[str, str]:
    """Describe the objects that have these names of ours and are somebody else's, by the name.

    ``vectors``: how many telling columns a table of vectors of that name has. ``key``: the
    arguments of our functions.
    """
    held = _holders(databases, names, vectors=vectors, key=key)
    return {name: what for what, name, ours in held if not ours}


def _service_tables_taken(databases: Connections) -> list[Finding]:
    """Return a finding for each table that a missing migration would make and that is there."""
    schema = databases.config.target.schema
    applied = applied_migrations(databases.target, schema)
    missing = [text for version, _, text in migrations("target") if version not in applied]
    names = {
        *chain.from_iterable(map(_CREATES.findall, missing)),
        *(() if applied else ["migration"]),
    }
    if lost_tables(databases) or is_bare(databases):  # they are ours
        return []
    fix = "rename it, or set another target.schema"
    holders = _holders(databases, names, vectors={})
    return [judge("names", False, f"{what} exists, and is not ours", fix) for what, *_ in holders]


def _taken_from(
    databases: Connections, table: Table, known: Mapping[str, Registered]
) -> list[Finding]:
    """Return a finding for each object of a table that would be made in the place of another, or
    is another's by now."""
    registered = {name for each in known.values() for name in _names(each)}
    vectors = {table.embedding_table: ALL}
    taken = strangers(databases, _names(table) - registered, vectors=vectors, key=table.key)
    mine = known.get(table.full_name)
    if mine is not None:
        if moved := renamed_vectors(databases, mine, known.values()):
            problem, fix = moved
            return [replace(judge("names", False, problem, fix), table=table.full_name)]
        lasting = {mine.embedding_table, mine.search_view or "", *function_names(table)}
        vectors = {mine.embedding_table: MOST}
        taken |= strangers(databases, lasting, vectors=vectors, key=table.key)
    fix = "rename it, or set another embedding_table or search_view for this table"
    return [
        Finding(
            id="names",
            ok=False,
            message=f"{what} exists, and is not ours",
            fix=fix,
            table=table.full_name,
        )
        for what in taken.values()
    ]


def _names(table: Table | Registered) -> set[str]:
    """Return the names of the objects of a table, those of older versions as well."""
    names = {table.embedding_table, *index_names(table.embedding_table), *function_names(table)}
    return names | ({table.search_view} if table.search_view else set())


def _holders(
    databases: Connections,
    names: Collection[str],
    *,
    vectors: Mapping[str, int],
    key: Iterable[TableColumn] = (),
) -> list[tuple[Any, ...]]:
    """Return (description, name, whether it is ours) of each object that has one of these names."""
    values = {
        "schema": databases.config.target.schema,
        "names": sorted(names),
        "vectors": json.dumps(dict(vectors)),
        "telling": json.dumps(TELLING),
        "own": json.dumps(TELLING_COLUMNS),
        "mark": MARK,
        "arguments": [column.type for column in key],
    }
    return databases.target.fetch("schema", queries("target/schema")["holders"], values)
