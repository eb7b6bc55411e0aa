"""An embedder that is compared with itself after each outage.

While a service is away, another model can take its place behind the same name. So after a failure
the known-good text goes with the next call, and its vector must be the canary's. One that was away
at the start is tried out when it is back. Nothing is returned, and so nothing is written, before
that is known.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Lock

from cdc_embed.embed.base import PROBE, Embedder, ModelCard, Vectors
from cdc_embed.embed.trial import EQUAL_COSINE, Tried, cosine
from cdc_embed.errors import (
    EmbedderUnavailableError,
    OtherModelError,
    TextRefusedError,
    UnusableAnswerError,
)


class WatchedEmbedder:
    """Passes every call on to another embedder, which was tried."""

    def __init__(
        self, embedder: Embedder, tried: Tried, trial: Callable[[], Tried] | None = None
    ) -> None:
        """``trial`` is still to be made; the card then has the canary that is stored."""
        self._embedder = embedder
        self._card = tried.card
        self._trial = trial
        self._trying = Lock()
        self._lock = Lock()
        self._failures = 0
        self._failing = False
        """Whether the last call failed."""
        self._compared = 0
        """The failures after which the canary was the same."""
        self._busy_only = True
        """Whether all failures since then were those of a rate limit."""
        self._largest = tried.largest
        """The largest number of texts that one call has carried."""

    def describe(self) -> ModelCard:
        """Return the card, with the canary."""
        return self._card

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors of documents; raise OtherModelError after an outage, if the model is
        another one."""
        self.expect_tried()
        failures = self._failures
        suspect = failures > self._compared
        room = len(texts) < self._largest and not self._card.max_tokens
        asked = [*texts, PROBE] if suspect and room and PROBE not in texts else list(texts)
        try:
            vectors = self._embedder.embed(asked)
            probed = PROBE in asked
            # a rate limit would refuse one call more, each time, and the vectors would be lost
            postponed = suspect and not probed and self._busy_only
            if suspect and not postponed:
                self._expect_same(vectors[asked.index(PROBE)] if probed else self._probe_twice())
        except TextRefusedError:
            self._failing = False  # it is there
            raise
        except EmbedderUnavailableError as exc:
            with self._lock:
                # one of several servers can be broken, and the call after it reaches another
                self._failures += self._failing or not isinstance(exc, UnusableAnswerError)
                self._failing = True
                self._busy_only = self._busy_only and exc.overloaded and not exc.reason
            raise
        with self._lock:
            self._failing = False
            self._largest = max(self._largest, len(texts))
            if not postponed:
                self._compared = max(self._compared, failures)
                self._busy_only = self._busy_only or self._compared == self._failures
        return vectors[: len(texts)]

    @property
    def tried(self) -> bool:
        """Whether it was tried out."""
        return self._trial is None

    def expect_tried(self) -> None:
        """Try it out, if that could not be done at the start; raise what ``try_out`` raises, and
        OtherModelError."""
        with self._trying:
            if self._trial is None:
                return
            try:
                canary = self._trial().card.canary
            except EmbedderUnavailableError as exc:
                # nothing has worked yet, so it is told at once
                exc.lasts = exc.of_known_good = True
                raise
            if canary is not None:
                self._expect_same(canary)
            self._trial = None

    def embed_query(self, text: str) -> Vectors:
        """Return the vector of one search text."""
        return self._embedder.embed_query(text)

    def close(self) -> None:
        """Close the embedder."""
        self._embedder.close()

    def _probe_twice(self) -> Vectors:
        """Return the known-good text's vector, from another server if one of several is bad."""
        with suppress(EmbedderUnavailableError):
            return self._probe()
        return self._probe()

    def _probe(self) -> Vectors:
        try:
            vector: Vectors = self._embedder.embed([PROBE])[0]
        except TextRefusedError as exc:
            failure = EmbedderUnavailableError(problem=exc.fields["problem"])
            failure.of_known_good = True
            raise failure from exc
        except EmbedderUnavailableError as exc:
            exc.of_known_good = True
            raise
        return vector

    def _expect_same(self, vector: Vectors) -> None:
        canary = self._card.canary
        if canary is None:
            return
        found = cosine(vector, canary)
        if found < EQUAL_COSINE:
            raise OtherModelError(model=self._card.identity, cosine=f"{found:.3f}")
