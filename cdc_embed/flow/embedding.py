"""The way from texts to vectors, through every failure of the embedder.

Takes the distinct texts of a batch and returns a vector or a refusal for each. Transient failures
are waited out, with fewer texts if they can be too many; a refused call is bisected until the text
that is to blame stands alone; before it is blamed, a known-good one must succeed, or it is the
service that is ill and not the text. A text at which the service fails is blamed after a minute.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from math import inf
from threading import Lock
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdc_embed.embed.base import PROBE, Embedder, ModelCard, Vectors, check_vectors
from cdc_embed.errors import (
    CdcEmbedError,
    EmbedderError,
    EmbedderUnavailableError,
    TextRefusedError,
)
from cdc_embed.flow.call_size import CallSize
from cdc_embed.flow.patience import Patience
from cdc_embed.metrics import Metrics

MOST_LETTERS_IN_A_ROW: Final = 25
"""After so many refusals without one success it is the configuration, not the texts."""

BATCH_SECONDS: Final = 0.5
"""Seconds that one batch should take to embed: long enough for efficiency, short enough for fresh
vectors."""
FIRST_CHARACTERS_PER_SECOND: Final = 20_000.0

Refusal = tuple[str, str]
"""(reason, error) of a dead letter."""
REFUSED: Final = "refused"
STRIKES: Final = 3
STRIKES_SECONDS: Final = 60.0
"""So often, over so long, the service must fail at a text, and be well with a known-good one."""
TOO_LONG: Final = "too_long"


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
        self,
        embedder: Embedder,
        card: ModelCard,
        patience: Patience,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._embedder = embedder
        self._card = card
        self._patience = patience
        self._metrics = metrics
        self._executor = ThreadPoolExecutor(card.concurrency, thread_name_prefix="embed")
        self._letters_in_a_row = 0
        self._outages = 0
        """The number of times that even the known-good text was refused."""
        self._clock = clock
        self._size = CallSize(card.max_texts, clock=clock)
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
        wanted = self._refuse_long(texts, result)
        if not wanted:
            return result
        began = time.perf_counter()
        waiting = _Waiting(wanted, self._size, self._card)
        work = partial(self._work, waiting, result)
        if waiting.calls == 1:
            work()
        else:
            workers = min(waiting.calls, self._card.concurrency)
            for future in [self._executor.submit(work) for _ in range(workers)]:
                future.result()
        characters = sum(len(each.text) for each in wanted)
        self.rate.measured(characters, time.perf_counter() - began)
        self._count(result, again=again)
        return result

    def _refuse_long(self, texts: dict[bytes, str], result: Embedded) -> list[Wanted]:
        """Refuse texts that are longer than the window, because the model would cut them, or than
        a call can be; return the others."""
        counts = self._card.count_tokens(list(texts.values()))
        if self._card.meter is None:
            self._metrics.embedded_tokens(sum(counts))
        most = min(self._card.window or inf, self._card.max_tokens or inf)
        wanted = []
        for (digest, text), tokens in zip(texts.items(), counts, strict=True):
            if tokens > most:
                problem = f"{tokens} tokens, at most {most} are taken; nothing was cut off"
                result.refused[digest] = (TOO_LONG, problem)
            else:
                wanted.append(Wanted(digest, text, tokens))
        return wanted

    def _work(self, waiting: "_Waiting", result: Embedded) -> None:
        while part := waiting.take():
            self._embed_part(part, result)

    def _embed_part(self, wanted: Sequence[Wanted], result: Embedded) -> None:
        """Embed texts in one call, or in more if it turns out that they are too many."""
        while wanted:
            wanted = wanted[self._embed_head(wanted, result) :]

    def _embed_head(self, wanted: Sequence[Wanted], result: Embedded) -> int:
        """Embed the first texts; return for how many it is settled."""
        texts = [each.text for each in wanted]
        strikes = _Strikes(self._clock)
        try:
            vectors = self._patience.keep_trying("embed", partial(self._attempt, texts, strikes))
        except _RefusedCallError as refused:
            if refused.texts == 1:
                result.refused[wanted[0].digest] = refused.refusal
            else:
                self._embed_halves(wanted[: refused.texts], result)
            return refused.texts
        for each, vector in zip(wanted, vectors, strict=False):
            result.vectors[each.digest] = vector
        return len(vectors)

    def _embed_halves(self, wanted: Sequence[Wanted], result: Embedded) -> None:
        """Find out whether one of these texts was refused, or their number; not while the service
        refuses what it has taken before."""
        outages = self._outages
        middle = len(wanted) // 2
        self._embed_part(wanted[:middle], result)
        self._embed_part(wanted[middle:], result)
        taken = all(each.digest in result.vectors for each in wanted)
        if taken and self._outages == outages:
            self._size.refused([each.text for each in wanted])

    def _attempt(self, texts: list[str], strikes: "_Strikes") -> Vectors:
        """Try once, the first of some texts; blame a single text only if the service is well.

        When it is not, that is a passing failure. Once it is, the text gets another chance: the
        service can have recovered between the two.
        """
        head = texts[: self._size.head(texts)]
        try:
            vectors = self._call(head)
        except TextRefusedError as exc:
            if len(head) > 1:
                raise _RefusedCallError(len(head), exc) from exc
        except EmbedderUnavailableError as exc:
            if exc.reason:
                well = len(head) == 1 and self._is_well()
                if not well:  # else it is this text, and no matter of sizes
                    self._size.failed(head)
                if strikes.out(well=well):
                    self._size.blamed(head[0])
                    raise _RefusedCallError(1, exc, exc.reason) from exc
            raise
        else:
            self._size.succeeded(head)
            return vectors
        self._probe()
        try:
            return self._call(head)
        except TextRefusedError as exc:
            raise _RefusedCallError(1, exc) from exc

    def _is_well(self) -> bool:
        """Return whether a text that is known to be good is embedded now."""
        try:
            self._call([PROBE])
        except (EmbedderUnavailableError, TextRefusedError):
            return False
        return True

    def _probe(self) -> None:
        """Raise ``EmbedderUnavailableError`` if a text that is known to be good is refused, too."""
        try:
            self._call([PROBE])
        except TextRefusedError as exc:
            self._outages += 1
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


class _Waiting:
    """The texts of a batch that no worker has taken: texts of similar lengths go together."""

    def __init__(self, wanted: Sequence[Wanted], size: CallSize, card: ModelCard) -> None:
        self._wanted = sorted(wanted, key=lambda each: len(each.text))
        self._taken = 0
        self._size = size
        self._most = -(-len(wanted) // card.concurrency)
        self._most_tokens = card.max_tokens or inf
        self._lock = Lock()

    @property
    def calls(self) -> int:
        """The number of calls, as far as the size of one is known."""
        return -(-len(self._wanted) // min(self._most, self._size.now))

    def take(self) -> Sequence[Wanted]:
        """Return the texts of the next call; none when all are taken."""
        with self._lock:
            end = self._taken + min(self._most, self._size.now)
            most = self._wanted[self._taken : end]
            count = self._size.head([each.text for each in most]) if most else 0
            tokens = accumulate(each.tokens for each in most[:count])
            count = sum(total <= self._most_tokens for total in tokens)
            self._taken += count
            return most[:count]


class _RefusedCallError(Exception):
    """So many texts were refused together, or one alone."""

    def __init__(self, texts: int, error: CdcEmbedError, reason: str = REFUSED) -> None:
        super().__init__(str(error))
        self.texts = texts
        self.refusal: Refusal = (reason, str(error))


class _Strikes:
    """The failures of the service at one text, while it was well with another one."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._count = 0
        self._since = 0.0

    def out(self, *, well: bool) -> bool:
        """Count a failure; return whether the text is to blame. An outage begins the count anew."""
        if not well:
            self._count = 0
            return False
        if not self._count:
            self._since = self._clock()
        self._count += 1
        return self._count >= STRIKES and self._clock() - self._since >= STRIKES_SECONDS
