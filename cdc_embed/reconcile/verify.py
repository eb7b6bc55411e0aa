"""``verify``: proof that every stored vector is fresh, or the list of what is not.

A first look compares every row, and only raises suspicion: the source may be ahead of the log, and
the log of the target. Suspects are looked at again once the target reflects everything that was
committed at the first look. Who differs still, and was not touched by the log meanwhile, is drift;
who was touched is pending. With ``repair`` drift is mended and looked at once more.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from cdc_embed.change.compare import Verdict
from cdc_embed.change.document import Key, Table
from cdc_embed.metrics import DRIFT_KINDS, Metrics
from cdc_embed.reconcile.slices import Scope, SliceReader
from cdc_embed.source.coverage import Undelivered
from cdc_embed.source.rows import Scan
from cdc_embed.target.ledger import DONE, FAILED, RUNNING, WAITING, Request

SAMPLE_ROWS: Final = 50
"""Embedded together: the stream waits meanwhile."""
MOST_SUSPECTS: Final = 1000
"""Looked at again together: more would only take memory."""

log = structlog.get_logger()


@dataclass(slots=True, kw_only=True)
class Tally:
    """One table's part of the answer; the names are those of the command line's contract."""

    name: str
    checked: int = 0
    fresh: int = 0
    missing: int = 0
    stale: int = 0
    metadata_stale: int = 0
    orphan: int = 0
    pending: int = 0
    dead_letters: int = 0
    repaired: int = 0
    sampled: int = 0
    remaining: int = 0
    """Drift that is still there after the repair; all of it without one."""
    suspects: set[Key] = field(default_factory=set, repr=False)

    @property
    def drift(self) -> int:
        return self.missing + self.stale + self.metadata_stale + self.orphan

    def add(self, verdicts: Iterable[Verdict]) -> None:
        for verdict in verdicts:
            name = "dead_letters" if verdict is Verdict.DEAD_LETTER else verdict.value
            setattr(self, name, getattr(self, name) + 1)

    def contract(self) -> dict[str, Any]:
        names = ("checked", "fresh", *DRIFT_KINDS, "pending", "dead_letters", "repaired", "sampled")
        return {"name": self.name, **{name: getattr(self, name) for name in names}}


class _CalledOffError(Exception):
    """Nobody waits for the answer any more."""


class Verifier:
    """Answers verify requests, one after the other."""

    def __init__(
        self,
        *,
        slices: SliceReader,
        scopes: list[Scope],
        metrics: Metrics,
        undelivered: Undelivered,
        paid: bool = False,
    ) -> None:
        self._undelivered = undelivered
        self._paid = paid
        self._slices = slices
        self._scopes = scopes
        self._metrics = metrics

    def answer(self, request: Request) -> None:
        """Verify every table, and leave the result beside the request."""
        problem = self._undelivered.problem_of([scope.table for scope in self._scopes])
        if problem:
            self._slices.ledger.reply(request.id, FAILED, error=problem)
            return
        if request.arguments.get("repair") and self._paid and self._refuse(request):
            return
        done: list[Tally] = []
        for scope in self._scopes:
            tally = Tally(name=scope.table.full_name)
            done.append(tally)

            def say(tallies: list[Tally] = done) -> None:
                progress = {"tables": [tally.contract() for tally in tallies]}
                if not self._slices.ledger.reply(request.id, RUNNING, progress=progress):
                    raise _CalledOffError

            try:
                self._verify(scope, tally, request.arguments, say)
            except _CalledOffError:
                log.info("verify called off")
                return
        result = {
            "tables": [tally.contract() for tally in done],
            "drift": sum(tally.drift for tally in done),
            "remaining": sum(tally.remaining for tally in done),
        }
        self._show(done)
        self._slices.ledger.reply(request.id, DONE, progress=result, result=result)

    def _refuse(self, request: Request) -> bool:
        """A repair must not do unasked what a backfill waits to be asked for."""
        ledger = self._slices.ledger
        known = ledger.comparisons()
        ours = [known[s.table.full_name] for s in self._scopes if s.table.full_name in known]
        waiting = [comparison for comparison in ours if comparison.state == WAITING]
        for comparison in waiting[:1]:
            error = f"{comparison.table_name} is not backfilled yet: {comparison.reason}"
            ledger.reply(request.id, FAILED, error=error)
        return bool(waiting)

    def _show(self, done: list[Tally]) -> None:
        for tally in done:
            for kind in DRIFT_KINDS:
                found = 0 if tally.repaired and not tally.remaining else getattr(tally, kind)
                self._metrics.drift_rows.labels(tally.name, kind).set(found)
        if not any(tally.remaining for tally in done):
            self._metrics.verify_last_success.set_to_current_time()

    def _verify(
        self, scope: Scope, tally: Tally, arguments: dict[str, Any], say: Callable[[], None]
    ) -> None:
        table, repair = scope.table, bool(arguments.get("repair"))
        for scan, _ in self._slices.scan(table, None):
            tally.checked += len(scan.rows)
            self._look(table, scan, tally)
            if len(tally.suspects) > MOST_SUSPECTS:
                self._judge(table, tally, repair=repair)
            say()
        for scan, _ in self._slices.orphans(table, None):
            self._look(table, scan, tally)
            if len(tally.suspects) > MOST_SUSPECTS:
                self._judge(table, tally, repair=repair)
            say()
        self._judge(table, tally, repair=repair)
        if arguments.get("sample"):
            self._sample(scope, tally, int(arguments["sample"]), repair=repair)
        log.info("verified", **tally.contract())

    def _look(self, table: Table, scan: Scan, tally: Tally) -> None:
        """The first look: what is right is counted, the rest is suspected."""
        for examined in self._slices.examine(table, scan, repair=False):
            tally.suspects |= examined.hidden
            for key, verdict in examined.verdicts.items():
                if verdict.drifts:
                    tally.suspects.add(key)
                elif scan.rows[key] is not None:
                    tally.add([verdict])

    def _judge(self, table: Table, tally: Tally, *, repair: bool) -> None:
        """The second look at the suspects: what differs still is drift."""
        suspects, tally.suspects = tally.suspects, set()
        drift, right, pending = self._look_again(table, suspects, sample=False)
        tally.add(drift.values())
        tally.add(right.values())
        tally.pending += len(pending)
        self._settle(table, drift.keys(), tally, repair=repair, sample=False)

    def _settle(
        self, table: Table, drift: Collection[Key], tally: Tally, *, repair: bool, sample: bool
    ) -> None:
        """Mend what drifts, if that is asked for, and look once more."""
        left = len(drift)
        if repair and drift:
            scan = self._slices.look(table, drift)
            for _ in self._slices.examine_all(table, scan, repair=True, sample=sample):
                pass
            left = len(self._look_again(table, drift, sample=sample)[0])
            tally.repaired += len(drift) - left
        tally.remaining += left

    def _look_again(
        self, table: Table, keys: Collection[Key], *, sample: bool
    ) -> tuple[dict[Key, Verdict], dict[Key, Verdict], set[Key]]:
        """(what differs, what is right of the rows that exist, what the log touched meanwhile)."""
        if not keys:
            return {}, {}, set()
        lane = self._slices.lane
        lane.watch([(table, key) for key in keys])
        self._slices.wait_until_durable()
        scan = self._slices.look(table, keys)
        verdicts: dict[Key, Verdict] = {}
        pending: set[Key] = set()
        for examined in self._slices.examine(table, scan, repair=False, sample=sample):
            verdicts |= examined.verdicts
            pending |= examined.hidden
        # a change that this look saw in the source has come by the log once this is reached
        self._slices.wait_until_durable()
        touched = {key for _, key in lane.touched()}
        lane.watch(())
        drift = {key: v for key, v in verdicts.items() if v.drifts and key not in touched}
        right = {
            key: v for key, v in verdicts.items() if not v.drifts and scan.rows[key] is not None
        }
        pending |= {key for key, v in verdicts.items() if v.drifts and key in touched}
        return drift, right, pending

    def _sample(self, scope: Scope, tally: Tally, size: int, *, repair: bool) -> None:
        """Embed some fresh documents once more: a stored vector that is another one is stale."""
        table = scope.table
        keys = self._slices.ledger.sample_keys(table, scope.space, size)
        for start in range(0, len(keys), SAMPLE_ROWS):
            part = keys[start : start + SAMPLE_ROWS]
            fresh = self._verdicts(table, part, sample=False, of={Verdict.FRESH})
            tally.sampled += len(fresh)
            suspects = self._verdicts(table, fresh, sample=True, of={Verdict.STALE})
            drift, _, _ = self._look_again(table, suspects, sample=True)
            tally.add(drift.values())
            tally.fresh -= len(drift)  # as which each was counted by its fingerprint
            self._settle(table, drift.keys(), tally, repair=repair, sample=True)

    def _verdicts(
        self, table: Table, keys: Collection[Key], *, sample: bool, of: Collection[Verdict]
    ) -> list[Key]:
        scan = self._slices.look(table, keys)
        return [
            key
            for examined in self._slices.examine(table, scan, repair=False, sample=sample)
            for key, verdict in examined.verdicts.items()
            if verdict in of
        ]
