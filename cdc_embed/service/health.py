"""The answers of a running service about itself: alive, ready, live. From memory alone."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from cdc_embed.flow.patience import Patience, Trouble
from cdc_embed.flow.telemetry import Positions, Telemetry
from cdc_embed.serve.status import Live, Spending
from cdc_embed.service.instance import Instance
from cdc_embed.service.listeners import Listeners
from cdc_embed.service.phase import Phase
from cdc_embed.service.reading import Refetcher
from cdc_embed.service.reconciling import Reconciling
from cdc_embed.service.refusing import Refusing
from cdc_embed.service.tolerance import Tolerance
from cdc_embed.source.coverage import Undelivered


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The state of one instance, read from its parts."""

    instance: Instance
    telemetry: Telemetry
    undelivered: Undelivered
    patience: Patience
    refetcher: Refetcher
    listeners: Listeners
    refusing: Refusing
    tolerance: Tolerance
    reconciling: Reconciling
    threads: int | None
    clock: Callable[[], float] = time.monotonic

    @property
    def positions(self) -> Positions:
        """The positions that are received, durable and confirmed."""
        return self.telemetry.positions

    def problem_alive(self) -> str | None:
        """Return the reason to restart the process; None while the loop turns."""
        silent = self.clock() - self.telemetry.ticked_at
        if silent > self.tolerance.dead_loop:
            return f"the loop has not turned for {silent:.0f} s"
        return None

    def problem_ready(self) -> str | None:
        """Return why the service does no useful work now; None while it does.

        Anybody is told this, so the words of a database or a model are for ``status`` only.
        """
        phase = self.instance.phase
        stuck = self.instance.stuck
        if stuck is not None:
            return str(stuck)
        if not phase.useful:
            away, said, _ = self.instance.lost.partition(":")
            named = said and phase is Phase.RECONNECTING
            return f"{phase.value}, waits for: {away}" if named else phase.value
        refusing = self.refusing.findings
        for table, problem in self.undelivered.problems.items():
            refused = refusing.get(table)
            if refused is not None:
                return f"{table} cannot be followed: a database refuses its work ({refused.fix})"
            return f"{table} {problem}"
        now = self.clock()
        for stage, trouble in self._troubles().items():
            if trouble.lasts or now - trouble.since > self.tolerance.long_trouble:
                return f"waiting: {stage}"
        return None

    def live(self) -> Live:
        """Return the part of ``status`` that is only in the running process."""
        return Live(
            state=self.instance.phase.value,
            role="leader" if self.instance.leading else "standby",
            positions=self.telemetry.positions,
            oldest_pending_age_seconds=self.telemetry.oldest_pending_age(),
            waiting=self._waiting(),
            index_problems=self.reconciling.index_problems,
            spending=Spending(
                threads=self.threads,
                tokens=self.telemetry.metrics.tokens,
                sizes=self.reconciling.sizes,
                cost=self.telemetry.metrics.cost,
            ),
        )

    def _troubles(self) -> dict[str, Trouble]:
        """Return the failures that are being waited out, by stage."""
        found = self.patience.troubles
        reconcile = self.instance.reconcile_trouble
        return found if reconcile is None else {**found, "reconcile": reconcile}

    def _waiting(self) -> dict[str, str]:
        """Return what the service waits for now, by stage."""
        instance = self.instance
        waiting = {stage: trouble.problem for stage, trouble in self._troubles().items()}
        if self.refetcher.waiting_for is not None:
            xid = self.refetcher.waiting_for
            waiting["source"] = f"transaction {xid} is committed but not visible yet"
        if instance.phase is Phase.STANDBY:
            waiting["slot"] = instance.holder
        if instance.phase is Phase.RECONNECTING and instance.lost:
            waiting["stream"] = instance.lost
        stuck = instance.stuck
        if stuck is not None:
            waiting["stream"] = f"{stuck}; it said: {stuck.problem}"
        if instance.reconcile_waits_for:
            waiting["reconcile"] = instance.reconcile_waits_for
        if instance.deferred_rows:
            waiting["deferred"] = instance.deferred_rows
        if self.listeners.problem:
            waiting["listeners"] = self.listeners.problem
        return waiting
