"""What the server is told: recorded first, then confirmed. The one line that confirms is here.

Progress that no batch recorded is recorded in steps, or when reading on depends on it; the server
hears of what is recorded, on our own clock. When something is durable is the loop's to know.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, Protocol

from cdc_embed.change.transaction import Assembler
from cdc_embed.lsn import LSN, ZERO, Progress

RECORD_STEP: Final = 1 << 20
"""Bytes of log without anything to write that are recorded in one step: a row for each idle
keepalive would write log of its own, for ever."""
SEGMENT: Final = 16 << 20
"""Bytes of one file of the log."""
REST_SECONDS: Final = (2.0, 4.0, 8.0, 16.0, 32.0)
"""After how long the rest behind a segment's worth of steps is recorded too. The server lets files
go only up to where it last noted its running transactions, once that is confirmed, and it notes
them within 15 s: without this a large load would be kept for as long as nothing else is written.
A few times and no more, because each writes log of its own."""
REPORT_SECONDS: Final = 0.25
"""How soon news is reported to the server."""


class Frames(Protocol):
    """The part of the stream that the loop needs."""

    exposed: LSN
    sentinel: Any

    @property
    def unguarded(self) -> bool: ...
    @property
    def heard(self) -> LSN: ...
    @property
    def silence(self) -> float: ...
    def read(self) -> Any: ...
    def report(self, received: LSN, confirmed: LSN) -> None: ...
    def check_sentinel(self) -> None: ...


class Reporter:
    """Records and reports the progress of one connection."""

    def __init__(
        self,
        *,
        stream: Frames,
        assembler: Assembler,
        progress: Progress,
        record: Callable[[LSN], Future[LSN]],
        interval: float,
    ) -> None:
        self._stream = stream
        self._assembler = assembler
        self._progress = progress
        self._record = record
        self._interval = interval
        self._recording: Future[LSN] | None = None
        self._let_go = progress.recorded
        self._rests: deque[float] = deque()
        self._reported = (progress.received, progress.recorded)
        self._reported_at = 0.0

    @property
    def recording(self) -> list[Future[Any]]:
        """What is being recorded right now."""
        return [self._recording] if self._recording is not None else []

    def settle(self) -> bool:
        """Take in what has been recorded; whether nothing is being recorded any more."""
        if self._recording is not None and self._recording.done():
            recording, self._recording = self._recording, None
            self._progress.record(recording.result())
        return self._recording is None

    def record(self, *, at_least: int) -> None:
        """Record progress that no batch recorded: in steps, or when reading depends on it."""
        if self._recording is not None or not self._assembler.verified:
            return
        progress = self._progress
        exposed = not progress.is_recorded(self._stream.exposed)
        gated = self._stream.unguarded and self._assembler.open_transaction is not None
        unrecorded = progress.unrecorded_bytes()
        if unrecorded >= at_least or (unrecorded and (exposed or gated)):
            self._recording = self._record(progress.durable)

    def record_rest(self, now: float) -> None:
        """Record the rest behind much progress, at its times; ``now`` in monotonic seconds."""
        recorded = self._progress.recorded
        if recorded - self._let_go >= SEGMENT:
            self._let_go = recorded
            self._rests = deque(now + seconds for seconds in REST_SECONDS)
        if self._rests and now >= self._rests[0]:
            self._rests.popleft()
            self.record(at_least=1)

    def tell(self, now: float, *, force: bool = False) -> None:
        """Tell the server what was received and what it may forget, when there is news or it is
        time; ``now`` in monotonic seconds."""
        confirmable = self._progress.confirmable() if self._assembler.verified else ZERO
        positions = (self._progress.received, confirmable)
        age = now - self._reported_at
        news = positions != self._reported and age >= REPORT_SECONDS
        if news or force or age >= self._interval:
            self._stream.report(*positions)
            self._reported, self._reported_at = positions, now
