"""The rights that a service needs in the target, as far as they were taken from its role.

``setup`` makes every object as its role's own, but hardening, a restore with another owner, or a
change of owner can take them away. Without those of a schema, of pgvector or of one of our own
tables nothing can be followed; a right on one table of vectors concerns that one alone.
"""

from collections.abc import Sequence
from typing import Final

from cdc_embed.change.document import Table
from cdc_embed.config.sections import IndexConfig
from cdc_embed.errors import MissingRightError
from cdc_embed.finding import Finding, judge
from cdc_embed.setup.connections import RUN_SETUP, Connections
from cdc_embed.sql import queries
from cdc_embed.target.source_functions import SourceFunctions, altered_objects
from cdc_embed.target.view import POLICIES

ALL: Final = ("select", "insert", "update", "delete")
OF_TABLES: Final = {
    "migration": ("select",),
    "checkpoint": ("select", "update"),
    "space": ("select", "update"),
    "embedding_table": ("select", "update"),
    "reconcile": ALL,
    "request": ALL,
    "deferred": ALL,
    "dead_letter": ALL,
}
"""The rights that a running service uses on each of our own tables."""


def check_rights(databases: Connections) -> list[Finding]:
    """Return a finding for each table whose vectors a right is missing for; one if none is.

    Raises ``MissingRightError`` for the rights without which no table can be followed.
    """
    config = databases.config
    tables = {entry.embedding_table_name: entry.full_name for entry in config.tables}
    needed = [(name, right) for name, rights in OF_TABLES.items() for right in rights]
    needed += [(name, right) for name in tables for right in ALL]
    values = {
        "schema": config.target.schema,
        "type": config.index.type,
        "functions": _functions(config.index),
        "tables": [name for name, _ in needed],
        "privileges": [right for _, right in needed],
        "vectors": list(tables),
    }
    rows = databases.target.fetch("privileges", queries("target/rights")["missing"], values)
    whole = [(lacks, role) for vectors, lacks, role in rows if not vectors]
    if whole:
        raise MissingRightError(
            where="target database",
            problem=f"role {whole[0][1]} lacks {'; '.join(lacks for lacks, _ in whole)}",
            hint="\n".join(f"grant {lacks} to {role};" for lacks, role in whole),
        )
    return [
        Finding(
            id="rights",
            ok=False,
            message=f"{tables[vectors]}: role {role} lacks {lacks}",
            fix=f"grant {lacks} to {role};",
            table=tables[vectors],
        )
        for vectors, lacks, role in rows
    ] or [judge("rights", True, "every right that a service needs is there", "")]


def opened_tables(databases: Connections, tables: Sequence[Table]) -> dict[str, str]:
    """Return why each table is paused whose vectors other hands opened to every reader."""
    secured = {table.embedding_table: table.full_name for table in tables if table.row_security}
    if not secured:
        return {}
    values = {
        "schema": databases.config.target.schema,
        "tables": list(secured),
        "policies": list(POLICIES if databases.config.target_is_source else POLICIES[1:]),
    }
    rows = databases.target.fetch("row security", queries("target/rights")["opened"], values)
    problem = "has row level security, which its vectors have no more; run: cdc-embed setup"
    altered = altered_objects(
        databases.target,
        databases.config.target.schema,
        [functions_of(databases, table) for table in tables if table.row_security],
    )
    replaced = {
        secured[name]: f"has row level security, and {what} is not as setup made it; {RUN_SETUP}"
        for name, what in altered.items()
    }
    return {**replaced, **{secured[row[0]]: problem for row in rows}}


def functions_of(databases: Connections, table: Table) -> SourceFunctions:
    """Return the functions by which readers of a table's vectors see rows of the source."""
    config = databases.config
    return SourceFunctions(
        databases.target, config.target.schema, table, one_database=config.target_is_source
    )


def _functions(index: IndexConfig) -> list[str]:
    """Return the functions of pgvector that our statements run: of the casts and of distances."""
    distance = {
        "cosine": "cosine_distance",
        "l2": "l2_distance",
        "inner_product": f"{index.type}_negative_inner_product",
    }
    return sorted({"cosine_distance", distance[index.distance], index.type})
