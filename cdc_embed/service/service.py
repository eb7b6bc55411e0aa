"""A service as its owner sees it: run it in one thread, stop it and ask it from any other."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog
from prometheus_client import CollectorRegistry

from cdc_embed.errors import (
    CdcEmbedError,
    HistoryGapError,
    MissingRightError,
    OtherSourceError,
    PreflightError,
    TablesChangedError,
    TargetRefusedError,
    is_passing,
)
from cdc_embed.flow.patience import delay
from cdc_embed.flow.telemetry import Positions
from cdc_embed.serve.facts import Facts
from cdc_embed.serve.status import Live, status
from cdc_embed.service.checked import LastingParts
from cdc_embed.service.health import Health
from cdc_embed.service.instance import Instance
from cdc_embed.service.phase import Phase
from cdc_embed.service.watch import Watch

LISTENERS_POLL_SECONDS: Final = 0.1
"""The seconds between two looks at whether a stop is to be at once."""

log = structlog.get_logger()


class StartStoppedError(Exception):
    """A stop was requested while a new slot was made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """An instance that is ready to run, with the parts around it."""

    instance: Instance
    health: Health
    watch: Watch
    drain_timeout: float
    close: Callable[[], None]
    """A function that closes the instance and its watcher; harmless when repeated."""


Start = Callable[[HistoryGapError | None, threading.Event], Started]
"""A function that starts an instance; with a gap in the history it makes a new slot first.

Raises the error of a failed precondition, and ``StartStoppedError`` when the event is set.
"""


class Service:
    """Keeps the target fresh while ``run`` runs. Every method is safe from any thread.

    The errors are those of ``cdc_embed.errors``: no error of the driver gets out.
    """

    def __init__(self, start: Start, kept: LastingParts, *, name: str, rebuilds: bool) -> None:
        """``name`` is the slot's; with ``rebuilds`` a gap in the history is repaired."""
        self._start = start
        self._name = name
        self._metrics = kept.metrics
        self._listeners = kept.listeners
        self._refusing = kept.refusing
        self._rebuilds = rebuilds
        self._short_lived_slot = kept.tolerance.short_lived_slot
        self._current: Started | None = None
        self._starting = True
        self._away = ""
        """The problem that a start waits for."""
        self._rebuilt_at: float | None = None
        self._stopping = threading.Event()
        self._stopping_now = False
        self._stopped_at: float | None = None
        self._ended = threading.Event()

    def begin(self) -> None:
        """Start the first instance; raise if a precondition fails or a database is away."""
        try:
            self._become(self._start(None, self._stopping))
        except HistoryGapError as gap:
            self._allow_repair(gap)
            self._become(self._start(gap, self._stopping))

    # -- running -----------------------------------------------------------------------------------

    def run(self) -> None:
        """Keep the target fresh until ``stop``; raise an error that only a person can mend.

        Lost connections and outages of a database or the embedder are waited for. A gap in the
        history is repaired if ``source.on_history_gap`` is "rebuild", else it is raised. What
        concerns one table alone pauses that table. Returns when batches in flight are committed
        and the listeners have been told of them.
        """
        try:
            if self._current is None:
                self._begin_again(None)
            while self._current is not None and not self._run_instance(self._current):
                pass
        finally:
            self._wait_for_listeners()
            self._ended.set()

    def _run_instance(self, current: Started) -> bool:
        """Run an instance; return false if another one takes its place."""
        try:
            current.instance.run()
            if not current.instance.restarts or self._stopping.is_set():
                return True
            self._begin_again(None)
        except HistoryGapError as gap:
            self._begin_again(gap)
        except (TablesChangedError, MissingRightError):
            self._begin_again(None, waits_for_setup=True)
        except CdcEmbedError as exc:
            self._pause_table(exc)
        return self._stopping.is_set() and self._starting

    def _pause_table(self, error: CdcEmbedError) -> None:
        """Begin again without the table that an error names; raise it if that is of no use."""
        self._refusing.note(error)
        # even without its only table, because a person mends the target, or setup does
        waits = isinstance(error, TargetRefusedError)
        try:
            self._begin_again(None, waits_for_setup=waits)
        except CdcEmbedError as exc:
            if exc.exit_code == error.exit_code:
                raise error from exc
            raise
        log.error("one table is paused, the others go on", problem=str(error), hint=error.hint)

    def _begin_again(self, gap: HistoryGapError | None, *, waits_for_setup: bool = False) -> None:
        """Start an instance, and wait for what is away; none is there if a stop comes first.

        With ``waits_for_setup`` it also waits for a person: DDL of the application, which took the
        last table away, or pgvector with the vectors, must not end the service.
        """
        self._starting = True
        if self._current is not None:
            self._current.close()
        self._metrics.set_phase(Phase.STARTING.value)
        if gap is not None:
            self._allow_repair(gap)
        attempt = 0
        while not self._stopping.is_set():
            try:
                return self._become(self._start(gap, self._stopping))
            except HistoryGapError as found:
                if gap is not None:
                    raise
                self._allow_repair(found)
                gap = found
            except StartStoppedError:
                return None
            except (CdcEmbedError, OSError) as exc:
                mendable = isinstance(exc, PreflightError | TargetRefusedError)
                waits = waits_for_setup and mendable and not isinstance(exc, OtherSourceError)
                if not waits and not is_passing(exc):
                    raise
                stage = "rights" if isinstance(exc, MissingRightError) else "setup"
                self._away = f"{stage}: {_said(exc)}" if waits else str(exc)
                log.warning("waiting", stage="start", problem=self._away, attempt=attempt)
                asked = getattr(exc, "retry_after", None)
                self._stopping.wait(delay(attempt, random.random(), asked))
                attempt += 1
        return None

    def _become(self, started: Started) -> None:
        self._current, self._starting, self._away = started, False, ""
        if self._stopping_now:
            started.instance.stop_now()
        elif self._stopping.is_set():
            started.instance.stop()

    def _allow_repair(self, gap: HistoryGapError) -> None:
        """Raise the gap where a new slot is not allowed or would be of no use."""
        now = time.monotonic()
        least = self._short_lived_slot
        in_vain = self._rebuilt_at is not None and now - self._rebuilt_at < least
        if not self._rebuilds or in_vain:
            raise gap
        self._rebuilt_at = now

    def _wait_for_listeners(self) -> None:
        """Wait until the listeners are told, for as long as a stop, or an error, leaves time."""
        if self._current is None:
            return
        began = self._stopped_at if self._stopped_at is not None else time.monotonic()
        deadline = began + self._current.drain_timeout
        while not self._stopping_now and time.monotonic() < deadline:
            if self._listeners.wait(LISTENERS_POLL_SECONDS):
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
        if self._current is not None:
            self._current.instance.stop()

    def stop_now(self) -> None:
        """Have ``run`` return at once; nothing is lost, but some changes are replayed."""
        self._stopping_now = True
        self._mark_stopping()
        if self._current is not None:
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
        if self._current is not None:
            self._current.close()

    # -- answers from memory -----------------------------------------------------------------------

    @property
    def begun(self) -> bool:
        """Whether the first instance was started, so that a stop has something to finish."""
        return self._current is not None

    @property
    def phase(self) -> Phase:
        """The present phase."""
        current = self._current
        return Phase.STARTING if self._starting or current is None else current.instance.phase

    @property
    def positions(self) -> Positions:
        """The positions that are received, durable and confirmed; LSNs."""
        return self._current.health.positions if self._current is not None else Positions()

    @property
    def told(self) -> bool:
        """Whether no commit up to ``positions.durable`` waits for a listener to be called."""
        return self._listeners.told

    @property
    def registry(self) -> CollectorRegistry:
        """The Prometheus metrics of this service, in a registry of its own."""
        return self._metrics.registry

    def status(self) -> dict[str, Any]:
        """Return the object that ``cdc-embed status --json`` prints; from memory, no database."""
        current = self._current
        if current is None:
            live, facts = Live(state="", role="standby", positions=Positions()), Facts()
        else:
            live, facts = current.health.live(), current.watch.facts
        waiting = {**live.waiting, **({"start": self._away} if self._away else {})}
        live = replace(live, state=self.phase.value, waiting=waiting)
        return status(facts, live, self._name)

    def problem_alive(self) -> str | None:
        """Return the reason to restart the process; None while the loop turns."""
        current = self._current
        return None if self._starting or current is None else current.health.problem_alive()

    def problem_ready(self) -> str | None:
        """Return why the service does no useful work now; None while it does."""
        current = self._current
        if self._starting or current is None:
            away = f", waits for: {_named(self._away)}" if self._away else ""
            return f"{self.phase.value}{away}"
        return current.health.problem_ready()


def _said(error: CdcEmbedError | OSError) -> str:
    """Return an error with the statement that a person has to run."""
    hint = error.hint if isinstance(error, CdcEmbedError) else None
    return f"{error} ({hint})" if hint else str(error)


def _named(problem: str) -> str:
    """Name what is away, without its own words, which are not for everybody."""
    return problem.partition(":")[0]
