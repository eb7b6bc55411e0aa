"""The intervals and limits that follow from the server's ``wal_sender_timeout``."""

import math
from dataclasses import dataclass
from typing import Final

LONGEST_REPORT_SECONDS: Final = 10.0
REPORTS_PER_TIMEOUT: Final = 4
SILENT_SECONDS: Final = 60.0
"""The seconds without an answer after which a server without a timeout of its own is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTimes:
    """The server's timeout and clock, asked with each connection."""

    wal_sender_timeout: float
    """The seconds of our silence after which the server ends the connection; 0 for never."""
    clock_ahead: float
    """The seconds that the source's clock is ahead of ours."""
    next_xid: int
    """The next transaction id, in 64 bits, of which the log has 32."""


def report_interval(wal_sender_timeout: float) -> float:
    """Return the seconds between reports, well below the server's timeout (0 if it has none)."""
    if wal_sender_timeout <= 0:
        return LONGEST_REPORT_SECONDS
    return min(LONGEST_REPORT_SECONDS, wal_sender_timeout / REPORTS_PER_TIMEOUT)


def longest_silence(wal_sender_timeout: float) -> float:
    """Return the seconds we may stay silent before the server requests a reply, just under half of
    ``wal_sender_timeout``."""
    return 0.45 * wal_sender_timeout if wal_sender_timeout > 0 else math.inf


def silence_limit(wal_sender_timeout: float, least: float) -> float:
    """Return the seconds without an answer after which the server is given up, which is its own
    timeout, or ``least`` seconds if that is shorter."""
    return max(wal_sender_timeout or SILENT_SECONDS, least)
