"""The texts of one batch on their way to vectors, and the vectors that are remembered beyond it.

Values and queues only, for several threads at once. ``embedding`` calls the model and decides.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import inf
from threading import Event, Lock
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdc_embed.embed.base import CALL, Call
from cdc_embed.errors import EmbedderUnavailableError
from cdc_embed.flow.call_size import CallSize

Refusal = tuple[str, str]
"""The (reason, error) of a dead letter."""
KEPT_BYTES: Final = 16 << 20


class Wanted(NamedTuple):
    """A chunk to embed."""

    digest: bytes
    text: str
    tokens: int


@dataclass(slots=True)
class Embedded:
    """Vectors and refusals, by chunk hash."""

    vectors: dict[bytes, NDArray[np.float32]] = field(default_factory=dict)
    refused: dict[bytes, Refusal] = field(default_factory=dict)
    untaken: dict[bytes, str] = field(default_factory=dict)
    """The chunks that the embedder did not take, with its words."""
    away: bool = False
    """Whether it took nothing at all meanwhile, so that the texts are not to blame."""


class Run:
    """The texts of a batch, with those that no worker has taken, and what came of the others."""

    def __init__(
        self,
        wanted: Sequence[Wanted],
        result: Embedded,
        size: CallSize,
        *,
        workers: int,
        most_tokens: int | None,
    ) -> None:
        """``workers`` share the texts; no call has more than ``most_tokens``; None is no limit."""
        self._wanted = sorted(wanted, key=lambda each: len(each.text))
        self._taken = 0
        self._size = size
        self._most = -(-len(wanted) // workers)
        self._most_tokens = most_tokens or inf
        self._lock = Lock()
        self._unsettled = {each.digest for each in wanted}
        self._failed: set[tuple[bytes, int]] = set()
        """The calls that failed, by the first text and the number of texts."""
        self.result = result
        self.over = Event()
        """Whether nobody waits for its texts any more."""
        self.calling: list[Call] = []
        """The calls of each worker that has texts, the one that began first first."""
        self.problem = ""
        """The last failure."""
        self.failing = False
        """Whether the last call failed, and no other has begun since."""
        self.settled = 0
        """The number of texts that are settled."""

    @property
    def calls(self) -> int:
        """The number of calls, as far as the size of one is known."""
        return -(-len(self._wanted) // min(self._most, self._size.now))

    @property
    def held(self) -> bool:
        """Whether our own rate limit alone holds its texts back."""
        calls = list(self.calling)
        return bool(calls) and all(call.held for call in calls)

    def place(self) -> int:
        """Return how many workers, which are still at work, began before this one."""
        return [call is CALL.get() for call in self.calling].index(True)

    def next_texts(self) -> Sequence[Wanted]:
        """Return the texts of the next call, of similar lengths; none when all are taken."""
        with self._lock:
            if self.over.is_set():
                return ()
            end = self._taken + min(self._most, self._size.now)
            most = self._wanted[self._taken : end]
            count = self._size.head([each.text for each in most]) if most else 0
            tokens = accumulate(each.tokens for each in most[:count])
            count = sum(total <= self._most_tokens for total in tokens)
            self._taken += count
            return most[:count]

    def embedded(self, vectors: Mapping[bytes, NDArray[np.float32]]) -> bool:
        """Take vectors in; return false if nobody waits for them any more."""
        with self._lock:
            if self.over.is_set():
                return False
            self.result.vectors |= vectors
            self._settle(vectors)
            return True

    def refuse(self, digest: bytes, refusal: Refusal) -> None:
        """Take in that a text is to blame."""
        with self._lock:
            if not self.over.is_set():
                self.result.refused[digest] = refusal
                self._settle([digest])

    def leave(self, digest: bytes, problem: str) -> None:
        """Take in that a text is not taken, while others are."""
        with self._lock:
            if not self.over.is_set():
                self.result.untaken[digest] = problem
                self._settle([digest])

    def mark_failed(self, failure: EmbedderUnavailableError) -> None:
        """Note a failure that is waited out."""
        self.problem, self.failing = str(failure), True

    def fails_again(self, head: Sequence[Wanted]) -> bool:
        """Note that the service fails at these texts; return whether it did so before."""
        with self._lock:
            again = self.has_failed(head)
            self._failed.add((head[0].digest, len(head)))
            return again

    def has_failed(self, head: Sequence[Wanted]) -> bool:
        """Return whether it was noted that the service fails at these texts."""
        return (head[0].digest, len(head)) in self._failed

    def give_up(self, *, away: bool) -> None:
        """Leave the texts that are not settled."""
        with self._lock:
            self.over.set()
            problem = self.problem or "no answer yet"
            self.result.untaken |= dict.fromkeys(self._unsettled, problem)
            self.result.away = away
            # a call that hangs keeps its own texts only, and work that is not begun none
            self._wanted, self._unsettled, self.result = [], set(), Embedded()

    def _settle(self, digests: Iterable[bytes]) -> None:
        self._unsettled.difference_update(digests)
        self.settled += 1


class Kept:
    """The vectors of texts that nobody waited for any more. They are asked for again soon."""

    def __init__(self, dimensions: int) -> None:
        self._most = max(1, KEPT_BYTES // (4 * dimensions))
        self._lock = Lock()
        self._vectors: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()
        self._coming: dict[bytes, int] = {}

    def keep(self, vectors: Mapping[bytes, NDArray[np.float32]]) -> None:
        """Keep vectors, the newest ones if they are many."""
        with self._lock:
            self._vectors.update(vectors)
            while len(self._vectors) > self._most:
                self._vectors.popitem(last=False)

    def pop_vectors(self, digests: Iterable[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """Return the kept vectors of these chunks, and keep them no longer."""
        with self._lock:
            return {d: self._vectors.pop(d) for d in digests if d in self._vectors}

    def expect(self, digests: Iterable[bytes]) -> None:
        """Note that a call with these chunks is still being answered."""
        with self._lock:
            for digest in digests:
                self._coming[digest] = self._coming.get(digest, 0) + 1

    def ended(self, digests: Iterable[bytes]) -> None:
        """Note that such a call has ended."""
        with self._lock:
            for digest in digests:
                if self._coming.get(digest, 0) > 1:
                    self._coming[digest] -= 1
                else:
                    self._coming.pop(digest, None)

    def coming(self, digests: Iterable[bytes]) -> list[bytes]:
        """Return those chunks that an unanswered call has."""
        with self._lock:
            return [digest for digest in digests if digest in self._coming]
