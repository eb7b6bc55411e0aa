"""The intervals and limits that follow from the server's ``wal_sender_timeout``."""

import math
from typing import Final

from cdc_embed.source.stream import SILENT_SECONDS

LONGEST_REPORT_SECONDS: Final = 10.0
REPORTS_PER_TIMEOUT: Final = 4


def report_interval(wal_sender_timeout: float) -> float:
    """Return the seconds between reports, well below the server's timeout (0: it has none)."""
    if wal_sender_timeout <= 0:
        return LONGEST_REPORT_SECONDS
    return min(LONGEST_REPORT_SECONDS, wal_sender_timeout / REPORTS_PER_TIMEOUT)


def longest_silence(wal_sender_timeout: float) -> float:
    """Return the seconds we may stay silent before the server requests a reply: just under half of
    ``wal_sender_timeout``."""
    return 0.45 * wal_sender_timeout if wal_sender_timeout > 0 else math.inf


def silence_limit(wal_sender_timeout: float, least: float) -> float:
    """Return the seconds without an answer after which the server is given up: its own timeout, or
    ``least`` seconds if that is shorter."""
    return max(wal_sender_timeout or SILENT_SECONDS, least)
