"""The agreement of the tables of vectors with the source: the same key, the same types of metadata.

``setup`` makes them agree. A table that does not agree must not be written: a key of another type
can be cut, and a key of fewer columns can be two rows'.
"""

from collections.abc import Iterable
from dataclasses import replace

from cdc_embed.change.document import Table
from cdc_embed.finding import Finding, judge
from cdc_embed.setup.connections import Connections
from cdc_embed.source.observed import differs, stored_as
from cdc_embed.target.registry import registered_tables, vector_tables


def unfit_tables(databases: Connections, tables: Iterable[Table]) -> dict[str, str]:
    """Return the difference of each table whose vectors are stored by another key, or with other
    types of metadata, than ``tables`` have; by the table's name."""
    schema = databases.config.target.schema
    registered = registered_tables(databases.target, schema)
    stored = vector_tables(databases.target, schema)
    unfit = {}
    for table in tables:
        known = registered.get(table.full_name)
        if known is None or known.embedding_table not in stored:
            continue
        found = stored[known.embedding_table]
        metadata = [(c.name, found.columns.get(c.name, c.type)) for c in table.metadata]
        has = [*found.key.items(), *metadata]
        if has != stored_as(table.stored_columns):
            unfit[table.full_name] = differs(has, table)
    return unfit


def check_keys(databases: Connections, tables: Iterable[Table]) -> list[Finding]:
    """Check that the vectors of each table are stored by the key that the source has now."""
    listed = list(tables)
    unfit = unfit_tables(databases, listed)
    return [
        replace(
            judge(
                "stored_key",
                table.full_name not in unfit,
                f"{table.full_name} {unfit.get(table.full_name, 'has vectors stored by its key')}",
                "run: cdc-embed setup",
            ),
            table=table.full_name,
        )
        for table in listed
    ]
