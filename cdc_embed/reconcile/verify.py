"""``verify``: proof that every stored vector is fresh, or the number of rows that are not.

A first comparison of every row finds suspects only, because the source can be ahead of the log,
and the log ahead of the target. Suspects are compared again when the target reflects everything
that was committed at the first comparison. A row that differs still is drift. If the log touched it
meanwhile, it is pending. So is all drift of a table whose partitions came or went, until the
reconciler has looked its rows through. With ``repair`` all drift is mended at once, and compared
once more.

Each row is counted once, so ``checked`` is the sum of fresh, missing, stale, metadata_stale,
pending, dead_letters, and of the orphans whose row has lost its text. Documents without a row are
orphans beside them. ``proof`` shows that these are all rows; without the proof a table has no
result.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from cdc_embed.change.compare import Verdict
from cdc_embed.change.document import Key, Table
from cdc_embed.errors import UnprovenError
from cdc_embed.metrics import DRIFT_KINDS
from cdc_embed.reconcile.proof import Proof
from cdc_embed.reconcile.slices import Scope, Work
from cdc_embed.source.rows import Scan
from cdc_embed.target.ledger import DONE, FAILED, RUNNING, WAITING, Request

SAMPLE_ROWS: Final = 50
"""The documents that are embedded together; the stream waits meanwhile."""

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
    """The drift that is left after the repair; without a repair, all drift."""
    rowless: int = 0
    """The orphans that have no row. They are not checked rows."""
    left_behind: int = 0
    """The pending documents that have no row."""
    problem: str = ""
    """The reason why the table has no result."""
    suspects: dict[Key, bool] = field(default_factory=dict, repr=False)
    """The rows to be compared again, and whether they are counted as checked."""

    @property
    def drift(self) -> int:
        """The number of rows that differ."""
        return self.missing + self.stale + self.metadata_stale + self.orphan

    @property
    def adds_up(self) -> bool:
        """Whether every row that was checked has exactly one verdict."""
        others = self.fresh + self.pending + self.dead_letters
        return self.checked + self.rowless == self.drift + others

    def count(self, verdicts: Iterable[Verdict]) -> None:
        """Count rows by their verdicts."""
        for verdict in verdicts:
            name = "dead_letters" if verdict is Verdict.DEAD_LETTER else verdict.value
            setattr(self, name, getattr(self, name) + 1)

    def suspect(self, key: Key, *, checked: bool) -> None:
        """Have a row compared again."""
        self.suspects[key] = checked or self.suspects.get(key, False)

    def settle(self, found: "_SecondLook", key: Key, *, checked: bool) -> None:
        """Count a suspect by its second verdict.

        A checked row that is gone now is pending, because only the log takes a row away. A document
        without a row that is no orphan any more is not counted, because no row was checked.
        """
        if key in found.awaited:
            self.pending += 1
            self.rowless += not checked
            self.left_behind += not checked
            return
        verdict = found.drift.get(key) or (found.right.get(key) if checked else None)
        if verdict is not None:
            self.count([verdict])
            self.rowless += not checked
        else:
            self.pending += checked

    def contract(self) -> dict[str, Any]:
        """Describe the table as the command line does."""
        names = ("checked", "fresh", *DRIFT_KINDS, "pending", "dead_letters", "repaired", "sampled")
        counts = {name: getattr(self, name) for name in names}
        return {"name": self.name, **counts, "problem": self.problem}


@dataclass(slots=True, kw_only=True)
class _SecondLook:
    """The suspects that have a verdict now. The others were touched by the log, or are gone."""

    drift: dict[Key, Verdict] = field(default_factory=dict)
    right: dict[Key, Verdict] = field(default_factory=dict)
    """The existing rows that do not differ."""
    awaited: frozenset[Key] = frozenset()
    """The rows that differ because partitions came or went, until all that follows is compared."""


class _WithdrawnError(Exception):
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
        if request.arguments.get("repair") and self._paid and self._refuse_repair(request):
            return
        done: list[Tally] = []
        for scope in scopes:
            tally = Tally(name=scope.table.full_name)
            done.append(tally)

            def say(tallies: list[Tally] = done) -> None:
                progress = {"tables": [tally.contract() for tally in tallies]}
                if not self._ledger.reply(request.id, RUNNING, progress=progress):
                    raise _WithdrawnError

            try:
                self._verify(scope, tally, request.arguments, say)
            except UnprovenError as exc:
                done[-1] = Tally(name=tally.name, problem=str(exc.problem))
                log.error("not verified", problem=str(exc), hint=exc.hint)
            except _WithdrawnError:
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
        """Refuse a repair that would do the work of a backfill that waits for a request; return
        whether it did."""
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
        proven = not any(tally.remaining or tally.problem for tally in done)
        if proven and not self._work.undelivered.problems:
            self._work.metrics.verify_last_success.set_to_current_time()

    def _verify(
        self, scope: Scope, tally: Tally, arguments: dict[str, Any], say: Callable[[], None]
    ) -> None:
        table, repair = scope.table, bool(arguments.get("repair"))
        proof = Proof(self._work, table)
        for scan, _ in self._slices.scan(table, None):
            proof.part_read(scan)
            tally.checked += len(scan.rows)
            self._look(table, scan, tally, repair=repair)
            say()
        for scan, _ in self._slices.orphans(table, None):
            self._look(table, scan, tally, repair=repair)
            say()
        self._compare_suspects(table, tally, repair=repair)
        if arguments.get("sample"):
            self._sample(scope, tally, int(arguments["sample"]), repair=repair)
        proof.finish(tally.orphan + tally.left_behind)
        if not tally.adds_up:
            raise UnprovenError(table=table.full_name, problem="its counts do not add up")
        log.info("verified", **tally.contract())

    def _look(self, table: Table, scan: Scan, tally: Tally, *, repair: bool) -> None:
        """Compare rows for the first time; compare the suspects again when they are many."""
        self._find_suspects(table, scan, tally)
        if len(tally.suspects) > self._work.pace.suspects:
            self._compare_suspects(table, tally, repair=repair)

    def _find_suspects(self, table: Table, scan: Scan, tally: Tally) -> None:
        """Count the rows that are right, suspect the others."""
        for examined in self._slices.hand_over(table, scan, repair=False):
            for key in examined.hidden:
                tally.suspect(key, checked=scan.rows[key] is not None)
            for key, verdict in examined.verdicts.items():
                if verdict.drifts:
                    tally.suspect(key, checked=scan.rows[key] is not None)
                elif scan.rows[key] is not None:
                    tally.count([verdict])

    def _compare_suspects(self, table: Table, tally: Tally, *, repair: bool) -> None:
        """Compare the suspects again. Those that differ still are drift."""
        suspects, tally.suspects = tally.suspects, {}
        found = self._compare_again(table, suspects, sample=False)
        if found.drift and not repair and self._work.has_news(table):
            found.awaited, found.drift = frozenset(found.drift), {}
        for key, checked in suspects.items():
            tally.settle(found, key, checked=checked)
        self._repair_drift(table, found.drift.keys(), tally, repair=repair, sample=False)

    def _repair_drift(
        self, table: Table, drift: Collection[Key], tally: Tally, *, repair: bool, sample: bool
    ) -> None:
        """Mend drift, if that is requested, and compare once more."""
        left = len(drift)
        if repair and drift:
            for scan in self._slices.read_keys(table, drift):
                for _ in self._slices.hand_over_all(table, scan, repair=True, sample=sample):
                    pass
            left = len(self._compare_again(table, drift, sample=sample).drift)
            tally.repaired += len(drift) - left
        tally.remaining += left

    def _compare_again(self, table: Table, keys: Collection[Key], *, sample: bool) -> _SecondLook:
        """Compare rows when the target reflects all that is committed now."""
        look = _SecondLook()
        if not keys:
            return look
        lane = self._work.term.lane
        lane.watch([(table, key) for key in keys])
        self._slices.wait_until_durable()
        verdicts: dict[Key, Verdict] = {}
        rowless: set[Key] = set()
        for scan in self._slices.read_keys(table, keys):
            rowless |= {key for key, row in scan.rows.items() if row is None}
            for examined in self._slices.hand_over(table, scan, repair=False, sample=sample):
                verdicts |= examined.verdicts
        # a change that this comparison saw in the source has come by the log when this is reached
        self._slices.wait_until_durable()
        touched = {key for _, key in lane.touched()}
        lane.watch(())
        for key, verdict in verdicts.items():
            if verdict.drifts and key not in touched:
                look.drift[key] = verdict
            elif not verdict.drifts and key not in rowless:
                look.right[key] = verdict
        return look

    def _sample(self, scope: Scope, tally: Tally, size: int, *, repair: bool) -> None:
        """Embed some fresh documents again; count a stored vector that differs as stale."""
        table = scope.table
        keys = self._work.stored.sample_keys(table, scope.space, size)
        for start in range(0, len(keys), SAMPLE_ROWS):
            part = keys[start : start + SAMPLE_ROWS]
            fresh = self._verdicts(table, part, sample=False, of={Verdict.FRESH})
            tally.sampled += len(fresh)
            suspects = self._verdicts(table, fresh, sample=True, of={Verdict.STALE})
            drift = self._compare_again(table, suspects, sample=True).drift
            tally.count(drift.values())
            tally.fresh -= len(drift)  # its fingerprint had counted each as fresh
            self._repair_drift(table, drift.keys(), tally, repair=repair, sample=True)

    def _verdicts(
        self, table: Table, keys: Collection[Key], *, sample: bool, of: Collection[Verdict]
    ) -> list[Key]:
        return [
            key
            for scan in self._slices.read_keys(table, keys)
            for examined in self._slices.hand_over(table, scan, repair=False, sample=sample)
            for key, verdict in examined.verdicts.items()
            if verdict in of
        ]
