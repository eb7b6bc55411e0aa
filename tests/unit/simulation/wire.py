"""The simulated wire: the slot, and what one connection brings of the log."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from cdc_embed.lsn import LSN, ZERO, Progress
from cdc_embed.source.guard import Guard
from cdc_embed.wire.messages import (
    Commit,
    Message,
)
from tests.unit.simulation.data import PARTED
from tests.unit.simulation.source import Source, relations


class Slot:
    """The position from which the server would stream, and that after a crash of its own."""

    def __init__(self, confirmed: LSN) -> None:
        self.confirmed = confirmed
        self.persisted = confirmed

    def confirm(self, lsn: LSN) -> None:
        self.confirmed = max(self.confirmed, lsn)


class Frame(NamedTuple):
    payload: bytes


class Wire:
    """One connection's frames, and the positions that the driver adds (CONTRIBUTING.md, T1)."""

    def __init__(self, source: Source, slot: Slot, recorded: Callable[[], LSN]) -> None:
        self._guard = Guard()
        self.sentinel: Any = None
        self.heard = ZERO
        self.credit = 0
        """Frames that have arrived and may be read."""
        self.pinged = False
        """A keepalive comes before the next frame, be it inside a transaction."""
        self._source = source
        self._slot = slot
        self._recorded = recorded
        self._messages: list[Message] = []
        self._frames = self._deliver(slot.confirmed)
        self._announced: set[int] = set()
        self._sent = slot.confirmed
        self._began = False

    def read(self) -> Frame | None:
        if self.credit == 0:
            return None
        self.credit -= 1
        # the anchor was written before streaming began: it comes before every keepalive
        arrived = None if self.pinged and self._began else next(self._frames)
        self.pinged = False
        if arrived is None:
            self._keepalive()
            return None
        self._began = True
        data_start, message = arrived
        self.heard = data_start or self.heard
        self._guard.mark_read(self.heard, data_start)
        self._messages.append(message)
        return Frame(len(self._messages).to_bytes(4))

    def decode(self, payload: bytes) -> tuple[Message]:
        return (self._messages[int.from_bytes(payload) - 1],)

    def may_read(self, progress: Progress) -> bool:
        return self._guard.may_read(progress)

    def needs_record(self, progress: Progress) -> bool:
        return self._guard.needs_record(progress)

    def report(self, received: LSN, confirmed: LSN) -> None:
        assert confirmed <= self._recorded(), "nothing is confirmed that is not recorded"
        assert confirmed <= received
        self._slot.confirm(confirmed)

    def check_sentinel(self) -> None:
        raise AssertionError("the simulation never waits")

    def _keepalive(self) -> None:
        self.heard = self._sent
        if self._guard.forwards:
            self._slot.confirm(self.heard)
        self._guard.mark_read(self.heard, None)

    def _deliver(self, start: LSN) -> Iterator[tuple[LSN, Message] | None]:
        place = 0
        while True:
            if place == len(self._source.log):
                self._sent = max(self._sent, self._source.wal)
                yield None
                continue
            transaction = self._source.log[place]
            place += 1
            if transaction.commit_lsn < start:
                continue
            self._sent = transaction.commit_lsn
            for data_start, message in transaction.messages:
                for oid in relations(message):
                    if oid not in self._announced:
                        self._announced.add(oid)
                        yield ZERO, self._source.relation(oid)
                yield from self._partition(data_start)
                if isinstance(message, Commit):
                    self._sent = transaction.end_lsn
                yield data_start, message

    def _partition(self, at: LSN) -> Iterator[tuple[LSN, Message]]:
        """Announce a row's partition before its first row, behind the table once more."""
        leaf = self._source.leaves.get(at)
        if leaf is not None and leaf not in self._announced:
            self._announced.add(leaf)
            yield ZERO, self._source.relation(PARTED.oid)
            yield ZERO, self._source.relation(leaf)
