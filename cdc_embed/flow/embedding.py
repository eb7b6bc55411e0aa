"""The way from texts to vectors, through every failure of the embedder.

Takes the distinct texts of a batch and returns a vector or a refusal for each. Transient failures
are waited out and never become a refusal; a refused call is bisected until the text that is to
blame stands alone; before it is blamed, a known-good one must succeed, or it is the service that
is ill and not the text.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cdc_embed.embed.base import Embedder, ModelCard, Vectors, check_vectors
from cdc_embed.errors import EmbedderError, EmbedderUnavailableError, TextRefusedError
from cdc_embed.flow.patience import Patience
from cdc_embed.metrics import Metrics

PROBE: Final = "The quick brown fox jumps over the lazy dog."
MOST_LETTERS_IN_A_ROW: Final = 25
"""After so many refusals without one success it is the configuration, not the texts."""

BATCH_SECONDS: Final = 0.5
"""Seconds that one batch should take to embed: long enough for efficiency, short enough for fresh
vectors."""
FIRST_CHARACTERS_PER_SECOND: Final = 20_000.0

Refusal = tuple[str, str]
"""(reason, error) of a dead letter."""
REFUSED: Final = "refused"
TOO_LONG: Final = "too_long"


@dataclass(slots=True)
class Embedded:
    """Vectors and refusals, by chunk hash."""

    vectors: dict[bytes, NDArray[np.float32]] = field(default_factory=dict)
    refused: dict[bytes, Refusal] = field(default_factory=dict)


class Rate:
    """The measured speed of the embedder, in characters a second."""

    def __init__(self) -> None:
        self._per_second = FIRST_CHARACTERS_PER_SECOND

    def measured(self, characters: int, seconds: float) -> None:
        if characters and seconds > 0:
            self._per_second += 0.3 * (characters / seconds - self._per_second)

    @property
    def characters_per_batch(self) -> float:
        return self._per_second * BATCH_SECONDS


class EmbeddingRunner:
    """Runs one embedder for one service."""

    def __init__(
        self, embedder: Embedder, card: ModelCard, patience: Patience, metrics: Metrics
    ) -> None:
        self._embedder = embedder
        self._card = card
        self._patience = patience
        self._metrics = metrics
        self._executor = ThreadPoolExecutor(card.concurrency, thread_name_prefix="embed")
        self._letters_in_a_row = 0
        self.rate = Rate()

    @property
    def least_texts(self) -> int:
        """The number of texts that a batch can always hold: fewer would not make a call quicker."""
        return 16 if self._card.concurrency == 1 else self._card.concurrency * 64

    def close(self) -> None:
        """Release the workers; the owner closes the embedder."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def give_up(self) -> None:
        """Make calls that hang return with an error, by closing the embedder."""
        self.close()
        self._embedder.close()

    def embed(self, texts: dict[bytes, str], *, again: bool = False) -> Embedded:
        """Return a vector or a refusal for each text, by its hash.

        ``again``: texts that were refused before, so that it says little if they are still.

        Raises ``EmbedderError`` when a person must act, ``AbandonedError`` when the service stops.
        """
        result = Embedded()
        self._refuse_long(texts, result)
        wanted = [(digest, text) for digest, text in texts.items() if digest not in result.refused]
        if not wanted:
            return result
        began = time.perf_counter()
        slices = _slices(wanted, self._card)
        embed = partial(self._embed_slice, result=result)
        if len(slices) == 1:
            embed(slices[0])
        else:
            for future in [self._executor.submit(embed, part) for part in slices]:
                future.result()
        characters = sum(len(text) for _, text in wanted)
        self.rate.measured(characters, time.perf_counter() - began)
        self._count(result, again=again)
        return result

    def _refuse_long(self, texts: dict[bytes, str], result: Embedded) -> None:
        """Refuse texts that are longer than the window, because the model would cut them."""
        counts = self._card.count_tokens(list(texts.values()))
        self._metrics.embed_tokens.inc(sum(counts))
        for digest, tokens in zip(texts, counts, strict=True):
            window = self._card.window or tokens
            if tokens > window:
                problem = f"{tokens} tokens, at most {window} are taken; nothing was cut off"
                result.refused[digest] = (TOO_LONG, problem)

    def _embed_slice(self, wanted: Sequence[tuple[bytes, str]], *, result: Embedded) -> None:
        texts = [text for _, text in wanted]
        try:
            vectors = self._patience.keep_trying("embed", partial(self._attempt, texts))
        except TextRefusedError as exc:
            if len(wanted) > 1:
                middle = len(wanted) // 2
                self._embed_slice(wanted[:middle], result=result)
                self._embed_slice(wanted[middle:], result=result)
            else:
                result.refused[wanted[0][0]] = (REFUSED, str(exc))
            return
        for (digest, _), vector in zip(wanted, vectors, strict=True):
            result.vectors[digest] = vector

    def _attempt(self, texts: list[str]) -> Vectors:
        """Try once; blame a single text only if the service is well.

        When it is not, that is a passing failure. Once it is, the text gets another chance: the
        service can have recovered between the two.
        """
        try:
            return self._call(texts)
        except TextRefusedError:
            if len(texts) > 1:
                raise
        self._probe()
        return self._call(texts)

    def _probe(self) -> None:
        """Raise ``EmbedderUnavailableError`` if a text that is known to be good is refused, too."""
        try:
            self._call([PROBE])
        except TextRefusedError as exc:
            raise EmbedderUnavailableError(
                problem=f"it refuses even a text that is known to be good: {exc}"
            ) from exc

    def _count(self, result: Embedded, *, again: bool) -> None:
        """Raise after many letters without one success: that is the configuration's fault.

        In which order a batch was tried says nothing: bad texts can be alike, in length as well.
        """
        errors = [error for reason, error in result.refused.values() if reason == REFUSED]
        if result.vectors:
            self._letters_in_a_row = 0
        elif not again:
            self._letters_in_a_row += len(errors)
        if self._letters_in_a_row > MOST_LETTERS_IN_A_ROW:
            raise EmbedderError(
                problem=f"it refused {self._letters_in_a_row} texts in a row, "
                f"the last one so: {errors[-1]}",
                hint="correct the [embedder] section, then run: cdc-embed doctor\n"
                "or, if the texts are to blame, change or delete their rows",
            )

    def _call(self, texts: list[str]) -> Vectors:
        """Call the embedder once; measure and check the answer."""
        began = time.perf_counter()
        outcome = "failed"
        try:
            vectors = self._embedder.embed(texts)
            check_vectors(vectors, len(texts), self._card.dimensions)
            outcome = "ok"
        except EmbedderUnavailableError:
            outcome = "unavailable"
            raise
        except TextRefusedError:
            outcome = "refused"
            raise
        finally:
            self._metrics.embed_requests.labels(outcome).inc()
            self._metrics.embed_request_duration.observe(time.perf_counter() - began)
            self._metrics.embed_batch_documents.observe(len(texts))
        self._metrics.embed_texts.labels("model").inc(len(texts))
        return vectors


def _slices(wanted: list[tuple[bytes, str]], card: ModelCard) -> list[Sequence[tuple[bytes, str]]]:
    """Return calls with texts of similar lengths, as many at once as the embedder takes."""
    ordered = sorted(wanted, key=lambda pair: len(pair[1]))
    spread = -(-len(ordered) // card.concurrency)
    size = max(1, min(card.max_texts, spread))
    return [ordered[at : at + size] for at in range(0, len(ordered), size)]
