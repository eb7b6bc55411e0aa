"""Batches from their dispatch to their commit, in the order of the log.

One worker prepares a batch (look up, decide, embed) while another writes the one before; one at a
time each, so a plan always knows what every batch before it makes of its rows. What is pending
waits here too: a batch may turn out to be worth only a part of what it was given.
"""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from cdc_embed.change.batch import RowId
from cdc_embed.change.knowledge import Knowledge
from cdc_embed.change.pending import Pending
from cdc_embed.change.plan import Supersede
from cdc_embed.flow.lane import Lane, Offer
from cdc_embed.flow.prepare import Extract, Preparer, Range, Ready, rows_of
from cdc_embed.flow.telemetry import Telemetry
from cdc_embed.flow.writing import Writer, Written
from cdc_embed.lsn import LSN, Progress

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


class Batches:
    """What is pending and what is in flight on one connection. For the loop's thread alone."""

    def __init__(
        self,
        *,
        preparer: Preparer,
        writer: Writer,
        lane: Lane,
        progress: Progress,
        telemetry: Telemetry,
        linger: float,
        wake: Callable[[], None],
    ) -> None:
        self._preparer = preparer
        self._writer = writer
        self._lane = lane
        self._progress = progress
        self._telemetry = telemetry
        self._linger = linger
        self._wake = wake
        self.pending = Pending()
        self.draining = False
        """Nothing is dispatched any more."""
        self._knowledge = Knowledge()
        self._in_flight: deque[_InFlight] = deque()
        self._hot = _HotRows()
        self._take = FIRST_TAKE
        self._logs_turn = False
        self._examined_at = time.monotonic()
        self._lingers_since: float | None = None
        self._embed = ThreadPoolExecutor(1, thread_name_prefix="prepare")
        self._write = ThreadPoolExecutor(1, thread_name_prefix="write")

    @property
    def idle(self) -> bool:
        """Whether nothing of the log is pending or in flight."""
        return not self.pending and all(flight.offer for flight in self._in_flight)

    @property
    def in_flight(self) -> bool:
        return bool(self._in_flight)

    @property
    def lingers(self) -> bool:
        """Whether changes wait for others."""
        return self._lingers_since is not None

    @property
    def size(self) -> int:
        """Bytes of changes that are held."""
        return self.pending.size + sum(flight.size for flight in self._in_flight)

    def oldest(self) -> float | None:
        """Unix time of the oldest commit that is not reflected; None when there is none."""
        for flight in self._in_flight:
            if flight.oldest is not None:
                return flight.oldest
        return _unix(self.pending.oldest)

    def record(self, lsn: LSN) -> Future[LSN]:
        """Have progress that no batch recorded committed, behind what is being written."""
        recording: Future[LSN] = self._submit(self._write, self._writer.record, lsn)
        return recording

    def working(self) -> list[Future[Any]]:
        """What the workers have not ended."""
        futures: list[Future[Any]] = [flight.preparing for flight in self._in_flight]
        return futures + [f.writing for f in self._in_flight if f.writing is not None]

    def close(self) -> None:
        """Wait for the workers to end what they do, then let go of them."""
        self._embed.shutdown(wait=True, cancel_futures=True)
        self._write.shutdown(wait=True, cancel_futures=True)

    def _submit(self, executor: ThreadPoolExecutor, call: Callable[..., Any], *args: Any) -> Any:
        future = executor.submit(call, *args)
        future.add_done_callback(lambda _: self._wake())
        return future

    # -- settle --------------------------------------------------------------------------------

    def settle(self) -> None:
        """Take in what the workers have finished, in the order of the log."""
        for flight in self._in_flight:
            if flight.ready is None and flight.preparing.done():
                self._prepared(flight, flight.preparing.result())
        while self._in_flight:
            writing = self._in_flight[0].writing
            if writing is None or not writing.done():
                break
            self._written(self._in_flight.popleft(), writing.result())

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
            self.pending.put_back(ready.rest)
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

    # -- dispatch ------------------------------------------------------------------------------

    def dispatch(self, now: float, *, unguarded: bool, hurry: bool) -> None:
        """Give the preparing worker its next batch, if it is free; ``now`` in monotonic seconds.

        ``unguarded``: reading on waits for what is pending, and rows that were read wait with it.
        ``hurry``: nothing lingers.
        """
        preparing = any(flight.ready is None for flight in self._in_flight)
        if self.draining or preparing or len(self._in_flight) > WRITE_QUEUE:
            return
        if self._lane.distrusts:
            if not self._in_flight:
                self._lane.settle_distrust(self._knowledge.distrust)
            return
        if not unguarded and self._may_examine(now):
            self._examine()
        elif self.pending and not self._must_linger(now, hurry=hurry):
            self._dispatch_range(now)

    def _may_examine(self, now: float) -> bool:
        """Rows that were read come after the log's: when little of it waits, or now and then."""
        if not self._lane.waiting:
            return False
        if now - self._examined_at > STARVING_SECONDS:
            return True
        return not self.pending or (not self._logs_turn and self.pending.changes < NEAR_THE_END)

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

    def _must_linger(self, now: float, *, hurry: bool) -> bool:
        if not self._linger or hurry:
            return False
        if self._lingers_since is None:
            self._lingers_since = now
        return now - self._lingers_since < self._linger

    def _dispatch_range(self, now: float) -> None:
        self._lingers_since = None
        self._logs_turn = False
        oldest = self.pending.oldest
        events = self.pending.take(self._take, LARGEST_BATCH)
        rows = rows_of(events)
        later = self.pending.later
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
            oldest=_unix(oldest) or time.time(),
        )
        self._in_flight.append(flight)


def _unix(committed_at: datetime | None) -> float | None:
    return None if committed_at is None else committed_at.timestamp()
