"""The invariant: a slot never confirms more than its committed checkpoint row says.

It has the two positions too, for tests that compare them at one moment. What is stored is compared
in ``oracle``.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple

import psycopg2

from cdc_embed.lsn import LSN, ZERO
from tests.quiet import let_pass
from tests.site import Site

CONFIRMED: Final = "select confirmed_flush_lsn::text from pg_replication_slots where slot_name = %s"
RECORDED: Final = (
    "select greatest(end_lsn, confirmed_lsn)::text from cdc_embed.checkpoint where slot = %s"
)
PERIOD: Final = 0.005
"""Seconds between two samples."""
FEWEST: Final = 10
"""More samples than these make a watch."""
LAST_SECONDS: Final = 30.0
"""Seconds within which a watch that ends must be answered by both sides once more."""


def confirmed(site: Site) -> LSN:
    """Return the position of a site's slot."""
    return LSN.parse(site.value(CONFIRMED, site.name))


def recorded(site: Site) -> LSN:
    """Return the position up to which a site's checkpoint row says that all is reflected."""
    return LSN.parse((site.target or site).value(RECORDED, site.name))


class Violation(NamedTuple):
    at: float
    """Seconds since 1970."""
    confirmed: LSN
    recorded: LSN


@contextmanager
def watched(site: Site, *, last: float = LAST_SECONDS) -> Iterator["Watch"]:
    """Hold a site's slot against its checkpoint all the time; fail if it was ever beyond."""
    watch = Watch(site, last=last)
    watch.start()
    try:
        yield watch
    finally:
        samples = watch.samples
        watch.stop()
    assert watch.failures == [], watch.failures
    assert watch.violations == [], watch.violations[:10]
    assert samples > FEWEST, f"{samples} samples are too few"


class Watch(threading.Thread):
    """Compares the slot with the checkpoint, over and over, whichever server goes and comes back.

    While the target cannot be asked, the highest position of the slot is kept, and held against the
    target's first answer.
    """

    def __init__(self, site: Site, *, replaced: bool = False, last: float = LAST_SECONDS) -> None:
        """Begin to watch with ``start``, and take one more sample within ``last`` seconds of the
        end.

        With ``replaced`` the slot and its row can be absent, because they are made anew.
        """
        super().__init__(name="watch", daemon=True)
        self.violations: list[Violation] = []
        self.failures: list[Exception] = []
        self.samples = 0
        self._replaced = replaced
        self._last = last
        self._slot = _Position(lambda: site.dsn, CONFIRMED, site.name)
        self._checkpoint = _Position(lambda: (site.target or site).dsn, RECORDED, site.name)
        self._highest = ZERO
        """The highest position of the slot since the target's last answer."""
        self._looking = threading.Lock()
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(PERIOD) and not self.failures:
            self._look()
        deadline = time.monotonic() + self._last
        while not self._replaced and not self.failures and not self._look():
            if time.monotonic() > deadline:
                self.failures.append(TimeoutError("the watch could not look any more"))
            let_pass(PERIOD)
        self._slot.close()
        self._checkpoint.close()

    def _look(self) -> bool:
        """Take one sample if both sides answer."""
        try:
            with self._looking:
                return self._sample()
        except (psycopg2.OperationalError, psycopg2.InterfaceError):
            return False
        except (psycopg2.Error, LookupError) as exc:
            if not self._replaced:
                self.failures.append(exc)
            return False

    def _sample(self) -> bool:
        # the slot first: what is recorded later cannot make it look ahead
        self._highest = max(self._highest, self._slot.read())
        recorded = self._checkpoint.read()
        if self._highest > recorded:
            self.violations.append(Violation(time.time(), self._highest, recorded))
        self._highest = ZERO
        self.samples += 1
        return True

    @contextmanager
    def looking_away(self) -> Iterator[None]:
        """While a new slot is made, it and the old position have nothing to do with each other."""
        with self._looking:
            yield
            self._highest = ZERO

    def stop(self) -> None:
        self._ended.set()
        self.join(2 * self._last)
        assert not self.is_alive(), "the watch hangs"


class _Position:
    """One side's position, read over a connection that is made again when it was lost."""

    def __init__(self, dsn: Callable[[], str], statement: str, slot: str) -> None:
        self._dsn = dsn
        self._statement = statement
        self._slot = slot
        self._connection: Any = None

    def read(self) -> LSN:
        try:
            if self._connection is None:
                self._connection = psycopg2.connect(self._dsn(), connect_timeout=2)
                self._connection.autocommit = True
            with self._connection.cursor() as cursor:
                cursor.execute(self._statement, (self._slot,))
                row = cursor.fetchone()
        except psycopg2.Error:
            self.close()
            raise
        if row is None:
            raise LookupError(f"nothing found: {self._statement}")
        return LSN.parse(row[0])

    def close(self) -> None:
        if self._connection is not None:
            with suppress(psycopg2.Error):
                self._connection.close()
            self._connection = None
