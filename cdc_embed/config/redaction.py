"""Connection strings and addresses without their secrets."""

import re
from typing import Final

from psycopg2.extensions import make_dsn

from cdc_embed.config.dsn import check_dsn

SHOWN: Final = ("host", "hostaddr", "port", "dbname", "user", "sslmode", "service")
HIDDEN: Final = "**********"


def redact_dsn(dsn: str) -> str:
    """Return the servers, database, user and sslmode of a connection string, as key=value pairs.

    Raises ValueError as ``check_dsn`` does.
    """
    parts = check_dsn(dsn)
    shown = {name: parts[name] for name in SHOWN if name in parts}
    return str(make_dsn(**shown)) if shown or not dsn else "postgresql://"


def redact_url(url: str) -> str:
    """Return a service's address without user and password, and without the text after ? or #."""
    shown = re.sub(r"(?<=//)[^/?#]*@", f"{HIDDEN}@", url)
    return re.sub(r"(?<=[?#]).*", HIDDEN, shown)
