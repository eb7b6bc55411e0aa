"""The demo as a user runs it: everything works, and nothing is left behind."""

import json
import os
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.own_process import COMMAND


@pytest.mark.timeout(300)
def test_demo_embeds_a_real_corpus_skips_what_is_unchanged_and_leaves_nothing() -> None:
    with TemporaryDirectory(prefix="demo-", dir="/tmp") as folder:  # a socket's path is short
        Path(folder).chmod(0o1777)  # for the account that the server runs as when we are root
        done = subprocess.run(
            [*COMMAND, "demo", "--once", "--json"],
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
            env={**os.environ, "TMPDIR": folder},
        )
        # torch keeps a cache of its own between processes
        left = {path.name for path in Path(folder).iterdir() if "torch" not in path.name}
        running = [line for line in command_lines() if folder in line]
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
    assert left == set()
    assert running == []


def command_lines() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_text(errors="replace"))
        except OSError:  # it ended
            continue
    return found
