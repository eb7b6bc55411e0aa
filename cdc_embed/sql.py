"""The SQL of this project, by file and name.

It lies in ``sql/`` at the top of the tree, where a DBA can read it; a wheel carries it inside the
package. A file is a list of ``-- name: x`` blocks, each with one line of description; values are
bound (``%(x)s``), identifiers are put in with ``psycopg2.sql`` (``{x}``).
"""

import re
from functools import cache
from pathlib import Path

_PACKAGED = Path(__file__).parent / "sql"
_CHECKOUT = Path(__file__).parent.parent / "sql"

_BLOCK = re.compile(r"^-- name: (\w+)\n-- (.+)\n", re.MULTILINE)


def folder() -> Path:
    """Where the SQL files are: in the package, or beside it in a checkout."""
    return _PACKAGED if _PACKAGED.is_dir() else _CHECKOUT


@cache
def queries(file: str) -> dict[str, str]:
    """The named statements of one file, e.g. ``queries("target/store")["read_checkpoint"]``."""
    parts = _BLOCK.split((folder() / f"{file}.sql").read_text(encoding="utf-8"))
    return {name: body.strip() for name, body in zip(parts[1::3], parts[3::3], strict=True)}


@cache
def migrations(side: str) -> tuple[tuple[int, str, str], ...]:
    """(version, name, text) of each numbered migration, in order."""
    files = sorted((folder() / side / "migrations").glob("[0-9]*.sql"))
    return tuple(
        (int(file.stem[:3]), file.stem, file.read_text(encoding="utf-8")) for file in files
    )
