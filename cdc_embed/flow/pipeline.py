"""The loop: owns the stream, what is pending, what is in flight, and what may be confirmed.

One thread reads frames, forms batches and reports positions; one worker prepares a batch (look up,
decide, embed) while another writes the one before. Batches are prepared and written in the order
of the log, one at a time each, so a plan always knows the outcome of every batch before it.

    settle finished work -> progress
    read frames unless full, or unless reading on could confirm too much
    dispatch when a worker is free
    record progress that no batch recorded
    report -- the one line that confirms is in ``reporting``
"""

import math
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from cdc_embed.change.batch import RowId
from cdc_embed.change.knowledge import Knowledge
from cdc_embed.change.pending import Pending
from cdc_embed.change.plan import Supersede
from cdc_embed.change.transaction import Assembler, Change, Event, TransactionEnd
from cdc_embed.errors import ReplicationError
from cdc_embed.flow.lane import Lane, Offer
from cdc_embed.flow.prepare import Extract, Preparer, Range, Ready, rows_of
from cdc_embed.flow.reporting import RECORD_STEP, REPORT_SECONDS, Frames, Reporter
from cdc_embed.flow.telemetry import Telemetry
from cdc_embed.flow.writing import Writer, Written
from cdc_embed.lsn import Progress
from cdc_embed.wire.messages import Decoder

READ_FRAMES: Final = 500
"""Frames read before the loop looks after the rest."""
FIRST_TAKE: Final = 64
LARGEST_TAKE: Final = 4096
LARGEST_BATCH: Final = 8 << 20
"""Bytes of changes in one batch: several are in flight, each several times as large in memory."""
NEAR_THE_END: Final = 256
"""Pending changes with which the stream still counts as near the end of the log."""
STARVING_SECONDS: Final = 2.0
"""After so long rows that were read have their turn, however much of the log waits."""
WRITE_QUEUE: Final = 2
"""Prepared batches that may wait for the writer."""
LEFT_OUT_SECONDS: Final = 2.0
"""For how long a hot row's newer version may keep its older ones from being embedded."""


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


@dataclass(slots=True)
class _InFlight:
    """A batch between its dispatch and its commit."""

    preparing: Future[Ready]
    size: int
    oldest: float | None
    """Unix time of its oldest commit; None for rows that were read."""
    offer: Offer | None = None
    """The slice that it is made of; None for a range of the log."""
    writing: Future[Written] | None = None
    ready: Ready | None = None


@dataclass(slots=True)
class _HotRows:
    """Rows whose versions were left out, and since when."""

    since: dict[RowId, float] = field(default_factory=dict)

    def starving(self, rows: set[RowId], now: float) -> set[RowId]:
        return {row for row in rows & self.since.keys() if now - self.since[row] > LEFT_OUT_SECONDS}

    def note(self, ready: Ready, now: float) -> None:
        for row, action in ready.plan.actions.items():
            if isinstance(action, Supersede):
                self.since.setdefault(row, now)
            else:
                self.since.pop(row, None)


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
        lane.wake = self.wake
        self._stream = stream
        self._decode = decode
        self._assembler = assembler
        self._preparer = preparer
        self._writer = writer
        self._progress = progress
        self._telemetry = telemetry
        self._limits = limits
        self._pending = Pending()
        self._knowledge = Knowledge()
        self._in_flight: deque[_InFlight] = deque()
        self._hot = _HotRows()
        self._take = FIRST_TAKE
        self._logs_turn = False
        self._examined_at = time.monotonic()
        self._pending_since: float | None = None
        self._draining = False
        self._buffered = True
        self._embed = ThreadPoolExecutor(1, thread_name_prefix="prepare")
        self._write = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._wake, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        self._wake.setblocking(False)
        self._reporter = Reporter(
            stream=stream,
            assembler=assembler,
            progress=progress,
            record=lambda lsn: self._submit(self._write, writer.record, lsn),
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
        self._draining = True
        while self._in_flight and not deadline():
            self._turn(connected=connected, reading=False)
            self._wait(reading=False, connected=connected)
        if self._in_flight:
            return False
        if connected:
            self._finish_recording(deadline)
            self._settle_idle()
            self._reporter.record(at_least=1)
            self._finish_recording(deadline)
            self._reporter.tell(time.monotonic(), now_or_never=True)
        return True

    def _finish_recording(self, deadline: Callable[[], bool]) -> None:
        while not self._reporter.settle() and not deadline():
            self._wait(reading=False)

    def at_rest(self, seconds: float) -> bool:
        """Whether the workers have ended what they do, after waiting so long at the most."""
        futures: list[Future[Any]] = [flight.preparing for flight in self._in_flight]
        futures += [flight.writing for flight in self._in_flight if flight.writing is not None]
        futures += self._reporter.recording
        return not wait(futures, seconds).not_done

    def close(self) -> None:
        """Wait for the workers to end what they do, then let go of them."""
        self._embed.shutdown(wait=True, cancel_futures=True)
        self._write.shutdown(wait=True, cancel_futures=True)
        self._wake.close()
        self._waker.close()

    def wake(self) -> None:
        """End the loop's wait; safe from any thread and from a signal handler."""
        with suppress(OSError):  # full, so it is awake anyway; or closed, and nobody waits
            self._waker.send(b"\0")

    def _turn(self, *, connected: bool = True, reading: bool = True) -> None:
        now = time.monotonic()
        self._settle()
        if reading:
            self._read()
        self._dispatch(now)
        if connected:
            self._settle_idle()
            self._reporter.record(at_least=RECORD_STEP)
            self._reporter.record_rest(now)
            self._reporter.tell(now)
        self._lane.durable = self._progress.durable
        self._telemetry.tick(self._pending, self._progress, self._oldest(), self._full())

    # -- settle --------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Take in what the workers have finished, in the order of the log."""
        for flight in self._in_flight:
            if flight.ready is None and flight.preparing.done():
                self._prepared(flight, flight.preparing.result())
        while self._in_flight:
            writing = self._in_flight[0].writing
            if writing is None or not writing.done():
                break
            self._written(self._in_flight.popleft(), writing.result())
        self._reporter.settle()

    def _prepared(self, flight: _InFlight, ready: Ready) -> None:
        flight.ready = ready
        if flight.offer is None:
            self._adapt(ready)
            flight.size = ready.plan.batch.size
        self._knowledge.planned(ready.plan.outcome())
        flight.writing = self._submit(self._write, self._writer.write, ready)

    def _adapt(self, ready: Ready) -> None:
        """Take in how much of a range was worth a batch, and which rows it left out."""
        if ready.rest:
            self._pending.put_back(ready.rest)
            self._take = max(FIRST_TAKE, 2 * ready.plan.batch.changes)
        else:
            self._take = min(LARGEST_TAKE, max(self._take, 2 * ready.plan.batch.changes))
        self._hot.note(ready, time.monotonic())

    def _written(self, flight: _InFlight, written: Written) -> None:
        plan = written.ready.plan
        self._knowledge.committed(plan.outcome())
        if flight.offer is not None and written.ready.examined is not None:
            self._telemetry.examined(flight.offer.slice.table, written)
            flight.offer.answer.set_result(written.ready.examined)
            return
        self._progress.settle(plan.batch.end_lsn)
        if plan.writes:
            self._progress.record(plan.batch.end_lsn)
        self._telemetry.written(written)

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
        in_flight = any(flight.offer is None for flight in self._in_flight)
        return not (self._pending or in_flight) and self._assembler.verified

    # -- dispatch ------------------------------------------------------------------------------

    def _dispatch(self, now: float) -> None:
        busy = self._is_preparing() or len(self._in_flight) > WRITE_QUEUE
        if self._draining or busy:
            return
        if self._lane.distrusts:
            if not self._in_flight:
                self._lane.settle_distrust(self._knowledge.distrust)
            return
        if self._may_examine(now):
            self._examine()
        elif self._pending:
            self._dispatch_range(now)

    def _may_examine(self, now: float) -> bool:
        """Rows that were read come after the log's: when little of it waits, or now and then."""
        if not self._lane.waiting or self._stream.unguarded:
            return False
        if now - self._examined_at > STARVING_SECONDS:
            return True
        return not self._pending or (not self._logs_turn and self._pending.changes < NEAR_THE_END)

    def _examine(self) -> None:
        taken = self._lane.take()
        if taken is None:
            return
        self._logs_turn = True
        self._examined_at = time.monotonic()
        offer, hidden = taken
        part = offer.slice
        work = Extract(
            slice=part,
            hidden=hidden,
            states=self._knowledge.in_flight((part.table, key) for key in part.rows),
            arriving=self._knowledge.arriving(),
        )
        preparing = self._submit(self._embed, self._preparer.examine, work)
        self._in_flight.append(_InFlight(preparing=preparing, size=0, oldest=None, offer=offer))

    def _dispatch_range(self, now: float) -> None:
        if self._limits.linger and not self._must_hurry():
            since = self._pending_since if self._pending_since is not None else now
            self._pending_since = since
            if now - since < self._limits.linger:
                return
        self._pending_since = None
        self._logs_turn = False
        oldest = self._pending.oldest
        events = self._pending.take(self._take, LARGEST_BATCH)
        rows = rows_of(events)
        later = self._pending.later
        needed = {row for row in rows if later.needs(row)} | self._hot.starving(rows, now)
        work = Range(
            events=events,
            known=self._knowledge.known(rows),
            arriving=self._knowledge.arriving(),
            replaced=frozenset(row for row in rows if later.replaces(row)),
            needed=frozenset(needed),
        )
        flight = _InFlight(
            preparing=self._submit(self._embed, self._preparer.prepare, work),
            size=sum(event.size for event in events),
            oldest=oldest.timestamp() if oldest is not None else time.time(),
        )
        self._in_flight.append(flight)

    def _is_preparing(self) -> bool:
        return any(flight.ready is None for flight in self._in_flight)

    def _must_hurry(self) -> bool:
        return self._stream.unguarded or self._full()

    def _submit(self, executor: ThreadPoolExecutor, call: Callable[..., Any], *args: Any) -> Any:
        future = executor.submit(call, *args)
        future.add_done_callback(lambda _: self.wake())
        return future

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
        in_flight = sum(flight.size for flight in self._in_flight)
        return self._pending.size + in_flight >= self._limits.memory

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
        self._pending.add(event)
        if isinstance(event, Change):
            self._lane.note(event)
            self._telemetry.change(event)

    # -- wait ----------------------------------------------------------------------------------

    def _wait(self, *, reading: bool, connected: bool = True) -> None:
        """Sleep until a frame, a worker or the clock wants something."""
        readers: list[Any] = [self._wake]
        if connected:
            readers.append(self._stream.sentinel)
        timeout = min(self._limits.report_interval, REPORT_SECONDS)
        if reading:
            readers.append(self._stream)
            if self._buffered:  # a whole frame may be in the driver's buffer, not in the socket
                timeout = 0
        if self._pending_since is not None:
            timeout = min(timeout, self._limits.linger)
        ready, _, _ = select.select(readers, [], [], timeout)
        if connected and self._stream.sentinel in ready:
            self._stream.check_sentinel()
        if self._wake in ready:
            while self._drain_wakes():
                pass

    def _drain_wakes(self) -> bool:
        try:
            return len(self._wake.recv(4096)) == 4096
        except BlockingIOError:
            return False

    def _oldest(self) -> float | None:
        """Unix time of the oldest commit that is not reflected; None when there is none."""
        for flight in self._in_flight:
            if flight.oldest is not None:
                return flight.oldest
        oldest = self._pending.oldest
        begin = self._assembler.open_transaction
        if oldest is None and begin is not None:  # reading on may have to wait for the target
            oldest = begin.committed_at
        return oldest.timestamp() if oldest is not None else None
