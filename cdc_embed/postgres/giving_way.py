"""The end of a long read for which a statement of another session waits.

A read locks its table against ALTER TABLE only. But that waits, and every later statement of the
table waits behind it. So a second session looks once a second whether somebody waits for a read
that takes longer, and cancels it. Whoever reads tries again.
"""

from threading import Lock
from typing import Final, Protocol

import structlog

from cdc_embed.errors import CdcEmbedError
from cdc_embed.sql import queries

LOOK_SECONDS: Final = 0.5
"""The least seconds between looks, less than a round of the pulse, so that each round looks."""

log = structlog.get_logger()


class Reading(Protocol):
    """A session whose statements give way."""

    waiting_since: float | None

    @property
    def backend(self) -> int: ...


class Lookout(Protocol):
    """A session with short statements only, which waits for no lock of a table."""

    def fetch(self, table: str, statement: str, values: dict[str, int], /) -> list[tuple[int]]: ...


class GivingWay:
    """Looks whether a statement waits for the reading session, and cancels what this one does."""

    look_seconds = LOOK_SECONDS

    def __init__(self, reading: Reading, lookout: Lookout) -> None:
        self._reading = reading
        self._lookout = lookout
        self._looking = Lock()

    @property
    def waiting_since(self) -> float | None:
        """The time at which the reading session began to wait; None while it does not."""
        return self._reading.waiting_since

    def look(self) -> None:
        """Cancel the statement if another one waits; it can be the next one by then, which is tried
        again as well."""
        if not self._reading.backend or not self._looking.acquire(blocking=False):
            return
        try:
            values = {"pid": self._reading.backend}
            waiting = self._lookout.fetch("pg_locks", queries("session")["give_way"], values)
            if waiting:
                log.info("a read gives way", to=f"PID {waiting[0][0]}")
        except CdcEmbedError as exc:
            log.debug("no look at waiting sessions", problem=str(exc))
        finally:
            self._looking.release()
