"""The loop: owns the stream, the batches, and the positions of one connection.

One thread reads frames, has batches prepared and written (see ``batches``) and reports positions
(see ``confirm``).

    collect what the workers finished -> positions
    read frames unless full, or unless reading on could confirm too much
    dispatch when a worker is free
    record progress that no batch recorded
    tell the server
"""

import threading
from collections.abc import Callable
from concurrent.futures import wait
from dataclasses import dataclass
from typing import Any, Final, Protocol

from cdc_embed.change.event import Change, Event, TransactionEnd
from cdc_embed.change.transaction import Assembler
from cdc_embed.errors import ReplicationError
from cdc_embed.flow.batches import Batches, Workers
from cdc_embed.flow.confirm import RECORD_STEP, REPORT_SECONDS, Confirmation, Wire
from cdc_embed.flow.lane import Lane
from cdc_embed.flow.limits import Limits
from cdc_embed.flow.receipts import Receipts
from cdc_embed.flow.telemetry import Oldest, Telemetry
from cdc_embed.flow.waking import Waker
from cdc_embed.lsn import LSN, Progress
from cdc_embed.wire.messages import Decoder

READ_FRAMES: Final = 500
"""The frames read before the loop looks after the rest."""


class Frames(Wire, Protocol):
    """The stream as the loop needs it, a ``Wire`` that also gives frames."""

    sentinel: Any
    """A session that the server ends when it stops, readable then."""

    @property
    def heard(self) -> LSN: ...
    def read(self) -> Any: ...
    def check_sentinel(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeLog:
    """One connection's change log, with its frames, the decoder that makes events of them, and the
    position."""

    stream: Frames
    decode: Decoder
    assembler: Assembler
    progress: Progress


class Pipeline:
    """One connection's way from frames to confirmed positions."""

    def __init__(
        self, *, log: ChangeLog, workers: Workers, lane: Lane, telemetry: Telemetry, limits: Limits
    ) -> None:
        self._stream = log.stream
        self._decode = log.decode
        self._assembler = log.assembler
        self.progress = log.progress
        self._began_at = log.progress.recorded
        self._lane = lane
        self._telemetry = telemetry
        self._limits = limits
        self._buffered = True
        self._receipts = Receipts()
        self.moved = False
        """Whether a batch, or a step of the log without one, was committed on this connection."""
        self._waker = Waker()
        lane.wake = self.wake
        self._batches = Batches(workers=workers, lane=lane, limits=limits, wake=self.wake)
        self._confirmation = Confirmation(
            wire=log.stream,
            assembler=log.assembler,
            progress=log.progress,
            record=self._batches.record_progress,
            interval=limits.report_interval,
        )

    # -- the loop ------------------------------------------------------------------------------

    def run(self, stop: threading.Event) -> None:
        """Follow the stream until ``stop`` is set or something raises."""
        while not stop.is_set():
            self._turn()
            self._wait(reading=self._may_read())

    def drain(self, deadline: Callable[[], bool], *, connected: bool = True) -> bool:
        """Finish what is in flight and, if ``connected``, record and confirm it.

        What is pending stays behind, unconfirmed, because the log still has it. Returns whether all
        that was in flight was finished before ``deadline`` said so.
        """
        self._batches.draining = True
        while self._batches.in_flight and not deadline():
            self._turn(connected=connected, reading=False)
            self._wait(reading=False, connected=connected)
        if self._batches.in_flight:
            return False
        if connected:
            self._finish_recording(deadline)
        self._mark_idle()
        if connected:
            self._confirmation.record(at_least=1)
            self._finish_recording(deadline)
            self._confirmation.tell(self._limits.clock(), at_once=True)
        return True

    def _finish_recording(self, deadline: Callable[[], bool]) -> None:
        while not self._confirmation.mark_recorded() and not deadline():
            self._wait(reading=False)

    def at_rest(self, seconds: float) -> bool:
        """Return whether the workers have ended what they do, after so long at the most."""
        working = [*self._batches.working(), *self._confirmation.recording]
        return not wait(working, seconds).not_done

    def close(self) -> None:
        """Wait until the workers have ended their work, then release them."""
        self._batches.close()
        self._waker.close()

    def has_received(self, lsn: LSN) -> bool:
        """Return whether the server has sent everything below ``lsn``."""
        return self.progress.received >= lsn

    def wake(self) -> None:
        """End the loop's wait; safe from any thread and from a signal handler."""
        self._waker.wake()

    def _turn(self, *, connected: bool = True, reading: bool = True) -> None:
        now = self._limits.clock()
        self._collect()
        self._confirmation.mark_recorded()
        # less can be the message that each connection writes itself
        self.moved = self.moved or self.progress.recorded - self._began_at >= RECORD_STEP
        if reading:
            self._read()
        urgent, full = self._confirmation.urgent, self._full()
        self._batches.reads_on = connected and self._confirmation.may_read()
        self._batches.full = full
        self._batches.dispatch(now, urgent=urgent, hurry=urgent or full)
        if connected:
            self._mark_idle()
            self._confirmation.record()
            self._confirmation.record_rest(now)
            self._confirmation.tell(now)
        self._lane.durable = self.progress.durable
        pending = self._batches.pending
        self._telemetry.tick(pending, self.progress, self._oldest(), self._full())

    def _collect(self) -> None:
        """Take in what is committed. Positions come first, then whoever waits for it."""
        for done in self._batches.collect():
            batch = done.prepared.plan
            if batch.defers:
                self._lane.deferred.set()
            if done.offer is not None and done.prepared.examined is not None:
                table = done.offer.slice.table
                self._telemetry.examined(table, done.prepared, done.written)
                done.offer.answer.set_result(done.prepared.examined)
                continue
            self.moved = self.moved or batch.writes
            self._confirmation.mark_committed(batch.batch.end_lsn, recorded=batch.writes)
            self._telemetry.written(done.prepared, done.written)

    def _mark_idle(self) -> None:
        if self._batches.idle:
            self._confirmation.mark_idle()

    def _oldest(self) -> Oldest | None:
        """Return the oldest commit that is not reflected; None when there is none."""
        if self._batches.idle:
            self._receipts.clear()
        now = self._limits.clock()
        return self._receipts.oldest(self.progress.durable, self._batches.oldest(), now)

    # -- read ----------------------------------------------------------------------------------

    def _may_read(self) -> bool:
        """Return whether there is room, and reading on is safe."""
        return not self._full() and self._confirmation.may_read()

    def _full(self) -> bool:
        return self._batches.size >= self._limits.memory

    def _read(self) -> None:
        for _ in range(READ_FRAMES):
            if not self._may_read():
                return
            try:
                frame = self._stream.read()
            except ReplicationError:  # what it heard before its end counts
                self._confirmation.mark_read(self._stream.heard)
                raise
            self._buffered = frame is not None
            if frame is not None:
                self._telemetry.frame(frame.payload)
                for message in self._decode(frame.payload):
                    for event in self._assembler.feed(message, len(frame.payload)):
                        self._take_in(event)
                begin = self._assembler.open_transaction
                self._receipts.mark_open(begin, self._limits.clock())
            self._confirmation.mark_read(self._stream.heard)
            if frame is None:
                return

    def _take_in(self, event: Event) -> None:
        if isinstance(event, TransactionEnd) and self._batches.idle and self._assembler.verified:
            self._confirmation.mark_empty(event.end_lsn)  # wal2json tells of every transaction
            return
        self._batches.pending.add(event)
        self._receipts.mark(event, self._limits.clock())
        if isinstance(event, Change):
            self._lane.mark_touched(event)
            self._telemetry.change(event)

    # -- wait ----------------------------------------------------------------------------------

    def _wait(self, *, reading: bool, connected: bool = True) -> None:
        """Sleep until a frame, a worker or the clock wants something."""
        readers: list[Any] = []
        seconds = min(self._limits.report_interval, REPORT_SECONDS)
        if connected:
            readers.append(self._stream.sentinel)
        if reading:
            readers.append(self._stream)
            if self._buffered:  # a whole frame can be read already, and not be in the socket
                seconds = 0
        if self._batches.lingers:
            seconds = min(seconds, self._limits.linger)
        ready = self._waker.sleep(readers, seconds)
        if connected and self._stream.sentinel in ready:
            self._stream.check_sentinel()
