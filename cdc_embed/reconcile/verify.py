"""``verify``: proof that every stored vector is fresh, or the number of rows that are not.

A first comparison of every row finds suspects only, because the source can be ahead of the log,
and the log ahead of the target. Suspects are compared again when the target reflects everything
that was committed at the first comparison. A row that differs still is drift. If the log touched it
meanwhile, it is pending. With ``repair`` drift is mended and compared once more.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from cdc_embed.change.compare import Verdict
from cdc_embed.change.document import Key, Table
from cdc_embed.metrics import DRIFT_KINDS
from cdc_embed.reconcile.slices import Scope, Work
from cdc_embed.source.rows import Scan
from cdc_embed.target.ledger import DONE, FAILED, RUNNING, WAITING, Request

SAMPLE_ROWS: Final = 50
"""Documents that are embedded together; the stream waits meanwhile."""

log = structlog.get_logger()


@dataclass(slots=True, kw_only=True)
class Tally:
    """One table's part of the answer, with the names of the command line's contract."""

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
    """Drift that is left after the repair; without a repair, all drift."""
    suspects: set[Key] = field(default_factory=set, repr=False)

    @property
    def drift(self) -> int:
        """The number of rows that differ."""
        return self.missing + self.stale + self.metadata_stale + self.orphan

    def add(self, verdicts: Iterable[Verdict]) -> None:
        """Count rows by their verdicts."""
        for verdict in verdicts:
            name = "dead_letters" if verdict is Verdict.DEAD_LETTER else verdict.value
            setattr(self, name, getattr(self, name) + 1)

    def contract(self) -> dict[str, Any]:
        """Describe the table as the command line does."""
        names = ("checked", "fresh", *DRIFT_KINDS, "pending", "dead_letters", "repaired", "sampled")
        return {"name": self.name, **{name: getattr(self, name) for name in names}}


class _CalledOffError(Exception):
    """The request was withdrawn."""


class Verifier:
    """Answers verify requests, one after the other."""

    def __init__(self, *, work: Work, paid: bool = False) -> None:
        self._work = work
        self._slices = work.slices
        self._ledger = work.ledger
        self._paid = paid

    def answer(self, request: Request) -> None:
        """Verify every table, and store the result beside the request."""
        paused = dict(self._work.undelivered.problems)
        scopes = [scope for scope in self._work.scopes if scope.table.full_name not in paused]
        if paused and not scopes:
            error = "; ".join(f"{name} {problem}" for name, problem in paused.items())
            self._ledger.reply(request.id, FAILED, error=error)
            return
        if request.arguments.get("repair") and self._paid and self._refuse_repair(request):
            return
        done: list[Tally] = []
        for scope in scopes:
            tally = Tally(name=scope.table.full_name)
            done.append(tally)

            def say(tallies: list[Tally] = done) -> None:
                progress = {"tables": [tally.contract() for tally in tallies]}
                if not self._ledger.reply(request.id, RUNNING, progress=progress):
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
            "paused": paused,
        }
        self._show_metrics(done)
        self._ledger.reply(request.id, DONE, progress=result, result=result)

    def _refuse_repair(self, request: Request) -> bool:
        """Refuse a repair that would do the work of a backfill that waits for a request."""
        known = self._ledger.comparisons()
        ours = [known[t.full_name] for t in self._work.tables if t.full_name in known]
        waiting = [comparison for comparison in ours if comparison.state == WAITING]
        for comparison in waiting[:1]:
            error = f"{comparison.table_name} is not backfilled yet: {comparison.reason}"
            self._ledger.reply(request.id, FAILED, error=error)
        return bool(waiting)

    def _show_metrics(self, done: list[Tally]) -> None:
        for tally in done:
            for kind in DRIFT_KINDS:
                found = 0 if tally.repaired and not tally.remaining else getattr(tally, kind)
                self._work.metrics.drift_rows.labels(tally.name, kind).set(found)
        if not any(tally.remaining for tally in done) and not self._work.undelivered.problems:
            self._work.metrics.verify_last_success.set_to_current_time()

    def _verify(
        self, scope: Scope, tally: Tally, arguments: dict[str, Any], say: Callable[[], None]
    ) -> None:
        table, repair = scope.table, bool(arguments.get("repair"))
        for scan, _ in self._slices.scan(table, None):
            tally.checked += len(scan.rows)
            self._find_suspects(table, scan, tally)
            if len(tally.suspects) > self._work.pace.suspects:
                self._compare_suspects(table, tally, repair=repair)
            say()
        for scan, _ in self._slices.orphans(table, None):
            self._find_suspects(table, scan, tally)
            if len(tally.suspects) > self._work.pace.suspects:
                self._compare_suspects(table, tally, repair=repair)
            say()
        self._compare_suspects(table, tally, repair=repair)
        if arguments.get("sample"):
            self._sample(scope, tally, int(arguments["sample"]), repair=repair)
        log.info("verified", **tally.contract())

    def _find_suspects(self, table: Table, scan: Scan, tally: Tally) -> None:
        """Compare rows for the first time: count those that are right, suspect the others."""
        for examined in self._slices.hand_over(table, scan, repair=False):
            tally.suspects |= examined.hidden
            for key, verdict in examined.verdicts.items():
                if verdict.drifts:
                    tally.suspects.add(key)
                elif scan.rows[key] is not None:
                    tally.add([verdict])

    def _compare_suspects(self, table: Table, tally: Tally, *, repair: bool) -> None:
        """Compare the suspects again: those that differ still are drift."""
        suspects, tally.suspects = tally.suspects, set()
        drift, right, pending = self._compare_again(table, suspects, sample=False)
        tally.add(drift.values())
        tally.add(right.values())
        tally.pending += len(pending)
        self._repair_drift(table, drift.keys(), tally, repair=repair, sample=False)

    def _repair_drift(
        self, table: Table, drift: Collection[Key], tally: Tally, *, repair: bool, sample: bool
    ) -> None:
        """Mend drift, if that is requested, and compare once more."""
        left = len(drift)
        if repair and drift:
            scan = self._slices.read_keys(table, drift)
            for _ in self._slices.hand_over_all(table, scan, repair=True, sample=sample):
                pass
            left = len(self._compare_again(table, drift, sample=sample)[0])
            tally.repaired += len(drift) - left
        tally.remaining += left

    def _compare_again(
        self, table: Table, keys: Collection[Key], *, sample: bool
    ) -> tuple[dict[Key, Verdict], dict[Key, Verdict], set[Key]]:
        """Compare rows when the target reflects all that is committed now.

        Returns (rows that differ, existing rows that are right, rows that the log touched).
        """
        if not keys:
            return {}, {}, set()
        lane = self._work.term.lane
        lane.watch([(table, key) for key in keys])
        self._slices.wait_until_durable()
        scan = self._slices.read_keys(table, keys)
        verdicts: dict[Key, Verdict] = {}
        pending: set[Key] = set()
        for examined in self._slices.hand_over(table, scan, repair=False, sample=sample):
            verdicts |= examined.verdicts
            pending |= examined.hidden
        # a change that this comparison saw in the source has come by the log when this is reached
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
        """Embed some fresh documents again; count a stored vector that differs as stale."""
        table = scope.table
        keys = self._ledger.sample_keys(table, scope.space, size)
        for start in range(0, len(keys), SAMPLE_ROWS):
            part = keys[start : start + SAMPLE_ROWS]
            fresh = self._verdicts(table, part, sample=False, of={Verdict.FRESH})
            tally.sampled += len(fresh)
            suspects = self._verdicts(table, fresh, sample=True, of={Verdict.STALE})
            drift, _, _ = self._compare_again(table, suspects, sample=True)
            tally.add(drift.values())
            tally.fresh -= len(drift)  # its fingerprint had counted each as fresh
            self._repair_drift(table, drift.keys(), tally, repair=repair, sample=True)

    def _verdicts(
        self, table: Table, keys: Collection[Key], *, sample: bool, of: Collection[Verdict]
    ) -> list[Key]:
        scan = self._slices.read_keys(table, keys)
        return [
            key
            for examined in self._slices.hand_over(table, scan, repair=False, sample=sample)
            for key, verdict in examined.verdicts.items()
            if verdict in of
        ]
