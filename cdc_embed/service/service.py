"""A service as its owner sees it: run it in one thread, stop it and ask it from any other."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from prometheus_client import CollectorRegistry

from cdc_embed.errors import (
    HistoryGapError,
    SourceUnavailableError,
    TablesChangedError,
    TargetUnavailableError,
)
from cdc_embed.flow.patience import delay
from cdc_embed.flow.telemetry import Positions
from cdc_embed.metrics import Metrics
from cdc_embed.serve.status import status
from cdc_embed.service.health import Health
from cdc_embed.service.instance import Instance
from cdc_embed.service.listeners import Listeners
from cdc_embed.service.phase import Phase
from cdc_embed.service.watch import Watch

REBUILD_SECONDS: Final = 60.0
"""A new slot that lasted less long was of no use, and another one would not be either."""
LISTENERS_POLL_SECONDS: Final = 0.1
"""Between two looks at whether a stop is to be at once."""


class StartStoppedError(Exception):
    """A stop was requested while a new slot was made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """An instance that is ready to run, with the parts around it."""

    instance: Instance
    health: Health
    watch: Watch
    metrics: Metrics
    listeners: Listeners
    drain_timeout: float
    close: Callable[[], None]
    """Closes the instance and its watcher; harmless when repeated."""


Start = Callable[[HistoryGapError | None, threading.Event], Started]
"""Starts an instance; with a gap in the history it makes a new slot first.

Raises the error of a failed precondition, and ``StartStoppedError`` when the event is set.
"""


class Service:
    """Keeps the target fresh while ``run`` runs. Every method is safe from any thread.

    The errors are those of ``cdc_embed.errors``: no error of the driver gets out.
    """

    def __init__(self, start: Start, *, rebuilds: bool) -> None:
        self._start = start
        self._rebuilds = rebuilds
        self._rebuilt_at: float | None = None
        self._repairing = False
        self._stopping = threading.Event()
        self._stopping_now = False
        self._stopped_at: float | None = None
        self._ended = threading.Event()
        try:
            self._current = start(None, self._stopping)
        except HistoryGapError as gap:
            self._current = self._repair(gap)

    # -- running -----------------------------------------------------------------------------------

    def run(self) -> None:
        """Keep the target fresh until ``stop``; raise an error that only a person can mend.

        Lost connections and outages of a database or the embedder are waited for. A gap in the
        history is repaired if ``source.on_history_gap`` is "rebuild", else it is raised. Returns
        when batches in flight are committed and the listeners have been told of them.
        """
        try:
            while not self._run_instance():
                pass
        finally:
            self._wait_for_listeners()
            self._ended.set()

    def _wait_for_listeners(self) -> None:
        """Wait until the listeners are told, for as long as a stop, or an error, leaves time."""
        current = self._current
        began = self._stopped_at if self._stopped_at is not None else time.monotonic()
        deadline = began + current.drain_timeout
        while not self._stopping_now and time.monotonic() < deadline:
            if current.listeners.wait(LISTENERS_POLL_SECONDS):
                return

    @contextmanager
    def background(self) -> Iterator[None]:
        """Run in a thread while the context lasts, then stop; raise the error that ended it."""
        failures: list[BaseException] = []

        def run() -> None:
            try:
                self.run()
            except BaseException as exc:  # noqa: BLE001  it is raised in the owner's thread
                failures.append(exc)

        thread = threading.Thread(target=run, name="service")
        thread.start()
        try:
            yield
        finally:
            self.stop()
            thread.join()
            if failures:
                raise failures[0]

    def stop(self) -> None:
        """Have ``run`` finish batches in flight, record, confirm, and return; does not wait.

        Batches that are not finished within ``limits.drain_timeout`` are left to the next start.
        """
        self._mark_stopping()
        self._current.instance.stop()

    def stop_now(self) -> None:
        """Have ``run`` return at once: nothing is lost, some changes are replayed."""
        self._stopping_now = True
        self._mark_stopping()
        self._current.instance.stop_now()

    def _mark_stopping(self) -> None:
        if self._stopped_at is None:
            self._stopped_at = time.monotonic()
        self._stopping.set()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until ``run`` has ended, at most so long; returns whether it has."""
        return self._ended.wait(seconds)

    def close(self) -> None:
        """Close every connection; for ``running``, after ``run`` has ended."""
        self._current.close()

    def _run_instance(self) -> bool:
        """Run the present instance; False if it met a gap and another one takes its place."""
        try:
            self._current.instance.run()
            return True
        except (HistoryGapError, TablesChangedError) as exc:
            self._repairing = True
            try:
                self._current.close()
                self._current = self._replacement(exc)
            except StartStoppedError:
                return True
            finally:
                self._repairing = False
        if self._stopping_now:
            self._current.instance.stop_now()
        elif self._stopping.is_set():
            self._current.instance.stop()
        return False

    def _replacement(self, exc: HistoryGapError | TablesChangedError) -> Started:
        """Start another instance, once both databases are there."""
        if isinstance(exc, HistoryGapError):
            return self._repair(exc)
        attempt = 0
        while True:
            try:
                return self._start(None, self._stopping)
            except HistoryGapError as gap:
                return self._repair(gap)
            except (SourceUnavailableError, TargetUnavailableError):
                if self._stopping.wait(delay(attempt, random.random())):
                    raise StartStoppedError from None
                attempt += 1

    def _repair(self, gap: HistoryGapError) -> Started:
        """Start an instance with a new slot; raise the gap where that is not allowed or no use."""
        now = time.monotonic()
        in_vain = self._rebuilt_at is not None and now - self._rebuilt_at < REBUILD_SECONDS
        if not self._rebuilds or in_vain:
            raise gap
        self._rebuilt_at = now
        return self._start(gap, self._stopping)

    # -- answers from memory -----------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """The present phase."""
        return Phase.STARTING if self._repairing else self._current.instance.phase

    @property
    def positions(self) -> Positions:
        """The positions that are received, durable and confirmed; LSNs."""
        return self._current.health.positions

    @property
    def told(self) -> bool:
        """Whether the listeners have been called for every commit up to ``positions.durable``."""
        return self._current.listeners.told

    @property
    def registry(self) -> CollectorRegistry:
        """The Prometheus metrics of this service, in a registry of its own."""
        return self._current.metrics.registry

    def status(self) -> dict[str, Any]:
        """Return the object that ``cdc-embed status --json`` prints; from memory, no database."""
        live = replace(self._current.health.live(), state=self.phase.value)
        return status(self._current.watch.facts, live)

    def problem_alive(self) -> str | None:
        """Return the reason to restart the process; None while the loop turns."""
        return None if self._repairing else self._current.health.problem_alive()

    def problem_ready(self) -> str | None:
        """Return why the service does no useful work now; None while it does."""
        return self.phase.value if self._repairing else self._current.health.problem_ready()
