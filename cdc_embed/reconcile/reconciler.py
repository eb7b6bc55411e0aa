"""Reconcile: the source compared with the target, row by row. Backfill, repair, rebuild, verify.

A thread of its own scans the source (then the target, for orphans) and hands slices of rows to the
loop, which gives each a place in the order of the log; see ``lane`` for what keeps a slice from
putting an older row over a newer one. Comparing and embedding are ``prepare``'s, remembering how
far it came is ``target.reconcile``'s. It yields to the stream, but for a slice every two seconds.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from threading import Event, Thread
from typing import Final

import structlog

from cdc_embed.change.document import Key, Table
from cdc_embed.errors import (
    CdcEmbedError,
    SourceUnavailableError,
    TargetUnavailableError,
    UnexpectedError,
)
from cdc_embed.metrics import Metrics
from cdc_embed.reconcile.requests import Requests
from cdc_embed.reconcile.slices import Scope, SliceReader, StoppedError
from cdc_embed.source.coverage import Undelivered
from cdc_embed.source.rows import Scan
from cdc_embed.target.ledger import DONE, RUNNING, Comparison, Request

POLL_SECONDS: Final = 0.5
"""Between two looks for something to do."""
CANCEL_SECONDS: Final = 0.5
TROUBLE_SECONDS: Final = 2.0
SAVE_SECONDS: Final = 1.0
"""Between two notes of how far a table is."""
QUICK_KINDS: Final = ("retry",)
"""What is asked of these kinds is done quickly, and does not wait for a backfill to end."""
Answers = Mapping[str, Callable[[Request], None]]
"""What answers the requests of each kind, but backfills."""

log = structlog.get_logger()


class _OutdatedError(Exception):
    """Changes of the table were missed meanwhile, or another instance compares it."""


class Reconciler:
    """Does what is to be done for the tables of one connection, until it ends."""

    def __init__(
        self,
        *,
        slices: SliceReader,
        scopes: list[Scope],
        requests: Requests,
        answers: Answers,
        on_compared: Callable[[Table], None],
        on_failure: Callable[[CdcEmbedError], None],
        undelivered: Undelivered,
        reading: Callable[[], AbstractContextManager[None]],
        epoch: int,
        metrics: Metrics,
        stop: Event,
        cancel: Callable[[], None],
    ) -> None:
        self._cancel = cancel
        self._slices = slices
        self._ledger = slices.ledger
        self._scopes = scopes
        self._requests = requests
        self._answers = answers
        self._on_compared = on_compared
        self._on_failure = on_failure
        self._undelivered = undelivered
        self._reading = reading
        self._epoch = epoch
        self._metrics = metrics
        self._stop = stop
        self._opened = False
        self._thread = Thread(target=self._run, name="reconcile", daemon=True)

    @property
    def waiting_for(self) -> str:
        return self._slices.waiting_for

    def start(self) -> None:
        """Begin; until it is known how far each table is, none of its stored rows is trusted."""
        self._thread.start()

    def join(self) -> None:
        """Wait for the thread, once its end is asked for; a statement that waits is cancelled."""
        self._thread.join(CANCEL_SECONDS)
        while self._thread.is_alive():
            self._cancel()
            self._thread.join(CANCEL_SECONDS)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with self._reading():
                    self._turn()
            except (SourceUnavailableError, TargetUnavailableError) as exc:
                log.warning("reconcile waits", problem=str(exc))
                self._stop.wait(TROUBLE_SECONDS)
            except StoppedError:
                return
            except CdcEmbedError as exc:
                self._on_failure(exc)
                return
            except Exception as exc:
                # a thread that is gone would only look as if nothing were to be done
                log.exception("reconcile failed")
                self._on_failure(UnexpectedError(problem=f"{type(exc).__name__}: {exc}"))
                return
            self._stop.wait(POLL_SECONDS)

    def _turn(self) -> None:
        """Everything that is to be done now."""
        if not self._opened:
            self._requests.open()
            known = self._ledger.comparisons()
            for scope in self._present():
                comparison = known.get(scope.table.full_name)
                if comparison is not None and comparison.state == DONE:
                    self._mark_compared(scope.table)
        self._requests.take_in()
        known = self._ledger.comparisons()
        present = self._present()
        # one may have been forgotten while we run, by setup or as absent: it begins anew
        self._opened = all(scope.table.full_name in known for scope in present)
        if not self._opened:
            return
        todo = [scope for scope in present if known[scope.table.full_name].state == RUNNING]
        self._requests.close_backfills()
        if not todo and not self._requests.asked(*self._answers):
            return
        if todo:
            # the log may still bring older versions than what made this necessary: they come first,
            # and before the touched keys are remembered, of which there may be millions
            self._slices.wait_until_durable()
        self._slices.begin(self._requests.say_waiting)
        try:
            for scope in todo:
                self._backfill(scope, known[scope.table.full_name])
            self._requests.close_backfills()
            self._answer(*self._answers)
        finally:
            self._slices.end()

    def _answer(self, *kinds: str) -> None:
        for request in self._requests.asked(*kinds):
            self._answers[request.kind](request)

    def _present(self) -> list[Scope]:
        absent = self._undelivered.problems
        return [scope for scope in self._scopes if scope.table.full_name not in absent]

    def _backfill(self, scope: Scope, comparison: Comparison) -> None:
        """Compare one table from where it stands, and make what is stored equal."""
        table = scope.table
        log.info("reconcile", table=table.full_name, stage=comparison.stage)
        self._slices.distrust(table)
        running = self._metrics.reconcile_running.labels(table.full_name)
        running.set(1)
        try:
            if comparison.stage == "rows":
                self._pass(table, comparison, self._slices.scan(table, comparison.cursor))
                comparison.stage, comparison.cursor = "orphans", None
                self._save(comparison)
            self._pass(table, comparison, self._slices.orphans(table, comparison.cursor))
            # the slices may have seen what the log has not brought yet
            self._slices.wait_until_durable()
            self._save(comparison)  # or a document that was missed would lose its former vectors
            self._ledger.delete_other_spaces(table, scope.space, self._epoch)
            comparison.state = DONE
            self._save(comparison)
        except _OutdatedError:
            return  # it begins again with the next turn
        finally:
            running.set(0)
        self._mark_compared(table)
        counts = {verdict.value: count for verdict, count in comparison.counts.items() if count}
        log.info("reconciled", table=table.full_name, rows=comparison.checked, **counts)

    def _mark_compared(self, table: Table) -> None:
        self._slices.lane.trust(table)
        self._on_compared(table)

    def _pass(
        self, table: Table, comparison: Comparison, scans: Iterator[tuple[Scan, Key | None]]
    ) -> None:
        saved = time.monotonic()
        for scan, after in scans:
            for examined in self._slices.examine_all(table, scan, repair=True):
                comparison.count(examined.verdicts.values())
            comparison.cursor = after
            if time.monotonic() - saved > SAVE_SECONDS:
                self._save(comparison)
                self._requests.take_in()
                self._answer(*QUICK_KINDS)
                saved = time.monotonic()

    def _save(self, comparison: Comparison) -> None:
        if not self._ledger.save(comparison, self._epoch):
            raise _OutdatedError
