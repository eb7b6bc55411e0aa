"""The statements that one connection was asked, word for word.

Most are asked again and again, and to plan a question about the catalogue takes the server five
times as long as to answer it. So it plans each one once. A plan is made anew by the server itself
when a table has changed.
"""

from collections import OrderedDict
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final

import psycopg2.errors

MOST_PLANS: Final = 32
"""The number of plans that are kept; the one that was used longest ago is given up."""


class Plans:
    """Executes statements, each with the plan that the server has kept of the first time."""

    def __init__(self) -> None:
        self._names: OrderedDict[bytes, str] = OrderedDict()
        """The server's name of each statement."""
        self._made = 0

    def execute(self, cursor: Any, statement: Any, values: Mapping[str, Any] | None) -> None:
        """Execute a statement outside any transaction; raise as the driver does."""
        text: bytes = cursor.mogrify(statement, values)
        digest = blake2b(text, digest_size=16).digest()
        name = self._names.pop(digest, None) or self._plan(cursor, text)
        self._names[digest] = name
        if len(self._names) > MOST_PLANS:
            _, oldest = self._names.popitem(last=False)
            cursor.execute(f"deallocate {oldest}")
        try:
            cursor.execute(f"execute {name}")
        except psycopg2.errors.FeatureNotSupported:  # a column has another type since
            del self._names[digest]
            cursor.execute(f"deallocate {name}")
            cursor.execute(text)

    def _plan(self, cursor: Any, text: bytes) -> str:
        self._made += 1
        name = f"cdc_embed_{self._made}"
        cursor.execute(f"prepare {name} as ".encode() + text)
        return name
