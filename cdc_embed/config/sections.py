"""The sections of the configuration: one frozen model per concern.

A default stands beside the unit and the reason for its number; these words are the JSON Schema's
and the reference's too. Values are checked here as far as one section can know, and the secrets
it names are read. ``config`` looks at the whole; no section asks a database.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    field_validator,
    model_validator,
)

from cdc_embed.config.notation import (
    ABOVE_ZERO,
    NOT_A_BOOL,
    Column,
    Count,
    Duration,
    Name,
    OptionalName,
    Size,
    SlotName,
    TableName,
    template_columns,
)

OUR_COLUMNS: Final = frozenset(
    {"chunk", "embedding", "chunk_text", "start_offset", "end_offset", "document_hash"}
    | {"chunk_hash", "space", "metadata_hash", "commit_lsn", "committed_at", "embedded_at"}
    | {"text"}
)
"""Columns of every embedding table and its view: no column of the source's can have these names."""


class Section(BaseModel):
    """What all sections share: no unknown keys, no changes, no values in messages."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True
    )


class SourceConfig(Section):
    """The database whose change log is read."""

    dsn: SecretStr = SecretStr("")
    """Connection string, directly to the server (no PgBouncer); or use dsn_file. One of the two."""
    dsn_file: str = ""
    """File that holds the connection string, for secrets mounted as files."""
    slot: SlotName = "cdc_embed"
    """Replication slot. Slot names are cluster-wide: one for each service."""
    publication: Name = "cdc_embed"
    """Publication that setup makes, for the configured tables only."""
    plugin: Literal["pgoutput", "wal2json"] = "pgoutput"
    """Output plugin of the slot. pgoutput is part of PostgreSQL, wal2json an extension."""
    publish: Literal["columns", "rows"] = "columns"
    """columns: only key, text and metadata columns leave the server; rows: whole rows do."""
    on_history_gap: Literal["stop", "rebuild"] = "stop"
    """When changes are lost with the slot: stop (exit 5), or make a slot and reconcile all."""
    _dsn: SecretStr = PrivateAttr(SecretStr(""))

    @model_validator(mode="after")
    def _read_dsn(self) -> Self:
        self._dsn = _dsn_of(self.dsn, self.dsn_file)
        if not self.resolved_dsn():
            raise ValueError("give exactly one of dsn and dsn_file")
        return self

    def resolved_dsn(self) -> str:
        """The connection string, a secret: of dsn, or of dsn_file as it was when loaded."""
        return self._dsn.get_secret_value()


class TargetConfig(Section):
    """The database that holds the vectors."""

    dsn: SecretStr = SecretStr("")
    """Connection string; empty, and no dsn_file: the source database."""
    dsn_file: str = ""
    """File that holds the connection string, for secrets mounted as files."""
    schema_name: Name = Field(default="cdc_embed", alias="schema")
    """Schema of the embedding tables and of our own; setup makes it."""
    _dsn: SecretStr = PrivateAttr(SecretStr(""))

    @model_validator(mode="after")
    def _read_dsn(self) -> Self:
        self._dsn = _dsn_of(self.dsn, self.dsn_file)
        return self

    @property
    def schema(self) -> str:  # type: ignore[override]  # hides a deprecated method of pydantic
        """The schema's bare name."""
        return self.schema_name

    def resolved_dsn(self) -> str:
        """The connection string, a secret; empty: the source's, see ``Config.target_dsn``."""
        return self._dsn.get_secret_value()


class EmbedderConfig(Section):
    """The model that turns text into vectors."""

    kind: Literal["sentence-transformers", "http", "hash"] = "sentence-transformers"
    """A local model, an OpenAI-shaped service, or deterministic vectors for tests."""
    model: str = Field(default="sentence-transformers/all-MiniLM-L6-v2", min_length=1)
    """A name or a folder. The default is small: 384 dimensions, quick without a GPU."""
    revision: str = ""
    """Commit of the model; pin it in production, or a new upload becomes another space."""
    backend: Literal["torch", "openvino", "onnx"] = "torch"
    """What runs a local model."""
    device: str = "auto"
    """Where a local model runs: auto, cpu, cuda, cuda:1, mps."""
    dimensions: Annotated[int, Field(ge=0, le=16000), NOT_A_BOOL] = 0
    """Of a vector. 0: ask the model (hash: 384); http: sent. pgvector stores at most 16000."""
    document_prompt: str = ""
    """Put before every document, if the model was trained with one; part of the space."""
    query_prompt: str = ""
    """Put before every search text."""
    url: str = ""
    """http: the whole address, ending in /v1/embeddings."""
    api_key_env: str = ""
    """http: name of the environment variable that holds the key; or use api_key_file."""
    api_key_file: str = ""
    """http: file that holds the key."""
    tokenizer: str = ""
    """http: folder or name of the model's tokenizer. Empty: tokens are guessed, UTF-8
    bytes / 3."""
    timeout: Annotated[Duration, ABOVE_ZERO] = 30.0
    """http: of one request; an overloaded service answers slowly before it fails."""
    concurrency: Annotated[int, Field(ge=1), NOT_A_BOOL] = 4
    """http: requests in flight; enough to hide the network, few enough for rate limits."""
    requests_per_minute: Count = 0
    """http: at most so many. 0: no limit."""
    tokens_per_minute: Count = 0
    """http: at most so many. 0: no limit."""
    max_batch: Annotated[int, Field(ge=1), NOT_A_BOOL] = 256
    """Texts in one call: beyond it throughput hardly grows, while latency does."""
    linger: Duration = 0.0
    """How long a change waits for others. 0ms: changes gather only while the model is busy."""
    _api_key: SecretStr | None = PrivateAttr(None)

    @field_validator("api_key_env")
    @classmethod
    def _names_a_variable(cls, name: str) -> str:
        if name and not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            raise ValueError("expected the name of an environment variable, not the key itself")
        if name and not os.environ.get(name, "").strip():
            raise ValueError("the environment variable that it names is not set")
        return name

    @model_validator(mode="after")
    def _read_key(self) -> Self:
        if self.kind == "http" and not re.fullmatch(r"https?://[^\s/?#@]+(?:[/?#]\S*)?", self.url):
            raise ValueError(
                "kind http needs a url: http:// or https://, no user or password in it"
            )
        if self.api_key_env and self.api_key_file:
            raise ValueError("give api_key_env or api_key_file, not both")
        if self.api_key_env:
            self._api_key = SecretStr(os.environ[self.api_key_env].strip())
        elif self.api_key_file:
            self._api_key = SecretStr(_secret_file("api_key_file", self.api_key_file))
        return self

    def resolved_api_key(self) -> str | None:
        """The key for the service, a secret, as it was when loaded; None when there is none."""
        return self._api_key.get_secret_value() if self._api_key else None


class ChunkConfig(Section):
    """How long texts are cut."""

    max_tokens: Count = 0
    """Of a chunk. 0: the model's own window (http without tokenizer: 512)."""


class TableConfig(Section):
    """One source table, and what of a row is its text."""

    name: str
    """schema.table as in SQL: no schema means public, quotes keep case and odd characters."""
    text: tuple[Column, ...] = ()
    """Columns whose values make the text: the present ones, joined by a blank line."""
    template: str = ""
    """Or a text with {column} in it, NULL being empty; {{ and }} are braces. Never both."""
    metadata: tuple[Column, ...] = ()
    """Columns copied beside the vectors, to filter searches by: a change of them embeds nothing."""
    embedding_table: OptionalName = ""
    """Empty: <table>_embedding, and <schema>_<table>_embedding outside public."""
    chunk: ChunkConfig = ChunkConfig()
    """How long texts are cut."""
    store_text: bool = True
    """Keep each chunk's text beside its vector. false saves space: the search view then takes it
    from the source table, or has none when that is in another database."""

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
            raise ValueError(f"metadata: {', '.join(clashes)} is the name of a column of ours")
        for name in (self.embedding_table_name, self.search_view_name):
            if len(name.encode()) > 63:
                raise ValueError(f"the name {name} is longer than PostgreSQL's 63 bytes")
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
    def text_columns(self) -> tuple[str, ...]:
        """The columns that make the text, each once, in the order of text or template."""
        return self.text or template_columns(self.template)

    @property
    def embedding_table_name(self) -> str:
        """Where the vectors are, in the target's schema."""
        return self.embedding_table or f"{self._stem}_embedding"

    @property
    def search_view_name(self) -> str:
        """The view that applications select from, in the target's schema."""
        return f"{self._stem}_search"

    @property
    def _stem(self) -> str:
        return self.table if self.schema == "public" else f"{self.schema}_{self.table}"


class BackfillConfig(Section):
    """The first embedding of rows that are already there, and every reconcile after it."""

    start: Literal["auto", "manual"] = "auto"
    """auto: at once; manual: when cdc-embed backfill asks for it."""
    rows_per_second: Count = 0
    """Read at most so many rows a second from the source. 0: as fast as the embedder takes them."""
    max_tokens_unasked: Count = 1_000_000
    """http: more tokens than this wait for cdc-embed backfill --yes. A few cents at usual prices:
    enough for a try-out, too little for a surprise on the bill."""


class IndexConfig(Section):
    """The index over the vectors, made after the first backfill."""

    kind: Literal["hnsw", "none"] = "hnsw"
    """none: exact search by scanning, fine for some ten thousand vectors."""
    type: Literal["vector", "halfvec"] = "vector"
    """Of the stored vectors. halfvec: half the room, and indexable up to 4000 dimensions
    instead of 2000."""
    distance: Literal["cosine", "l2", "inner_product"] = "cosine"
    """What near means; cosine is what most text models are trained for."""
    m: Annotated[int, Field(ge=2, le=100), NOT_A_BOOL] = 16
    """Links of a node in the graph; pgvector's default. More: better recall, a bigger index."""
    ef_construction: Annotated[int, Field(ge=4, le=1000), NOT_A_BOOL] = 64
    """Candidates looked at for each insert; pgvector's default, and at least twice m."""

    @model_validator(mode="after")
    def _as_pgvector_wants(self) -> Self:
        if self.ef_construction < 2 * self.m:
            raise ValueError("ef_construction must be at least twice m")
        return self


class LimitsConfig(Section):
    """What the process may take."""

    memory: Annotated[Size, ABOVE_ZERO] = 256 << 20
    """Of pending changes, in bytes; beyond it reading stops and the slot waits. Thousands of
    long documents fit, and a small container is not filled beside the model."""
    drain_timeout: Duration = 30.0
    """How long a stop waits for batches in flight; what is not finished is replayed. As long as
    Kubernetes waits between SIGTERM and SIGKILL by default."""


class ServeConfig(Section):
    """The HTTP side: metrics, health, status page."""

    host: str = Field(default="127.0.0.1", min_length=1)
    """Address to listen on; only this machine by default, as nothing here asks for a password."""
    port: Annotated[int, Field(ge=0, le=65535), NOT_A_BOOL] = 9188
    """TCP port; close to the PostgreSQL exporter's 9187. 0: a free one."""
    search: bool = False
    """Offer a search box on the status page, which shows rows' text."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names, beside host itself, that a request for a page may name (DNS rebinding)."""


class LogConfig(Section):
    """The log, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe messages that are written."""
    format: Literal["auto", "console", "json"] = "auto"
    """auto: console on a terminal, JSON otherwise."""


def _dsn_of(dsn: SecretStr, dsn_file: str) -> SecretStr:
    if dsn.get_secret_value() and dsn_file:
        raise ValueError("give exactly one of dsn and dsn_file")
    found = _secret_file("dsn_file", dsn_file) if dsn_file else dsn.get_secret_value().strip()
    return SecretStr(found)


def _secret_file(key: str, path: str) -> str:
    """What the file holds. The path is not named: somebody may have put the secret there."""
    try:
        secret = Path(path).read_text(encoding="utf-8").strip()
    except OSError as exc:
        raise ValueError(f"{key} cannot be read: {exc.strerror}") from None
    except ValueError:
        raise ValueError(f"{key} cannot be read: not a text file") from None
    if not secret:
        raise ValueError(f"{key} names an empty file")
    return secret
