"""The demo as a user runs it: everything works, and nothing is left behind.

It has a database of its own: one that the shell names is not for playing with.
"""

import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import cast

import pytest

from cdc_embed.cli import stage
from cdc_embed.demo.script import Arrivals
from cdc_embed.lsn import LSN
from cdc_embed.service import Service
from tests.own_process import COMMAND
from tests.secret import CANARY
from tests.site import Site

FOREIGN = {
    "CDC_EMBED_SOURCE__DSN": f"postgresql://app:{CANARY}@127.0.0.1:1/production",
    "PGPASSWORD": CANARY,
}
FEW = 100
FEW_PAGES = f"""
from cdc_embed.cli import main, stage
corpus = stage.corpus
stage.corpus = lambda: corpus()[:{FEW}]
main.main()
"""


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("command", "documents"),
    [
        pytest.param([sys.executable, "-c", FEW_PAGES], FEW, id="few"),
        pytest.param(COMMAND, 1000, id="all", marks=pytest.mark.long),
    ],
)
def test_demo_embeds_a_corpus_skips_equal_texts_and_cleans_up(
    command: list[str], documents: int
) -> None:
    with TemporaryDirectory(prefix="demo-", dir="/tmp") as folder:  # a socket's path is short
        Path(folder).chmod(0o1777)  # for the account that the server runs as when we are root
        done = subprocess.run(
            [*command, "demo", "--once", "--json"],
            capture_output=True,
            text=True,
            timeout=580,
            check=False,
            env={
                **os.environ,
                **FOREIGN,
                "TMPDIR": folder,
                "OMP_NUM_THREADS": "1",
            },
        )
        # torch keeps a cache of its own between processes
        left = {path.name for path in Path(folder).iterdir() if "torch" not in path.name}
        running = [line for line in command_lines() if folder in line]
    assert done.returncode == 0, done.stderr
    assert CANARY not in done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert set(result) == {
        *("documents", "documents_per_second", "latency_seconds", "skipped", "searches", "drift"),
    }
    assert result["documents"] >= documents
    assert result["drift"] == 0
    assert 0 < result["latency_seconds"]["p50"] <= result["latency_seconds"]["p95"]
    assert result["skipped"]["unchanged"] >= result["documents"] + 100
    assert len(result["searches"]) == 3
    assert left == set()
    assert running == []


def test_the_demo_waits_for_rows_that_are_deferred(site: Site) -> None:
    """The slot passes them, as it does on a slow machine: their vectors come later."""
    with site.service() as service:
        service.wait_for("reconciled")
        assert service.stop() == 0
    end = LSN.parse("0/1")
    passed = SimpleNamespace(positions=SimpleNamespace(durable=end), told=True, registry=None)
    with closing(site.connect()) as connection:
        view = stage._view(cast(Service, passed), Arrivals(), connection)
        assert view.is_reflected(end)
        row = "('public.documents', '{\"id\": 1}', now())"
        site.sql(f"insert into cdc_embed.deferred (table_name, key, committed_at) values {row}")
        assert not view.is_reflected(end)


def command_lines() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_text(errors="replace"))
        except OSError:  # it ended
            continue
    return found
