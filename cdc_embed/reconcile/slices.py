"""Rows of the source compared with what is stored, slice by slice: for reconcile and verify.

Scans, waits and hands over; it decides nothing. The first slice waits until every transaction has
ended that was running when the touched keys began to be remembered: what an earlier process
received, or this one before, could not be known otherwise.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as NotYetError
from dataclasses import dataclass
from threading import Event
from typing import Final, TypeVar

from cdc_embed.change.action import Row
from cdc_embed.change.document import Key, Table
from cdc_embed.flow.lane import Examined, Lane, Slice
from cdc_embed.source.rows import RowReader, Scan
from cdc_embed.target.ledger import Ledger

SLICE_ROWS: Final = 1000
SLICE_CHARACTERS: Final = 4 << 20
POLL_SECONDS: Final = 0.5
PATIENT_SECONDS: Final = 0.05
BLOCKED_SECONDS: Final = 0.25
"""Between two looks at whether transactions have ended."""


T = TypeVar("T")


class StoppedError(Exception):
    """The connection or the service ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """One table to be kept equal, and where its vectors are."""

    table: Table
    space: int


class SliceReader:
    """Reads rows of the source and has them compared: what backfill and verify share."""

    def __init__(
        self,
        *,
        lane: Lane,
        rows: RowReader,
        ledger: Ledger,
        wal_end: Callable[[], int],
        stop: Event,
        rows_per_second: int,
    ) -> None:
        self._wal_end = wal_end
        self._lane = lane
        self._rows = rows
        self._stop = stop
        self._rate = rows_per_second
        self.ledger = ledger
        self.waiting_for = ""
        """Whom the first slice waits for; for ``status``."""

    def begin(self, on_wait: Callable[[str], None]) -> None:
        """Remember from here on what the log touches, and wait for what it touched before.

        ``on_wait`` hears whose transactions are waited for.
        """
        self._lane.remember_touched()
        before = self._rows.next_xid()
        while (snapshot := self._rows.snapshot()).xmin < before:
            self._lane.drop_seen(snapshot)  # it may be long, and as much is written meanwhile
            self.waiting_for = ", ".join(self._rows.running_before(before)) or "a transaction"
            on_wait(self.waiting_for)
            self.pause(BLOCKED_SECONDS)
        self.waiting_for = ""

    def end(self) -> None:
        self._lane.forget_touched()

    def scan(self, table: Table, after: Key | None) -> Iterator[tuple[Scan, Key | None]]:
        """The table's rows in the order of the key, with the key after which the next begin."""
        most = min(SLICE_ROWS, self._rate) or SLICE_ROWS
        while True:
            began = time.monotonic()
            found = self._rows.scan(table, after, most, SLICE_CHARACTERS)
            if found is None:  # rewritten or truncated meanwhile: what was read may be nothing
                self.pause(PATIENT_SECONDS)
                continue
            if found.rows:
                after = next(reversed(found.rows))
                yield found, after
            if not found.more:
                return
            if self._rate:
                spent = time.monotonic() - began
                self.pause(max(0.0, len(found.rows) / self._rate - spent))

    def orphans(self, table: Table, after: Key | None) -> Iterator[tuple[Scan, Key | None]]:
        """Stored keys that the source has no row for, in the order of the target."""
        while keys := self.ledger.stored_keys(table, after, SLICE_ROWS):
            after = keys[-1]
            yield self._gone(table, keys), after
        letters = self.ledger.letter_keys(table)
        for start in range(0, len(letters), SLICE_ROWS):
            yield self._gone(table, letters[start : start + SLICE_ROWS]), after

    def _gone(self, table: Table, keys: Collection[Key]) -> Scan:
        return self._insist(lambda: self._rows.gone(table, keys))

    def look(self, table: Table, keys: Collection[Key]) -> Scan:
        """Some rows by key."""
        return self._insist(lambda: self._rows.look(table, keys))

    def _insist(self, read: Callable[[], Scan | None]) -> Scan:
        """Read until the table is not rewritten meanwhile."""
        while (found := read()) is None:
            self.pause(PATIENT_SECONDS)
        return found

    def distrust(self, table: Table) -> None:
        """From here on nothing that was known of the table's stored rows before proves anything."""
        self._wait(self._lane.distrust(table))

    def examine(
        self, table: Table, scan: Scan, *, repair: bool, sample: bool = False, retry: bool = False
    ) -> Iterator[Examined]:
        """Have rows compared, in parts when they are many; ``hidden`` ones are left out."""
        rows: Mapping[Key, Row | None] = scan.rows
        while rows:
            part = Slice(
                table=table,
                rows=rows,
                snapshot=scan.snapshot,
                repair=repair,
                sample=sample,
                retry=retry,
            )
            examined = self._wait(self._lane.submit(part))
            yield examined
            rows = examined.rest

    def examine_all(
        self, table: Table, scan: Scan, *, repair: bool, sample: bool = False, retry: bool = False
    ) -> Iterator[Examined]:
        """The same, but hidden rows are read again until none is."""
        while True:
            hidden: set[Key] = set()
            for examined in self.examine(table, scan, repair=repair, sample=sample, retry=retry):
                hidden |= examined.hidden
                yield examined
            if not hidden:
                return
            self.pause(PATIENT_SECONDS)
            scan = self.look(table, hidden)

    def wait_until_durable(self) -> None:
        """Until the target reflects everything that was committed until now."""
        end = self._wal_end()
        while self._lane.durable < end:
            self.pause(PATIENT_SECONDS)

    @property
    def lane(self) -> Lane:
        return self._lane

    def pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise StoppedError

    def _wait(self, answer: "Future[T]") -> T:
        while True:
            try:
                return answer.result(POLL_SECONDS)
            except NotYetError:
                self.pause(0)
            except CancelledError:
                raise StoppedError from None
