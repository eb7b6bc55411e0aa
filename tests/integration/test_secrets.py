"""A secret is seen by nobody but the server it is for, whichever way it was given.

Every secret here has the same core, which no output, no log, no page, no table, no process list
and no log of the database may show: with --debug as well, and when everything goes wrong.
"""

import itertools
import json
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import structlog
from psycopg2.extensions import make_dsn

from cdc_embed.cli.logs import set_up_logs
from cdc_embed.cli.main import main
from cdc_embed.config.sections import LogConfig
from cdc_embed.demo.postgres import EmbeddedPostgres
from cdc_embed.errors import CdcEmbedError
from tests.secret import API_KEY, CANARY, PASSWORD, Refusing, guarded_server, refusing_service
from tests.servers import Servers
from tests.site import Site

TABLES = '[[tables]]\nname = "documents"\ntext = ["title", "body"]\n'
HASH = '[embedder]\nkind = "hash"\ndimensions = 8\n'
NOWHERE = "host=127.0.0.1 port=1"

_numbers = itertools.count(1)

COMMANDS = (
    ("config", "check"),
    ("config", "show"),
    ("config", "show", "--json"),
    ("doctor",),
    ("doctor", "--json"),
    ("setup", "--dry-run"),
    ("setup", "--sql"),
    ("status",),
)
"""Quick ones, which need no process of their own."""


@pytest.fixture(scope="module")
def server(servers: Servers) -> Iterator[EmbeddedPostgres]:
    with guarded_server(servers) as running:
        yield running


@pytest.fixture
def site(
    server: EmbeddedPostgres, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Site]:
    site = Site(server, f"s{abs(hash(request.node.name))}", tmp_path)
    site.sql("create table documents (id bigint primary key, title text, body text)")
    yield site
    site.close()


@pytest.fixture
def service_url() -> Iterator[str]:
    with refusing_service() as url:
        yield url


@pytest.fixture
def cli(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str]]:
    """Runs a command in this process: (exit code, all that it wrote). Never with the secret."""

    def run(text: str, *arguments: str, debug: bool = False) -> tuple[int, str]:
        path = tmp_path / "cdc_embed.toml"
        path.write_text(text)
        options = ["-c", str(path), *(["--debug"] if debug else [])]
        monkeypatch.setattr("sys.argv", ["cdc-embed", *options, *arguments])
        code = 0
        try:
            main()
        except SystemExit as exc:
            code = exc.code if isinstance(exc.code, int) else 1
        except (CdcEmbedError, OSError):
            assert debug, "without --debug it is one sentence"
            traceback.print_exc()
            code = 1
        written = "".join(capfd.readouterr())
        assert CANARY not in written, f"{arguments}: {written}"
        return code, written

    return run


@pytest.fixture(autouse=True)
def _logs_of_commands_end_with_them() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


# --- every way to give it ----------------------------------------------------------------------


def channels(server: EmbeddedPostgres, name: str, folder: Path) -> Iterator[tuple[str, str, Any]]:
    """(what it is called, lines of [source], variables of the environment)."""
    uri = f"postgresql://app:{quote(PASSWORD, safe='')}@127.0.0.1:{server.port}/{name}"
    pairs = {"host": "127.0.0.1", "port": server.port, "dbname": name, "user": "app"}
    bare = make_dsn("", **pairs)
    dsn_file, pass_file = folder / "dsn", folder / "pgpass"
    dsn_file.write_text(f"{uri}\n")
    pass_file.write_text(
        f"*:*:*:app:{PASSWORD.replace(chr(92), chr(92) * 2).replace(':', chr(92) + ':')}\n"
    )
    pass_file.chmod(0o600)
    yield "URI", f"dsn = {json.dumps(uri)}", {}
    query = (
        uri.replace(f":{quote(PASSWORD, safe='')}@", "@") + f"?password={quote(PASSWORD, safe='')}"
    )
    yield "query of a URI", f"dsn = {json.dumps(query)}", {}
    yield "pairs", f"dsn = {json.dumps(make_dsn('', **pairs, password=PASSWORD))}", {}
    yield "file", f"dsn_file = {json.dumps(str(dsn_file))}", {}
    yield "environment", "", {"CDC_EMBED_SOURCE__DSN": uri}
    yield "PGPASSWORD", f"dsn = {json.dumps(bare)}", {"PGPASSWORD": PASSWORD}
    yield "PGPASSFILE", f"dsn = {json.dumps(bare)}", {"PGPASSFILE": str(pass_file)}


def test_password_opens_the_server_and_is_shown_by_no_command(
    site: Site, cli: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, lines, environment in channels(site.server, site.name, site.folder):
        text = f'[source]\nslot = "{site.name}"\n{lines}\n{HASH}{TABLES}'
        with monkeypatch.context() as patch:
            for variable, value in environment.items():
                patch.setenv(variable, value)
            code, written = cli(text, "doctor", debug=True)
            assert "ok      server" in written, f"{name}: {written}"
            assert code == 0, "not set up yet"
            for command in COMMANDS:
                cli(text, *command)


def test_refused_password_is_shown_nowhere(site: Site, cli: Callable[..., tuple[int, str]]) -> None:
    wrong = f"postgresql://app:{CANARY}@127.0.0.1:{site.server.port}/{site.name}"
    text = f'[source]\ndsn = "{wrong}"\n{HASH}{TABLES}'
    for command in (
        ("doctor",),
        ("setup",),
        ("status",),
        ("teardown", "--yes"),
        ("run",),
        ("verify",),
    ):
        code, written = cli(text, *command)
        assert (code, "password authentication failed" in written) == (4, True), written
        assert "Traceback" not in written
        assert "password authentication failed" in cli(text, *command, debug=True)[1]
    down = f'[source]\ndsn = "postgresql://app:{CANARY}@127.0.0.1:1/db"\n{HASH}{TABLES}'
    for command in (
        ("doctor",),
        ("setup",),
        ("status",),
        ("run", "--no-wait"),
        ("search", "x"),
        ("backfill",),
    ):
        assert "refused" in cli(down, *command)[1]
        assert "refused" in cli(down, *command, debug=True)[1]


@pytest.mark.parametrize(
    "dsn",
    [
        f"postgresql://app:{CANARY}%00x@127.0.0.1:1/db",
        f"postgresql://app@127.0.0.1:1/db?password={CANARY}%00",
        f"postgresql://app:{CANARY}",
        f"postgresql://app:{CANARY}/db",
        f"postgresql://app:{CANARY}@[::1/db",
        f"postgresql://app:{CANARY}@127.0.0.1:1:2/db",
        f"postgresql://app:{CANARY}@127.0.0.1:99999/db",
        f"postgresql://app:{CANARY}@127.0.0.1:1/db?sslmode=wrong",
        f"postgresql://app:{CANARY}@127.0.0.1:1/db?pasword=x",
        f"postgresql://app:x{CANARY}@y@127.0.0.1:1/db",
        f"postgresql://app:{CANARY}%zz@127.0.0.1:1/db",
        f"app:{CANARY}@127.0.0.1:1/db",
        f"host=127.0.0.1 port=1 password={CANARY} {CANARY}",
        f"host=127.0.0.1 port=1 password='{CANARY}",
        f"host=127.0.0.1 port=1 pasword={CANARY}",
        f"host=127.0.0.1 port=1 password={CANARY} sslmode=wrong",
        CANARY,
    ],
)
def test_dsn_that_cannot_be_understood_is_not_quoted(
    dsn: str, cli: Callable[..., tuple[int, str]]
) -> None:
    """libpq itself quotes what it cannot read, whole or in part."""
    for section in ("source", "target"):
        other = f'[source]\ndsn = "{NOWHERE}"\n' if section == "target" else ""
        text = f"{other}[{section}]\ndsn = {json.dumps(dsn)}\n{HASH}{TABLES}"
        for command in (("doctor",), ("run", "--no-wait"), ("config", "show")):
            cli(text, *command)
            cli(text, *command, debug=True)


@pytest.mark.parametrize(
    "text",
    [
        f'[source]\ndsn = "postgresql://app:{CANARY}@h/d\n{TABLES}',
        f"[source]\ndsn = postgresql://app:{CANARY}@h/d\n{TABLES}",
        f'[source]\ndsn = "{CANARY}"\ndsn = "{CANARY}"\n{TABLES}',
        f'[source\ndsn = "{CANARY}"\n{TABLES}',
        f'[source]\ndsn = "\\{CANARY}"\n{TABLES}',
        f'[source]\ndsn = ["{CANARY}"]\n{TABLES}',
        f'[source]\ndsn = "{NOWHERE}"\npassword = "{CANARY}"\n{TABLES}',
        f'[source]\ndsn = "{NOWHERE}"\n[embedder]\napi_key = "{CANARY}"\n{TABLES}',
        f'[source]\ndsn = "{NOWHERE}"\n[embedder]\napi_key_env = "{API_KEY}"\n{TABLES}',
        f'[source]\ndsn = "{NOWHERE}"\n[embedder]\napi_key_file = "{API_KEY}"\n{TABLES}',
        f'[source]\ndsn_file = "postgresql://app:{CANARY}@h/d"\n{TABLES}',
        f'dsn = "{CANARY}"\n{TABLES}',
    ],
)
def test_broken_configuration_is_not_quoted(text: str, cli: Callable[..., tuple[int, str]]) -> None:
    for debug in (False, True):
        code, written = cli(text, "config", "show", debug=debug)
        assert code == (1 if debug else 3), written


@pytest.mark.parametrize("kind", ["http", "hash"])
@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{CANARY}@127.0.0.1:1/v1/embeddings",
        f"http://{CANARY}@127.0.0.1:1/v1/embeddings",
        f"http://127.0.0.1:1/v1/embeddings?key={CANARY}",
        f"http://127.0.0.1:1/v1/embeddings#{CANARY}",
    ],
)
def test_secret_in_the_address_of_the_embedder_is_not_shown(
    kind: str, url: str, cli: Callable[..., tuple[int, str]]
) -> None:
    text = f'[source]\ndsn = "{NOWHERE}"\n[embedder]\nkind = "{kind}"\nurl = "{url}"\n{TABLES}'
    for command in (("config", "show"), ("config", "show", "--json"), ("setup",)):
        cli(text, *command)
        cli(text, *command, debug=True)


@pytest.mark.parametrize(
    "environment",
    [
        {"CDC_EMBED_SOURCE__DSN": f"postgresql://app:{CANARY}/db"},
        {"CDC_EMBED_SOURCE": f'{{"dsn": "{CANARY}"'},
        {"CDC_EMBED_SOURCE": f'{{"password": "{CANARY}"}}'},
        {"CDC_EMBED_SOURCE__PASSWORD": CANARY},
        {"CDC_EMBED_EMBEDDER__API_KEY": CANARY},
        {"CDC_EMBED_TABLES": CANARY},
        {"CDC_EMBED_SERVE__PORT": CANARY},
    ],
)
def test_wrong_variable_is_not_quoted(
    environment: Mapping[str, str],
    cli: Callable[..., tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    for debug in (False, True):
        cli(f'[source]\nslot = "x"\n{HASH}{TABLES}', "doctor", debug=debug)


# --- what others say back ----------------------------------------------------------------------


@pytest.mark.parametrize("with_key", [True, False])
def test_service_that_quotes_its_key_is_not_quoted_in_turn(
    site: Site,
    service_url: str,
    with_key: bool,
    cli: Callable[..., tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("THE_KEY", API_KEY)
    key = 'api_key_env = "THE_KEY"' if with_key else ""
    embedder = f'[embedder]\nkind = "http"\nmodel = "m"\nurl = "{service_url}"\n{key}\n'
    for status in (301, 400, 401, 403, 404, 413, 418, 429, 500, 503):
        Refusing.status = status
        for debug in (False, True):
            text = f'[source]\ndsn = "{site.dsn}"\n{embedder}{TABLES}'
            code, written = cli(text, "setup", debug=debug)
            assert str(status) in written, written
            assert code


@pytest.mark.parametrize("format", ["console", "json"])
def test_unexpected_error_is_logged_with_place_without_values(
    format: str,  # noqa: A002
    capsys: pytest.CaptureFixture[str],
) -> None:
    """rich prints the local variables of every frame, unless it is told not to."""

    def fails(dsn: str) -> None:
        raise ValueError(f"of {len(dsn)} characters")

    set_up_logs(LogConfig.model_validate({"format": format}))
    try:
        fails(f"postgresql://app:{CANARY}@h/db")
    except ValueError:
        structlog.get_logger().exception("reconcile failed")
    written = capsys.readouterr().err
    assert CANARY not in written
    assert "ValueError: of 35 characters" in written
    assert "in fails" in written
