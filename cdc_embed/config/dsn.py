"""The connection strings of other programs, and what is wrong with one for libpq.

A message names the part that is wrong and the right form, never a value. If a password has an odd
character, libpq takes a piece of it for a name, so only names that cannot be a piece are shown.
"""

import re
from contextlib import suppress
from typing import Final

from psycopg2 import ProgrammingError
from psycopg2.extensions import parse_dsn

RIGHT_FORM: Final = "postgresql://user:password@host:5432/database"
CHOICES: Final = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "gssencmode": ("disable", "prefer", "require"),
    "channel_binding": ("disable", "prefer", "require"),
    "target_session_attrs": (
        "any",
        "read-write",
        "read-only",
        "primary",
        "standby",
        "prefer-standby",
    ),
    "load_balance_hosts": ("disable", "random"),
}
"""The values of those parameters that have few; libpq looks at them only when it connects."""
INTEGERS: Final = {
    "connect_timeout": "number of seconds, without a unit",
    "keepalives": "number",
    "keepalives_idle": "number of seconds, without a unit",
    "keepalives_interval": "number of seconds, without a unit",
    "keepalives_count": "number",
    "tcp_user_timeout": "number of milliseconds, without a unit",
}
"""The parameters that are integers of four bytes; libpq looks at them only when it connects."""
SCHEMES: Final = ("postgresql", "postgres")

OTHER_PROGRAMS: Final = {
    "schema": "Prisma's, and tables.name has the schema",
    "currentSchema": "JDBC's, and tables.name has the schema",
    "search_path": "another client's, and tables.name has the schema",
    "pgbouncer": "for a pooler, and the address must be that of the server itself",
    "pool_mode": "for a pooler, and the address must be that of the server itself",
    **dict.fromkeys(
        [
            *("connection_limit", "pool_timeout", "socket_timeout", "statement_cache_size"),
            *("prepared_statement_cache_size", "prepareThreshold", "sslaccept", "sslidentity"),
            *("serverVersion", "charset", "encoding", "async_fallback"),
        ],
        "another client's",
    ),
}
"""Parameters after ``?`` that libpq does not know."""

SECRET_FILES: Final = frozenset({"passfile", "service", "sslcert", "sslkey"})
"""The parameters that name a file with a secret; libpq reads it at each attempt."""

_VARIABLE: Final = re.compile(
    r"""(?:export\s+|set\s+)?(\w+\s*(?:=|:\s))\s*(?=["']?[A-Za-z][\w+.:-]*://)"""
)
_SCHEME: Final = re.compile(r"([A-Za-z][\w+.-]*)://")
_PARTS: Final = re.compile(r"[^:]+://(?P<user>[^@/]*@)?(?P<place>[^?]*)\??(?P<query>.*)", re.DOTALL)
_PLAIN_URI: Final = re.compile(
    r"\w+://(?>[^@/?:]*(?::[^@/]*)?@|(?![^/]*@))[^@?]*(?:\?.*)?", re.DOTALL
)
"""A URI whose password has no @ and no /, and whose @ ends a user, because libpq would read the
rest of such a password as a host, and all before an @ as a user."""


def check_dsn(dsn: str) -> dict[str, str]:
    """Return the parts of a connection string.

    Raises ValueError with every problem, when libpq cannot read it, or would read a part of the
    password as a place.
    """
    if problems := _of_other_programs(dsn):
        raise ValueError(f"the connection string {'; it '.join(problems)}: write {RIGHT_FORM}")
    parts: dict[str, str] | None = None
    with suppress(ProgrammingError):
        parts = parse_dsn(dsn)
    if (
        parts is None
        or (_SCHEME.match(dsn) and not _PLAIN_URI.fullmatch(dsn))
        or not re.fullmatch(r"[\d,]*", parts.get("port", ""))
    ):
        raise ValueError(
            "the connection string is neither a postgresql:// URI nor key=value pairs"
            " (in a URI's password @ is written %40, / is written %2F, and % is written %25)"
        )
    for name, values in CHOICES.items():
        if parts.get(name, values[0]) not in values:
            raise ValueError(f"the connection string's {name} is none of {', '.join(values)}")
    for name in INTEGERS:
        if name in parts and not _is_integer(parts[name]):
            raise ValueError(f"the connection string's {name} is no {INTEGERS[name]}")
    return parts


def _is_integer(value: str) -> bool:
    """Return whether C's ``strtol`` takes it whole, as libpq asks for."""
    digits = re.fullmatch(r"\s*[+-]?([0-9]{1,20})\s*", value, re.ASCII)
    return digits is not None and int(digits[1]) < 1 << 31


def _of_other_programs(dsn: str) -> list[str]:
    """Return what a connection string has from another program, from the outside to the inside."""
    problems = []
    if re.fullmatch(r"\$\{?\w+\}?|%\w+%", dsn):
        return [
            "is the name of a variable, which is not replaced here; set CDC_EMBED_SOURCE__DSN or "
            "CDC_EMBED_TARGET__DSN in the environment instead"
        ]
    if match := _VARIABLE.match(dsn):
        problems.append(f"begins with {match[1].rstrip()}, which is not a part of it")
        dsn = dsn[match.end() :]
    if match := re.match(r"psql\s+", dsn):
        problems.append("begins with psql, which is a program")
        dsn = dsn[match.end() :]
    if dsn[:1] in {'"', "'", "`"}:
        problems.append("has quotes around it")
        dsn = dsn.strip("\"'`")
    if dsn[:5].lower() == "jdbc:":
        problems.append("begins with jdbc:, which is Java's")
        dsn = dsn[5:]
    match = _SCHEME.match(dsn)
    if match and match[1] not in SCHEMES:
        whose = ", which is SQLAlchemy's" if "+" in match[1] else ""
        problems.append(f"begins with {match[1]}://{whose}")
    if not match and re.match(r"[A-Za-z][A-Za-z ]*=[^=;]*;", dsn):
        problems.append("has semicolons between its pairs, which is .NET's")
    return problems + (_parameters(dsn) if match else [])


def _parameters(uri: str) -> list[str]:
    """Return the parameters after ``?`` that libpq does not know."""
    parts = _PARTS.fullmatch(uri)
    if parts is None or "@" in (query := parts["query"]):  # it can be the rest of a password
        return []
    certain = parts["user"] or not re.search(r":[^/\d]", parts["place"])
    problems = []
    for name in [part.partition("=")[0] for part in query.split("&") if part]:
        if name in OTHER_PROGRAMS:
            problems.append(f"has ?{name}=, which is {OTHER_PROGRAMS[name]}")
        elif certain and re.fullmatch(r"\w{1,40}", name) and not _is_known(name):
            problems.append(f"has ?{name}=, which libpq does not know")
    return problems


def _is_known(name: str) -> bool:
    with suppress(ProgrammingError):
        return bool(parse_dsn(f"postgresql://?{name}=1"))
    return False
