"""The parts of one configured service, built from its configuration.

``setup``, ``run``, ``status``, ``doctor`` and ``teardown`` need the same sessions and the same
look at the catalogue; this is where they are put together.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cdc_embed.change.document import Table
from cdc_embed.config import Config
from cdc_embed.embed.base import ModelCard
from cdc_embed.errors import PreflightError, SpaceMismatchError
from cdc_embed.session import SOURCE, TARGET, Session
from cdc_embed.source.slot import SlotCatalogue
from cdc_embed.target.schema import (
    Space,
    find_registered,
    stored_size,
    vector_type,
)
from cdc_embed.target.statements import Statements
from cdc_embed.target.store import Store

CHARACTERS_PER_TOKEN = 4
"""Of English text, for estimates that are called estimates."""


@dataclass(slots=True)
class Connections:
    """Sessions of both sides; each opens when it is first used."""

    config: Config
    source: Session
    target: Session

    @property
    def catalogue(self) -> SlotCatalogue:
        return SlotCatalogue(self.source, self.config.source.slot)


@contextmanager
def connections(config: Config) -> Iterator[Connections]:
    """Both sides' sessions, closed at the end."""
    slot = config.source.slot
    source = Session(SOURCE, config.source.resolved_dsn(), f"cdc_embed {slot}")
    target = Session(TARGET, config.target_dsn(), f"cdc_embed {slot}")
    try:
        yield Connections(config, source, target)
    finally:
        source.close()
        target.close()


def space_of(card: ModelCard, table: Table) -> Space:
    """The vector space that a table's documents get with a model."""
    return Space(
        model=card.identity,
        dimensions=card.dimensions,
        document_prompt=card.document_prompt,
        query_prompt=card.query_prompt,
        preparation=table.preparation,
    )


def open_store(
    both: Connections, tables: list[Table], card: ModelCard, extension_schema: str
) -> Store:
    """The store of the configured tables; raises when ``setup`` is missing or the space differs."""
    config = both.config
    schema = config.target.schema
    text_kept = {table.embedding_table_name: table.store_text for table in config.tables}
    statements = [
        Statements(
            schema,
            table,
            space=_space_id(both, table, card),
            vector_type=vector_type(config.index, card.dimensions, extension_schema),
            store_text=text_kept[table.embedding_table],
        )
        for table in tables
    ]
    return Store(
        config.target_dsn(),
        schema=schema,
        slot=config.source.slot,
        tables=statements,
        half=config.index.type == "halfvec",
    )


def stored_dimensions(both: Connections, tables: list[Table]) -> int:
    """Dimensions of the stored vectors; 0 when nothing is set up yet."""
    schema = both.config.target.schema
    stored = (find_registered(both.target, schema, table) for table in tables)
    return next((found.space.dimensions for found in stored if found is not None), 0)


def _space_id(both: Connections, table: Table, card: ModelCard) -> int:
    schema = both.config.target.schema
    registered = find_registered(both.target, schema, table)
    if registered is None:
        raise PreflightError(
            where=f"table {table.full_name}",
            problem="it has no table of vectors yet",
            hint="run: cdc-embed setup",
        )
    difference = space_of(card, table).difference(registered.space)
    if difference:
        rows, characters = stored_size(both.target, schema, registered.embedding_table)
        raise SpaceMismatchError(
            table=table.full_name,
            rows=rows,
            difference=f"stored: {difference}",
            tokens=characters // CHARACTERS_PER_TOKEN,
        )
    return registered.space_id
