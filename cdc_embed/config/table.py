"""The section of a source table: its columns, and the names of its embedding table and view.

The section checks its own values. ``load`` compares the tables with each other, and ``setup``'s
preflight checks that a table and its columns exist.
"""

from typing import Final, Self

from pydantic import field_validator, model_validator

from cdc_embed.config.notation import Column, Count, OptionalName, TableName, template_columns
from cdc_embed.config.sections import Section

OUR_COLUMNS: Final = frozenset(
    {"chunk", "embedding", "chunk_text", "start_offset", "end_offset", "document_hash"}
    | {"chunk_hash", "space", "metadata_hash", "commit_lsn", "committed_at", "embedded_at"}
    | {"text", "chunk_row"}
)
"""The columns of every embedding table and its view. No source column can have these names."""


class ChunkConfig(Section):
    """The size of a chunk."""

    max_tokens: Count = 0
    """Tokens of a chunk. 0: as many as the model takes (embedder.window)."""


class TableConfig(Section):
    """One source table, and the columns that make its text."""

    name: str
    """schema.table as in SQL: no schema means public, quotes keep case and odd characters."""
    text: tuple[Column, ...] = ()
    """Columns whose values make the text: the present ones, joined by a blank line."""
    template: str = ""
    """Alternative to text: a text with {column} in it. NULL becomes nothing; {{ and }} are
    braces."""
    metadata: tuple[Column, ...] = ()
    """Columns copied beside the vectors, to filter searches by. A change of them embeds nothing."""
    embedding_table: OptionalName = ""
    """Name of the embedding table. Empty: <table>_embedding, and <schema>_<table>_embedding outside
    public."""
    search_view: OptionalName = ""
    """Name of the view that applications select from. Empty: <table>_search, and
    <schema>_<table>_search outside public."""
    chunk: ChunkConfig = ChunkConfig()
    """The size of the chunks of long texts."""
    store_text: bool = True
    """Keep each chunk's text beside its vector. false saves space: the search view then reads the
    text from the source table, or has no text when the source is another database."""

    @field_validator("name")
    @classmethod
    def _canonical(cls, name: str) -> str:
        return str(TableName.parse(name))

    @field_validator("text", "metadata")
    @classmethod
    def _distinct(cls, columns: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(columns)) < len(columns):
            raise ValueError("a column is listed twice")
        return columns

    @field_validator("template")
    @classmethod
    def _well_formed(cls, template: str) -> str:
        if template and not template_columns(template):
            raise ValueError("a template needs at least one {column}")
        return template

    @model_validator(mode="after")
    def _has_one_text(self) -> Self:
        if bool(self.text) == bool(self.template):
            raise ValueError("give exactly one of text and template")
        clashes = sorted(OUR_COLUMNS.intersection(self.metadata))
        if clashes:
            raise ValueError(f"metadata: {', '.join(clashes)} is a reserved column name")
        names = {"embedding_table": self.embedding_table_name, "search_view": self.search_view_name}
        for key, name in names.items():
            if len(name.encode()) > 63:
                raise ValueError(
                    f"table {self.name}: the name {name} is longer than PostgreSQL's 63 bytes; "
                    f"set tables.{key}"
                )
        return self

    @property
    def schema(self) -> str:  # type: ignore[override]  # hides a deprecated method of pydantic
        """The schema's bare name."""
        return TableName.parse(self.name).schema

    @property
    def table(self) -> str:
        """The table's bare name."""
        return TableName.parse(self.name).table

    @property
    def full_name(self) -> str:
        """The table's name with its schema."""
        return f"{self.schema}.{self.table}"

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns that make the text, each once, in the order of text or template."""
        return self.text or template_columns(self.template)

    @property
    def embedding_table_name(self) -> str:
        """The name of the embedding table, in the target's schema."""
        return self.embedding_table or f"{self._stem}_embedding"

    @property
    def search_view_name(self) -> str:
        """The name of the view that applications select from, in the target's schema."""
        return self.search_view or f"{self._stem}_search"

    @property
    def _stem(self) -> str:
        return self.table if self.schema == "public" else f"{self.schema}_{self.table}"
