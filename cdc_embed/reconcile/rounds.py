"""A thread that works on rows in rounds, until its term ends. Errors that pass are waited out.

What does not pass ends the instance, because without this thread the service would only look as if
there were nothing to do.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from threading import Thread
from typing import Final, Protocol

import structlog

from cdc_embed.change.document import Table
from cdc_embed.errors import (
    CdcEmbedError,
    SourceUnavailableError,
    TargetUnavailableError,
    UnexpectedError,
    is_passing,
)
from cdc_embed.flow.patience import AbandonedError
from cdc_embed.reconcile.slices import StoppedError, Work

CANCEL_SECONDS: Final = 0.5
"""The time that the thread has to end before its statement is cancelled, again and again."""

log = structlog.get_logger()


class Surroundings(Protocol):
    """The parts of a service that such a thread needs beside its own work."""

    def table_compared(self, table: Table) -> None:
        """Note that every row of a table is compared, and has its vectors."""

    def reading(self) -> AbstractContextManager[None]:
        """Turn the loss of a table while it is read into an outage."""

    @property
    def has_work(self) -> bool:
        """Whether there can be something to compare or to answer; found without asking again."""

    def cancel(self) -> None:
        """Cancel the statement that is running; called from another thread."""


class Task(Protocol):
    """The work of such a thread."""

    def turn(self) -> None:
        """Do everything that is to be done now."""

    @property
    def has_work(self) -> bool:
        """Whether there can be something to do; found without asking anybody."""

    def note(self, trouble: Exception | None) -> None:
        """Note what a round ended with, an error that passes or None."""


class Rounds:
    """Has a task do what is to be done, waits until there is more, and begins again."""

    def __init__(
        self,
        name: str,
        task: Task,
        work: Work,
        surroundings: Surroundings,
        on_failure: Callable[[CdcEmbedError], None],
    ) -> None:
        """``name``: the thread's; ``on_failure`` is called with an error that ends it."""
        self._name = name
        self._task = task
        self._ended = work.term.ended
        self._pace = work.pace
        self._surroundings = surroundings
        self._on_failure = on_failure
        self._thread = Thread(target=self.run, name=name, daemon=True)

    def start(self) -> None:
        """Begin. No stored row of a table is trusted before the table's progress is known."""
        self._thread.start()

    def join(self) -> None:
        """Wait for the thread after the end of the term; cancel a statement that waits."""
        self._thread.join(CANCEL_SECONDS)
        while self._thread.is_alive():
            self._surroundings.cancel()
            self._thread.join(CANCEL_SECONDS)

    def run(self) -> None:
        """Do rounds until the end of the term, as the thread's own function."""
        while not self._ended.is_set():
            try:
                with self._surroundings.reading():
                    self._task.turn()
            except (StoppedError, AbandonedError):
                return
            except (SourceUnavailableError, TargetUnavailableError) as exc:
                self._wait_out(exc)
                continue
            except CdcEmbedError as exc:
                self._on_failure(exc)
                return
            except Exception as exc:
                if is_passing(exc):  # the machine has no descriptors left, for example
                    self._wait_out(exc)
                    continue
                log.exception(f"{self._name} failed")
                self._on_failure(UnexpectedError(problem=f"{type(exc).__name__}: {exc}"))
                return
            self._task.note(None)
            while not self._ended.wait(self._pace.rounds) and not self._task.has_work:
                pass

    def _wait_out(self, exc: Exception) -> None:
        log.warning(f"{self._name} waits", problem=str(exc))
        self._task.note(exc)
        self._ended.wait(self._pace.trouble)
