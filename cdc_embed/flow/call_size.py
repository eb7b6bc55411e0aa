"""The number of texts that one call of the embedder carries: configured, then learned.

Services take different numbers of texts, of tokens, of seconds, and rarely say so before. A call
that is too large is tried again with half its texts; what was learned holds for every later call.
"""

import time
from collections.abc import Callable, Sequence
from math import inf
from operator import itemgetter
from threading import Lock
from typing import Final

MOST_FAILURES: Final = 32
FORGET_SECONDS: Final = 600.0
FORGET_CALLS: Final = 8
"""After so long, or so many good calls, a size that failed is tried again, because load passes; if
it fails again, after twice as many."""
MOST_CALLS: Final = 4096


class CallSize:
    """Learns from every call; for several threads.

    A failure (a timeout, an answer 5xx) halves the next calls, and each success makes them larger,
    half the way to what failed. A failure behind another one says nothing of its size, because the
    service can still be at work on the call before, which nobody waits for any more. A number of
    texts that was refused is never tried again.
    """

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._lock = Lock()
        self._now = most
        self._failures: list[tuple[int, frozenset[str]]] = []
        """The calls of several texts that failed: their number, and the texts."""
        self._failing = False
        """The last call failed."""
        self._tried_again = 0
        """The size that failed, and is tried again."""
        self._good = 0
        """The good calls since the last failure, or since a size was tried again."""
        self._enough = FORGET_CALLS
        self._failed_at = -inf
        self._largest = 0
        """The largest number that was taken."""
        self._characters = inf
        """The characters of one call, once so many were refused in fewer texts than were taken."""

    @property
    def now(self) -> int:
        """The number of texts in the next call."""
        return self._now

    def head(self, texts: Sequence[str]) -> int:
        """Return how many of the first texts the next call carries: one at least."""
        with self._lock:
            count, characters = 1, len(texts[0])
            for text in texts[1 : self._now]:
                characters += len(text)
                if characters > self._characters:
                    break
                count += 1
            return count

    def succeeded(self, texts: Sequence[str]) -> None:
        """Note a call that was answered."""
        with self._lock:
            self._failing = False
            count = len(texts)
            self._largest = max(self._largest, count)
            if count < self._now:
                return
            self._good += 1
            if 0 < self._tried_again <= count:  # it was load, and has passed
                self._failures.clear()
                self._tried_again, self._enough = 0, FORGET_CALLS
            elif self._failures and self._is_time():
                smallest = min(self._failures, key=itemgetter(0))
                self._failures.remove(smallest)
                self._tried_again, self._good = smallest[0], 0
            top = self._top()
            self._now = max(1, min(top, 2 * count, (count + top + 1) // 2))

    def failed(self, texts: Sequence[str]) -> None:
        """Note a call that got no answer, or 5xx; one of a single text says nothing of sizes."""
        with self._lock:
            count = len(texts)
            self._now = max(1, min(self._now, count // 2))
            if count == 1:
                self._failures.clear()
            elif not self._failing:
                if self._tried_again:
                    self._enough = min(2 * self._enough, MOST_CALLS)
                self._tried_again = 0
                self._failures = [*self._failures[1 - MOST_FAILURES :], (count, frozenset(texts))]
            self._failing, self._good = True, 0
            self._failed_at = self._clock()

    def blamed(self, text: str) -> None:
        """Note that a text fails alone: the calls that failed with it say nothing of sizes."""
        with self._lock:
            self._failures = [failure for failure in self._failures if text not in failure[1]]
            self._now = max(self._now, min(self._top(), self._largest))

    def _is_time(self) -> bool:
        """Return whether a size that failed is to be tried again."""
        long = self._clock() - self._failed_at > FORGET_SECONDS
        return long or self._good >= self._enough

    def _top(self) -> int:
        """Return the largest number that neither failed nor was refused."""
        return min([self._most, *(count - 1 for count, _ in self._failures)])

    def refused(self, texts: Sequence[str]) -> None:
        """Note a call that was refused although each of its texts was taken in a smaller one."""
        with self._lock:
            count = len(texts)
            if count <= self._largest:  # so it is not their number
                self._characters = min(self._characters, sum(map(len, texts)) // 2)
                return
            self._most = min(self._most, count - 1)
            self._now = min(self._now, self._largest or count // 2)
