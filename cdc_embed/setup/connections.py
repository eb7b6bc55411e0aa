"""The sessions and the store of one configured service, built from its configuration.

``setup``, ``run``, ``status``, ``doctor`` and ``teardown`` build them here, so that all of them
read the same catalogue in the same way.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from cdc_embed.change.chunk import CHUNKER_VERSION, Chunker
from cdc_embed.change.document import Document, Table, fingerprint
from cdc_embed.change.plan import Cut
from cdc_embed.config.load import Config
from cdc_embed.embed.base import CHARACTERS_PER_TOKEN, UNKNOWN_WINDOW, KnownFacts, ModelCard
from cdc_embed.errors import PreflightError, SpaceMismatchError
from cdc_embed.postgres.session import Session
from cdc_embed.postgres.side import SOURCE, TARGET
from cdc_embed.source.coverage import COVERAGES, Coverage
from cdc_embed.source.slot import SlotCatalogue
from cdc_embed.target.registry import (
    NOT_STORED,
    Registered,
    Space,
    VectorTable,
    registered_tables,
    stored_size,
    stored_spaces,
    vector_tables,
)
from cdc_embed.target.schema import vector_type
from cdc_embed.target.spaces import stored_windows
from cdc_embed.target.statements import Statements
from cdc_embed.target.store import Store
from cdc_embed.target.vectors import ESSENTIAL, OWN_COLUMNS

RUN_SETUP: Final = "run: cdc-embed setup"


@dataclass(slots=True)
class Connections:
    """The sessions of both databases; each opens when it is first used, and threads share them."""

    config: Config
    source: Session
    target: Session
    rows: Session
    """A session of the source in which rows are read, so that a long read delays no look at the
    rest."""

    def cancel(self) -> None:
        """Make the wait of another thread fail."""
        self.source.cancel()
        self.target.cancel()

    @property
    def catalogue(self) -> SlotCatalogue:
        return SlotCatalogue(self.source, self.config.source.slot)

    @property
    def coverage(self) -> Coverage:
        return COVERAGES[self.config.source.plugin](self.source, self.config)


@contextmanager
def connections(config: Config) -> Iterator[Connections]:
    """Yield the sessions of both databases, and close them at the end."""
    slot = config.source.slot
    source = Session(SOURCE, config.source_login, f"cdc_embed {slot}")
    target = Session(TARGET, config.target_login, f"cdc_embed {slot}")
    rows = Session(SOURCE, config.source_login, f"cdc_embed rows {slot}", lookout=source)
    try:
        yield Connections(config, source, target, rows)
    finally:
        for session in (source, target, rows):
            session.close()


def space_of(card: ModelCard, table: Table) -> Space:
    """Return the vector space of a table's documents with this model."""
    window = window_of(card, table.max_tokens)
    chunks = "whole" if window is None else f"chunks v{CHUNKER_VERSION} of {window} tokens"
    return Space(
        model=card.identity,
        dimensions=card.dimensions,
        document_prompt=card.document_prompt,
        query_prompt=card.query_prompt,
        preparation=f"{table.preparation}; {chunks}",
    )


def window_of(card: ModelCard, max_tokens: int) -> int | None:
    """Return the tokens that a chunk can have; None without a limit. ``max_tokens``: the table's
    own; 0: none."""
    wanted = max_tokens or card.found_window
    return min((bound for bound in (card.window, wanted) if bound), default=None)


def cutter(card: ModelCard, tables: Iterable[Table]) -> Cut:
    """Return the function that turns texts of these tables into documents."""
    windows = {table: window_of(card, table.max_tokens) for table in tables}
    chunkers = {table: Chunker(card.count_tokens, window) for table, window in windows.items()}

    def cut(table: Table, text: str) -> Document:
        return Document(fingerprint(text), chunkers[table].split(text))

    return cut


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorTables:
    """The registry and the columns of all tables of vectors, whatever their number, read once."""

    registered: Mapping[str, Registered]
    """The registry's rows, by the source table's name."""
    vectors: Mapping[str, VectorTable]
    """The columns, by the name of the table of vectors."""


def read_stored(databases: Connections) -> VectorTables:
    """Read what is stored of every table, in one statement each."""
    target, schema = databases.target, databases.config.target.schema
    return VectorTables(
        registered=registered_tables(target, schema), vectors=vector_tables(target, schema)
    )


def open_store(
    databases: Connections, tables: list[Table], card: ModelCard, extension_schema: str
) -> Store:
    """Return the store of the configured tables; raise when ``setup`` is missing or the space
    differs."""
    config = databases.config
    schema = config.target.schema
    stored = read_stored(databases)
    spaces = stored_spaces(databases.target, schema)
    statements = []
    for table in tables:
        registered = expect_set_up(databases, stored, table, card)
        donors = [
            number for number, space in spaces.items() if space.is_comparable(registered.space)
        ]
        statements.append(
            Statements(
                schema,
                table,
                space=registered.space_id,
                vector_type=vector_type(config.index, card.dimensions, extension_schema),
                donor_spaces=donors,
            )
        )
    return Store(
        config.target_login,
        schema=schema,
        slot=config.source.slot,
        tables=statements,
        half=config.index.type == "halfvec",
    )


def known_facts(databases: Connections) -> KnownFacts:
    """Return the facts of the model that its stored vectors and the configuration tell."""
    config, target = databases.config, databases.target
    registered = registered_tables(target, config.target.schema)
    names = [entry.full_name for entry in config.tables if entry.full_name in registered]
    chunk = max(entry.chunk.max_tokens for entry in config.tables)
    if not names:
        return KnownFacts(chunk=chunk)
    space = registered[names[0]]
    windows = stored_windows(target, config.target.schema)
    window = windows.get(space.space_id)
    if window is None:  # an older version made it
        window = 0 if config.embedder.tokenizer else UNKNOWN_WINDOW
    return KnownFacts(dimensions=space.space.dimensions, window=window, chunk=chunk)


def expect_set_up(
    databases: Connections, stored: VectorTables, table: Table, card: ModelCard
) -> Registered:
    """Return the registered table of vectors; raise with the reason when ``setup`` must run
    again."""
    registered = stored.registered.get(table.full_name)
    if registered is None:
        raise PreflightError(
            where=f"table {table.full_name}",
            problem="it has no embedding table yet",
            hint=RUN_SETUP,
        )
    space = space_of(card, table)
    expect_comparable(databases, stored.vectors, registered, space)
    if space != registered.space:
        raise PreflightError(
            where=f"table {table.full_name}",
            problem=f"it is set up for another vector space, of which it has no vectors "
            f"({space.difference(registered.space)})",
            hint=RUN_SETUP,
        )
    if set(registered.metadata) != {column.name for column in table.metadata}:
        raise PreflightError(
            where=f"table {table.full_name}",
            problem=f"its embedding table has the metadata ({', '.join(registered.metadata)}), the "
            f"configuration read at the start ({', '.join(c.name for c in table.metadata)})",
            hint=f"{RUN_SETUP}; or start the service again, if its configuration is the older one",
        )
    _expect_types(table, registered, stored, f"{databases.config.index.type}({card.dimensions})")
    return registered


def expect_comparable(
    databases: Connections, vectors: Mapping[str, VectorTable], registered: Registered, space: Space
) -> None:
    """Raise when a table has vectors of another space than the configured one."""
    name = registered.embedding_table
    difference = space.difference(registered.space)
    if not difference or name not in vectors:
        return
    rows, characters = stored_size(databases.target, databases.config.target.schema, name)
    if rows:
        raise SpaceMismatchError(
            table=registered.table_name,
            rows=rows,
            difference=f"stored: {difference}",
            tokens=characters // CHARACTERS_PER_TOKEN,
        )


def _expect_types(table: Table, registered: Registered, stored: VectorTables, vectors: str) -> None:
    """Raise when a column of ours has another type than the one to be written.

    A key or metadata of another type pauses the table alone.
    """
    found = stored.vectors.get(registered.embedding_table, NOT_STORED)
    problem = lost_vectors(registered, found)
    if not problem:
        for name, wanted in {"chunk_row": "integer", "embedding": vectors}.items():
            kind = found.columns[name]
            if kind.rpartition(".")[2] != wanted:
                problem = f"{name} has the type {kind} in the embedding table, expected {wanted}"
    if problem:
        raise PreflightError(
            where=f"table {table.full_name}",
            problem=problem,
            hint=RUN_SETUP,
            table=table.full_name,
        )


def lost_vectors(registered: Registered, stored: VectorTable) -> str:
    """Return the loss of a table of vectors that others altered, in words; empty if nothing is
    lost."""
    name = registered.embedding_table
    if not stored.columns:
        return f"its table of vectors {name} does not exist any more"
    own = (*ESSENTIAL, *(column.name for column in OWN_COLUMNS))
    gone = [column for column in own if column not in stored.columns]
    if gone:
        return f"its table of vectors {name} has no column {gone[0]}"
    return "" if stored.logged else unlogged(name)


def unlogged(embedding_table: str) -> str:
    """Return the problem of a table of vectors that somebody made UNLOGGED."""
    return f"its table of vectors {embedding_table} is unlogged: a crash empties it"
