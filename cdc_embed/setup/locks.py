"""Statements that take strong locks, without a queue behind them.

A statement that waits for a lock makes every later statement on that table wait behind it, the
application's searches and writes included. So each attempt waits a moment only, and is made again.
"""

import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from cdc_embed.errors import CdcEmbedError, SourceUnavailableError, TargetUnavailableError
from cdc_embed.postgres.ddl import OnWait
from cdc_embed.postgres.session import Session
from cdc_embed.sql import queries

LOCK_TIMEOUT: Final = "500ms"
"""The time for which others can wait behind an attempt."""
PAUSE_SECONDS: Final = 1.0
"""The time for which they go on before the next attempt."""
LOCK_NOT_AVAILABLE: Final = "55P03"


def run_without_queueing(
    session: Session,
    why: str,
    statements: Iterable[str],
    on_wait: OnWait = lambda _: None,
    *,
    keep: bool = True,
) -> None:
    """Run statements in one transaction, as soon as it gets its locks; with ``keep`` false it is
    rolled back.

    ``on_wait`` is called with the sessions that can hold them after each attempt that did not.
    """
    listed = list(statements)
    while True:
        try:
            with session.transaction(why, keep=keep, ddl=True) as cursor:
                cursor.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}'")
                for statement in listed:
                    cursor.execute(statement)
            return
        except (SourceUnavailableError, TargetUnavailableError) as exc:
            if getattr(exc.__cause__, "pgcode", None) != LOCK_NOT_AVAILABLE:
                raise
        holders: list[str] = []
        with suppress(CdcEmbedError):  # whom it waits for is a courtesy
            holders = _holders(session)
        on_wait(holders or ["a lock"])
        time.sleep(PAUSE_SECONDS)


def _holders(session: Session) -> list[str]:
    with session.transaction("pg_locks") as cursor:
        cursor.execute(queries("session")["holders"])
        return [row[0] for row in cursor.fetchall()]
