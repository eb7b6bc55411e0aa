"""The statements that one connection is asked again and again, word for word.

The server plans such a statement once, because to plan a question about the catalogue takes it five
times as long as to answer it. A plan is made anew by the server itself when a table has changed.
"""

from collections import OrderedDict
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final

import psycopg2.errors

MOST_STATEMENTS: Final = 64
"""The number of statements that are remembered; the one that was asked longest ago is forgotten."""


class Plans:
    """Executes statements; from the second time on with the plan that the server has kept."""

    def __init__(self) -> None:
        self._names: OrderedDict[bytes, str] = OrderedDict()
        """The server's name of each statement; an empty one after the first time."""
        self._made = 0

    def execute(self, cursor: Any, statement: Any, values: Mapping[str, Any] | None) -> None:
        """Execute a statement outside any transaction; raise as the driver does."""
        text: bytes = cursor.mogrify(statement, values)
        digest = blake2b(text, digest_size=16).digest()
        name = self._names.pop(digest, None)
        if name == "":
            self._made += 1
            name = f"cdc_embed_{self._made}"
            cursor.execute(f"prepare {name} as ".encode() + text)
        self._names[digest] = name or ""
        if len(self._names) > MOST_STATEMENTS:
            self._forget(cursor, next(iter(self._names)))
        if not name:
            cursor.execute(text)
            return
        try:
            cursor.execute(f"execute {name}")
        except psycopg2.errors.FeatureNotSupported:  # a column has another type since
            self._forget(cursor, digest)
            cursor.execute(text)

    def _forget(self, cursor: Any, digest: bytes) -> None:
        if name := self._names.pop(digest):
            cursor.execute(f"deallocate {name}")
