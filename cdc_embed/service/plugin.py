"""The configured output plugin: how it is asked for the tables, and who decodes what it says."""

from collections.abc import Sequence

from cdc_embed.change.document import Table
from cdc_embed.service.instance import Plugin
from cdc_embed.setup.connections import Connections
from cdc_embed.target.registry import registered_tables
from cdc_embed.wire import pgoutput, wal2json
from cdc_embed.wire.wal2json import Followed, TableName, Wal2json


def make_plugin(databases: Connections, tables: Sequence[Table]) -> Plugin:
    """What ``source.plugin`` names."""
    if databases.config.source.plugin == "wal2json":
        return _wal2json(databases, tables)
    publication = '"{}"'.format(databases.config.source.publication.replace('"', '""'))
    return Plugin(
        name="pgoutput",
        options={"proto_version": "1", "publication_names": publication, "messages": "true"},
        make_decoder=lambda: pgoutput.messages,
    )


def _wal2json(databases: Connections, tables: Sequence[Table]) -> Plugin:
    followed = {**_registered(databases), **{(t.schema, t.name): _followed(t) for t in tables}}
    codec = databases.catalogue.server().codec
    return Plugin(
        name="wal2json",
        options=wal2json.options(followed),
        make_decoder=lambda: Wal2json(followed, codec).decode,
    )


def _followed(table: Table) -> Followed:
    columns = (*table.key, *table.metadata)
    return Followed(
        oid=table.oid,
        columns=frozenset([*(column.name for column in columns), *table.text_columns]),
    )


def _registered(databases: Connections) -> dict[TableName, Followed]:
    """Tables that were configured once: a position inside a transaction counts their changes too.

    Which dot of a name divides it is not known, so it is asked for in every way: under no oid, as
    another table may be found so.
    """
    known = registered_tables(databases.target, databases.config.target.schema)
    mine = [found for found in known.values() if found.slot == databases.config.source.slot]
    return {
        (name[:dot], name[dot + 1 :]): Followed(oid=0, columns=frozenset())
        for found in mine
        for name in [found.table_name]
        for dot in range(1, len(name) - 1)
        if name[dot] == "."
    }
