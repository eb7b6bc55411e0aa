"""The root's options and groups: ``-c FILE`` on both sides, help where no command is named."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cdc_embed.cli.main import app
from cdc_embed.cli.output import print_findings, say
from cdc_embed.errors import ConfigError
from cdc_embed.finding import Finding


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "some.toml"
    path.write_text('[source]\ndsn = "postgresql://db/app"\n[[tables]]\nname = "t"\ntext = ["a"]\n')
    return path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        "-c FILE config check",
        "config -c FILE check",
        "config check -c FILE",
        "config check -cFILE",
        "config check --config=FILE",
        "--config FILE config check --debug",
        "-c other.toml config check -c FILE",
    ],
)
def test_the_configuration_is_named_before_or_behind(arguments: str, path: Path) -> None:
    result = run(*arguments.replace("FILE", str(path)).split())
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{path}: ok")


def test_without_an_option_the_default_file_is_read() -> None:
    result = run("config", "check")
    assert isinstance(result.exception, ConfigError)
    assert result.exception.fields["where"] == "cdc_embed.toml"


@pytest.mark.parametrize("arguments", [[], ["--debug"], ["config"], ["dlq"], ["index"]])
def test_without_a_command_help_is_shown(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 0
    assert "Usage:" in result.stdout


def test_help_of_a_command_has_the_options_of_all() -> None:
    shown = run("status", "--help").stdout
    assert "--config" in shown
    assert "--debug" in shown


def test_an_unknown_command_or_option_is_a_usage_error() -> None:
    assert run("nope").exit_code == run("status", "--nope").exit_code == 2


def test_a_name_between_colons_is_no_picture(capsys: pytest.CaptureFixture[str]) -> None:
    """rich shows ``:m:`` as an emoji, unless it is told not to: also in http:m: and in a time."""
    say("model http:m: cosine")
    print_findings([Finding(id="space", ok=False, message="http:m: x", fix="set http:m: y")])
    printed = capsys.readouterr()
    assert printed.err == "model http:m: cosine\n"
    assert "http:m: x" in printed.out
    assert "http:m: y" in printed.out
