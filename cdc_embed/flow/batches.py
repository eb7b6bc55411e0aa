"""Batches from their dispatch to their commit, in the order of the log.

One worker prepares a batch (look up, decide, embed) while another writes the one before; one at a
time each, so a plan always rests on what every batch before it makes of its rows. What is pending
waits here too, because a batch can turn out to be worth only a part of what it was given.

A batch keeps its events until it is committed. When it cannot be written as it was prepared, it and
all behind it are prepared again, in place. The plans are dropped, and the vectors are kept.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import dropwhile
from typing import Any, Final

import structlog

from cdc_embed.change.knowledge import Knowledge
from cdc_embed.change.pending import LaterChanges, Pending
from cdc_embed.flow.examine import Examiner, Extract
from cdc_embed.flow.facts import BatchFacts
from cdc_embed.flow.going_on import OthersBehind
from cdc_embed.flow.hot_rows import HotRows
from cdc_embed.flow.in_flight import CommittedBatch, InFlight
from cdc_embed.flow.lane import Lane
from cdc_embed.flow.limits import Limits
from cdc_embed.flow.prepare import Preparer, Range, rows_of
from cdc_embed.flow.supply import Prepared
from cdc_embed.flow.writing import OutdatedPlanError, Writer
from cdc_embed.lsn import LSN
from cdc_embed.target.write import dropped

LARGEST_BATCH: Final = 4 << 20
"""The bytes of changes in one batch. Several batches are in flight at once."""
COPIES: Final = 3
"""The times that a batch's text is in memory (its changes, its chunks, the statement)."""
NEAR_THE_END: Final = 256
"""The number of pending changes up to which the stream counts as near the end of the log."""
STARVING_SECONDS: Final = 2.0
"""The seconds after which rows that were read have their turn, however much of the log waits."""
WRITE_QUEUE: Final = 2
"""The number of prepared batches that can wait for the writer."""
MOST_ATTEMPTS: Final = 20
"""The attempts at one batch that can be in vain. After them something outside must change what is
stored, or keep it from changing, so the table is left out for a while if the next start does not
get further."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """The three objects that work on batches beside the loop, of one connection."""

    preparer: Preparer
    examiner: Examiner
    writer: Writer


class Batches:
    """Everything pending and in flight on one connection. For the loop's thread alone."""

    def __init__(
        self,
        *,
        workers: Workers,
        lane: Lane,
        limits: Limits,
        wake: Callable[[], None],
    ) -> None:
        self._limits = limits
        self._clock = limits.clock
        self._workers = workers
        self._lane = lane
        self._wake = wake
        self.pending = Pending()
        self.draining = False
        """Whether nothing new is dispatched any more."""
        self.reads_on = True
        """Whether reading on is safe, and there is a connection; else both wait for the texts in
        flight."""
        self.full = False
        """Whether memory is full and the log is not read on, so that nobody knows what waits
        there."""
        self._knowledge = Knowledge()
        self._in_flight: deque[InFlight] = deque()
        self._generation = 1
        self._carried = BatchFacts()
        """The facts of a batch that was cut shorter, for the events that went back."""
        self._hot = HotRows()
        self._take = limits.first_take
        self._logs_turn = False
        self._examined_at = self._clock()
        self._lingers_since: float | None = None
        self._prepare = ThreadPoolExecutor(1, thread_name_prefix="prepare")
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
        """The bytes that are held by pending changes, and by the copies of those in flight."""
        return self.pending.size + COPIES * sum(flight.size for flight in self._in_flight)

    def oldest(self) -> float | None:
        """Return the Unix time of the oldest commit that is not reflected, or None."""
        for flight in self._in_flight:
            if flight.oldest is not None:
                return flight.oldest
        return _unix(self.pending.oldest)

    def record_progress(self, lsn: LSN) -> Future[LSN]:
        """Have the writer record progress that no batch records, after the batches that are being
        written."""
        recording: Future[LSN] = self._submit(
            self._write, self._workers.writer.record_progress, lsn
        )
        return recording

    def working(self) -> list[Future[Any]]:
        """Return what the workers have not ended."""
        futures: list[Future[Any]] = [f.preparing for f in self._in_flight if f.preparing]
        return futures + [f.writing for f in self._in_flight if f.writing is not None]

    def close(self) -> None:
        """Wait until the workers have ended their work, then release them."""
        self._prepare.shutdown(wait=True, cancel_futures=True)
        self._write.shutdown(wait=True, cancel_futures=True)

    def _submit(self, executor: ThreadPoolExecutor, call: Callable[..., Any], *args: Any) -> Any:
        future = executor.submit(call, *args)
        future.add_done_callback(lambda _: self._wake())
        return future

    # -- what the workers have finished ----------------------------------------------------------

    def collect(self) -> Iterator[CommittedBatch]:
        """Take in what the workers have finished; yield what is committed, in order."""
        for flight in self._in_flight:
            if flight.preparing is not None and flight.preparing.done():
                prepared, flight.preparing = flight.preparing.result(), None
                if not flight.outdated:
                    self._prepared(flight, prepared)
                flight.outdated = False
        while self._in_flight:
            flight = self._in_flight[0]
            if flight.prepared is None or flight.writing is None or not flight.writing.done():
                break
            try:
                written = flight.writing.result()
            except OutdatedPlanError as exc:
                self._prepare_again(exc)
                break
            self._in_flight.popleft()
            self._knowledge.committed()
            yield CommittedBatch(prepared=flight.prepared, written=written, offer=flight.offer)

    def _prepared(self, flight: InFlight, prepared: Prepared) -> None:
        flight.prepared = prepared
        if isinstance(flight.work, Range) and not flight.work.whole:
            self._fit(flight, flight.work, prepared)
        self._knowledge.planned(prepared.plan.outcome())
        if flight.offer is not None and prepared.plan.defers:
            self._lane.deferrals += 1
        write = self._workers.writer.write
        flight.writing = self._submit(self._write, write, prepared, self._generation)

    def _fit(self, flight: InFlight, work: Range, prepared: Prepared) -> None:
        """Take in how much of a range was worth a batch, and which rows it left out."""
        changes = prepared.plan.batch.changes
        used, rest = work.events[: prepared.used], work.events[prepared.used :]
        # prepared again, it must leave out the same rows, because the rest is not among its events
        # then
        later, rows = LaterChanges(rest), rows_of(used)
        flight.work = replace(
            work,
            events=used,
            replaced=work.replaced | {row for row in rows if later.replaces(row)},
            needed=work.needed | {row for row in rows if later.needs(row)},
            whole=True,
        )
        flight.size = prepared.plan.batch.size
        if rest:
            self.pending.put_back(rest)
            self._carried = flight.facts.of(rest)
            self._take = max(self._limits.first_take, 2 * changes)
        else:
            self._take = min(self._limits.largest_take, max(self._take, 2 * changes))
        self._hot.mark(prepared.plan, self._clock())

    def _prepare_again(self, outdated: OutdatedPlanError) -> None:
        """Drop every plan, because the oldest cannot be written; each flight keeps its facts."""
        head = self._in_flight[0]
        head.facts.refused_rows |= outdated.letters
        head.attempts += not outdated.letters
        if head.attempts == MOST_ATTEMPTS:
            problem = f"its rows were not as they were written before, {MOST_ATTEMPTS} times"
            raise dropped(outdated.embedding_table, problem)
        log.info("batch is prepared again", attempt=head.attempts, refused=len(outdated.letters))
        self._generation += 1
        self._knowledge.replan(head.rows())
        for flight in self._in_flight:
            flight.prepared = flight.writing = None
            flight.outdated = flight.preparing is not None

    # -- dispatch ------------------------------------------------------------------------------

    def dispatch(self, now: float, *, urgent: bool, hurry: bool) -> None:
        """Give the preparing worker its next batch, if it is free; ``now`` in monotonic seconds.

        ``urgent``: the log is not read on before the pending changes are durable, and rows that
        were read wait with them. ``hurry``: nothing lingers.
        """
        if any(flight.preparing for flight in self._in_flight):
            return
        again = next((flight for flight in self._in_flight if flight.prepared is None), None)
        if again is not None:
            self._start(again)
            return
        if self.draining or len(self._in_flight) > WRITE_QUEUE:
            return
        self._lane.pass_trust(self._knowledge.trust)
        if self._lane.distrusts:
            if not self._in_flight:
                self._lane.settle_distrust(self._knowledge.distrust)
            return
        if not urgent and self._may_examine(now):
            self._dispatch_slice()
        elif self.pending and not self._must_linger(now, hurry=hurry):
            self._dispatch_range(now)

    def _may_examine(self, now: float) -> bool:
        """Return whether a slice has its turn, which is when little of the log waits, or now and
        then."""
        if not self._lane.waiting:
            return False
        if now - self._examined_at > STARVING_SECONDS:
            return True
        return not self.pending or (not self._logs_turn and self.pending.changes < NEAR_THE_END)

    def _must_linger(self, now: float, *, hurry: bool) -> bool:
        if not self._limits.linger or hurry:
            return False
        if self._lingers_since is None:
            self._lingers_since = now
        return now - self._lingers_since < self._limits.linger

    def _dispatch_slice(self) -> None:
        offer, hidden = self._lane.next_slice() or (None, frozenset())
        if offer is None:
            return
        self._logs_turn = True
        self._examined_at = self._clock()
        work = Extract(slice=offer.slice, hidden=hidden)
        self._add(InFlight(work=work, facts=offer.slice.embedded or BatchFacts(), offer=offer))

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
            replaced=frozenset(row for row in rows if later.replaces(row)),
            needed=frozenset(needed),
        )
        facts, self._carried = self._carried, BatchFacts()
        size = sum(event.size for event in events)
        at = _unix(oldest) or time.time()
        self._add(InFlight(work=work, facts=facts, size=size, oldest=at))

    def _add(self, flight: InFlight) -> None:
        self._in_flight.append(flight)
        self._start(flight)

    def _start(self, flight: InFlight) -> None:
        """Have a batch prepared upon those before it, which are all planned."""
        if isinstance(flight.work, Range):
            prepare: Callable[..., Prepared] = self._workers.preparer.prepare
            basis = self._knowledge.basis(flight.rows())
        else:
            prepare = self._workers.examiner.examine
            basis = self._knowledge.basis(flight.rows(), cached=False)
        work = replace(flight.work, others_wait=self._others_behind(flight))
        flight.preparing = self._submit(self._prepare, prepare, work, basis, flight.facts)

    def _others_behind(self, flight: InFlight) -> OthersBehind:
        """Return the function that tells whether something else than new rows waits behind it.

        In an outage a slice is given back, because its reader has more to do.
        """
        behind = dropwhile(lambda other: other is not flight, self._in_flight)
        others = any(other.has_others for other in behind if other is not flight)
        is_slice = flight.offer is not None

        def others_wait(*, outage: bool) -> bool:
            if others or not self.reads_on:
                return True
            if is_slice:
                return outage or self.pending.changes > 0
            return self.pending.others > 0 or (outage and (self.full or self._lane.waits))

        return others_wait


def _unix(committed_at: datetime | None) -> float | None:
    return None if committed_at is None else committed_at.timestamp()
