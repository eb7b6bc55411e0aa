"""The calls of the embedder. Each is measured, and its outcome is noted for all batches.

The number of calls at once is learned as the number of their texts is (``call_size``).
"""

import time
from collections import deque
from collections.abc import Callable
from threading import Event
from typing import Final

from cdc_embed.embed.base import (
    CALL,
    TIMEOUT,
    Call,
    CalledOffError,
    Embedder,
    ModelCard,
    Vectors,
    check_vectors,
    is_known_good,
)
from cdc_embed.errors import EmbedderUnavailableError, TextRefusedError
from cdc_embed.flow.answers import Answers
from cdc_embed.flow.call_size import CallSize
from cdc_embed.metrics import Metrics

LOOK_SECONDS: Final = 0.1
"""The time between two looks whether a call would be one too many."""
QUICK: Final = 0.1
"""The part of a timeout in which an answer came if it is not the size of a call that is slow."""
QUICK_SECONDS: Final = 60.0
"""The seconds for which it is remembered that a call was answered so quickly."""
MOST_REMEMBERED: Final = 16
"""The good calls whose seconds are remembered."""


class Calls:
    """Makes calls, for several threads."""

    def __init__(
        self,
        embedder: Embedder,
        card: ModelCard,
        answers: Answers,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._embedder = embedder
        self._dimensions = card.dimensions
        self._answers = answers
        self._metrics = metrics
        self._clock = clock
        self._number = CallSize(card.concurrency, clock=clock)
        self._took: deque[tuple[int, float, float]] = deque(maxlen=MOST_REMEMBERED)
        """The texts and the seconds of the last good calls, and their times."""
        self._overload: EmbedderUnavailableError | None = None
        """The last failure that told of too many calls."""

    @property
    def at_once(self) -> int:
        """The number of calls at once that are taken."""
        return self._number.now

    def expect_time(self, place: int = 0) -> None:
        """Raise an earlier failure if it is not time for a call, or if so many calls of a batch are
        before this one that it is one too many."""
        if self._overload is not None and place >= self.at_once:
            raise self._overload.at_another_time(LOOK_SECONDS)
        self._answers.expect_time()

    def make(self, texts: list[str]) -> Vectors:
        """Call the embedder once, and check the answer; raise CalledOffError if nobody waits for it
        any more before it is sent."""
        call = CALL.get() or Call(Event())
        call.texts = texts
        self._answers.begin(call)
        number = self._answers.sent
        try:
            vectors = self._embed(texts)
        except CalledOffError:
            self._answers.not_sent()
            raise
        except EmbedderUnavailableError as exc:
            exc.hangs = exc.reason == TIMEOUT and self.is_hanging(call, self._clock())
            self._answers.mark_failed(exc, call.sent_at, () if exc.of_known_good else texts)
            raise
        except TextRefusedError as exc:
            self._note_refusal(texts, exc, call.sent_at)
            raise
        else:
            self._answers.took(call.sent_at, texts)
            now = self._answers.taken_at
            self._took.append((len(texts), now - call.sent_at, now))
            # those that are refused meanwhile were too many
            self._number.succeeded([""] * min(number, self._answers.sent, self.at_once))
        finally:
            call.texts = ()
            self._answers.end(call)
        return vectors

    def is_hanging(self, call: Call, now: float) -> bool:
        """Return whether a call waits ten times as long as its texts take, as others of at least
        half as many were answered, so that one server of several hangs."""
        texts = len(call.texts)
        most, since = QUICK * (now - call.sent_at), now - QUICK_SECONDS
        return any(
            at > since and 2 * count >= texts and seconds * max(1.0, texts / count) < most
            for count, seconds, at in list(self._took)
        )

    def can_be_fewer(self, failure: EmbedderUnavailableError) -> bool:
        """Make fewer calls at once after a failure that tells of too many; return false if it tells
        nothing of them, or if the call was alone."""
        if not failure.overloaded:
            return False
        self._overload, number = failure, self._answers.sent + 1
        self._number.mark_failed([""] * number)
        return number > 1

    def _note_refusal(self, texts: list[str], refused: TextRefusedError, began: float) -> None:
        if is_known_good(texts):
            problem = f"it refuses even a text that is known to be good: {refused}"
            self._answers.mark_failed(EmbedderUnavailableError(problem=problem), began)
        else:
            self._answers.refused()

    def _embed(self, texts: list[str]) -> Vectors:
        began = time.perf_counter()
        outcome = "failed"
        try:
            vectors = self._embedder.embed(texts)
            check_vectors(vectors, len(texts), self._dimensions)
            outcome = "ok"
        except CalledOffError:
            outcome = ""
            raise
        except EmbedderUnavailableError:
            outcome = "unavailable"
            raise
        except TextRefusedError:
            outcome = "refused"
            raise
        finally:
            if outcome:
                self._metrics.embed_requests.labels(outcome).inc()
                self._metrics.embed_request_duration.observe(time.perf_counter() - began)
                self._metrics.embed_batch_documents.observe(len(texts))
        self._metrics.embed_texts.labels("model").inc(len(texts))
        return vectors
