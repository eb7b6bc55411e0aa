"""The right of a session's transactions to write, and the setting that takes it away.

Hosted services make a database read-only when its disk is nearly full, so no session of ours
overrides that. What is to be written waits.
"""

from typing import Final

from cdc_embed.errors import CdcEmbedError
from cdc_embed.postgres.session import Session
from cdc_embed.sql import queries

_SETTING: Final = "default_transaction_read_only"
_FULL: Final = "  -- a hosted service sets it when the disk is nearly full: make room first"
_PLACES: Final = {
    "database": ("for database {database}", "alter database {database} reset {setting};"),
    "user": ("for role {role}", "alter role {role} reset {setting};"),
    "database user": (
        "for role {role} in database {database}",
        "alter role {role} in database {database} reset {setting};",
    ),
    "client": ("by the connection string", "take {setting} out of the connection string"),
}
"""The setting's origins, as ``pg_settings.source`` names them: in words, and the way out."""
_SERVER: Final = (
    "for the whole server",
    "alter system reset {setting};  -- then: select pg_reload_conf();",
)


def find_read_only(session: Session) -> CdcEmbedError | None:
    """Return the outage that the session's transactions are read-only; None when they can write.

    Raises it on a standby, which cannot be asked all that a primary can.
    """
    ((read_only, standby, origin, database, role),) = session.fetch(
        _SETTING, queries("session")["read_only"]
    )
    if standby:
        problem = "it is a standby, which is read-only"
        raise session.side.unavailable(problem=problem, hint="name the primary in the DSN")
    if not read_only:
        return None
    names = {"setting": _SETTING, "database": database, "role": role}
    place, fix = (text.format(**names) for text in _PLACES.get(origin, _SERVER))
    problem = f"{_SETTING} is on {place}, so that nothing can be written"
    return session.side.unavailable(problem=problem, hint=fix + _FULL)


def expect_writable(session: Session) -> None:
    """Raise the outage when the session's transactions are read-only."""
    found = find_read_only(session)
    if found is not None:
        raise found
