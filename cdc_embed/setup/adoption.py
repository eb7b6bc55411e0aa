"""Tables that setup added to a publication which it did not make.

The registry in the target remembers each, so that only what was added is taken out again.
``teardown`` does that, and ``setup`` once the table is not configured any more.
"""

from collections.abc import Iterable

from cdc_embed.change.document import Table
from cdc_embed.postgres.ddl import Ddl
from cdc_embed.setup.connections import Connections
from cdc_embed.setup.ownership import is_ours, name_owner
from cdc_embed.source.publication import look
from cdc_embed.source.statements import drop_table, entry
from cdc_embed.target.registry import Registered, registered_tables
from cdc_embed.target.schema import remember_adoption_ddl


def adopt_ddl(databases: Connections, tables: Iterable[Table]) -> list[Ddl]:
    """Remember tables that are added to the configured publication."""
    config = databases.config
    schema, name = config.target.schema, config.source.publication
    return [remember_adoption_ddl(schema, table.full_name, name) for table in tables]


def forget_ddl(databases: Connections, known: Iterable[Registered]) -> list[Ddl]:
    """Forget tables that are taken out again."""
    schema = databases.config.target.schema
    return [remember_adoption_ddl(schema, table.table_name, None) for table in known]


def adopted_tables(databases: Connections) -> list[Registered]:
    """Return the tables of this slot that were added to somebody else's publication."""
    known = registered_tables(databases.target, databases.config.target.schema).values()
    adopted = [t for t in known if t.adopted_publication and is_ours(databases, t)]
    return [] if adopted and name_owner(databases) else adopted


def withdraw_ddl(databases: Connections, known: Iterable[Registered]) -> list[Ddl]:
    """Take the tables out of the publications that they were added to, if they are in there."""
    found = []
    for table in known:
        name = str(table.adopted_publication)
        publication = look(databases.source, name, databases.config.source.slot).publication
        tables = publication.tables if publication is not None else {}
        published = tables.get(table.source_oid or 0)
        if published is not None and published.direct:
            statement = drop_table(name, entry(published.identifier))
            found.append(Ddl(f"take {published.name} out of publication {name}", statement))
    return found
