"""One instance of the service, which leads if the slot is free, else stands by, and reconnects.

The order of steps matters. The slot is taken first and the epoch after it, so that a standby never
fences a working leader. The recorded position is read together with the epoch and compared with
the slot, which no other session can move any more.
"""

import random
import threading
import time
from collections.abc import Callable
from typing import Final

import structlog

from cdc_embed.errors import (
    CdcEmbedError,
    FencedError,
    HistoryGapError,
    ReplicationError,
    SourceUnavailableError,
    TargetUnavailableError,
    is_passing,
)
from cdc_embed.flow.lane import Lane
from cdc_embed.flow.patience import AbandonedError, Trouble, delay
from cdc_embed.flow.pipeline import Pipeline
from cdc_embed.flow.telemetry import Telemetry
from cdc_embed.lsn import LSN, ZERO, Checkpoint, Identity, Progress, find_gap
from cdc_embed.reconcile.readers import Readers
from cdc_embed.reconcile.slices import Term
from cdc_embed.service.failures import LASTING_SECONDS, Failures, Stuck, reason_of
from cdc_embed.service.phase import Phase
from cdc_embed.service.stages import Connected, Source, Stages, make_pipeline
from cdc_embed.service.stop import Stop
from cdc_embed.service.undecodable import way_out
from cdc_embed.source.slot import Slot
from cdc_embed.source.stream import SlotIsActiveError, Stream
from cdc_embed.source.timing import ServerTimes, longest_silence, silence_limit

CANCEL_SECONDS: Final = 0.5
"""The time that workers have to end before it is checked whether the stop is overdue."""

RECONNECT_ERRORS: Final = (
    ReplicationError,
    SourceUnavailableError,
    TargetUnavailableError,
    FencedError,
)

log = structlog.get_logger()


MakeReaders = Callable[[Term, Callable[[CdcEmbedError], None]], Readers]
"""A function that makes what reads rows in one term; the second argument is called with an error
that ends it."""


class Instance:
    """Keeps the target fresh until it is stopped, as one of several for the same slot."""

    def __init__(
        self,
        *,
        source: Source,
        stages: Stages,
        reconciling: MakeReaders,
        telemetry: Telemetry,
        stop: Stop,
    ) -> None:
        self._source = source
        self._stages = stages
        self._reconciling = reconciling
        self._readers: Readers | None = None
        self._pipeline: Pipeline | None = None
        self._progress: Progress | None = None
        """The positions of the present connection, or of the last one."""
        self._telemetry = telemetry
        self._stop = stop
        self._failures = Failures()
        self._began: tuple[float, LSN] | None = None
        """The time at which the present stream began, and the end of the log then."""
        self._unanswered = 1
        """The factor for the silence limit of a server that did not answer."""
        self._failure: CdcEmbedError | None = None
        self.restarts = False
        """Whether another instance is to take this one's place once it has stopped."""
        self.holder = ""
        """The session that has the slot while this instance waits."""
        self.lost = ""
        """The reason why there is no connection while it reconnects."""
        self._set_phase(Phase.STARTING)

    # -- control, from any thread ------------------------------------------------------------------

    def stop(self) -> None:
        """Finish batches in flight, record, confirm, and return from ``run``."""
        self._stop.request()
        self._wake()

    def stop_now(self) -> None:
        """Return from ``run`` without waiting. Nothing is lost, some changes are replayed."""
        self._stop.request_now()
        self._wake()

    def restart(self) -> None:
        """Stop, so that another instance begins with the tables as they are now."""
        self.restarts = True
        self.stop()

    def fail(self, error: CdcEmbedError) -> None:
        """Stop, and raise the error from ``run``: a watcher found it."""
        self._failure = error
        self.stop()

    def _wake(self) -> None:
        pipeline = self._pipeline
        if pipeline is not None:
            pipeline.wake()

    @property
    def reconcile_waits_for(self) -> str:
        """The ends and locks that the comparison of rows waits for; empty if there are none."""
        readers = self._readers
        return readers.waiting_for if readers is not None else ""

    @property
    def deferred_rows(self) -> str:
        """The number of rows that wait for the embedder, and why; empty if there are none."""
        readers = self._readers
        return readers.waiting_rows if readers is not None else ""

    @property
    def reconcile_trouble(self) -> Trouble | None:
        """The error because of which rows are not compared, nor requests answered."""
        readers = self._readers
        return readers.trouble if readers is not None else None

    @property
    def leading(self) -> bool:
        """Whether this instance has the slot, and writes."""
        return self.phase is Phase.STREAMING

    @property
    def stuck(self) -> Stuck | None:
        """The position at which one connection after the other ends; None while work gets done."""
        return None if self._is_well() else self._failures.stuck(time.monotonic())

    # -- the life of an instance -------------------------------------------------------------------

    def run(self) -> None:
        """Lead or stand by until stopped; raise an error that only a person can mend."""
        try:
            while not self._stop.requested.is_set():
                self._telemetry.turned()
                try:
                    self._lead()
                except SlotIsActiveError:
                    self._stand_by(None)
                except RECONNECT_ERRORS as exc:
                    self._wait_to_reconnect(exc)
                except OSError as exc:  # short of descriptors
                    if not is_passing(exc):
                        raise
                    self._wait_to_reconnect(exc)
                except AbandonedError:
                    break
            if self._failure is not None:
                raise self._failure
        finally:
            self._set_phase(Phase.STOPPED)

    def _wait_to_reconnect(self, exc: Exception) -> None:
        reason = reason_of(exc)
        self.lost = str(exc)
        self._set_phase(Phase.RECONNECTING)
        self._telemetry.metrics.reconnects.labels(reason).inc()
        attempt, self._failures.attempt = self._failures.attempt, self._failures.attempt + 1
        log.warning("connection lost", reason=reason, problem=self.lost, attempt=attempt)
        self._stop.requested.wait(delay(attempt, random.random()))

    def _stand_by(self, slot: Slot | None) -> None:
        """Wait a little; ``slot``, if it was looked at, says which session has it."""
        if slot is not None and slot.active_pid is not None:
            holder = f"PID {slot.active_pid} ({slot.owner})"
            if holder != self.holder:
                log.info("standby, the slot is in use", slot=slot.name, holder=holder)
            self.holder = holder
        self._set_phase(Phase.STANDBY)
        self._stop.requested.wait(self._source.standby_interval)

    def _lead(self) -> None:
        """Take the slot and follow the log until stopped; raise when the connection is lost."""
        try:
            self._take_slot()
        except HistoryGapError:
            self._source.expect_own()  # another server behind the source's address is no gap
            raise

    def _take_slot(self) -> None:
        slot = self._source.usable_slot()
        if slot.active_pid is not None:  # an attempt would cost both servers two sessions
            self._stand_by(slot)
            return
        stream = Stream(self._source.login, self._source.slot)
        try:
            times = self._adapt(stream)
            source = stream.identify()
            history = stream.timeline_history(source.timeline)
            # before the slot is taken, because afterwards our own writes would wait for ourselves
            self._source.catalogue.refuse_synchronous(stream.application_name)
            self._source.catalogue.anchor()
            stream.start_replication(self._source.plugin.options)
            checkpoint = self._stages.store.take_epoch(source)
            # setup can have changed the space while this instance stood by
            self._stages.recheck()
            slot = self._source.usable_slot()
            confirmed = slot.confirmed_lsn or ZERO
            nothing_lost = self.has_lost_nothing(confirmed, checkpoint.recorded)
            gap = find_gap(
                checkpoint.reaching(confirmed) if nothing_lost else checkpoint,
                source=source,
                slot_confirmed=confirmed,
                wal_end=slot.wal_end,
                history=history,
            )
            if gap is not None:
                raise HistoryGapError(slot=slot.name, problem=gap)
            self._adopt_servers(checkpoint, source)
            self._began = time.monotonic(), slot.wal_end
            self._follow(Connected(stream, checkpoint, confirmed, times))
        finally:
            if stream.unanswered:  # it can decode changes of other tables, so wait longer next time
                self._unanswered = 1 if stream.frames else 2 * self._unanswered
            stream.close()

    def has_lost_nothing(self, confirmed: LSN, recorded: LSN) -> bool:
        """Return whether nothing is lost though the slot is at ``confirmed``, beyond the record,
        because it was durable on the present connection, or on the last one."""
        return self._progress is not None and self._progress.has_lost_nothing(confirmed, recorded)

    def _adapt(self, stream: Stream) -> ServerTimes:
        """Ask the server's timeout and clock, which can be others than those before."""
        times = stream.read_times()
        timeout = times.wal_sender_timeout
        limit = silence_limit(timeout, self._source.least_silence)
        stream.limit_silence(self._unanswered * limit, longest_silence(timeout))
        self._telemetry.clock_ahead = times.clock_ahead
        return times

    def _adopt_servers(self, checkpoint: Checkpoint, source: Identity) -> None:
        target = self._stages.store.identity()
        if source.timeline == checkpoint.source.timeline and target == checkpoint.target:
            return
        if target.system_identifier != checkpoint.target.system_identifier:
            raise HistoryGapError(
                slot=checkpoint.slot, problem="the target is another cluster than it was"
            )
        log.warning("servers changed", source=str(source), target=str(target))
        self._stages.store.adopt(source, target)

    def _follow(self, connected: Connected) -> None:
        """Run the pipeline of one connection, and the reconciler beside it, to their end."""
        checkpoint = connected.checkpoint
        term = Term(lane=Lane(), epoch=checkpoint.epoch, ended=threading.Event())
        pipeline = make_pipeline(
            self._source, self._stages, connected, lane=term.lane, telemetry=self._telemetry
        )
        readers = self._reconciling(term, self.fail)
        self._pipeline, self._readers = pipeline, readers
        self._progress = pipeline.progress
        self._set_phase(Phase.STREAMING)
        log.info(
            "streaming",
            slot=self._source.slot,
            epoch=checkpoint.epoch,
            recorded=str(checkpoint.recorded),
        )
        try:
            readers.start()
            self._run_pipeline(pipeline, connected.stream)
        except RECONNECT_ERRORS as exc:
            self._note_failure(exc)
            raise
        finally:
            self._pipeline = self._readers = None
            term.ended.set()
            term.lane.close()
            self._bring_to_rest(pipeline)
            readers.join()
            self._stop.allow_waiting()

    def _note_failure(self, exc: CdcEmbedError) -> None:
        """Note the end of a stream, which is the first one if something became durable before."""
        if self._is_well():
            self._failures.forget()
        at = getattr(exc, "lsn", None) or self._telemetry.positions.durable
        cure = way_out(str(exc), self._source.slot, self._source.find_wide)
        self._failures.streaming_failed(at, str(exc), cure, time.monotonic())

    def _is_well(self) -> bool:
        """Return whether the present stream has made something durable, or is idle and lasts."""
        pipeline, began = self._pipeline, self._began
        if pipeline is None or began is None:
            return False
        lasts = time.monotonic() - began[0] > LASTING_SECONDS
        return pipeline.moved or (lasts and pipeline.has_received(began[1]))

    def _run_pipeline(self, pipeline: Pipeline, stream: Stream) -> None:
        try:
            pipeline.run(self._stop.requested)
            self._set_phase(Phase.DRAINING)
            self._drain(pipeline, connected=True)
        except (ReplicationError, SourceUnavailableError) as exc:
            # a stopping server waits for its walsenders, so ours is closed before anything else
            stream.close()
            # batches in flight are whole, so their work must not be lost with the connection
            self.lost = str(exc)
            self._set_phase(Phase.RECONNECTING)
            self._drain(pipeline, connected=False)
            raise

    def _drain(self, pipeline: Pipeline, *, connected: bool) -> None:
        """Let batches in flight be committed; give them up when the stop is overdue."""
        if not pipeline.drain(lambda: self._stop.overdue, connected=connected):
            self._stop.abandon.set()
            log.warning("stopped before all was finished", hint="it is replayed at the next start")

    def _bring_to_rest(self, pipeline: Pipeline) -> None:
        """End the pipeline's workers; when the stop is overdue, break off what they wait for."""
        self._stop.abandon.set()
        while not pipeline.at_rest(CANCEL_SECONDS):
            if self._stop.overdue:
                # a lock, a standby that never comes, a call that hangs
                self._stages.store.cancel()
                self._stages.runner.give_up()
        pipeline.close()

    def _set_phase(self, phase: Phase) -> None:
        self.phase = phase
        metrics = self._telemetry.metrics
        metrics.set_phase(phase.value)
        metrics.leader.labels(self._source.slot).set(self.leading)
        metrics.replication_connected.set(self.leading)
