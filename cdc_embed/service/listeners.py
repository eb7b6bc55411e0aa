"""Listeners: functions of the application that are called after each commit in the target.

They run in one thread of their own, in the order of the commits, so that a slow listener delays
neither the stream nor the database. Delivery is at most once: rows that were not told before the
process ends are not told later. A program that must not miss a row reads the target.
"""

import threading
from collections import deque
from collections.abc import Sequence

import structlog

from cdc_embed.flow.telemetry import Committed, Listener
from cdc_embed.metrics import Metrics
from cdc_embed.service.tolerance import USUAL, Tolerance

log = structlog.get_logger()


class Listeners:
    """Calls listeners with the rows of each commit, in order, from one thread.

    A listener that raises does not stop the others or the service: the exception is logged and
    counted (``cdc_embed_listener_errors_total``). While more than ``Tolerance.waiting_rows`` wait,
    the rows of further commits are dropped, logged and counted
    (``cdc_embed_listener_rows_dropped_total``); ``status`` names the listeners under ``waiting``.
    """

    def __init__(
        self, listeners: Sequence[Listener], metrics: Metrics, tolerance: Tolerance = USUAL
    ) -> None:
        self._listeners = tuple(listeners)
        self._tolerance = tolerance
        self._metrics = metrics
        self._changed = threading.Condition()
        self._waiting: deque[Sequence[Committed]] = deque()
        self._rows = 0
        """Rows that wait, or that a listener is being called with."""
        self._dropping = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="listeners", daemon=True)
        if self._listeners:
            self._thread.start()

    def tell(self, committed: Sequence[Committed]) -> None:
        """Have the listeners called with the rows of a commit; never waits."""
        if not self._listeners:
            return
        with self._changed:
            if self._rows < self._tolerance.waiting_rows:
                self._rows += len(committed)
                self._waiting.append(committed)
                self._changed.notify_all()
                return
            begins, self._dropping = not self._dropping, True
        self._metrics.listener_rows_dropped.inc(len(committed))
        if begins:
            most = self._tolerance.waiting_rows
            log.error("listeners are too slow, rows are dropped", waiting=most)

    @property
    def problem(self) -> str:
        """The reason why listeners are behind, for ``status``; empty if rows are not dropped."""
        if not self._dropping:
            return ""
        return f"a listener that is too slow, rows are dropped ({self._rows} wait)"

    @property
    def told(self) -> bool:
        """Whether the listeners have been called with every row that was to be told."""
        return self._rows == 0

    def wait(self, seconds: float) -> bool:
        """Wait until all rows are told, at most so long; returns whether they are."""
        with self._changed:
            return self._changed.wait_for(lambda: self.told, seconds)

    def close(self) -> None:
        """End the thread when the present call returns, and leave rows that wait untold.

        A listener that does not return keeps its thread, which does not keep the process.
        """
        if not self._listeners:
            return
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(self._tolerance.hanging_listener)
        if not self.told:
            log.warning("listeners were not told of every commit", rows=self._rows)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                committed = self._waiting.popleft()
            for listener in self._listeners:
                self._call(listener, committed)
            with self._changed:
                self._rows -= len(committed)
                self._dropping = self._dropping and self._rows >= self._tolerance.waiting_rows
                self._changed.notify_all()

    def _call(self, listener: Listener, committed: Sequence[Committed]) -> None:
        try:
            listener(committed)
        except BaseException:
            log.exception("listener failed", rows=len(committed))
            self._metrics.listener_errors.inc()
