"""The servers that many tests share, one of a version in each process that runs tests.

They begin with copies of one cluster, their files are in memory where the machine has some to
spare, and they wait for no disk: nobody crashes them. A test that does has a server of its own,
which begins with such a copy too.
"""

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cdc_embed.demo.postgres import EmbeddedPostgres
from tests.installed import INSTALLED, InstalledPostgres

MEMORY: Final = Path("/dev/shm")
SPARE: Final = 4 << 30
SETTINGS: Final = {
    "wal_sender_timeout": "10s",
    "max_replication_slots": "60",
    "max_wal_senders": "60",
    "fsync": "off",
    "full_page_writes": "off",
    "max_wal_size": "256MB",
}


def use_memory() -> None:
    """Have temporary files in memory from here on, also those of processes that are started."""
    spare = shutil.disk_usage(MEMORY).free if MEMORY.is_dir() else 0
    if spare > SPARE and "TMPDIR" not in os.environ:
        os.environ["TMPDIR"] = str(MEMORY)
        tempfile.tempdir = None


class Servers:
    """Started when they are first asked for: 15 is the system's, the others are embedded."""

    def __init__(self, clusters: Path) -> None:
        self._clusters = clusters
        self._running: dict[int, EmbeddedPostgres] = {}

    def __call__(self, version: int) -> EmbeddedPostgres:
        if version not in self._running:
            cluster = self._cluster(version)
            self._running[version] = make_server(version)(version, SETTINGS, True, cluster)
            self._running[version].start()
        return self._running[version]

    def own(
        self, version: int, settings: Mapping[str, str] | None = None, tcp: bool = True
    ) -> EmbeddedPostgres:
        """A server of a test's own, not started yet; it waits for the disk, so it may crash."""
        return make_server(version)(version, settings, tcp, self._cluster(version))

    def close(self) -> None:
        for server in self._running.values():
            server.close()

    def _cluster(self, version: int) -> Path:
        """The cluster to copy; whoever needs it first makes it, the others wait."""
        cluster = self._clusters / str(version)
        with (self._clusters / f"{version}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not cluster.exists():
                with make_server(version)(version) as server:
                    server.stop()
                    subprocess.run(["cp", "-a", server.socket_dir / "data", cluster], check=True)
        return cluster


def make_server(version: int) -> type[EmbeddedPostgres]:
    return InstalledPostgres if version == INSTALLED else EmbeddedPostgres
