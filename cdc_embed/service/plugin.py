"""The configured output plugin, with the options that request its tables, and its decoder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cdc_embed.change.document import Table
from cdc_embed.setup.connections import Connections
from cdc_embed.target.registry import registered_tables
from cdc_embed.wire import pgoutput, wal2json
from cdc_embed.wire.messages import Decoder
from cdc_embed.wire.wal2json import Followed, QualifiedName, Wal2json


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """An output plugin, with the options that request it, and its decoder."""

    name: str
    options: dict[str, str]
    make_decoder: Callable[[], Decoder]


def make_plugin(databases: Connections, tables: Sequence[Table]) -> Plugin:
    """Make the plugin that ``source.plugin`` names."""
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


def _registered(databases: Connections) -> dict[QualifiedName, Followed]:
    """List tables that were configured before, because positions count their changes too.

    A stored name does not say which of its dots divides schema and table, so each is tried. No oid
    is given, because another table can be found in that way.
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
