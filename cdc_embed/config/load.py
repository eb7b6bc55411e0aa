"""The configuration: a TOML file and ``CDC_EMBED_SECTION__KEY`` variables, read and checked once.

This module puts the sections together, checks what involves several of them, and turns every
problem into one ConfigError. ``sections`` and ``table`` hold the keys and their defaults,
``notation`` reads and prints values. No other room reads the environment. ``setup``'s preflight
checks that tables and columns exist. A message says where a value is wrong, never the value.
"""

import difflib
import os
import tomllib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self, get_args

from pydantic import BaseModel, PrivateAttr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from cdc_embed.config.dsn import SECRET_FILES, check_dsn
from cdc_embed.config.notation import TableName
from cdc_embed.config.redaction import HIDDEN, redact_dsn, redact_url
from cdc_embed.config.sections import (
    BackfillConfig,
    EmbedderConfig,
    IndexConfig,
    LimitsConfig,
    LogConfig,
    ServeConfig,
    SourceConfig,
    TargetConfig,
)
from cdc_embed.config.table import TableConfig
from cdc_embed.errors import ConfigError
from cdc_embed.rotation import Login

PREFIX: Final = "CDC_EMBED_"

OUR_TABLES: Final = frozenset(
    {
        *("checkpoint", "space", "dead_letter", "deferred", "reconcile", "request"),
        *("embedding_table", "migration"),
    }
)
"""The names of our own tables in the target's schema, which no embedding table can have."""


class Config(BaseSettings):
    """The whole configuration."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        env_prefix=PREFIX,
        env_nested_delimiter="__",
    )

    source: SourceConfig
    target: TargetConfig = TargetConfig()
    embedder: EmbedderConfig = EmbedderConfig()
    tables: tuple[TableConfig, ...]
    backfill: BackfillConfig = BackfillConfig()
    index: IndexConfig = IndexConfig()
    limits: LimitsConfig = LimitsConfig()
    serve: ServeConfig = ServeConfig()
    log: LogConfig = LogConfig()
    _source_login: Login = PrivateAttr()
    _target_login: Login = PrivateAttr()

    @property
    def source_login(self) -> Login:
        """The connection string of the source, a secret, read again when it is refused."""
        return self._source_login

    @property
    def target_login(self) -> Login:
        """The connection string of the vectors' database, like that of the source."""
        return self._target_login

    def wait_for_secrets(self, seconds: float, *, at_start: bool) -> None:
        """Have secrets in files waited for so long; ``at_start``: also those that never worked,
        with which a command would end."""
        logins = (self.source_login, self.target_login)
        for rotation in (*(login.rotation for login in logins), self.embedder.rotation):
            rotation.seconds = seconds
            rotation.waits_at_start = at_start

    @property
    def target_is_source(self) -> bool:
        """Whether no target is named, so that the vectors are in the source database."""
        return not self.target.resolved_dsn()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  the hook's signature is pydantic's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file."""
        return env_settings, init_settings

    @field_validator("source", "target")
    @classmethod
    def _readable_dsn(cls, side: SourceConfig | TargetConfig) -> SourceConfig | TargetConfig:
        check_dsn(side.resolved_dsn())
        return side

    @model_validator(mode="after")
    def _make_logins(self) -> Self:
        self._source_login = self._target_login = _login_of(self.source)
        if not self.target_is_source:
            self._target_login = _login_of(self.target)
        return self

    @field_validator("tables")
    @classmethod
    def _distinct(cls, tables: tuple[TableConfig, ...]) -> tuple[TableConfig, ...]:
        if not tables:
            raise ValueError("at least one [[tables]] entry is needed")
        if problems := [*_repeated(tables), *_clashing(tables)]:
            raise ValueError("\n".join(problems))
        return tables

    @model_validator(mode="after")
    def _reads_no_table_it_writes(self) -> Self:
        sources = {table.name for table in self.tables}
        written = {
            str(TableName(self.target.schema, name)) for t in self.tables for name in _names_of(t)
        }
        if self.target_is_source and (databases := sources & written):
            raise ValueError(f"{', '.join(sorted(databases))} would be both read and written")
        return self


def load_config(path: Path | str) -> Config:
    """Load the configuration from a file and the environment.

    Raises ConfigError with every problem found.
    """
    problems = _unknown_variables()
    content = _read(Path(path))
    try:
        config = Config(**content)
    except ValidationError as exc:
        found = exc.errors(include_input=False, include_url=False)
        problems += [line for error in found for line in _describe(error, _names(content))]
    except SettingsError:
        problems.append(f"environment: a list or a whole section in a {PREFIX} variable is JSON")
    else:
        if not problems:
            return config
    heading = [f"{len(problems)} problems:"] if len(problems) > 1 else []
    raise ConfigError(where=str(path), problem="\n  ".join(heading + problems))


def ignore_environment() -> None:
    """Read the file alone from here on, for a caller with a file and a database of its own."""
    for name in [name for name in os.environ if name.upper().startswith(PREFIX)]:
        del os.environ[name]


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of the file, for editors: every key, its default and its meaning."""
    return Config.model_json_schema(mode="serialization")


def redacted(config: Config) -> dict[str, Any]:
    """Return the configuration in the form of the file, without secrets.

    A DSN is the one in effect, from the file or the environment, without its password. The part of
    a service's address after ``?`` is left out, because it can hold a key.
    """
    shown = config.model_dump(mode="json", by_alias=True)
    shown["embedder"]["url"] = redact_url(config.embedder.url)
    shown["embedder"]["headers"] = dict.fromkeys(config.embedder.headers, HIDDEN)
    shown["source"]["dsn"] = redact_dsn(config.source.resolved_dsn())
    shown["target"]["dsn"] = redact_dsn(config.target.resolved_dsn())
    return shown


def _login_of(side: SourceConfig | TargetConfig) -> Login:
    def read() -> str:
        with suppress(ValueError):  # it is being written
            found = side.read_dsn()
            check_dsn(found)
            return found
        return ""

    named = check_dsn(side.resolved_dsn())
    in_file = bool(side.dsn_file) or not SECRET_FILES.isdisjoint(named)
    return Login(side.resolved_dsn(), read, in_file=in_file)


# --- checks that involve several sections -------------------------------------------------------


def _repeated(tables: tuple[TableConfig, ...]) -> list[str]:
    names = [table.name for table in tables]
    return [f"{name} is listed twice" for name in dict.fromkeys(names) if names.count(name) > 1]


def _clashing(tables: tuple[TableConfig, ...]) -> list[str]:
    """Return tables whose names clash, because tables and views of the target's schema share one
    name space."""
    taken = dict.fromkeys(OUR_TABLES, "cdc_embed itself")
    problems = []
    for table in {table.name: table for table in tables}.values():
        for name in _names_of(table):
            if name in taken:
                problems.append(f"{table.name} needs the name {name}, which {taken[name]} has")
            taken[name] = table.name
    return problems


def _names_of(table: TableConfig) -> tuple[str, str]:
    return table.embedding_table_name, table.search_view_name


# --- input, and the description of what is wrong with it ----------------------------------------


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        hint = "write one (the README shows how), or name another with: cdc-embed -c FILE"
        raise ConfigError(where=str(path), problem="there is no such file", hint=hint) from exc
    except OSError as exc:
        problem = f"the file cannot be read: {exc.strerror}"
        raise ConfigError(where=str(path), problem=problem) from exc
    except UnicodeDecodeError:
        raise ConfigError(where=str(path), problem="the file is not UTF-8") from None
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(where=str(path), problem=f"not valid TOML: {exc}") from exc


def _unknown_variables() -> list[str]:
    """Return variables with a misspelt section, because pydantic ignores those that fit no field at
    the top."""
    named = ((name, name[len(PREFIX) :].partition("__")) for name in sorted(os.environ))
    return [
        f"environment: {name}: {_unknown(section.lower(), Config)}"
        for name, (section, delimiter, _) in named
        if name.upper().startswith(PREFIX) and delimiter and section.lower() not in _keys(Config)
    ]


def _names(content: dict[str, Any]) -> list[str]:
    """Return the names of the tables as the file has them; empty where there is none."""
    tables = content.get("tables")
    if not isinstance(tables, list) or f"{PREFIX}TABLES" in os.environ:
        return []
    named = (table.get("name") if isinstance(table, dict) else None for table in tables)
    return [name if isinstance(name, str) else "" for name in named]


def _describe(error: ErrorDetails, names: Sequence[str]) -> list[str]:
    """Describe the problem in one place, a line for each; never the value, but a table's name."""
    loc = error["loc"]
    where = _place(loc, names)
    variable = PREFIX + "__".join(str(part).upper() for part in loc)
    if variable in os.environ:
        where += f" (set by {variable})"
    match error["type"]:
        case "extra_forbidden":
            problem = _unknown(str(loc[-1]), _model_at(loc[:-1]))
        case "value_error":
            problem = str(error["ctx"]["error"])
        case "missing":
            problem = "is required"
        case "model_type":
            problem = "should be a section"
        case "tuple_type":
            problem = "should be a list"
        case _:
            problem = error["msg"].replace("Input should", "should", 1)
    return [f"{where}: {line}" if where else line for line in problem.splitlines()]


def _place(loc: tuple[int | str, ...], names: Sequence[str]) -> str:
    if len(loc) > 1 and loc[0] == "tables" and isinstance(loc[1], int):
        name = names[loc[1]] if loc[1] < len(names) else ""
        if name:
            within = _place(loc[2:], ())
            return f"table {name}: {within}" if within else f"table {name}"
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")


def _unknown(key: str, model: type[BaseModel]) -> str:
    known = _keys(model)
    near = difflib.get_close_matches(key.lower(), known, n=1)
    return (
        f"unknown key; did you mean {near[0]}?"
        if near
        else f"unknown key; known are {', '.join(known)}"
    )


def _model_at(loc: Iterable[int | str]) -> type[BaseModel]:
    model: type[BaseModel] = Config
    for part in loc:
        if isinstance(part, str):
            annotation: Any = model.model_fields[part].annotation
            model = next(iter(get_args(annotation)), annotation)
    return model


def _keys(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]
