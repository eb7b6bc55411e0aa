"""The demo as a user runs it: everything works, and nothing is left behind."""

import json
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.site import COMMAND


def left_behind() -> set[str]:
    folders = [Path(tempfile.gettempdir()), Path("/dev/shm")]
    return {str(path) for folder in folders if folder.is_dir() for path in folder.iterdir()}


@pytest.mark.timeout(300)
def test_demo_embeds_a_real_corpus_skips_what_is_unchanged_and_leaves_nothing() -> None:
    before = left_behind()
    done = subprocess.run(
        [*COMMAND, "demo", "--once", "--json"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result) == {
        *("documents", "documents_per_second", "latency_seconds", "skipped", "searches", "drift"),
    }
    assert result["documents"] >= 1000
    assert result["drift"] == 0
    assert 0 < result["latency_seconds"]["p50"] <= result["latency_seconds"]["p95"]
    assert result["skipped"]["unchanged"] >= result["documents"] + 100
    assert len(result["searches"]) == 3
    new = {path for path in left_behind() - before if "pytest" not in path}
    assert not {path for path in new if "cdc" in path or "postgres" in path.lower()}
    servers = subprocess.run(
        ["pgrep", "-f", "cdc-pg-"], capture_output=True, text=True, check=False
    )
    ours = {line for line in servers.stdout.split() if "demo" in _command_of(line)}
    assert not ours


def _command_of(pid: str) -> str:
    path = Path("/proc") / pid / "cmdline"
    return path.read_text(errors="replace") if path.exists() else ""
