"""The number of texts that one call of the embedder carries, configured, then learned.

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
FORGET_CALLS: Final = 16
"""The good calls after which a size that was too large is tried again, or ``FORGET_SECONDS`` if
they come first. A size that still is too large is tried after twice as many."""
MOST_CALLS: Final = 4096


class CallSize:
    """Learns from every call; for several threads.

    A failure (a timeout, an answer 5xx) halves the next calls, and each success makes them larger,
    half the way to what failed. A failure right after another one teaches no size, because the
    service can still be at work on the call before.
    """

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._lock = Lock()
        self._now = most
        self._too_many: list[tuple[int, frozenset[int]]] = []
        """The calls of several texts that were too large, as their number and the texts' hashes."""
        self._characters = inf
        """The characters of one call, once so many were refused in fewer texts than were taken."""
        self.is_failing = False
        """Whether the last call failed."""
        self._failed_at = -inf
        self._largest = 0
        """The largest number that was taken."""
        self._tried_number = 0
        self._tried_characters = 0.0
        """The limits that are tried again now."""
        self._good = 0
        """The good calls since a call was too large, or since a size was tried again."""
        self._enough = FORGET_CALLS

    @property
    def now(self) -> int:
        """The number of texts in the next call."""
        return self._now

    def head(self, texts: Sequence[str]) -> int:
        """Return how many of the first texts the next call carries, one at least."""
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
            self.is_failing = False
            count = len(texts)
            self._largest = max(self._largest, count)
            self._good += 1
            if 0 < self._tried_number <= count:  # it has passed
                self._too_many.clear()
                self._tried_number, self._enough = 0, FORGET_CALLS
            if 0 < self._tried_characters < sum(map(len, texts)):
                self._tried_characters, self._enough = 0.0, FORGET_CALLS
            if self._is_time():
                self._try_again()
            if count >= self._now:
                top = self._top()
                self._now = max(1, min(top, 2 * count, (count + top + 1) // 2))

    def mark_failed(self, texts: Sequence[str]) -> None:
        """Note a call that got no answer, or 5xx. A call of a single text teaches no size."""
        with self._lock:
            count = len(texts)
            self._now = max(1, min(self._now, count // 2))
            if count == 1:
                self._too_many.clear()
            elif not self.is_failing:
                self._note(texts)
            self.is_failing = True

    def refused(self, texts: Sequence[str], *, in_doubt: bool = False) -> None:
        """Note a call that was refused although each of its texts was taken in a smaller one.

        ``in_doubt``: the refusal teaches no size if so many texts were taken before.
        """
        with self._lock:
            count = len(texts)
            if count > self._largest:
                self._note(texts)
                self._now = min(self._now, self._largest or count // 2)
            elif not in_doubt:  # it is not their number
                self._note(())
                self._characters = min(self._characters, sum(map(len, texts)) // 2)

    def has_taken(self, count: int) -> bool:
        """Return whether so many texts were taken once."""
        return count <= self._largest

    def forget(self) -> None:
        """Forget the too large calls that have no more texts than one that was taken, because one
        of several servers was bad."""
        with self._lock:
            self._too_many = [call for call in self._too_many if call[0] > self._largest]
            self._characters = inf
            self._now = max(self._now, self._largest)

    def blamed(self, text: str) -> None:
        """Note that a text fails alone, and forget the calls that failed with it, because they
        teach no size."""
        with self._lock:
            self._too_many = [call for call in self._too_many if hash(text) not in call[1]]
            self._now = max(self._now, min(self._top(), self._largest))

    def _note(self, texts: Sequence[str]) -> None:
        """Note texts that were too many; a limit that was tried again is tried more rarely."""
        if self._tried_number or self._tried_characters:
            self._enough = min(2 * self._enough, MOST_CALLS)
        self._tried_number, self._tried_characters, self._good = 0, 0.0, 0
        self._failed_at = self._clock()
        if texts:
            call = len(texts), frozenset(map(hash, texts))
            self._too_many = [*self._too_many[1 - MOST_FAILURES :], call]

    def _is_time(self) -> bool:
        """Return whether there are limits, and they are to be tried again."""
        long = self._clock() - self._failed_at > FORGET_SECONDS
        limited = bool(self._too_many) or self._characters < inf
        return limited and (long or self._good >= self._enough)

    def _try_again(self) -> None:
        """Lift the smallest number that was too large, and the limit of characters."""
        self._good, self._failed_at = 0, self._clock()
        if self._too_many:
            smallest = min(self._too_many, key=itemgetter(0))
            self._too_many.remove(smallest)
            self._tried_number = smallest[0]
        if self._characters < inf:
            self._tried_characters, self._characters = self._characters, inf

    def _top(self) -> int:
        """Return the largest number that was not too large."""
        return min([self._most, *(count - 1 for count, _ in self._too_many)])
