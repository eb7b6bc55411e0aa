"""Connection strings and addresses without their secrets.

The driver's own parser reads a connection string as libpq will. A ValueError says the expected
form, never the value, because libpq's own message would quote the password.
"""

import re
from typing import Final

from psycopg2 import ProgrammingError
from psycopg2.extensions import make_dsn, parse_dsn

SHOWN: Final = ("host", "hostaddr", "port", "dbname", "user", "sslmode", "service")
HIDDEN: Final = "**********"

_PLAIN_URI: Final = re.compile(r"\w+://(?:[^@/]*@)?[^@?]*(?:\?.*)?", re.DOTALL)
"""A URI whose password has no @ and no /: libpq would read the rest of such a password as a
host."""


def redact_dsn(dsn: str) -> str:
    """Return the servers, database, user and sslmode of a connection string, as key=value pairs.

    Raises ValueError when libpq cannot read it, or would read a part of the password as a place.
    """
    try:
        parts = parse_dsn(dsn)
    except ProgrammingError:
        parts = None
    if (
        parts is None
        or ("://" in dsn and not _PLAIN_URI.fullmatch(dsn))
        or not re.fullmatch(r"[\d,]*", parts.get("port", ""))
    ):
        raise ValueError(
            "the connection string is neither a postgresql:// URI nor key=value pairs"
            " (in a URI's password @ is written %40, / is written %2F, and % is written %25)"
        )
    shown = {name: parts[name] for name in SHOWN if name in parts}
    return str(make_dsn(**shown)) if shown or not dsn else "postgresql://"


def redact_url(url: str) -> str:
    """Return a service's address without user and password, and without the text after ? or #."""
    shown = re.sub(r"(?<=//)[^/?#]*@", f"{HIDDEN}@", url)
    return re.sub(r"(?<=[?#]).*", HIDDEN, shown)
