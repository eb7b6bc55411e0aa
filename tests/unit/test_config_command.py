"""``cdc-embed config``: what it prints, and where."""

import json
import tomllib
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from cdc_embed.cli.config import app
from cdc_embed.cli.context import Context
from cdc_embed.config import load as config
from cdc_embed.errors import ConfigError

CANARY = "hunter2canary"
TEXT = f"""
[source]
dsn = "postgresql://app:{CANARY}@db.example/app"

[[tables]]
name = "public.documents"
template = "{{title}}\\n\\"{{body}}\\" – é"

[[tables]]
name = "app.notes"
text = ["body"]
chunk = {{ max_tokens = 100 }}

[serve]
allowed_hosts = ["a.example"]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "cdc_embed.toml"
    path.write_text(TEXT, encoding="utf-8")
    return path


def run(path: Path, *arguments: str) -> Result:
    root = typer.Typer()
    root.add_typer(app, name="config")

    @root.callback()
    def options(ctx: typer.Context) -> None:
        ctx.obj = Context(config_path=path)

    result = CliRunner().invoke(root, ["config", *arguments])
    assert CANARY not in result.output
    return result


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize(
    ("dsn", "problem"),
    [
        (f"service=nope password={CANARY}", 'definition of service "nope" not found'),
        (f"postgresql://app:{CANARY}@db/app?service=nope", 'service "nope" not found'),
        (f"host=a,b port=1,2,3 password={CANARY}", "could not match 3 port numbers to 2 hosts"),
        (f"host=db password={CANARY} require_auth=guess", "require_auth"),
    ],
)
def test_check_names_what_libpq_can_never_use(
    path: Path, side: str, dsn: str, problem: str
) -> None:
    text = TEXT.replace(f"postgresql://app:{CANARY}@db.example/app", dsn)
    path.write_text(text if side == "source" else f'{TEXT}\n[target]\ndsn = "{dsn}"\n')
    refused = run(path, "check").exception
    assert isinstance(refused, ConfigError)
    assert f"{side}.dsn: " in str(refused)
    assert problem in str(refused)
    assert CANARY not in str(refused)


def test_check_finds_a_service_in_its_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    services = path.with_name("services")
    services.write_text("[vectors]\nhost=db\nsslmode=require\n")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    path.write_text(f'{TEXT}\n[target]\ndsn = "service=vectors"\n')
    assert run(path, "check").exit_code == 0


def test_check_names_the_file_and_its_tables(path: Path) -> None:
    result = run(path, "check")
    assert result.exit_code == 0
    assert result.stdout == f"{path}: ok, 2 table(s): public.documents, app.notes\n"


@pytest.mark.parametrize("command", ["check", "show"])
def test_a_wrong_configuration_is_raised_to_the_root_command(command: str, path: Path) -> None:
    path.write_text(TEXT.replace("dsn =", "dns ="), encoding="utf-8")
    result = run(path, command)
    assert isinstance(result.exception, ConfigError)
    assert result.stdout == ""


def test_show_prints_what_is_in_effect_as_toml_and_as_json(path: Path) -> None:
    expected = config.redacted(config.load_config(path))
    assert expected["source"]["dsn"] == "host=db.example dbname=app user=app"
    assert tomllib.loads(run(path, "show").stdout) == expected
    assert json.loads(run(path, "show", "--json").stdout) == expected


def test_what_show_prints_is_a_configuration_again(path: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.toml"
    again.write_text(run(path, "show").stdout, encoding="utf-8")
    assert config.redacted(config.load_config(again)) == config.redacted(config.load_config(path))


def test_schema_needs_no_file(tmp_path: Path) -> None:
    result = run(tmp_path / "nowhere.toml", "schema")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == config.json_schema()
