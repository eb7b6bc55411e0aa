"""The limits of memory and time for one loop."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

FIRST_TAKE: Final = 64
LARGEST_TAKE: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of memory and time for one loop."""

    memory: int
    """The bytes of pending changes."""
    report_interval: float
    """The seconds between reports at the most, well below the server's timeout."""
    linger: float = 0.0
    """The seconds that a change waits for others."""
    first_take: int = FIRST_TAKE
    """The changes that a batch is given at first, and after it was cut shorter."""
    largest_take: int = LARGEST_TAKE
    """The changes that a batch is given at the most."""
    clock: Callable[[], float] = time.monotonic
    """The loop's clock, in monotonic seconds."""
