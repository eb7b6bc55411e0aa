"""Chunks of a long text, with content-defined boundaries and nothing longer than the window.

This module takes a text and a function that counts tokens, and returns the pieces that get a vector
each. It has no model, because the embedder's card gives the window and the counter. It keeps no
earlier versions either. The rule is local, so an edit leaves the distant pieces alone.

The rule: a text is split at its gaps (between paragraphs, lines, sentences, some words). Then the
gaps are closed again, the least important first, wherever both sides together fit the window. The
gaps that stay open are the boundaries. Importance is the kind of gap, then a hash of the text
around it. So a gap depends on gaps of lower rank within a window of it, and these on still lower
ones. Such chains are short, because the hashes are in random order. (Packing from left to right
would move all boundaries after an edit.) No two neighbours fit the window together, so a piece is
more than half full on average, in practice about 0.7.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate, pairwise
from typing import Final
from zlib import crc32

from semantic_text_splitter import TextSplitter

from cdc_embed.change.document import Chunk, fingerprint

CHUNKER_VERSION: Final = 1
"""The chunker's part of the space's identity. Raise it when boundaries move."""

CountTokens = Callable[[Sequence[str]], list[int]]
"""A function that counts the tokens of each text as the model sees it, special tokens and prompt
included."""

_INSIDE, _WORD, _SENTENCE, _LINE, _PARAGRAPH = range(5)  # kinds of gap, by importance

_GAP = re.compile(r"\s+|(?<=[。！？｡])(?![\s。！？｡」』）”’])")
_SENTENCE_END = frozenset(".!?…。！？｡")
_CLOSING = frozenset("\"')]}”’»」』）")

_WORD_CONTEXT = 16  # characters before a gap between words; their hash says whether the gap counts
_RUN = 64  # characters; a shorter word is not split before it is counted
_NEIGHBOURS = 5  # pieces on each side whose hash tells equal pieces apart

_CALL_CHARACTERS = 1 << 20  # of texts in one call; their encoding takes far more memory
_PRIME = (1 << 61) - 1
_BASE = 0x9E3779B97F4A7C15 % _PRIME


class Chunker:
    """Cuts texts into pieces of at most ``window`` tokens. With None every text is one piece."""

    def __init__(self, count_tokens: CountTokens, window: int | None) -> None:
        self._count_tokens = count_tokens
        self.window = window

    def split(self, text: str) -> tuple[Chunk, ...]:
        """Return the text's pieces, in order; a text that fits is one piece, unchanged.

        Between the pieces, before and after them there is only white space. A single character that
        is over the window is a piece of its own, and the embedder refuses it.
        """
        if self.window is None or self._fits(text, self.window):
            return (Chunk(text, 0, len(text), fingerprint(text)),)
        if text.isspace():
            return ()
        grains = _grains(text, self.window // 2)
        spans = self._within(text, grains, self._packed(text, grains, self.window), self.window)
        return tuple(_chunk(text, start, end) for start, end in spans)

    def _fits(self, text: str, window: int) -> bool:
        """Return whether the whole text is within the window.

        A head that is far over the window is proof enough, because a cut adds no more than a word's
        tokens, and the encoding of a text of megabytes would take hundreds of them.
        """
        head = 64 * window + 1024
        if len(text) > 2 * head and self._count_tokens([text[:head]])[0] > 4 * window + 128:
            return False
        return self._count_tokens([text])[0] <= window

    def _packed(self, text: str, grains: "_Pieces", window: int) -> list[tuple[int, int]]:
        """Return ranges of grains whose tokens add up to the window at most."""
        fixed = self._count_tokens([""])[0]  # special tokens and prompt: once in each chunk
        edges = grains.edges
        counts = self._counts([text[edges[n] : edges[n + 1]] for n in range(len(edges) - 1)])
        tokens = list(accumulate((max(1, count - fixed) for count in counts), initial=0))
        cuts = [0, *_open_gaps(grains.ranks, tokens, window - fixed), len(counts)]
        return list(pairwise(cuts))

    def _within(
        self, text: str, grains: "_Pieces", ranges: list[tuple[int, int]], window: int
    ) -> list[tuple[int, int]]:
        """Return the ranges as spans of text, each counted, and cut again while it is over the
        window.

        Some tokenizers give another count for the whole than for its parts. So the sum decides
        where to cut, and the count of the whole decides whether that is enough.
        """
        spans: list[tuple[int, int]] = []
        while ranges:
            ends = [grains.span(text, first, last) for first, last in ranges]
            counts = self._counts([text[start:end] for start, end in ends])
            over: list[tuple[int, int]] = []
            for (first, last), span, count in zip(ranges, ends, counts, strict=True):
                if count <= window:
                    spans.append(span)
                elif last - first == 1:
                    spans.extend(self._finer(text, *span, window))
                else:
                    gap = max(range(first + 1, last), key=lambda g: (grains.ranks[g], g))
                    over += (first, gap), (gap, last)
            ranges = over
        return sorted(spans)

    def _finer(self, text: str, start: int, end: int, window: int) -> Iterator[tuple[int, int]]:
        """Yield spans within the window, of a grain that alone is over it."""

        def count(part: str) -> int:
            return self._count_tokens([part])[0]

        splitter = TextSplitter.from_callback(count, max(1, window), trim=False)
        todo = _parts(splitter, text, start, end)[::-1]
        while todo:
            first, last = _trimmed(text, *todo.pop())
            if last - first > 1 and count(text[first:last]) > window:
                middle = (first + last) // 2
                todo += (middle, last), (first, middle)
            elif first < last:
                yield first, last

    def _counts(self, texts: list[str]) -> list[int]:
        """Return the tokens of each text, counted in calls of bounded size."""
        counts: list[int] = []
        first = characters = 0
        for number, text in enumerate(texts):
            characters += len(text)
            if characters >= _CALL_CHARACTERS:
                counts += self._count_tokens(texts[first : number + 1])
                first, characters = number + 1, 0
        if first < len(texts):
            counts += self._count_tokens(texts[first:])
        return counts


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pieces:
    """A text in pieces: piece n is from edge n to edge n + 1, with the white space after it.

    Gap n is the one before piece n; its rank is its importance. Gap 0 has none.
    """

    edges: Sequence[int]
    ranks: Sequence[int]

    def span(self, text: str, first: int, last: int) -> tuple[int, int]:
        """Return the span of the pieces from ``first`` up to ``last``, without white space around
        it."""
        return _trimmed(text, self.edges[first], self.edges[last])


def _grains(text: str, size: int) -> _Pieces:
    """Return the text in pieces of about ``size`` characters, small enough to pack and few enough
    to count.

    It closes only gaps that packing would close in any case, so the chunks are the same as if every
    piece had been counted.
    """
    edges, kinds = _fine_pieces(text, max(1, size))
    ranks = _ranks(text, edges, kinds)
    kept = [0, *_doubtful_gaps(ranks, edges, size)]
    return _Pieces(
        edges=[*(edges[gap] for gap in kept), edges[-1]],
        ranks=[ranks[gap] for gap in kept],
    )


def _doubtful_gaps(ranks: Sequence[int], sums: Sequence[int], limit: int) -> list[int]:
    """Return the gaps that packing can leave open.

    The other gaps are closed in any case, because all pieces around such a gap, up to the next more
    important gap on either side, are within the limit together.
    """
    count = len(ranks)
    reach = [0] * count  # from each gap back to the next more important one, then also forward
    waiting: list[int] = []  # gaps of falling rank whose next more important one comes later
    for gap in range(1, count):
        while waiting and ranks[waiting[-1]] < ranks[gap]:
            reach[waiting.pop()] += sums[gap]
        before = waiting[-1] if waiting else 0
        if waiting and ranks[before] == ranks[gap]:
            reach[gap] = reach[before]
        else:
            reach[gap] = -sums[before]
        waiting.append(gap)
    for gap in waiting:
        reach[gap] += sums[count]
    return [gap for gap in range(1, count) if reach[gap] > limit]


def _open_gaps(ranks: Sequence[int], sums: Sequence[int], limit: int) -> list[int]:
    """Return the gaps that stay open when all others are closed, lowest rank first, if both sides
    fit.

    ``sums[n]`` is the size of all pieces before n. Equal ranks close from left to right, so a run
    of equal pieces is cut into equal chunks.
    """
    count = len(ranks)
    end_of = list(range(1, count + 1))  # by the first piece of a joined run
    start_of = [0, *range(count)]  # by the gap after the last piece of a joined run
    closed = bytearray(count)
    for gap in sorted(range(1, count), key=ranks.__getitem__):
        start, end = start_of[gap], end_of[gap]
        if sums[end] - sums[start] <= limit:
            end_of[start], start_of[end] = end, start
            closed[gap] = 1
    return [gap for gap in range(1, count) if not closed[gap]]


def _fine_pieces(text: str, size: int) -> tuple[list[int], bytearray]:
    """Return the edges of the finest pieces, and the kind of gap before each of them."""
    start, end = _trimmed(text, 0, len(text))
    edges, kinds = [start], bytearray([_PARAGRAPH])
    run = max(size, _RUN)
    for gap, edge, kind in _gaps(text, start, end, size):
        if gap - edges[-1] > 2 * run:
            for inner in _cuts(text, edges[-1], gap, run):
                edges.append(inner)
                kinds.append(_INSIDE)
        edges.append(edge)
        kinds.append(kind)
    kinds.pop()  # the end of the text is an edge, but not a gap
    return edges, kinds


def _gaps(text: str, start: int, end: int, size: int) -> Iterator[tuple[int, int, int]]:
    """Yield gaps as (end of the text before, start of the text after, kind); the last ends the
    text.

    A gap between words counts only if its hash says so, about one in ``size`` / 16, because with
    every one each word would be a piece. The same words soon after do not count again, because a
    text that repeats one word would then be full of gaps.
    """
    spread = max(1, min(8, size // 16))
    seen: dict[int, int] = {}
    for match in _GAP.finditer(text, start, end):
        before, after = match.span()
        if (kind := _kind(text, before, after)) == _WORD:
            mark = crc32(text[max(start, before - _WORD_CONTEXT) : before].encode())
            if mark % spread or (spread > 1 and before - seen.get(mark, -size) < size):
                continue
            seen[mark] = before
        if start < before and after < end:
            yield before, after, kind
    yield end, end, _PARAGRAPH


def _kind(text: str, before: int, after: int) -> int:
    if lines := text.count("\n", before, after):
        return _LINE if lines == 1 else _PARAGRAPH
    last = text[before - 1]
    if last in _CLOSING:
        last = text[before - 2]
    return _SENTENCE if last in _SENTENCE_END else _WORD


def _cuts(text: str, start: int, end: int, size: int) -> Iterator[int]:
    """Yield the cuts of a stretch without gaps, every ``size`` characters, between words or
    graphemes.

    The splitter gets the length of a few parts at a time, because its work grows with the square of
    its text.
    """
    splitter = TextSplitter(size, trim=False)
    while end - start > size:
        sight = min(end, start + 8 * size)
        cuts = [first for first, _ in _parts(splitter, text, start, sight)[1:]]
        yield from cuts
        start = cuts[-1] if cuts else sight


def _ranks(text: str, edges: Sequence[int], kinds: Sequence[int]) -> list[int]:
    """Return the importance of each gap: its kind, the hash of the piece after it, a hash of a few
    around.

    Where pieces differ, the first hash decides alone, because anything else in it would move more
    boundaries when a neighbour is edited. The second hash tells the gaps of repeated pieces apart.
    """
    hashes = [
        int.from_bytes(blake2b(text[a:b].rstrip().encode(), digest_size=8).digest(), "big")
        for a, b in pairwise(edges)
    ]
    sums = list(accumulate(hashes, lambda total, h: (total * _BASE + h) % _PRIME, initial=0))
    powers = [pow(_BASE, n, _PRIME) for n in range(2 * _NEIGHBOURS + 1)]
    ranks = [0]
    for gap in range(1, len(hashes)):
        low, high = max(0, gap - _NEIGHBOURS), min(len(hashes), gap + _NEIGHBOURS)
        around = (sums[high] - sums[low] * powers[high - low]) % _PRIME
        ranks.append(kinds[gap] << 128 | hashes[gap] << 64 | around)
    return ranks


def _parts(splitter: TextSplitter, text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Return the splitter's parts of a stretch, as spans of the text that cover it."""
    starts = [start + place for place, _ in splitter.chunk_indices(text[start:end])]
    return list(zip(starts, [*starts[1:], end], strict=True))


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), start + len(part.rstrip())


def _chunk(text: str, start: int, end: int) -> Chunk:
    part = text[start:end]
    return Chunk(part, start, end, fingerprint(part))
