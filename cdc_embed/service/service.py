"""The service: leads when the slot is free, waits when it is not, comes back when it was cut off.

Order matters here. The slot is taken first and the epoch after it, so that a standby never fences
a working leader; the recorded position is read with the epoch and compared with the slot that is
then ours, so that nothing can move between the look and the first frame.
"""

import random
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import structlog

from cdc_embed.change.document import Table
from cdc_embed.change.plan import Cut
from cdc_embed.change.transaction import Assembler, Callbacks
from cdc_embed.errors import (
    CdcEmbedError,
    FencedError,
    HistoryGapError,
    PreflightError,
    ReplicationError,
    SlotBusyError,
    SourceUnavailableError,
    TableChangedError,
    TargetUnavailableError,
)
from cdc_embed.flow.batches import Workers
from cdc_embed.flow.embedding import EmbeddingRunner
from cdc_embed.flow.examine import Examiner
from cdc_embed.flow.lane import Lane
from cdc_embed.flow.patience import AbandonedError, Patience, delay
from cdc_embed.flow.pipeline import ChangeLog, Limits, Pipeline
from cdc_embed.flow.prepare import Preparer, ReadRows, VectorSupply
from cdc_embed.flow.telemetry import Telemetry
from cdc_embed.flow.writing import Writer
from cdc_embed.lsn import LSN, ZERO, Checkpoint, Identity, Progress, find_gap
from cdc_embed.reconcile.reconciler import Reconciler
from cdc_embed.source.slot import Slot, SlotCatalogue
from cdc_embed.source.stream import SlotIsActiveError, Stream
from cdc_embed.target.store import Store
from cdc_embed.wire.messages import Decoder

STANDBY_POLL_SECONDS: Final = 1.0
CANCEL_SECONDS: Final = 0.5
"""Between two looks at whether a stop still waits for the target."""

RECONNECT_ERRORS: Final = (
    ReplicationError,
    SourceUnavailableError,
    TargetUnavailableError,
    FencedError,
)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """An output plugin: how to ask for it, and what its bytes mean."""

    name: str
    options: dict[str, str]
    make_decoder: Callable[[], Decoder]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The source side's parts."""

    dsn: str = field(repr=False)
    slot: str
    plugin: Plugin
    catalogue: SlotCatalogue
    read_rows: ReadRows
    tables: Iterable[Table]
    delivered_from: LSN
    """Where the log ended when the tables were found to be in order."""
    on_undelivered: Callable[[Table], None]
    """Makes sure that a table is compared, whose changes from before were of no use."""
    silence_limit: float
    """Seconds without an answer, after which a connection is given up."""
    longest_silence: float
    """Seconds of ours, after which the server asks for an answer."""


Reconciling = Callable[[Lane, int, threading.Event], Reconciler]
"""Makes what reconciles beside one connection: of its lane, its epoch and the event of its end."""


class Service:
    """Keeps the target fresh until it is told to stop."""

    def __init__(
        self,
        *,
        source: Source,
        store: Store,
        cut: Cut,
        recheck: Callable[[], None],
        reconciling: Reconciling,
        runner: EmbeddingRunner,
        patience: Patience,
        telemetry: Telemetry,
        limits: Limits,
        abandon: threading.Event,
        drain_timeout: float,
    ) -> None:
        self._source = source
        self._store = store
        self._cut = cut
        self._recheck = recheck
        self._reconciling = reconciling
        self._reconciler: Reconciler | None = None
        self._runner = runner
        self._patience = patience
        self.telemetry = telemetry
        self._limits = limits
        self._abandon = abandon
        self._drain_timeout = drain_timeout
        self._stop = threading.Event()
        self._stop_now = threading.Event()
        self._stopped_at = 0.0
        self._attempt = 0
        self._silence_limit = source.silence_limit
        self._pipeline: Pipeline | None = None
        self.phase = "starting"
        self.holder = ""
        """Who has the slot while this instance waits."""
        self.lost = ""
        """Why there is no connection, while it reconnects."""
        self.failure: CdcEmbedError | None = None

    # -- control, from any thread --------------------------------------------------------------

    def stop(self) -> None:
        """Finish what is in flight, record, confirm, and return from ``run``."""
        self._stopped_at = self._stopped_at or time.monotonic()
        self._stop.set()
        pipeline = self._pipeline
        if pipeline is not None:
            pipeline.wake()

    def stop_now(self) -> None:
        """Return from ``run`` without waiting for anything: nothing is lost, some is replayed."""
        self._stop_now.set()
        self._abandon.set()
        self.stop()

    def fail(self, error: CdcEmbedError) -> None:
        """Stop because of something that a watcher found."""
        self.failure = error
        self.stop()

    @property
    def reconcile_waits_for(self) -> str:
        """Whose transaction must end before rows can be compared; empty when none."""
        reconciler = self._reconciler
        return reconciler.waiting_for if reconciler is not None else ""

    @property
    def leading(self) -> bool:
        return self.phase == "streaming"

    # -- the life of the service ---------------------------------------------------------------

    def run(self) -> None:
        """Lead and follow until stopped; raises what only a person can mend."""
        try:
            while not self._stop.is_set():
                try:
                    self._lead()
                except SlotIsActiveError:
                    self._stand_by()
                except RECONNECT_ERRORS as exc:
                    self._come_back(exc)
                except AbandonedError:
                    break
            if self.failure is not None:
                raise self.failure
        finally:
            self._set_phase("stopped")

    def _come_back(self, exc: Exception) -> None:
        reason = _reason(exc)
        self.lost = str(exc)
        self._set_phase("reconnecting")
        self.telemetry.metrics.reconnects.labels(reason).inc()
        log.warning("connection lost", reason=reason, problem=self.lost, attempt=self._attempt)
        self._stop.wait(delay(self._attempt, random.random()))
        self._attempt += 1

    def _stand_by(self) -> None:
        slot = None
        with suppress(SourceUnavailableError):  # the next attempt to lead meets it and waits
            slot = self._source.catalogue.slot()
        if slot is not None and slot.active_pid is not None:
            holder = f"PID {slot.active_pid} ({slot.owner})"
            if holder != self.holder:
                log.info("standby, the slot is in use", slot=slot.name, holder=holder)
            self.holder = holder
        self._set_phase("standby")
        self._stop.wait(STANDBY_POLL_SECONDS)

    def _lead(self) -> None:
        """Take the slot and follow it until stopped; raises when the connection is lost."""
        slot = self._usable_slot()
        stream = self._open_stream()
        try:
            source = stream.identify()
            history = stream.timeline_history(source.timeline)
            # before the slot is taken: our own writes would already wait for ourselves
            self._source.catalogue.refuse_synchronous(stream.application_name)
            stream.start(self._source.plugin.options)
            checkpoint = self._store.take_epoch()
            # a standby may have waited through a change of the space
            self._recheck()
            slot = self._usable_slot()
            confirmed = slot.confirmed_lsn or ZERO
            gap = find_gap(
                checkpoint,
                source=source,
                slot_confirmed=confirmed,
                wal_end=slot.wal_end,
                history=history,
            )
            if gap is not None:
                raise HistoryGapError(slot=slot.name, problem=gap)
            self._adopt(checkpoint, source)
            self._source.catalogue.anchor()
            self._follow(stream, checkpoint, confirmed)
        finally:
            if stream.unanswered:  # it may decode what comes to nothing: the next waits longer
                longer = self._source.silence_limit if stream.frames else 2 * self._silence_limit
                self._silence_limit = longer
            stream.close()

    def _open_stream(self) -> Stream:
        source = self._source
        return Stream(source.dsn, source.slot, self._silence_limit, source.longest_silence)

    def _usable_slot(self) -> Slot:
        slot = self._source.catalogue.slot()
        name = self._source.slot
        if slot is None:
            raise HistoryGapError(slot=name, problem="the slot does not exist")
        if slot.lost:
            raise HistoryGapError(slot=name, problem="the server gave the slot's log up")
        if slot.plugin != self._source.plugin.name:
            raise PreflightError(
                where=f"slot {name}",
                problem=f"it uses the output plugin {slot.plugin}, "
                f"the configuration says {self._source.plugin.name}",
                hint="correct source.plugin or source.slot",
            )
        return slot

    def _adopt(self, checkpoint: Checkpoint, source: Identity) -> None:
        target = self._store.identity()
        if source.timeline == checkpoint.source.timeline and target == checkpoint.target:
            return
        if target.system_identifier != checkpoint.target.system_identifier:
            raise HistoryGapError(
                slot=checkpoint.slot, problem="the target is another cluster than it was"
            )
        log.warning("servers changed", source=str(source), target=str(target))
        self._store.adopt(source, target)

    def _follow(self, stream: Stream, checkpoint: Checkpoint, confirmed: LSN) -> None:
        lane = Lane()
        pipeline = self._build(stream, checkpoint, confirmed, lane)
        ended = threading.Event()
        reconciler = self._reconciling(lane, checkpoint.epoch, ended)
        self._pipeline = pipeline
        self._reconciler = reconciler
        self._set_phase("streaming")
        self._attempt = 0
        log.info(
            "streaming",
            slot=self._source.slot,
            epoch=checkpoint.epoch,
            recorded=str(checkpoint.recorded),
        )
        try:
            reconciler.start()
            pipeline.run(self._stop)
            self._set_phase("draining")
            self._finish(pipeline, connected=True)
        except (ReplicationError, SourceUnavailableError) as exc:
            # a stopping server waits for its walsenders: let go of ours before anything else
            stream.close()
            # batches in flight are whole and ours: losing the connection must not lose their work
            self.lost = str(exc)
            self._set_phase("reconnecting")
            self._finish(pipeline, connected=False)
            raise
        except TableChangedError:
            # what came before the table changed is settled and need not be met again
            self._finish(pipeline, connected=True)
            raise
        finally:
            self._pipeline = None
            self._reconciler = None
            ended.set()
            lane.close()
            self._abandon.set()
            while not pipeline.at_rest(CANCEL_SECONDS):
                if self._is_overdue():
                    # a lock, a standby that never comes, a hanging call must not hold us
                    self._store.cancel()
                    self._runner.close()
            pipeline.close()
            reconciler.join()
            if not self._stop_now.is_set():
                self._abandon.clear()

    def _finish(self, pipeline: Pipeline, *, connected: bool) -> None:
        """Let what is in flight be committed; give it up when a stop takes too long."""
        if not pipeline.drain(self._is_overdue, connected=connected):
            self._abandon.set()
            log.warning("stopped before all was finished", hint="it is replayed at the next start")

    def _is_overdue(self) -> bool:
        if self._stop_now.is_set():
            return True
        late = time.monotonic() > self._stopped_at + self._drain_timeout
        return self._stop.is_set() and late

    def _build(
        self, stream: Stream, checkpoint: Checkpoint, confirmed: LSN, lane: Lane
    ) -> Pipeline:
        covered = self.telemetry.metrics.changes_skipped
        assembler = Assembler(
            self._source.tables,
            checkpoint,
            confirmed,
            delivered_from=self._source.delivered_from,
            callbacks=Callbacks(
                on_covered=lambda table: covered.labels(table.full_name, "filtered").inc(),
                on_undelivered=self._source.on_undelivered,
            ),
        )
        supply = VectorSupply(self._store, self._runner, self._patience)
        return Pipeline(
            log=ChangeLog(
                stream=stream,
                decode=self._source.plugin.make_decoder(),
                assembler=assembler,
                progress=Progress(checkpoint.recorded),
            ),
            workers=Workers(
                preparer=Preparer(
                    store=self._store,
                    read_rows=self._source.read_rows,
                    cut=self._cut,
                    supply=supply,
                    patience=self._patience,
                ),
                examiner=Examiner(
                    store=self._store, cut=self._cut, supply=supply, patience=self._patience
                ),
                writer=Writer(self._store, self._patience, checkpoint.batch_seq),
            ),
            lane=lane,
            telemetry=self.telemetry,
            limits=self._limits,
        )

    def _set_phase(self, phase: str) -> None:
        self.phase = phase
        metrics = self.telemetry.metrics
        metrics.set_phase(phase)
        metrics.leader.labels(self._source.slot).set(phase == "streaming")
        metrics.replication_connected.set(phase == "streaming")


def _reason(exc: Exception) -> str:
    if isinstance(exc, FencedError | SlotBusyError):
        return "slot"
    if isinstance(exc, TargetUnavailableError):
        return "target"
    return "connection"
