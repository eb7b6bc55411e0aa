"""PostgreSQL 15 as Debian packages it: the server for wal2json, which no Python package brings.

It has no pgvector, so it is a source only: its target is a site on an embedded server.
"""

from pathlib import Path
from typing import Final

import pytest

from cdc_embed.demo.postgres import EmbeddedPostgres

INSTALLED: Final = 15
_ROOT: Final = Path("/usr/lib/postgresql/15")


class InstalledPostgres(EmbeddedPostgres):
    """A throwaway cluster like the embedded ones, with the system's binaries."""

    def _installation(self) -> tuple[Path, Path]:
        if not (_ROOT / "lib" / "wal2json.so").exists():
            pytest.skip("needs the packages postgresql-15 and postgresql-15-wal2json")
        return _ROOT, _ROOT / "bin"
