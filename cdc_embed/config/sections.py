"""The sections of the configuration: one frozen model per concern.

A default stands beside its unit and the reason for the number; these docstrings are also the
descriptions of the JSON Schema. A section checks its own values and reads the secrets that it
names. ``table`` has the section of a table, and ``load`` checks the whole; no section asks a
database.
"""

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal, Self

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
    Count,
    Duration,
    HeaderName,
    Name,
    RequestBody,
    Size,
    SlotName,
)
from cdc_embed.rotation import Rotation


class Section(BaseModel):
    """The rules of every section: no unknown keys, no changes, no values in messages."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True
    )


class SourceConfig(Section):
    """The database whose change log is read."""

    dsn: SecretStr = SecretStr("")
    """Connection string, directly to the server (no PgBouncer). Give dsn or dsn_file, not both."""
    dsn_file: str = ""
    """File that holds the connection string, for secrets mounted as files."""
    slot: SlotName = "cdc_embed"
    """Replication slot. Slot names are cluster-wide, so each service needs its own."""
    publication: Name = "cdc_embed"
    """Publication that setup makes, for the configured tables only."""
    plugin: Literal["pgoutput", "wal2json"] = "pgoutput"
    """Output plugin of the slot. pgoutput is part of PostgreSQL, wal2json an extension."""
    publish: Literal["rows", "columns"] = "rows"
    """rows: whole rows leave the server, so no column is bound. columns: only key, text and
    metadata columns do; PostgreSQL then refuses to drop or retype them, and UPDATE and DELETE fail
    while the replica identity has another column."""
    failover: Literal["auto", "off"] = "auto"
    """auto: on PostgreSQL 17 and newer standbys can copy the slot, so a failover loses nothing."""
    on_history_gap: Literal["stop", "rebuild"] = "stop"
    """If the slot's log is lost: stop (exit 5), or rebuild (make a slot and reconcile every
    table)."""
    _dsn: SecretStr = PrivateAttr(SecretStr(""))

    @model_validator(mode="after")
    def _read_dsn(self) -> Self:
        self._dsn = SecretStr(self.read_dsn())
        if not self.resolved_dsn():
            raise ValueError("give exactly one of dsn and dsn_file")
        return self

    def read_dsn(self) -> str:
        """Return the connection string, a secret, as it is now; raise ValueError."""
        return _dsn_of(self.dsn, self.dsn_file)

    def resolved_dsn(self) -> str:
        """Return the connection string, a secret, as it was at loading time."""
        return self._dsn.get_secret_value()


class TargetConfig(Section):
    """The database that holds the vectors."""

    dsn: SecretStr = SecretStr("")
    """Connection string. Empty, and no dsn_file: the source database."""
    dsn_file: str = ""
    """File that holds the connection string, for secrets mounted as files."""
    schema_name: Name = Field(default="cdc_embed", alias="schema")
    """Schema of the embedding tables and of the service's own tables; setup makes it."""
    _dsn: SecretStr = PrivateAttr(SecretStr(""))

    @model_validator(mode="after")
    def _read_dsn(self) -> Self:
        self._dsn = SecretStr(self.read_dsn())
        return self

    def read_dsn(self) -> str:
        """Return the connection string, a secret, as it is now; raise ValueError."""
        return _dsn_of(self.dsn, self.dsn_file)

    @property
    def schema(self) -> str:  # type: ignore[override]  # hides a deprecated method of pydantic
        """The schema's bare name."""
        return self.schema_name

    def resolved_dsn(self) -> str:
        """Return the connection string, a secret. Empty: the source's, see
        ``Config.target_login``."""
        return self._dsn.get_secret_value()


class EmbedderConfig(Section):
    """The model that turns text into vectors."""

    kind: Literal["sentence-transformers", "http", "hash"] = "sentence-transformers"
    """A local model, an OpenAI-shaped HTTP service, or deterministic vectors for tests."""
    model: str = Field(default="sentence-transformers/all-MiniLM-L6-v2", min_length=1)
    """A name or a folder. The default is small: 384 dimensions, quick without a GPU."""
    revision: str = ""
    """Commit of the model. Pin it in production, because a new upload is another space."""
    backend: Literal["torch", "openvino", "onnx"] = "torch"
    """Library that runs a local model."""
    device: str = "auto"
    """Device of a local model: auto, cpu, cuda, cuda:1, mps."""
    dimensions: Annotated[int, Field(ge=0, le=16000), NOT_A_BOOL] = 0
    """Dimensions of a vector; pgvector stores at most 16000. 0: the model's own (hash: 384). http:
    another number is sent with each request."""
    document_prompt: str = ""
    """Text before every document, if the model was trained with one; part of the space."""
    query_prompt: str = ""
    """Text before every search text, if the model was trained with one."""
    url: str = ""
    """http: the whole address, ending in /v1/embeddings."""
    api_key_env: str = ""
    """http: name of the environment variable that holds the key. Give it or api_key_file, not
    both."""
    api_key_file: str = ""
    """http: file that holds the key."""
    api_key_header: HeaderName = "Authorization"
    """http: header of the key. Authorization carries it behind the word Bearer, every other one,
    such as api-key, bare."""
    headers: dict[HeaderName, str] = Field(default={})
    """http: further headers. Secret ones belong into header_files."""
    header_files: dict[HeaderName, str] = Field(default={})
    """http: further headers whose values are in files, by name: { X-Key = "/run/secrets/x" }."""
    encoding_format: Literal["auto", "base64", "float"] = "auto"
    """http: form of the vectors in answers. auto: base64, and plain numbers from a service that
    refuses the word."""
    document_body: RequestBody = Field(default={})
    """http: further fields of each request for documents, such as { input_type = "passage" };
    part of the space."""
    query_body: RequestBody = Field(default={})
    """http: further fields of each request for a search text."""
    window: Count = 0
    """Tokens that one text can have; longer texts are cut into chunks. 0: http asks the service
    (TEI, vLLM), else the tokenizer, else it is 512; a local model says it itself."""
    tokenizer: str = ""
    """http: folder or name of the model's tokenizer. Empty: a token is estimated as
    3 bytes of UTF-8."""
    timeout: Annotated[Duration, ABOVE_ZERO] = 30.0
    """http: time limit of one request. An overloaded service answers slowly before it fails."""
    concurrency: Annotated[int, Field(ge=1), NOT_A_BOOL] = 4
    """http: requests in flight. Enough to hide the network, few enough for rate limits."""
    requests_per_minute: Count = 0
    """http: limit of requests per minute. 0: no limit."""
    tokens_per_minute: Count = 0
    """http: limit of tokens per minute. 0: no limit."""
    price_per_million_tokens: Annotated[float, Field(ge=0, allow_inf_nan=False), NOT_A_BOOL] = 0.0
    """http: price of a million tokens, in any currency, for the costs that are shown. 0: none."""
    max_batch: Annotated[int, Field(ge=1), NOT_A_BOOL] = 256
    """Texts in one call. Above it throughput hardly grows, while latency does."""
    linger: Duration = 0.0
    """Time that a change waits for others. 0ms: changes gather only while the model is busy."""
    _api_key: SecretStr | None = PrivateAttr(None)
    _header_secrets: dict[str, SecretStr] = PrivateAttr(default_factory=dict)
    _rotation: Rotation = PrivateAttr()

    @field_validator("api_key_env")
    @classmethod
    def _names_a_variable(cls, name: str) -> str:
        if name and not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            raise ValueError("expected the name of an environment variable, not the key itself")
        if name and not os.environ.get(name, "").strip():
            raise ValueError("the environment variable of this name is not set")
        return name

    @model_validator(mode="after")
    def _distinct_headers(self) -> Self:
        names = [name.casefold() for name in (*self.headers, *self.header_files)]
        if self.api_key_env or self.api_key_file:
            names.append(self.api_key_header.casefold())
        if len(set(names)) != len(names):
            raise ValueError("a header is given twice")
        return self

    @model_validator(mode="after")
    def _read_key(self) -> Self:
        if self.kind == "http" and not re.fullmatch(r"https?://[^\s/?#@]+(?:[/?#]\S*)?", self.url):
            raise ValueError(
                "kind http needs a url with http:// or https://, without user and password"
            )
        if self.api_key_env and self.api_key_file:
            raise ValueError("give api_key_env or api_key_file, not both")
        self._read_secrets()
        in_file = bool(self.api_key_file or self.header_files)
        self._rotation = Rotation(self._read_again, in_file=in_file, many_servers=True)
        return self

    @property
    def rotation(self) -> Rotation:
        """The key and the secret headers, which are read again when the service refuses them."""
        return self._rotation

    def _read_again(self) -> bool:
        before = self._api_key, self._header_secrets
        with suppress(ValueError):  # a file is being written
            self._read_secrets()
        return (self._api_key, self._header_secrets) != before

    def _read_secrets(self) -> None:
        if self.api_key_env:
            self._api_key = SecretStr(os.environ[self.api_key_env].strip())
        elif self.api_key_file:
            self._api_key = SecretStr(_secret_file("api_key_file", self.api_key_file))
        self._header_secrets = {
            name: SecretStr(_secret_file(f"header_files.{name}", path))
            for name, path in self.header_files.items()
        }

    def resolved_headers(self) -> dict[str, str]:
        """Return the further headers, whose values are secrets, as they were read last."""
        secret = {name: value.get_secret_value() for name, value in self._header_secrets.items()}
        return {**self.headers, **secret}

    def resolved_api_key(self) -> str | None:
        """Return the service's key, a secret, as it was read last; None when there is none."""
        return self._api_key.get_secret_value() if self._api_key else None


class BackfillConfig(Section):
    """The first embedding of rows that are already there, and every reconcile after it."""

    start: Literal["auto", "manual"] = "auto"
    """auto: as soon as run starts. manual: on cdc-embed backfill."""
    rows_per_second: Count = 0
    """Limit of rows per second that are read from the source. 0: as fast as the embedder takes
    them."""
    max_tokens_unasked: Count = 1_000_000
    """http: limit of tokens that are embedded without confirmation; above it, run waits for
    cdc-embed backfill --yes. The default costs a few cents at usual prices: enough for a try-out,
    too little for a surprise on the bill."""


class IndexConfig(Section):
    """The index over the vectors, made after the first backfill."""

    kind: Literal["hnsw", "none"] = "hnsw"
    """none: exact search by a scan, fast enough for some ten thousand vectors."""
    type: Literal["vector", "halfvec"] = "vector"
    """Type of the stored vectors. halfvec needs half the space and can be indexed up to 4000
    dimensions instead of 2000."""
    distance: Literal["cosine", "l2", "inner_product"] = "cosine"
    """Distance function of searches; most text models are trained for cosine."""
    m: Annotated[int, Field(ge=2, le=100), NOT_A_BOOL] = 16
    """Links of a node in the graph; pgvector's default. A larger number gives better recall and a
    larger index."""
    ef_construction: Annotated[int, Field(ge=4, le=1000), NOT_A_BOOL] = 64
    """Candidates compared at each insert; pgvector's default. At least twice m."""

    @model_validator(mode="after")
    def _as_pgvector_wants(self) -> Self:
        if self.ef_construction < 2 * self.m:
            raise ValueError("ef_construction must be at least twice m")
        return self


class LimitsConfig(Section):
    """The limits of the process."""

    memory: Annotated[Size, ABOVE_ZERO] = 256 << 20
    """Bytes of pending changes; above it reading pauses and the slot keeps the log. The default
    holds thousands of long documents and leaves room for the model in a small container."""
    drain_timeout: Duration = 30.0
    """Time that a stop waits for batches in flight; the rest is replayed at the next start.
    Kubernetes waits as long between SIGTERM and SIGKILL by default."""


class ServeConfig(Section):
    """The HTTP side: metrics, health, status page."""

    host: str = Field(default="127.0.0.1", min_length=1)
    """Address to listen on. Only this machine by default, because the pages ask for no password."""
    port: Annotated[int, Field(ge=0, le=65535), NOT_A_BOOL] = 9188
    """TCP port; close to the PostgreSQL exporter's 9187. 0: a free one."""
    search: bool = False
    """Offer a search box on the status page, which shows the text of rows."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names, beside host itself, that a request for a page can name (against DNS
    rebinding)."""


class LogConfig(Section):
    """The log, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe messages that are written."""
    format: Literal["auto", "console", "json"] = "auto"
    """auto: console on a terminal, JSON otherwise."""


def _dsn_of(dsn: SecretStr, dsn_file: str) -> str:
    if dsn.get_secret_value() and dsn_file:
        raise ValueError("give exactly one of dsn and dsn_file")
    return _secret_file("dsn_file", dsn_file) if dsn_file else dsn.get_secret_value().strip()


def _secret_file(key: str, path: str) -> str:
    """Return the content of a secret's file.

    The path is not named in an error, because a user can have put the secret there.
    """
    try:
        secret = Path(path).read_text(encoding="utf-8").strip()
    except OSError as exc:
        raise ValueError(f"{key} cannot be read: {exc.strerror}") from None
    except ValueError:
        raise ValueError(f"{key} cannot be read: not a text file") from None
    if not secret:
        raise ValueError(f"{key} names an empty file")
    return secret
