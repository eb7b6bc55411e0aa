"""A clock for several threads: seconds pass when every one of them waits, and only then."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, wait
from contextlib import suppress
from dataclasses import dataclass
from threading import Condition, Lock, Thread
from typing import Any

from tests.clock import Clock


@dataclass(eq=False)
class Sleeper:
    at: float
    until: Callable[[], bool]
    awake: bool = False


class SharedClock(Clock):
    """Threads ``enter`` and ``leave``; between the two each is at work or sleeps here."""

    def __init__(self) -> None:
        super().__init__(1000.0)
        self._changed = Condition()
        self._at_work = 0
        self._sleepers: list[Sleeper] = []

    def enter(self) -> None:
        with self._changed:
            self._at_work += 1

    def leave(self) -> None:
        with self._changed:
            self._at_work -= 1
            self._pass()

    def sleep(self, seconds: float | None, _: Callable[[], bool] = lambda: False) -> bool:
        sleeper = Sleeper(self.now + (seconds or 0.0), _)
        with self._changed:
            self._sleepers.append(sleeper)
            self._at_work -= 1
            self._pass()
            while not sleeper.awake:
                self._changed.wait()
        return False

    def _pass(self) -> None:
        """Wake those whose wait is over; if nobody is at work, go on to the next that is."""
        while self._at_work == 0 and self._sleepers:
            over = [each for each in self._sleepers if each.until() or each.at <= self.now]
            if not over:
                self.now = min(each.at for each in self._sleepers)
                continue
            for each in over:
                each.awake = True
                self._sleepers.remove(each)
            self._at_work += len(over)
            self._changed.notify_all()

    def wait_for(self, futures: Sequence[Future[Any]], seconds: float) -> Any:
        """Do what ``concurrent.futures.wait`` does until the first exception."""

        def is_over() -> bool:
            done = [each for each in futures if each.done()]
            return len(done) == len(futures) or any(
                not each.cancelled() and each.exception() for each in done
            )

        self.sleep(seconds, is_over)
        return wait(futures, 0, FIRST_EXCEPTION).not_done


class Workers(Executor):
    """Threads of such a clock, in place of an executor's."""

    def __init__(self, clock: SharedClock, most: int, _name: str = "") -> None:
        self._clock = clock
        self._free = most
        self._lock = Lock()
        self._queue: deque[tuple[Future[Any], Callable[[], Any]]] = deque()

    def submit(self, work: Callable[..., Any], /, *args: Any, **_: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._queue.append((future, lambda: work(*args)))
        self._begin()
        return future

    def shutdown(self, *_: bool, **__: bool) -> None:
        self._queue.clear()

    def _begin(self) -> None:
        with self._lock:
            while self._free and self._queue:
                future, work = self._queue.popleft()
                if future.set_running_or_notify_cancel():
                    self._free -= 1
                    self._clock.enter()
                    Thread(target=self._work, args=(future, work), daemon=True).start()

    def _work(self, future: Future[Any], work: Callable[[], Any]) -> None:
        try:
            future.set_result(work())
        except BaseException as exc:  # noqa: BLE001  as an executor does
            future.set_exception(exc)
        with self._lock:
            self._free += 1
        self._begin()
        with suppress(RuntimeError):
            self._clock.leave()
