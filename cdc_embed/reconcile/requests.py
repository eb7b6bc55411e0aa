"""Requests for bulk work, and the backfills that begin unasked.

The command line leaves a request in the target database; this room begins it and replies. Bulk
work with a paid embedder waits for a request if it would cost more than the configuration allows.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import structlog

from cdc_embed.change.document import Table
from cdc_embed.config.sections import BackfillConfig
from cdc_embed.reconcile.size import Size
from cdc_embed.reconcile.slices import Work
from cdc_embed.target.ledger import DONE, FAILED, RUNNING, WAITING, Comparison, Request

BACKFILL: Final = "backfill"
UNKNOWN_KIND: Final = (
    "the service does not know this kind of request; it is of another version than this command, "
    "so start it again with the same version"
)

log = structlog.get_logger()


class Requests:
    """Takes requests in, decides which backfills begin unasked, and replies."""

    def __init__(
        self,
        *,
        work: Work,
        backfill: BackfillConfig,
        paid: bool,
        measure: Callable[[Sequence[Table]], dict[Table, Size]],
    ) -> None:
        self._work = work
        self._ledger = work.ledger
        self._scopes = work.scopes
        self._backfill = backfill
        self._paid = paid
        self._measure = measure
        self._open: list[Request] = []
        self._said: dict[int, dict[str, Any]] = {}

    def open_comparisons(self) -> None:
        """Make sure that every table has a comparison; begin a new one unless it must wait."""
        paused = self._work.undelivered.problems.keys()
        followed = [table.full_name for table in self._work.tables]
        self._ledger.forget_unconfigured({*followed, *paused})
        for scope in self._scopes:
            self._ledger.drop_outdated(scope.table, scope.space)
        known = self._ledger.comparisons()
        names = known.keys() | self._work.undelivered.problems.keys()
        new = [scope for scope in self._scopes if scope.table.full_name not in names]
        sizes = self._measure([scope.table for scope in new]) if new else {}
        self._measure_pending(known)
        reason = self._reason_to_wait(sizes.values())
        for scope in new:
            first = Comparison(
                table_name=scope.table.full_name,
                state=WAITING if reason else RUNNING,
                reason=reason,
                estimate=sizes[scope.table].rows,
                shape=sizes[scope.table].shape,
            )
            self._ledger.open(scope.table, scope.space, first)
            if reason:
                log.warning("backfill waits", table=scope.table.full_name, reason=reason)

    def _measure_pending(self, known: Mapping[str, Comparison]) -> None:
        """Measure the tables whose first comparison an earlier process left, because ``status``
        tells what they will cost."""
        states = {name: comparison.state for name, comparison in known.items()}
        pending = [t for t in self._work.tables if states.get(t.full_name) in {WAITING, RUNNING}]
        if self._paid and pending:
            self._measure(pending)

    def _reason_to_wait(self, sizes: Iterable[Size]) -> str:
        if self._backfill.start == "manual":
            return "backfill.start is manual; run: cdc-embed backfill"
        return self._too_expensive(sizes)

    def _too_expensive(self, sizes: Iterable[Size]) -> str:
        most = self._backfill.max_tokens_unasked
        tokens = sum(size.tokens or 0 for size in sizes)
        if not self._paid or tokens <= most:
            return ""
        return (
            f"about {tokens} tokens, backfill.max_tokens_unasked is {most}; "
            f"run: cdc-embed backfill --yes"
        )

    def take_in_requests(self) -> None:
        """Begin the backfills that are requested, and report the progress of running ones."""
        self._open = self._ledger.requests()
        for request in self.asked(BACKFILL):
            if request.state == WAITING:
                self._begin_backfill(request)
            else:
                self._report_backfill(request)

    def refuse_unknown(self, known: Collection[str]) -> None:
        """Reply to requests of a kind that this version does not know, because nobody else will."""
        for request in self._open:
            if request.kind not in known:
                self._ledger.reply(request.id, FAILED, error=UNKNOWN_KIND)

    def say_waiting(self, what: str) -> None:
        """Report what rows can be compared only after."""
        self._open = self._ledger.requests()
        for request in self._open:
            self._reply_once(request, {"waiting_for": what})

    def _reply_once(self, request: Request, progress: dict[str, Any]) -> None:
        """Reply unless the same was replied before."""
        if self._said.get(request.id) != progress:
            self._said[request.id] = progress
            self._ledger.reply(request.id, request.state, progress=progress)

    def _begin_backfill(self, request: Request) -> None:
        tables = self._tables(request)
        sizes = self._measure(tables)
        problem = "" if request.arguments.get("yes") else self._too_expensive(sizes.values())
        if not tables:
            problem = f"there is no table {request.arguments.get('table')} in the configuration"
        problem = self._problem_of(request) or problem
        if problem:
            self._ledger.reply(request.id, FAILED, error=problem)
            return
        for table in tables:
            self._work.unproven.pop(table.full_name, None)
        for table, size in sizes.items():
            self._ledger.open_comparison(table, size.rows, size.shape)
        self._ledger.reply(request.id, RUNNING, progress=self._standing(request))

    def _report_backfill(self, request: Request) -> None:
        """Report its progress; fail it if a table is paused, not proven, or must wait again."""
        tables = self._tables(request)
        known = self._ledger.comparisons()
        found = [known[t.full_name] for t in tables if t.full_name in known]
        waiting = [f"{c.table_name} waits: {c.reason}" for c in found if c.state == WAITING]
        names = {table.full_name for table in tables}
        unproven = [f"{n}: {why}" for n, why in self._work.unproven.items() if n in names]
        problem = self._problem_of(request) or "; ".join([*waiting, *unproven])
        if problem:
            self._ledger.reply(request.id, FAILED, error=problem)
        else:
            self._reply_once(request, self._standing(request))

    def close_backfills(self) -> None:
        """Reply to the backfills whose tables are all compared."""
        self._open = self._ledger.requests()
        for request in self.asked(BACKFILL):
            standing = self._standing(request)
            states = {table["state"] for table in standing["tables"]}
            if request.state == RUNNING and states == {DONE}:
                self._ledger.reply(request.id, DONE, progress=standing, result=standing)

    def asked(self, *kinds: str) -> list[Request]:
        """List the requests of these kinds, of those that were taken in."""
        return [request for request in self._open if request.kind in kinds]

    def _tables(self, request: Request) -> list[Table]:
        """List the table that is named, else all that are followed."""
        name = request.arguments.get("table")
        if name is not None:
            return [table for table in self._work.tables if table.full_name == name]
        paused = self._work.undelivered.problems
        return [table for table in self._work.tables if table.full_name not in paused]

    def _problem_of(self, request: Request) -> str:
        """Return why the named table, or every table, is paused; empty if there is work to do."""
        paused = self._work.undelivered.problems
        name = request.arguments.get("table")
        if name is None:
            names = [] if self._tables(request) else list(paused)
        else:
            names = [name] if name in paused else []
        return "; ".join(f"{name} {paused[name]}" for name in names)

    def _standing(self, request: Request) -> dict[str, Any]:
        known = self._ledger.comparisons()
        tables = []
        for table in self._tables(request):
            found = known.get(table.full_name)
            tables.append(
                {
                    "name": table.full_name,
                    "state": found.state if found else WAITING,
                    "done": found.checked if found else 0,
                    "estimate": found.estimate if found else None,
                }
            )
        return {"tables": tables}
