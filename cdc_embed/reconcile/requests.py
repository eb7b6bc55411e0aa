"""What is to be reconciled: by itself at the start, and because the command line asks for it.

Bulk work with a paid embedder waits for a person when it would cost more than the configuration
allows unasked.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from cdc_embed.change.document import Table
from cdc_embed.config.sections import BackfillConfig
from cdc_embed.embed.base import CHARACTERS_PER_TOKEN
from cdc_embed.reconcile.slices import Scope
from cdc_embed.source.coverage import Undelivered
from cdc_embed.target.ledger import DONE, FAILED, RUNNING, WAITING, Comparison, Ledger, Request

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much a source table holds, and where."""

    rows: int | None
    bytes: int
    """Of text; 0 where nobody pays for it."""
    shape: str

    @property
    def tokens(self) -> int:
        return self.bytes // CHARACTERS_PER_TOKEN


class Requests:
    """Takes requests in, decides what begins by itself, and answers."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        scopes: Sequence[Scope],
        backfill: BackfillConfig,
        paid: bool,
        measure: Callable[[Table], Size],
        undelivered: Undelivered,
    ) -> None:
        self._undelivered = undelivered
        self._ledger = ledger
        self._scopes = scopes
        self._backfill = backfill
        self._paid = paid
        self._measure = measure
        self._open: list[Request] = []
        self._said: dict[int, dict[str, Any]] = {}

    def open(self) -> None:
        """Make sure that every table's comparison is known; a new one begins if it may."""
        self._ledger.forget_unconfigured([scope.table for scope in self._scopes])
        for scope in self._scopes:
            self._ledger.settle(scope.table, scope.space)
        known = self._ledger.comparisons()
        absent = self._undelivered.problems
        names = known.keys() | absent.keys()
        new = [scope for scope in self._scopes if scope.table.full_name not in names]
        sizes = {scope.table: self._measure(scope.table) for scope in new}
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

    def _reason_to_wait(self, sizes: Iterable[Size]) -> str:
        if self._backfill.start == "manual":
            return "backfill.start is manual; run: cdc-embed backfill"
        return self._too_expensive(sizes)

    def _too_expensive(self, sizes: Iterable[Size]) -> str:
        most = self._backfill.max_tokens_unasked
        tokens = sum(size.tokens for size in sizes)
        if not self._paid or tokens <= most:
            return ""
        return (
            f"about {tokens} tokens, backfill.max_tokens_unasked is {most}; "
            f"run: cdc-embed backfill --yes"
        )

    def take_in(self) -> None:
        """Begin the backfills that are asked for, and say how far those are that were begun."""
        self._open = self._ledger.requests()
        for request in self.asked("backfill"):
            if request.state == WAITING:
                self._begin(request)
            else:
                self._go_on(request)

    def say_waiting(self, holders: str) -> None:
        """Nothing can be compared before these transactions have ended."""
        self._open = self._ledger.requests()
        for request in self._open:
            self._say(request, {"waiting_for": f"the end of {holders}"})

    def _say(self, request: Request, progress: dict[str, Any]) -> None:
        if self._said.get(request.id) != progress:
            self._said[request.id] = progress
            self._ledger.reply(request.id, request.state, progress=progress)

    def _begin(self, request: Request) -> None:
        tables = self._tables(request)
        sizes = {table: self._measure(table) for table in tables}
        problem = "" if request.arguments.get("yes") else self._too_expensive(sizes.values())
        if not tables:
            problem = f"there is no table {request.arguments.get('table')} in the configuration"
        problem = self._undelivered.problem_of(tables) or problem
        if problem:
            self._ledger.reply(request.id, FAILED, error=problem)
            return
        for table, size in sizes.items():
            self._ledger.start(table, size.rows, size.shape)
        self._ledger.reply(request.id, RUNNING, progress=self._standing(request))

    def _go_on(self, request: Request) -> None:
        """Say how far it is; a table may have left, or have to wait again, at another price."""
        tables = self._tables(request)
        known = self._ledger.comparisons()
        found = [known[t.full_name] for t in tables if t.full_name in known]
        waiting = [f"{c.table_name} waits: {c.reason}" for c in found if c.state == WAITING]
        problem = self._undelivered.problem_of(tables) or "; ".join(waiting)
        if problem:
            self._ledger.reply(request.id, FAILED, error=problem)
        else:
            self._say(request, self._standing(request))

    def close_backfills(self) -> None:
        """Answer the backfills whose tables are done."""
        self._open = self._ledger.requests()
        for request in self.asked("backfill"):
            standing = self._standing(request)
            states = {table["state"] for table in standing["tables"]}
            if request.state == RUNNING and states == {DONE}:
                self._ledger.reply(request.id, DONE, progress=standing, result=standing)

    def asked(self, *kinds: str) -> list[Request]:
        """What is asked of these kinds, of the requests that were taken in."""
        return [request for request in self._open if request.kind in kinds]

    def _tables(self, request: Request) -> list[Table]:
        name = request.arguments.get("table")
        tables = [scope.table for scope in self._scopes]
        return [table for table in tables if name in {None, table.full_name}]

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
