"""The rules for reading on, recording and confirming; the one line that confirms is here.

A position becomes durable when its batch is committed or nothing was to be written, and recorded
when the checkpoint row that says so is committed. The server is told only of what is recorded, on
our own clock. Progress that no batch recorded is recorded in steps, or when reading depends on it.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, Protocol

from cdc_embed.change.transaction import Assembler
from cdc_embed.lsn import LSN, ZERO, Progress

RECORD_STEP: Final = 1 << 20
"""The bytes of log without anything to write that are recorded in one step. A row for each idle
keepalive would write log of its own, for ever."""
SEGMENT: Final = 16 << 20
"""The bytes of one file of the log."""
REST_SECONDS: Final = (2.0, 4.0, 8.0, 16.0, 32.0)
"""The seconds after which the rest behind a segment's worth of steps is recorded too. The server
lets files go only up to where it last noted its running transactions, once that is confirmed, and
it notes them within 15 s. Without this a large load would be kept for as long as nothing else is
written. A few times and no more, because each writes log of its own."""
REPORT_SECONDS: Final = 0.25
"""The seconds within which news is reported to the server."""


class Wire(Protocol):
    """The part of the stream that knows the safe position, and reports to the server."""

    def may_read(self, progress: Progress, /) -> bool: ...
    def needs_record(self, progress: Progress, /) -> bool: ...
    def report(self, received: LSN, confirmed: LSN, /) -> None: ...


class Confirmation:
    """The positions of one connection that are received, durable, recorded and confirmed."""

    def __init__(
        self,
        *,
        wire: Wire,
        assembler: Assembler,
        progress: Progress,
        record: Callable[[LSN], Future[LSN]],
        interval: float,
    ) -> None:
        """``record`` has a position committed; ``interval``: seconds between reports at most."""
        self._wire = wire
        self._assembler = assembler
        self._progress = progress
        self._record = record
        self._interval = interval
        self._recording: Future[LSN] | None = None
        self._rests_from = progress.recorded
        self._rests: deque[float] = deque()
        self._reported = (progress.received, progress.recorded)
        self._reported_at = 0.0

    # -- read ----------------------------------------------------------------------------------

    def may_read(self) -> bool:
        """Return whether reading on can confirm nothing that is not recorded."""
        return self._wire.may_read(self._progress)

    @property
    def urgent(self) -> bool:
        """Whether the log is read on only once the pending changes are durable and recorded."""
        return self._wire.needs_record(self._progress)

    def mark_read(self, heard: LSN) -> None:
        """Note how far the server has sent, and which transaction is open, after each read."""
        begin = self._assembler.open_transaction
        self._progress.open_commit = None if begin is None else begin.final_lsn
        self._progress.mark_received(heard)

    # -- durable -------------------------------------------------------------------------------

    def mark_committed(self, end_lsn: LSN, *, recorded: bool) -> None:
        """Note that a batch is committed, with its position unless it had nothing to write."""
        self._progress.mark_durable(end_lsn)
        if recorded:
            self._progress.mark_recorded(end_lsn)

    def mark_empty(self, end_lsn: LSN) -> None:
        """Note that a transaction ended with nothing of ours, and nothing before it waits."""
        self._progress.mark_durable(end_lsn)

    def mark_idle(self) -> None:
        """Note that nothing of the log is pending or in flight."""
        if self._assembler.verified:
            self._progress.mark_idle()

    # -- recorded ------------------------------------------------------------------------------

    @property
    def recording(self) -> list[Future[Any]]:
        """The position that is being recorded, as a list of at most one."""
        return [self._recording] if self._recording is not None else []

    def mark_recorded(self) -> bool:
        """Take in what has been recorded; return whether nothing is being recorded any more."""
        if self._recording is not None and self._recording.done():
            recording, self._recording = self._recording, None
            self._progress.mark_recorded(recording.result())
        return self._recording is None

    def record(self, *, at_least: int = RECORD_STEP) -> None:
        """Record the durable position, if it is so many bytes ahead, or reading on depends on
        it."""
        if self._recording is not None or not self._assembler.verified:
            return
        unrecorded = self._progress.unrecorded_bytes()
        if unrecorded >= at_least or (unrecorded and self.urgent):
            self._recording = self._record(self._progress.durable)

    def record_rest(self, now: float) -> None:
        """Record the rest behind much progress, at its times; ``now`` in monotonic seconds."""
        recorded = self._progress.recorded
        if recorded - self._rests_from >= SEGMENT:
            self._rests_from = recorded
            self._rests = deque(now + seconds for seconds in REST_SECONDS)
        if self._rests and now >= self._rests[0]:
            self._rests.popleft()
            self.record(at_least=1)

    # -- confirmed -----------------------------------------------------------------------------

    def tell(self, now: float, *, at_once: bool = False) -> None:
        """Report to the server the received position, and the recorded one up to which it may
        forget the log.

        It does so if there is news, if it is time, or ``at_once``; ``now`` in monotonic seconds.
        """
        confirmable = self._progress.confirmable() if self._assembler.verified else ZERO
        positions = (self._progress.received, confirmable)
        age = now - self._reported_at
        news = positions != self._reported and age >= REPORT_SECONDS
        if news or at_once or age >= self._interval:
            self._wire.report(*positions)
            self._reported, self._reported_at = positions, now
