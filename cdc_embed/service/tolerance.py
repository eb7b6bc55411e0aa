"""The delays and sizes that a service accepts before it reports a problem or gives up.

They need no configuration: each default is right for every service that runs for real.
"""

from dataclasses import dataclass
from typing import Final

from cdc_embed.flow.blame import STRIKES_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """The limits of one service."""

    dead_loop: float = 60.0
    """Seconds without a turn of the loop that count as a hang; a turn takes less than a second."""
    long_trouble: float = 30.0
    """Seconds for which an outage of a database or the embedder does not count as unready."""
    least_silence: float = 10.0
    """Seconds without an answer that the source is given at the least, because a busy server can
    answer late, whatever its own timeout is."""
    failing_text: float = STRIKES_SECONDS
    """Seconds over which one text must fail until it is a dead letter."""
    waiting_rows: int = 100_000
    """Rows that may wait for slow listeners, about 50 MB. The rows of further commits are
    dropped."""
    hanging_listener: float = 1.0
    """Seconds that a call of a listener has to return at the end."""


USUAL: Final = Tolerance()
"""The limits of a service that names no others."""
