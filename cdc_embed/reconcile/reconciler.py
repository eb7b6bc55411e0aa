"""Reconcile: every row of the source, compared with the target. Backfill, repair, rebuild, verify.

A thread of its own scans the source, then the target for orphans, and hands slices of rows to the
loop, which gives each a place in the order of the log. ``flow.lane`` keeps a slice from putting an
older row over a newer one, ``flow`` compares and embeds, ``target.ledger`` stores the progress.
Slices yield to the stream, except for one every two seconds.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Final

import structlog

from cdc_embed.change.document import Key, Table
from cdc_embed.errors import (
    CdcEmbedError,
    SourceUnavailableError,
    UnprovenError,
)
from cdc_embed.flow.patience import Trouble
from cdc_embed.postgres.side import LOCKED
from cdc_embed.reconcile.requests import BACKFILL, Requests
from cdc_embed.reconcile.rounds import Surroundings
from cdc_embed.reconcile.slices import Scope, Work
from cdc_embed.source.rows import Scan
from cdc_embed.target.ledger import DONE, RUNNING, Comparison, Request

RECENT_SECONDS: Final = 30.0
"""The time after which an attempt that did not fail yet is taken for a good one."""
QUICK_KINDS: Final = ("retry",)
"""The kinds of requests that take little time and do not wait for the end of a backfill."""
AnswersByKind = Mapping[str, Callable[[Request], None]]
"""The function that answers each kind of request, except backfills."""

log = structlog.get_logger()


class _OutdatedError(Exception):
    """The comparison began again meanwhile, or another instance has taken it over."""


class Reconciler:
    """Does all work on rows that are read during one term, until the term ends."""

    def __init__(
        self,
        *,
        work: Work,
        requests: Requests,
        answers: AnswersByKind,
        surroundings: Surroundings,
    ) -> None:
        self._work = work
        self._surroundings = surroundings
        self._slices = work.slices
        self._ledger = work.ledger
        self._epoch = work.term.epoch
        self._requests = requests
        self._answers = answers
        self._opened = False
        self._trouble: Trouble | None = None
        self._failed_at = 0.0
        self._locked: tuple[str, ...] = ()
        """The tables that were locked when their rows were to be read; replaced whole."""

    @property
    def waiting_for(self) -> str:
        """The transactions that must end before rows can be compared, and the tables that are
        locked; empty if there are none."""
        holders = self._slices.waiting_for
        ends = [f"the end of {holders}"] if holders else []
        return "; ".join([*ends, *(f"the lock on {name}" for name in self._locked)])

    @property
    def trouble(self) -> Trouble | None:
        """The error with which the last attempts ended, one after another; None while they are
        good."""
        recent = time.monotonic() - self._failed_at < RECENT_SECONDS
        return self._trouble if recent else None

    def note(self, trouble: Exception | None) -> None:
        """Tell of trouble. Nobody else tells that the same error comes again."""
        if trouble is None:
            self._trouble = None
            return
        with suppress(CdcEmbedError):  # the database of the requests can be the one that is away
            self._requests.say_waiting(str(trouble))
        self._failed_at = time.monotonic()
        since = self._trouble.since if self._trouble else self._failed_at
        self._trouble = Trouble(str(trouble), since)

    @property
    def has_work(self) -> bool:
        """Whether there can be something to compare or to answer; found without asking anybody."""
        return not self._opened or self._surroundings.has_work

    def turn(self) -> None:
        """Do everything that is to be done now."""
        if not self._opened:
            self._open()
        self._take_in_requests()
        known = self._ledger.comparisons()
        delivered = self._delivered()
        # setup can delete a comparison meanwhile, and so can a table that is not delivered
        self._opened = all(scope.table.full_name in known for scope in delivered)
        if not self._opened:
            return
        todo = [
            scope
            for scope in delivered
            if known[scope.table.full_name].state == RUNNING
            and scope.table.full_name not in self._work.unproven
        ]
        self._requests.close_backfills()
        if not todo and not self._requests.asked(*self._answers):
            return
        if todo:
            # the log can still bring older versions than those that caused the comparison; they
            # come first, before touched keys are remembered, because there can be millions
            self._slices.wait_until_durable()
        self._slices.begin(self._requests.say_waiting)
        try:
            for scope in todo:
                self._backfill_unless_locked(scope, known[scope.table.full_name])
            self._requests.close_backfills()
            self._answer(*self._answers)
        finally:
            self._slices.end()

    def _take_in_requests(self) -> None:
        self._requests.take_in_requests()
        self._requests.refuse_unknown({BACKFILL, *self._answers})

    def _open(self) -> None:
        """Make sure that each table has a comparison, and trust the rows of those that are done."""
        self._requests.open_comparisons()
        known = self._ledger.comparisons()
        for scope in self._delivered():
            comparison = known.get(scope.table.full_name)
            if comparison is not None and comparison.state == DONE:
                self._mark_compared(scope.table)

    def _answer(self, *kinds: str) -> None:
        for request in self._requests.asked(*kinds):
            self._answers[request.kind](request)

    def _delivered(self) -> list[Scope]:
        undelivered = self._work.undelivered.problems
        return [scope for scope in self._work.scopes if scope.table.full_name not in undelivered]

    def _backfill_unless_locked(self, scope: Scope, comparison: Comparison) -> None:
        """Continue a comparison; leave a locked table to the next turn, as others can be read."""
        name = scope.table.full_name
        others = tuple(table for table in self._locked if table != name)
        try:
            self._backfill(scope, comparison)
            self._locked = others
        except SourceUnavailableError as exc:
            if exc.fields.get("state") != LOCKED:
                raise
            self._locked = (*others, name)
            self._requests.say_waiting(f"the lock on {name}")
            log.warning("table is locked, it is compared later", table=name, problem=str(exc))

    def _backfill(self, scope: Scope, comparison: Comparison) -> None:
        """Continue the comparison of one table, and make the stored rows equal."""
        table = scope.table
        log.info("table is compared", table=table.full_name, stage=comparison.stage)
        self._slices.distrust(table)
        running = self._work.metrics.reconcile_running.labels(table.full_name)
        running.set(1)
        try:
            if comparison.stage == "rows":
                self._pass(table, comparison, self._slices.scan(table, comparison.cursor))
                comparison.stage, comparison.cursor = "leaves", None
                self._save(comparison)
            if comparison.stage == "orphans" or self._compare_leaves(table, comparison):
                self._look_for_orphans(scope, comparison)
            comparison.state = DONE
            state = self._save(comparison)
        except _OutdatedError:
            return  # the next turn begins it again
        except UnprovenError as exc:
            # the other tables do not depend on it; a request begins it again
            self._work.unproven[table.full_name] = str(exc.problem)
            log.error("not reconciled", problem=str(exc), hint=exc.hint)
            return
        finally:
            running.set(0)
        if state == DONE:
            self._work.term.lane.trust(table)
        self._surroundings.table_compared(table)
        counts = {verdict.value: count for verdict, count in comparison.counts.items() if count}
        log.info("reconciled", table=table.full_name, rows=comparison.checked, **counts)

    def _compare_leaves(self, table: Table, comparison: Comparison) -> bool:
        """Compare the leaf partitions that were changed; return whether orphans are looked for.

        Those that are changed from now on are left to the next turn, because partitions that come
        and go all the time must not keep a comparison from its end.
        """
        pending = self._work.leaves.pending(table.full_name)
        if pending.leaves:
            self._slices.wait_until_durable()  # the log can still bring older versions than theirs
        began = comparison.cursor or ()
        for leaf, token in pending.leaves.items():
            place = (str(leaf), token)
            after = began[2:] if began[:2] == place else None
            scans = self._slices.scan(table, after or None, leaf)
            self._pass(table, comparison, ((scan, (*place, *(key or ()))) for scan, key in scans))
            # the slices can have seen what the log has not brought yet
            self._slices.wait_until_durable()
            self._save(comparison)
            self._work.leaves.compared(table.full_name, comparison.run, leaf, token)
            log.info("partition is compared", table=table.full_name, partition=leaf)
        return pending.orphans

    def _look_for_orphans(self, scope: Scope, comparison: Comparison) -> None:
        """Delete stored keys that have no row, and the vectors of former spaces."""
        table = scope.table
        if comparison.stage != "orphans":
            comparison.stage, comparison.cursor = "orphans", None
            self._save(comparison, looks_for_orphans=True)
            self._slices.wait_until_durable()  # the log can still bring rows of a leaf that went
        self._pass(table, comparison, self._slices.orphans(table, comparison.cursor))
        # the slices can have seen what the log has not brought yet
        self._slices.wait_until_durable()
        self._save(comparison)  # or a document that was missed would lose its former vectors
        for _ in self._work.stored.delete_other_spaces(table, scope.space, self._epoch):
            self._slices.pause(0)

    def _mark_compared(self, table: Table) -> None:
        self._work.term.lane.trust(table)
        self._surroundings.table_compared(table)

    def _pass(
        self, table: Table, comparison: Comparison, scans: Iterator[tuple[Scan, Key | None]]
    ) -> None:
        saved = time.monotonic()
        for scan, after in scans:
            for examined in self._slices.hand_over_all(table, scan, repair=True):
                comparison.count(examined.verdicts.values())
                if time.monotonic() - saved > self._work.pace.save:  # rows can wait for an embedder
                    self._save(comparison)
                    self._take_in_requests()
                    self._answer(*QUICK_KINDS)
                    saved = time.monotonic()
            comparison.cursor = after

    def _save(self, comparison: Comparison, *, looks_for_orphans: bool = False) -> str:
        """Record the progress; return the state that is recorded."""
        state = self._ledger.save(comparison, self._epoch, looks_for_orphans=looks_for_orphans)
        if state is None:
            raise _OutdatedError
        return state
