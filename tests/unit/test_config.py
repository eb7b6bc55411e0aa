"""The keys of a configuration file, their meaning, and the report of a mistake."""

import json
import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cdc_embed.config.load import OUR_TABLES, PREFIX, Config, json_schema, load_config, redacted
from cdc_embed.config.table import TableConfig
from cdc_embed.errors import ConfigError

CANARY = "hunter2canary"
DSN = f"postgresql://app:{CANARY}@db.example/app"
MINIMAL = f"""
[source]
dsn = "{DSN}"

[[tables]]
name = "public.documents"
text = ["body"]
"""

# The contract of the file, as it is documented: every key with its default.
DOCUMENTED = f"""
[source]
dsn = "{DSN}"
dsn_file = ""
slot = "cdc_embed"
publication = "cdc_embed"
plugin = "pgoutput"
publish = "rows"
failover = "auto"
on_history_gap = "stop"

[target]
dsn = ""
dsn_file = ""
schema = "cdc_embed"

[embedder]
kind = "sentence-transformers"
model = "sentence-transformers/all-MiniLM-L6-v2"
revision = ""
backend = "torch"
device = "auto"
dimensions = 0
document_prompt = ""
query_prompt = ""
url = ""
api_key_env = ""
api_key_file = ""
api_key_header = "Authorization"
headers = {{}}
header_files = {{}}
encoding_format = "auto"
document_body = {{}}
query_body = {{}}
window = 0
tokenizer = ""
timeout = "30s"
concurrency = 4
requests_per_minute = 0
tokens_per_minute = 0
price_per_million_tokens = 0.0
max_batch = 256
linger = "0ms"

[[tables]]
name = "public.documents"
text = ["body"]
template = ""
metadata = []
embedding_table = ""
search_view = ""
chunk = {{ max_tokens = 0 }}
store_text = true

[backfill]
start = "auto"
rows_per_second = 0
max_tokens_unasked = 1000000

[index]
kind = "hnsw"
type = "vector"
distance = "cosine"
m = 16
ef_construction = 64

[limits]
memory = "256MB"
drain_timeout = "30s"

[serve]
host = "127.0.0.1"
port = 9188
search = false
allowed_hosts = []

[log]
level = "info"
format = "auto"
"""

Write = Callable[[str], Path]


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith(PREFIX)]:
        monkeypatch.delenv(name)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "cdc_embed.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refusal(path: Path) -> str:
    """The problem, of a file that must be refused; never with the canary in it."""
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    error = caught.value
    assert error.exit_code == 3
    assert CANARY not in f"{error} {error!r} {error.hint} {error.fields}"
    assert not isinstance(error.__cause__ or error.__context__, ValidationError)
    return str(error.fields["problem"])


def with_source(lines: str) -> str:
    return MINIMAL.replace(f'dsn = "{DSN}"', lines)


def with_table(lines: str) -> str:
    return f'[source]\ndsn = "{DSN}"\n[[tables]]\n{lines}\n'


def table(**fields: Any) -> TableConfig:
    return TableConfig(**{"name": "public.documents", "text": ["body"], **fields})


# --- what is right -----------------------------------------------------------------------------


def test_every_documented_default_is_the_default(write: Write) -> None:
    assert load_config(write(DOCUMENTED)) == load_config(write(MINIMAL))


def test_every_key_is_documented(write: Write) -> None:
    documented = tomllib.loads(DOCUMENTED)
    known = load_config(write(MINIMAL)).model_dump(mode="json", by_alias=True)
    assert {name: list(known[name]) for name in known if name != "tables"} == {
        name: list(documented[name]) for name in documented if name != "tables"
    }
    assert list(known["tables"][0]) == list(documented["tables"][0])


def test_durations_are_seconds_and_sizes_bytes(write: Write) -> None:
    config = load_config(write(MINIMAL + '[limits]\nmemory = "64kB"\ndrain_timeout = "500ms"\n'))
    assert (config.limits.memory, config.limits.drain_timeout) == (65536, 0.5)
    assert (config.embedder.timeout, config.embedder.linger) == (30.0, 0.0)


def test_a_loaded_configuration_cannot_be_changed(write: Write) -> None:
    config = load_config(write(MINIMAL))
    with pytest.raises(ValidationError):
        config.source.slot = "other"
    with pytest.raises(ValidationError):
        config.source = config.source
    assert isinstance(hash(config.tables), int)


def test_an_empty_target_is_the_source_database(write: Write) -> None:
    config = load_config(write(MINIMAL))
    assert config.target_is_source
    assert config.target_login.dsn == config.source.resolved_dsn() == DSN


def test_a_named_target_is_another_database(write: Write) -> None:
    config = load_config(write(MINIMAL + '[target]\ndsn = "host=vectors"\nschema = "v"\n'))
    assert not config.target_is_source
    assert config.target_login.dsn == "host=vectors"
    assert config.target.schema == "v"


@pytest.mark.parametrize(
    ("name", "embedding_table", "search_view", "expected"),
    [
        ("public.documents", "", "", ("documents_embedding", "documents_search")),
        ("app.documents", "", "", ("app_documents_embedding", "app_documents_search")),
        ("documents", "", "", ("documents_embedding", "documents_search")),
        ("documents", "vectors", "", ("vectors", "documents_search")),
        ("documents", "", "found", ("documents_embedding", "found")),
        ("n" * 63, "vectors", "found", ("vectors", "found")),
    ],
)
def test_embedding_tables_are_named_after_their_source(
    name: str, embedding_table: str, search_view: str, expected: tuple[str, str]
) -> None:
    made = table(name=name, embedding_table=embedding_table, search_view=search_view)
    assert (made.embedding_table_name, made.search_view_name) == expected


def test_a_quoted_table_name_keeps_every_character() -> None:
    made = table(name='public."we""ird; drop"')
    assert (made.schema, made.table) == ("public", 'we"ird; drop')
    assert made.name == 'public."we""ird; drop"'


def test_text_and_template_both_give_text_columns() -> None:
    assert table(text=["title", "body"]).text_columns == ("title", "body")
    template = "{{draft}} {title}\n\n{body} {title}"
    assert table(text=[], template=template).text_columns == ("title", "body")


# --- the environment ---------------------------------------------------------------------------


def test_the_environment_wins_over_the_file(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDC_EMBED_SOURCE__DSN", "host=elsewhere")
    monkeypatch.setenv("CDC_EMBED_TARGET__SCHEMA", "other")
    monkeypatch.setenv("CDC_EMBED_SERVE__PORT", "1234")
    monkeypatch.setenv("CDC_EMBED_SERVE__SEARCH", "true")
    monkeypatch.setenv("CDC_EMBED_LIMITS__MEMORY", "1GB")
    config = load_config(write(MINIMAL + '[serve]\nport = 1\nhost = "::1"\n'))
    assert config.source.resolved_dsn() == "host=elsewhere"
    assert config.target.schema == "other"
    assert (config.serve.port, config.serve.search, config.serve.host) == (1234, True, "::1")
    assert config.limits.memory == 1 << 30
    assert config.tables == load_config(write(MINIMAL)).tables


def test_a_required_value_may_come_from_the_environment_alone(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CDC_EMBED_SOURCE__DSN", DSN)
    text = MINIMAL.replace(f'[source]\ndsn = "{DSN}"', "")
    assert load_config(write(text)).source.resolved_dsn() == DSN


def test_lists_in_the_environment_are_json(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDC_EMBED_SERVE__ALLOWED_HOSTS", '["a.example", "b.example"]')
    monkeypatch.setenv("CDC_EMBED_TABLES", '[{"name": "other", "text": ["body"]}]')
    config = load_config(write(MINIMAL))
    assert config.serve.allowed_hosts == ("a.example", "b.example")
    assert [each.name for each in config.tables] == ["public.other"]


@pytest.mark.parametrize("name", ["CDC_EMBED_SERVE__ALLOWED_HOSTS", "CDC_EMBED_SOURCE"])
def test_a_variable_that_is_not_json_is_refused(
    name: str, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, f"[{CANARY}")
    assert "JSON" in refusal(write(MINIMAL))


def test_a_wrong_variable_is_named(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDC_EMBED_SERVE__PORT", CANARY)
    assert "serve.port (set by CDC_EMBED_SERVE__PORT): " in refusal(write(MINIMAL))


@pytest.mark.parametrize(
    ("name", "hint"),
    [("CDC_EMBED_SORUCE__DSN", "source?"), ("CDC_EMBED_SOURCE__SLOTT", "slot?")],
)
def test_a_misspelt_variable_is_refused(
    name: str, hint: str, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, CANARY)
    problem = refusal(write(MINIMAL))
    assert name in problem
    assert hint in problem


def test_variables_that_name_no_key_are_not_ours(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kubernetes sets such variables for a service of the name cdc-embed."""
    monkeypatch.setenv("CDC_EMBED_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("CDC_EMBED_PORT", "tcp://10.0.0.1:9188")
    assert load_config(write(MINIMAL)).serve.port == 9188


# --- what is wrong -----------------------------------------------------------------------------


def test_a_missing_file_is_refused_with_the_way_to_name_another(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml") as caught:
        load_config(tmp_path / "nowhere.toml")
    assert "cdc-embed -c FILE" in caught.value.hint


def test_what_is_not_a_readable_text_file_is_refused(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path)
    path = tmp_path / "latin1.toml"
    path.write_bytes(b'[source]\ndsn = "\xe9"\n')
    assert "UTF-8" in refusal(path)


def test_invalid_toml_is_refused_with_its_line(write: Write) -> None:
    assert "line 3" in refusal(write(f'[source]\ndsn = "{CANARY}"\nslot = oops\n'))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (MINIMAL + "[sorce]\n", "sorce: unknown key; did you mean source?"),
        (MINIMAL + "[zzz]\n", "zzz: unknown key; known are source, target, embedder,"),
        (with_source(f'dns = "{DSN}"'), "source.dns: unknown key; did you mean dsn?"),
        (MINIMAL + "[target]\nschem = 'x'", "target.schem: unknown key; did you mean schema?"),
        (MINIMAL + "txt = 'x'", "table public.documents: txt: unknown key; did you mean text?"),
        (MINIMAL + "chunk = { max = 1 }", "table public.documents: chunk.max: unknown key; known"),
    ],
)
def test_an_unknown_key_is_named_with_what_was_meant(
    text: str, expected: str, write: Write
) -> None:
    assert expected in refusal(write(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f'source = "{DSN}"\ntables = []', "source: should be a section"),
        (MINIMAL + 'chunk = "big"', "table public.documents: chunk: should be a section"),
        (with_table('name = "a"\ntext = "body"'), "table a: text: should be a list"),
        (with_source(f'dsn = ["{DSN}"]'), "source.dsn: should be a valid string"),
        (MINIMAL + "[serve]\nport = true", "serve.port: should be a number"),
        (MINIMAL + "[serve]\nport = 4.5", "serve.port: should be a valid integer"),
        (MINIMAL + "[serve]\nport = 65536", "serve.port: should be less than or equal to 65535"),
        (MINIMAL + "[embedder]\nmax_batch = 0", "embedder.max_batch: should be greater"),
        (MINIMAL + "[embedder]\ndimensions = -1", "embedder.dimensions: should be greater"),
        (MINIMAL + "[embedder]\ntimeout = 30", "embedder.timeout: expected a number with a unit"),
        (MINIMAL + '[embedder]\ntimeout = "0s"', "embedder.timeout: should be more than 0"),
        (MINIMAL + '[limits]\nmemory = "1.5B"', "limits.memory: should be a valid integer"),
        (MINIMAL + '[limits]\nmemory = "0kB"', "limits.memory: should be more than 0"),
        (MINIMAL + '[log]\nlevel = "loud"', "log.level: should be 'debug', 'info'"),
        (MINIMAL + "[index]\nm = 40", "index: ef_construction must be at least twice m"),
        ("[[tables]]\nname = 'a'\ntext = ['b']", "source: is required"),
        (with_source(""), "source: give exactly one of dsn and dsn_file"),
        (f'tables = []\n[source]\ndsn = "{DSN}"', "tables: at least one [[tables]] entry"),
        (f'[source]\ndsn = "{DSN}"', "tables: is required"),
    ],
)
def test_a_wrong_value_is_refused_where_it_is(text: str, expected: str, write: Write) -> None:
    assert expected in refusal(write(text))


@pytest.mark.parametrize("slot", ["", "Slot", "my-slot", "a b", "s" * 64, "slot\n", 5])
def test_a_slot_name_that_postgresql_refuses_is_refused(slot: object, write: Write) -> None:
    text = with_source(f'dsn = "{DSN}"\nslot = {json.dumps(slot)}')
    assert "source.slot: " in refusal(write(text))


@pytest.mark.parametrize("name", ["", "a.b", 'a"b', "a b", "1a", "n" * 64, "é" * 32])
@pytest.mark.parametrize(
    "key", ["source.publication", "target.schema", "table public.documents: embedding_table"]
)
def test_a_name_of_ours_must_be_plain_and_fit(key: str, name: str, write: Write) -> None:
    section, field = re.split(r": |\.(?=\w+$)", key)
    line = f"{field} = '{name}'"
    text = {
        "source": with_source(f'dsn = "{DSN}"\n{line}'),
        "target": f"{MINIMAL}[target]\n{line}",
        "table public.documents": MINIMAL + line,
    }[section]
    if name or field != "embedding_table":
        assert f"{key}: " in refusal(write(text))
    else:
        assert load_config(write(text)).tables[0].embedding_table_name == "documents_embedding"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ('name = "t"', "table t: give exactly one of text and template"),
        ('name = "t"\ntext = []', "table t: give exactly one of text and template"),
        ('name = "t"\ntext = ["a"]\ntemplate = "{a}"', "exactly one of text and template"),
        ('name = "t"\ntext = ["a", "a"]', "table t: text: a column is listed twice"),
        ('name = "t"\ntext = [""]', "table t: text[0]: a name cannot be empty"),
        (f'name = "t"\ntext = ["{"é" * 32}"]', "table t: text[0]: a name in PostgreSQL"),
        ('name = "t"\ntemplate = "static {{x}}"', "table t: template: a template needs"),
        ('name = "t"\ntemplate = "{a"', "table t: template: a brace"),
        ('name = "t"\ntemplate = "{a!r}"', "table t: template: expected just a column's name"),
        ('name = "a.b.c"\ntext = ["a"]', ": name: expected schema.table"),
        (f'name = "{"n" * 64}"\ntext = ["a"]', ": name: a name in PostgreSQL"),
        (f'name = "{"n" * 60}"\ntext = ["a"]', "longer than PostgreSQL's 63 bytes"),
        (f'name = "{"n" * 54}"\ntext = ["a"]', f"table public.{'n' * 54}: the name"),
        (
            f'name = "{"n" * 60}"\ntext = ["a"]\nembedding_table = "v"',
            "set tables.search_view",
        ),
        (
            'name = "t"\ntext = ["a"]\nmetadata = ["tenant_id", "space"]',
            "metadata: space is a reserved column name",
        ),
    ],
)
def test_a_table_that_cannot_be_embedded_is_refused(
    lines: str, expected: str, write: Write
) -> None:
    assert expected in refusal(write(with_table(lines)))


def test_a_table_listed_twice_is_refused_however_it_is_written(write: Write) -> None:
    again = '[[tables]]\nname = "PUBLIC.\\"documents\\""\ntext = ["title"]\n'
    assert refusal(write(MINIMAL + again)) == "tables: public.documents is listed twice"


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        ('name = "other"\nembedding_table = "documents_embedding"', "documents_embedding"),
        ('name = "other"\nembedding_table = "documents_search"', "documents_search"),
        ('name = "other"\nembedding_table = "other_search"', "other_search"),
        *[(f'name = "other"\nembedding_table = "{name}"', name) for name in sorted(OUR_TABLES)],
    ],
)
def test_two_things_of_one_name_in_the_target_are_refused(
    lines: str, name: str, write: Write
) -> None:
    problem = refusal(write(f'{MINIMAL}[[tables]]\n{lines}\ntext = ["a"]\n'))
    assert f"public.other needs the name {name}, which " in problem


def test_tables_of_two_schemas_whose_names_meet_are_refused(write: Write) -> None:
    second = '[[tables]]\nname = "{}"\ntext = ["a"]\n'
    databases = second.format("public.app_documents") + second.format("app.documents")
    problem = refusal(write(MINIMAL + databases))
    assert "app.documents needs the name app_documents_embedding" in problem
    assert "app.documents needs the name app_documents_search" in problem


def test_an_embedding_table_cannot_be_its_own_source(write: Write) -> None:
    text = MINIMAL + 'embedding_table = "documents"\n[target]\nschema = "public"\n'
    assert "public.documents would be both read and written" in refusal(write(text))
    assert load_config(write(text + 'dsn = "host=vectors"\n')).target.schema == "public"


def test_every_problem_is_reported_at_once_a_line_for_each(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CDC_EMBED_TARGTE__DSN", CANARY)
    text = MINIMAL.replace("text =", "txt =") + '[serve]\nport = "x"\nhots = 1\n[lgo]\n'
    heading, *lines = refusal(write(text)).splitlines()
    assert heading == "5 problems:"
    assert [re.split(r": (?=unknown|should)", line)[0].strip() for line in lines] == [
        "environment: CDC_EMBED_TARGTE__DSN",
        "table public.documents: txt",
        "serve.port",
        "serve.hots",
        "lgo",
    ]


# --- secrets -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        f'dsn = "{DSN}"\ndsn_file = "{DSN}"',
        f'dsn_file = "{DSN}"',
        f'dsn_file = "{CANARY * 100}"',
        f'dsn = "postgresql://app:pa/{CANARY}@db/app"',
        f'dsn = "host=db password={CANARY} {CANARY}"',
        f'dsn = "{CANARY}"',
        f'dsn = {{ password = "{CANARY}" }}',
        f'dsn = "{DSN}"\nslot = "{CANARY}-"',
    ],
)
def test_a_refused_source_never_shows_its_secret(lines: str, write: Write) -> None:
    assert refusal(write(with_source(lines))).startswith("source")


def test_a_dsn_file_is_read_when_loaded(write: Write, tmp_path: Path) -> None:
    secret = tmp_path / "dsn"
    secret.write_text(f"  {DSN}\n")
    config = load_config(write(with_source(f'dsn_file = "{secret}"')))
    secret.unlink()
    assert config.source.resolved_dsn() == config.target_login.dsn == DSN
    assert CANARY not in repr(config)


@pytest.mark.parametrize(
    ("content", "expected"), [(None, "No such file"), (b" \n", "empty"), (b"\xff\xfe", "text file")]
)
@pytest.mark.parametrize("key", ["source.dsn_file", "target.dsn_file", "embedder.api_key_file"])
def test_a_secret_file_without_a_secret_is_refused(
    key: str, content: bytes | None, expected: str, write: Write, tmp_path: Path
) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    section, field = re.split(r": |\.(?=\w+$)", key)
    line = f'{field} = "{path}"'
    text = with_source(line) if section == "source" else f"{MINIMAL}[{section}]\n{line}"
    problem = refusal(write(text))
    assert f"{section}: {field} " in problem
    assert expected in problem


def test_the_key_of_a_service_comes_from_a_variable_or_a_file(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    http = MINIMAL + '[embedder]\nkind = "http"\nurl = "http://tei:8080/v1/embeddings"\n'
    assert load_config(write(http)).embedder.resolved_api_key() is None
    monkeypatch.setenv("SERVICE_KEY", f"{CANARY}\n")
    (tmp_path / "key").write_text(f"{CANARY}\n")
    for line in ('api_key_env = "SERVICE_KEY"', f'api_key_file = "{tmp_path / "key"}"'):
        config = load_config(write(http + line))
        assert config.embedder.resolved_api_key() == CANARY
        assert CANARY not in repr(config)
        assert CANARY not in str(redacted(config))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ('kind = "http"', "embedder: kind http needs a url"),
        ('kind = "http"\nurl = "ftp://h/v1"', "embedder: kind http needs a url"),
        (f'kind = "http"\nurl = "https://u:{CANARY}@h/v1"', "embedder: kind http needs a url"),
        ('api_key_env = "NOT_SET_ANYWHERE"', "embedder.api_key_env: the environment variable"),
        (f'api_key_env = "sk-{CANARY}"', "embedder.api_key_env: expected the name"),
        (f'api_key_env = "{CANARY}"', "embedder.api_key_env: the environment variable"),
        ('api_key_env = "PATH"\napi_key_file = "x"', "embedder: give api_key_env or api_key_file"),
    ],
)
def test_an_incomplete_service_is_refused(lines: str, expected: str, write: Write) -> None:
    assert expected in refusal(write(f"{MINIMAL}[embedder]\n{lines}\n"))


def test_a_redacted_configuration_shows_addresses_and_no_secret(write: Write) -> None:
    target = f"host=vectors user=app password={CANARY}"
    url = f"https://h/v1/embeddings?key={CANARY}"
    text = f'{MINIMAL}[target]\ndsn = "{target}"\n[embedder]\nkind = "http"\nurl = "{url}"\n'
    config = load_config(write(text))
    shown = redacted(config)
    assert shown["source"]["dsn"] == "host=db.example dbname=app user=app"
    assert shown["target"]["dsn"] == "host=vectors user=app"
    assert shown["embedder"]["url"] == "https://h/v1/embeddings?**********"
    assert shown["embedder"]["timeout"] == "30s"
    assert shown["limits"]["memory"] == "256MB"
    assert CANARY not in str(shown)
    assert CANARY not in f"{config.source!r} {config.target!r} {config.source} {config.target}"


def test_a_redacted_dsn_file_shows_the_database_it_names(write: Write, tmp_path: Path) -> None:
    (tmp_path / "dsn").write_text(DSN)
    shown = redacted(load_config(write(with_source(f'dsn_file = "{tmp_path / "dsn"}"'))))
    assert shown["source"]["dsn"] == "host=db.example dbname=app user=app"
    assert shown["target"]["dsn"] == ""


# --- for editors -------------------------------------------------------------------------------


def test_the_json_schema_explains_each_key_and_shows_its_default(write: Write) -> None:
    schema = json_schema()
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["source", "tables"]
    shown = load_config(write(MINIMAL)).model_dump(mode="json", by_alias=True)
    for name, section in (each for each in shown.items() if each[0] != "tables"):
        described = schema["$defs"][f"{name.capitalize()}Config"]
        assert described["additionalProperties"] is False
        assert list(described["properties"]) == list(section)
        for key, about in described["properties"].items():
            assert about["description"]
            assert about["default"] == ("" if key == "dsn" else section[key])


def test_the_json_schema_states_limits_in_its_own_words() -> None:
    properties = json_schema()["$defs"]["ServeConfig"]["properties"]
    assert (properties["port"]["minimum"], properties["port"]["maximum"]) == (0, 65535)
    assert not {"ge", "gt", "le", "lt"} & set(re.findall(r"'(\w+)':", str(json_schema())))


def test_no_field_of_the_whole_is_left_without_a_section() -> None:
    assert list(Config.model_fields) == list(tomllib.loads(DOCUMENTED))
