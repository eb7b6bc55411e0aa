"""The first calls of an embedder, one for documents, one for a question, before it is relied upon.

They show whether there is one usable vector for each text, in the order of the texts, whether
different texts get different vectors, and whether the end of a text as long as the window counts.
Otherwise the model cuts long texts. ``flow`` checks each later answer, as far as one can tell.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Final

import numpy as np

from cdc_embed.config.sections import EmbedderConfig
from cdc_embed.embed.base import PROBE, Embedder, ModelCard, Vectors
from cdc_embed.embed.make import make_embedder
from cdc_embed.errors import (
    CdcEmbedError,
    EmbedderError,
    EmbedderUnavailableError,
    TextRefusedError,
    UnusableAnswerError,
)

EQUAL_COSINE: Final = 0.999
"""The least cosine of two vectors of one text, because hardware and batches change the last
digits."""

_OTHER = "A letter from Oslo says that the invoices of the past year are due by the end of March."
_ORDER = (PROBE, PROBE, _OTHER, PROBE, _OTHER)
"""The texts in an order that no other one equals, whether turned around, shifted or sorted."""
_WORDS = ("town", "road", "tree", "fish", "boat", "door", "hand", "bird", "rain", "lake", "farm")
"""The words that are one token each for nearly every tokenizer, all of the same number of bytes."""
_LAST_WORD, _OTHER_LAST_WORD = "snow", "gold"
_END: Final = 64
"""The last of so many parts of a long text is the end, which two of them differ in."""
_NOISE: Final = 1e-6
_LOCAL_TOKENS: Final = 1024
"""A model in this process says itself how much it takes, and would need gigabytes to show it."""
_PART_OF_A_MINUTE: Final = 4
"""The part of a minute's tokens, and so of one call's, that a long text has at most, as one in so
many."""
_LENGTHS: Final = 16
"""The lengths that are tried at once to find the one at which a service cuts."""

_SERVICE_HINT = (
    "check embedder.url, embedder.model and what else the service wants in embedder.document_body "
    "and embedder.query_body, then run: cdc-embed doctor"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """An embedder that was tried, so that its card has the canary."""

    card: ModelCard
    largest: int = 1
    """The largest number of texts that one call is known to carry."""
    unproven: str = ""
    """The fact that the calls could not show; empty if they showed all."""
    way_out: str = ""
    """The way to make it true."""


def try_out(embedder: Embedder, config: EmbedderConfig) -> Tried:
    """Call an embedder for documents and for a question; return its card with the canary.

    Raises EmbedderUnavailableError if it is away, and EmbedderError for an answer that no waiting
    makes right.
    """
    try:  # first, because it tells the width, and long texts use up a minute's tokens
        embedder.embed_query(_OTHER)
    except (TextRefusedError, UnusableAnswerError) as exc:
        if isinstance(exc, TextRefusedError) and config.kind == "http" and config.dimensions:
            _expect_dimensions_taken(config, exc)
        problem = f"a question is not embedded: {exc.fields['problem']}"
        raise EmbedderError(problem=problem, hint=_SERVICE_HINT) from exc
    return _Trial(embedder, embedder.describe()).try_out()


def _expect_dimensions_taken(config: EmbedderConfig, error: TextRefusedError) -> None:
    """Raise if it is the number of dimensions that a service refuses."""
    other = make_embedder(config.model_copy(update={"dimensions": 0}))
    try:
        width = len(other.embed_query(PROBE))
    except CdcEmbedError:
        return
    finally:
        other.close()
    have = "have that many" if width == config.dimensions else f"have {width}"
    raise EmbedderError(
        problem=f"{error.fields['problem']}; without embedder.dimensions it answers, and its "
        f"vectors {have}",
        hint="set embedder.dimensions = 0",
    ) from error


class _Trial:
    def __init__(self, embedder: Embedder, card: ModelCard) -> None:
        self._embedder = embedder
        self._card = card

    def try_out(self) -> Tried:
        longs = long_texts(self._card)
        try:
            vectors = _embed_together(self._embedder, self._card, (*_ORDER, *longs))
        except UnusableAnswerError as exc:
            raise EmbedderError(problem=exc.fields["problem"], hint=_SERVICE_HINT) from exc
        except TextRefusedError:
            return self._run_apart(longs)
        except EmbedderUnavailableError as exc:
            if not exc.reason:  # it was not too much for the service
                raise
            return self._run_apart(longs)
        return replace(self._tried(vectors, longs), largest=min(len(vectors), self._card.max_texts))

    def _run_apart(self, longs: Sequence[str]) -> Tried:
        """Find out whether any text fails, or so many texts, or so long ones."""
        try:
            self._embedder.embed([PROBE])
        except TextRefusedError as exc:
            raise EmbedderError(problem=exc.fields["problem"], hint=_SERVICE_HINT) from exc
        vectors = self._embed(_ORDER)
        try:
            vectors = np.concatenate([vectors, *(self._embed([text]) for text in longs)])
        except TextRefusedError as exc:
            raise self._too_long(longs[0], exc) from exc
        except EmbedderUnavailableError as exc:
            if not exc.reason:
                raise
            tried = self._tried(vectors, ())
            return replace(
                tried,
                unproven=f"whether long texts are cut is not known: {exc}",
                way_out="see whether the service answers long texts within embedder.timeout",
            )
        return self._tried(vectors, longs)

    def _tried(self, vectors: Vectors, longs: Sequence[str]) -> Tried:
        expect_sound(vectors[: len(_ORDER)])
        self._expect_whole(longs, vectors)
        card = replace(self._card, canary=vectors[0])
        if not card.estimates:
            return Tried(card=card)
        return Tried(
            card=card,
            unproven="the service cuts long texts without an error, and their tokens are estimated "
            "(3 bytes each), but a text of many numbers or symbols can have more",
            way_out="set embedder.tokenizer, or have the service refuse them (TEI: "
            "--auto-truncate false)",
        )

    def _embed(self, texts: Sequence[str]) -> Vectors:
        return embed_in_parts(self._embedder, self._card, texts)

    def _expect_whole(self, longs: Sequence[str], vectors: Vectors) -> None:
        """Raise if the model does not see the end of a long text."""
        noise = max(_NOISE, 2 * _distance(vectors[0], vectors[1]))  # two vectors of one text
        if not longs or _distance(vectors[-2], vectors[-1]) > noise:
            return
        words = self._cut_length(longs[0], vectors[-2], noise)
        start = " ".join(longs[0].split()[:words])
        tokens, cut = self._card.count_tokens([longs[0], start])
        raise EmbedderError(
            problem=f"it cuts long texts: the end of a text of {tokens} tokens does not change the "
            f"vector; about {cut} tokens ({words} words) count",
            hint=f"set embedder.window to {cut} or less; or have the service take longer texts",
        )

    def _cut_length(self, text: str, whole: Vectors, noise: float) -> int:
        """Return the number of words, about, after which further ones do not change the vector."""
        words = text.split()
        low, high = 0, len(words)  # the vector is not yet that of the whole; it is
        while high - low > max(1, high // 256):
            step = max(1, (high - low) // _LENGTHS)
            lengths = range(low + step, high, step)
            starts = [" ".join(words[:length]) for length in lengths]
            same = [_distance(v, whole) <= noise for v in self._embed(starts)]
            first = same.index(True) if True in same else len(same)
            low, high = [low, *lengths][first], [*lengths, high][first]
        return high if high - low == 1 else low

    def _too_long(self, text: str, error: TextRefusedError) -> EmbedderError:
        """Return the error of a model that refuses a text of the window's length."""
        tokens = self._card.count_tokens([text])[0]
        words = text.split()
        length = len(words) // 2
        while length > 1 and not self._takes(" ".join(words[:length])):
            length //= 2
        taken = self._card.count_tokens([" ".join(words[:length])])[0]
        return EmbedderError(
            problem=f"it refuses a text of {tokens} tokens, which it is to take: "
            f"{error.fields['problem']}",
            hint=f"set embedder.window to the {taken} tokens that it takes",
        )

    def _takes(self, text: str) -> bool:
        try:
            self._embedder.embed([text])
        except TextRefusedError:
            return False
        return True


def embed_in_parts(embedder: Embedder, card: ModelCard, texts: Sequence[str]) -> Vectors:
    """Embed texts together, or in halves if they are too many for one call.

    Raises what the call for one text raises.
    """
    try:
        return _embed_together(embedder, card, texts)
    except (TextRefusedError, EmbedderUnavailableError) as exc:
        reason = isinstance(exc, TextRefusedError) or exc.reason
        if len(texts) < 2 or not reason:
            raise
    middle = len(texts) // 2
    halves = (texts[:middle], texts[middle:])
    return np.concatenate([embed_in_parts(embedder, card, half) for half in halves])


def _embed_together(embedder: Embedder, card: ModelCard, texts: Sequence[str]) -> Vectors:
    """Embed texts in as few calls as the card allows."""
    parts: list[list[str]] = [[]]
    tokens = 0
    for text, count in zip(texts, card.count_tokens(list(texts)), strict=True):
        full = len(parts[-1]) >= card.max_texts
        if parts[-1] and (full or tokens + count > (card.max_tokens or inf)):
            parts.append([])
            tokens = 0
        parts[-1].append(text)
        tokens += count
    return np.concatenate([embedder.embed(part) for part in parts])


def expect_sound(vectors: Vectors) -> None:
    """Raise unless the vectors of ``_ORDER`` are those of different texts, and in order."""
    first = [_ORDER.index(text) for text in _ORDER]
    if _distance(vectors[0], vectors[2]) <= _NOISE:
        raise EmbedderError(problem="it gives different texts the same vector", hint=_SERVICE_HINT)
    if not all(cosine(vectors[n], vectors[m]) >= EQUAL_COSINE for n, m in enumerate(first)):
        raise EmbedderError(
            problem="its vectors are not in the order of the texts, or it gives one text different "
            "vectors",
            hint=_SERVICE_HINT,
        )


def long_texts(card: ModelCard) -> tuple[str, ...]:
    """Return two texts of the window's length that differ in the end alone; none without a
    window."""
    room = (card.max_tokens or 0) // _PART_OF_A_MINUTE
    window = min(filter(None, (card.window, room)), default=0)
    if not card.paid:
        window = min(window, _LOCAL_TOKENS)

    def fits(words: int) -> bool:
        return max(card.count_tokens([*_pair(words)])) <= window

    low, high = 0, window  # a word has a token at least, and with the hash embedder no other
    if window and fits(window):
        low = window
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return _pair(low) if low else ()


def _pair(words: int) -> tuple[str, str]:
    end = -(-words // _END)
    start = [_WORDS[(7 * n + n // len(_WORDS)) % len(_WORDS)] for n in range(words - end)]
    first = " ".join([*start, *[_LAST_WORD] * end])
    return first, " ".join([*start, *[_OTHER_LAST_WORD] * end])


def cosine(one: Vectors, other: Vectors) -> float:
    """Return the cosine of the angle between two vectors."""
    first, second = one.astype(np.float64), other.astype(np.float64)
    return float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))


def _distance(one: Vectors, other: Vectors) -> float:
    """Return the length of the difference, as a part of the first vector's length."""
    first = one.astype(np.float64)
    return float(np.linalg.norm(first - other) / np.linalg.norm(first))
