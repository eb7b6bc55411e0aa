"""The only place where a test lets time pass. Everything else waits for a signal."""

import time
from collections.abc import Callable


def watch_for(seconds: float, true: Callable[[], bool], what: str, every: float = 0.1) -> None:
    """Fail unless it is true all the time: the promise is that nothing else happens meanwhile."""
    until = time.monotonic() + seconds
    while True:
        is_last = time.monotonic() >= until
        assert true(), f"not for {seconds:.0f} s: {what}"
        if is_last:
            return
        time.sleep(every)


def let_pass(seconds: float) -> None:
    """Let time pass that is the thing itself: an outage's length, the rate of a load."""
    time.sleep(seconds)
