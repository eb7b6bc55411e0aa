"""The loop: owns the stream, the batches, and what may be confirmed.

One thread reads frames, has batches prepared and written (see ``batches``) and reports positions.

    settle finished work -> progress
    read frames unless full, or unless reading on could confirm too much
    dispatch when a worker is free
    record progress that no batch recorded
    report -- the one line that confirms is in ``reporting``
"""

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import wait
from dataclasses import dataclass
from typing import Any, Final

from cdc_embed.change.transaction import Assembler, Change, Event, TransactionEnd
from cdc_embed.errors import ReplicationError
from cdc_embed.flow.batches import Batches
from cdc_embed.flow.confirm import RECORD_STEP, REPORT_SECONDS, Frames, Reporter
from cdc_embed.flow.lane import Lane
from cdc_embed.flow.prepare import Preparer
from cdc_embed.flow.telemetry import Telemetry
from cdc_embed.flow.waking import Waker
from cdc_embed.flow.writing import Writer
from cdc_embed.lsn import Progress
from cdc_embed.wire.messages import Decoder

READ_FRAMES: Final = 500
"""Frames read before the loop looks after the rest."""


@dataclass(slots=True, kw_only=True)
class Limits:
    """How much, how often, how long."""

    memory: int
    """Bytes of pending changes."""
    report_interval: float
    """Seconds between reports at the least: well below the server's timeout."""
    longest_silence: float = math.inf
    """Seconds after which the server, not having heard of us, asks for an answer."""
    linger: float = 0.0
    """Seconds that a change waits for others."""


class Pipeline:
    """One connection's way from frames to confirmed positions."""

    def __init__(
        self,
        *,
        stream: Frames,
        decode: Decoder,
        assembler: Assembler,
        preparer: Preparer,
        writer: Writer,
        progress: Progress,
        telemetry: Telemetry,
        limits: Limits,
        lane: Lane,
    ) -> None:
        self._lane = lane
        self._stream = stream
        self._decode = decode
        self._assembler = assembler
        self._progress = progress
        self._telemetry = telemetry
        self._limits = limits
        self._buffered = True
        self._waker = Waker()
        lane.wake = self.wake
        self._batches = Batches(
            preparer=preparer,
            writer=writer,
            lane=lane,
            progress=progress,
            telemetry=telemetry,
            linger=limits.linger,
            wake=self.wake,
        )
        self._reporter = Reporter(
            stream=stream,
            assembler=assembler,
            progress=progress,
            record=self._batches.record,
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

        What is pending stays behind, unconfirmed: the log still has it. Returns whether all that
        was in flight was finished before ``deadline`` said so.
        """
        self._batches.draining = True
        while self._batches.in_flight and not deadline():
            self._turn(connected=connected, reading=False)
            self._wait(reading=False, connected=connected)
        if self._batches.in_flight:
            return False
        if connected:
            self._finish_recording(deadline)
            self._settle_idle()
            self._reporter.record(at_least=1)
            self._finish_recording(deadline)
            self._reporter.tell(time.monotonic(), force=True)
        return True

    def _finish_recording(self, deadline: Callable[[], bool]) -> None:
        while not self._reporter.settle() and not deadline():
            self._wait(reading=False)

    def at_rest(self, seconds: float) -> bool:
        """Whether the workers have ended what they do, after waiting so long at the most."""
        working = [*self._batches.working(), *self._reporter.recording]
        return not wait(working, seconds).not_done

    def close(self) -> None:
        """Wait for the workers to end what they do, then let go of them."""
        self._batches.close()
        self._waker.close()

    def wake(self) -> None:
        """End the loop's wait; safe from any thread and from a signal handler."""
        self._waker.wake()

    def _turn(self, *, connected: bool = True, reading: bool = True) -> None:
        now = time.monotonic()
        self._batches.settle()
        self._reporter.settle()
        if reading:
            self._read()
        unguarded = self._stream.unguarded
        self._batches.dispatch(now, unguarded=unguarded, hurry=unguarded or self._full())
        if connected:
            self._settle_idle()
            self._reporter.record(at_least=RECORD_STEP)
            self._reporter.record_rest(now)
            self._reporter.tell(now)
        self._lane.durable = self._progress.durable
        pending = self._batches.pending
        self._telemetry.tick(pending, self._progress, self._oldest(), self._full())

    def _settle_idle(self) -> None:
        """With nothing open, pending or in flight, all that was heard needs nothing more."""
        if not self._is_idle():
            return
        begin = self._assembler.open_transaction
        if begin is None:
            self._progress.settle_received()
        elif self._stream.unguarded:
            # every commit before this transaction's is durable, and a forwarded keepalive
            # cannot reach beyond the place of its own commit
            self._progress.settle(begin.final_lsn)

    def _is_idle(self) -> bool:
        """Whether nothing of the log is pending or in flight, and the log goes on where we were."""
        return self._batches.idle and self._assembler.verified

    def _oldest(self) -> float | None:
        """Unix time of the oldest commit that is not reflected; None when there is none."""
        begin = self._assembler.open_transaction
        if self._batches.idle and begin is not None:  # reading on may have to wait for the target
            return begin.committed_at.timestamp()
        return self._batches.oldest()

    # -- read ----------------------------------------------------------------------------------

    def _may_read(self) -> bool:
        """Whether reading on is safe and there is room.

        After a frame without a position a keepalive would be forwarded as confirmed. It reaches
        at most to where the open transaction commits, so reading waits until that is recorded.
        """
        if self._full():
            return False
        self._expect_no_ping()
        begin = self._assembler.open_transaction
        if self._stream.unguarded and begin is not None:
            return self._progress.is_recorded(begin.final_lsn)
        return True

    def _expect_no_ping(self) -> None:
        """Raise when reading could tell the server a position that is not recorded.

        When it has not heard of us for long it asks for an answer, and the driver gives it: the
        highest position that it came by while nothing guarded it.
        """
        exposed = self._stream.unguarded or not self._progress.is_recorded(self._stream.exposed)
        if exposed and self._stream.silence > self._limits.longest_silence:
            raise ReplicationError(problem="it was silent for too long to be read on safely")

    def _full(self) -> bool:
        return self._batches.size >= self._limits.memory

    def _read(self) -> None:
        for _ in range(READ_FRAMES):
            if not self._may_read():
                return
            frame = self._stream.read()
            self._progress.hear(self._stream.heard)
            self._buffered = frame is not None
            if frame is None:
                return
            self._telemetry.frame(frame.payload)
            for message in self._decode(frame.payload):
                for event in self._assembler.feed(message, len(frame.payload)):
                    self._take_in(event)

    def _take_in(self, event: Event) -> None:
        if isinstance(event, TransactionEnd) and self._is_idle():
            self._progress.settle(event.end_lsn)  # of nothing: wal2json tells of every transaction
            return
        self._batches.pending.add(event)
        if isinstance(event, Change):
            self._lane.note(event)
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
            if self._buffered:  # a whole frame may be in the driver's buffer, not in the socket
                seconds = 0
        if self._batches.lingers:
            seconds = min(seconds, self._limits.linger)
        ready = self._waker.sleep(readers, seconds)
        if connected and self._stream.sentinel in ready:
            self._stream.check_sentinel()
