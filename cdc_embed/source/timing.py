"""What the server's ``wal_sender_timeout`` means for us: how often to report, what silence is."""

import math
from typing import Final

from cdc_embed.source.stream import SILENT_SECONDS

LONGEST_REPORT_SECONDS: Final = 10.0
REPORTS_PER_TIMEOUT: Final = 4
LEAST_SILENT_SECONDS: Final = 10.0
"""A busy server may answer late, whatever it expects of us."""


def report_interval(wal_sender_timeout: float) -> float:
    """Seconds between reports, well below the server's patience (0: it has endless)."""
    if wal_sender_timeout <= 0:
        return LONGEST_REPORT_SECONDS
    return min(LONGEST_REPORT_SECONDS, wal_sender_timeout / REPORTS_PER_TIMEOUT)


def longest_silence(wal_sender_timeout: float) -> float:
    """Seconds of ours before the server asks for an answer: half of its patience, with a margin."""
    return 0.45 * wal_sender_timeout if wal_sender_timeout > 0 else math.inf


def silence_limit(wal_sender_timeout: float) -> float:
    """Seconds without an answer after which the server is given up: as long as it waits for us."""
    return max(wal_sender_timeout or SILENT_SECONDS, LEAST_SILENT_SECONDS)
