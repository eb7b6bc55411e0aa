"""The SQL of this project, by file and name.

The files are in ``sql/`` at the top of the tree, where a DBA can read them; a wheel has them inside
the package. A file is a list of ``-- name: x`` blocks, each with one line of description. Values
are bound (``%(x)s``), identifiers are composed with ``psycopg2.sql`` (``{x}``).
"""

import re
from functools import cache
from pathlib import Path

_PACKAGED = Path(__file__).parent / "sql"
_CHECKOUT = Path(__file__).parent.parent / "sql"

_BLOCK = re.compile(r"^-- name: (\w+)\n-- (.+)\n", re.MULTILINE)


def folder() -> Path:
    """Return the folder of the SQL files, in the package, or beside it in a checkout."""
    return _PACKAGED if _PACKAGED.is_dir() else _CHECKOUT


@cache
def queries(file: str) -> dict[str, str]:
    """Return the statements of one file by name: ``queries("target/store")["read_checkpoint"]``."""
    parts = _BLOCK.split((folder() / f"{file}.sql").read_text(encoding="utf-8"))
    return {name: body.strip() for name, body in zip(parts[1::3], parts[3::3], strict=True)}


@cache
def migrations(side: str) -> tuple[tuple[int, str, str], ...]:
    """Return (version, name, text) of each numbered migration, in order."""
    files = sorted((folder() / side / "migrations").glob("[0-9]*.sql"))
    return tuple(
        (int(file.stem[:3]), file.stem, file.read_text(encoding="utf-8")) for file in files
    )
