"""A clock for tests: seconds pass when somebody waits, or with each look; otherwise never."""

from collections.abc import Callable


class Clock:
    def __init__(self, now: float = 0.0, *, step: float = 0.0) -> None:
        self.now = now
        self._step = step
        """Seconds that pass with each look."""

    def __call__(self) -> float:
        self.now += self._step
        return self.now

    def sleep(self, seconds: float | None, _: Callable[[], bool] = lambda: False) -> bool:
        self.now += seconds or 0.0
        return False
