"""A clock for workers that take turns: seconds pass when every one of them waits, and only then.

Each worker has a stack of its own and no thread: so a test is the same each time, and an hour with
a thousand looks takes a moment.
"""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, Final

from greenlet import getcurrent, greenlet

from tests.clock import Clock

LOOK_SECONDS: Final = 0.2


@dataclass(eq=False)
class Sleeper:
    worker: greenlet
    at: float
    until: Callable[[], bool]


class SharedClock(Clock):
    """Whoever sleeps here lets the others get on."""

    def __init__(self) -> None:
        super().__init__(1000.0)
        self._sleepers: list[Sleeper] = []
        self._ready: deque[greenlet] = deque()

    def begin(self, worker: greenlet) -> None:
        """Let it get on, once the one that is at work sleeps."""
        self._ready.append(worker)

    def sleep(self, seconds: float | None, until: Callable[[], bool] = lambda: False) -> bool:
        here = getcurrent()
        self._sleepers.append(Sleeper(here, self.now + (seconds or 0.0), until))
        worker = self.next_worker()
        if worker is not here:
            worker.switch()
        return False

    def next_worker(self) -> greenlet:
        """Return the one whose turn it is; if everyone sleeps, go on to when one wakes."""
        while not self._ready:
            over = [each for each in self._sleepers if each.at <= self.now or each.until()]
            if not over:
                self.now = min(each.at for each in self._sleepers)
            for each in over:
                self._sleepers.remove(each)
                self._ready.append(each.worker)
        return self._ready.popleft()

    def wait_for(self, futures: Sequence[Future[Any]], seconds: float) -> list[Future[Any]]:
        """Do what ``concurrent.futures.wait`` does until the first exception; return those that are
        not done. A look each ``seconds`` would take most of a test's time, so it is rarer."""

        def is_over() -> bool:
            return not left() or any(
                each.done() and not each.cancelled() and each.exception() for each in futures
            )

        def left() -> list[Future[Any]]:
            return [each for each in futures if not each.done()]

        if not is_over():
            self.sleep(max(seconds, LOOK_SECONDS), is_over)
        return left()


class Workers(Executor):
    """Workers with such a clock, in place of an executor's threads."""

    def __init__(self, clock: SharedClock, most: int, _name: str = "") -> None:
        self._clock = clock
        self._free = most
        self._queue: deque[tuple[Future[Any], Callable[[], Any]]] = deque()

    def submit(self, work: Callable[..., Any], /, *args: Any, **_: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._queue.append((future, lambda: work(*args)))
        if self._free:
            self._free -= 1
            self._clock.begin(greenlet(self._work))
        return future

    def shutdown(self, *_: bool, **__: bool) -> None:
        self._queue.clear()

    def _work(self, *_: Any) -> None:
        # the one before, when it has returned, hands over what it returned
        while self._queue:
            future, work = self._queue.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(work())
            except Exception as exc:  # noqa: BLE001  as an executor does
                future.set_exception(exc)
        self._free += 1
        getcurrent().parent = self._clock.next_worker()  # it goes on when this one has returned
