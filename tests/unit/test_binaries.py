"""A test that lacks a program says which package has it."""

from pathlib import Path

import pytest

from tests.binaries import require_binary


def test_a_missing_program_is_told_with_its_install_command() -> None:
    with pytest.raises(pytest.skip.Exception, match="apt-get install tool tool-extra"):
        require_binary("no-such-program", "tool", "tool-extra")


def test_a_program_is_found_by_its_name_and_a_file_by_its_path(tmp_path: Path) -> None:
    file = tmp_path / "plugin.so"
    file.touch()
    assert require_binary("sh", "dash").name == "sh"
    assert require_binary(str(file), "plugin") == file
