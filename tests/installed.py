"""PostgreSQL 15 as Debian packages it: the server for wal2json, which no Python package brings.

It has no pgvector, so it is a source only: its target is a site on an embedded server.
"""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cdc_embed.demo.postgres import EmbeddedPostgres
from tests.binaries import require_binary

INSTALLED: Final = 15
_ROOT: Final = Path("/usr/lib/postgresql/15")


class InstalledPostgres(EmbeddedPostgres):
    """A throwaway cluster like the embedded ones, with the system's binaries."""

    def __init__(
        self,
        version: int = INSTALLED,
        settings: Mapping[str, str] | None = None,
        tcp: bool = False,
        cluster: Path | None = None,
    ) -> None:
        require_binary(f"{_ROOT}/bin/postgres", "postgresql-15")
        require_binary(f"{_ROOT}/lib/wal2json.so", "postgresql-15", "postgresql-15-wal2json")
        super().__init__(version, {**_allow_wal2json(), **(settings or {})}, tcp, cluster)

    def _installation(self) -> tuple[Path, Path]:
        return _ROOT, _ROOT / "bin"


def _allow_wal2json() -> dict[str, str]:
    """Newer minor releases load only the output plugins that they are told of."""
    known = subprocess.run(
        [_ROOT / "bin" / "postgres", "--describe-config"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    name = "output_plugin_libraries"
    return {name: "pgoutput, wal2json"} if f"\n{name}\t" in known else {}
