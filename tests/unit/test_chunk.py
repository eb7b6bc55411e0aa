"""Chunking: every piece within the window, all of the text in them, and an edit stays local."""

import json
import random
from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate, pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from cdc_embed.change import chunk
from cdc_embed.change.chunk import CHUNKER_VERSION, Chunker, CountTokens
from cdc_embed.change.document import Chunk, fingerprint
from cdc_embed.embed.sentence_transformers import packaged_minilm
from tests.cases import cases

GOLDEN = Path(__file__).parent.parent / "golden" / "chunks.json"
MINILM_WINDOW = 256
FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"  # five code points, one grapheme


def words(texts: Sequence[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def letters(texts: Sequence[str]) -> list[int]:
    return [len(text) for text in texts]


def thirds(texts: Sequence[str]) -> list[int]:
    """As for a server without a tokenizer; the sum over pieces is more than the whole."""
    return [-(-len(text.encode()) // 3) for text in texts]


def jealous(texts: Sequence[str]) -> list[int]:
    """The whole is more than the sum of its pieces, so the sum alone would cut too late."""
    return [len(text.split()) + len(text.split()) ** 2 // 40 for text in texts]


def prompted(texts: Sequence[str]) -> list[int]:
    return [12 + len(text.split()) for text in texts]


def refusing(texts: Sequence[str]) -> list[int]:
    """Every text is over a window of less than nine."""
    return [9 + len(text) for text in texts]


@cache
def minilm() -> CountTokens:
    tokenizer = Tokenizer.from_file(str(Path(packaged_minilm()) / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def count(texts: Sequence[str]) -> list[int]:
        return [len(encoding) for encoding in tokenizer.encode_batch(list(texts))]

    return count


def assert_sound(text: str, chunks: Sequence[Chunk], count: CountTokens, window: int) -> None:
    """Fail unless the chunks of a text that is not blank cover it in order."""
    end = 0
    for piece in chunks:
        assert piece.start >= end, "out of order, or overlapping"
        assert not text[end : piece.start].strip(), "text that is in no chunk"
        assert piece.text == text[piece.start : piece.end]
        assert piece.text.strip(), "a blank chunk"
        assert piece.hash == fingerprint(piece.text)
        end = piece.end
    assert not text[end:].strip(), "text that is in no chunk"
    counts = count([piece.text for piece in chunks])
    over = [c.text for c, n in zip(chunks, counts, strict=True) if n > window and len(c.text) > 1]
    assert not over
    if len(chunks) > 1:
        assert chunks[0].start == len(text) - len(text.lstrip())
        assert chunks[-1].end == len(text.rstrip())
        assert all(piece.text == piece.text.strip() for piece in chunks)


# Documents. A corpus is seeded by its shape's name, so a shape is the same on every machine.

Paragraphs = list[str]

STEMS = ("al", "be", "cor", "dim", "est", "fa", "gol", "hem", "in", "jur", "kel", "lum", "mor")


def sentence(r: random.Random, length: int) -> str:
    made = ["".join(r.choices(STEMS, k=r.randint(1, 3))) for _ in range(length)]
    return " ".join(made).capitalize() + r.choice(".....?!")


def prose(r: random.Random, length: int) -> str:
    made: list[str] = []
    while length > 0:
        take = min(length, r.randint(4, 22))
        made.append(sentence(r, take))
        length -= take
    return " ".join(made)


def uneven(r: random.Random, window: int) -> str:
    share = r.choice([0.02, 0.08, 0.3, 0.7, 0.9, 2.2])
    return prose(r, 1 + int(window * share * r.uniform(0.6, 1.1)))


def part_of_window(low: float, high: float) -> Callable[[random.Random, int], str]:
    return lambda r, window: prose(r, r.randint(1 + int(low * window), 1 + int(high * window)))


def one_sentence(r: random.Random, window: int) -> str:
    return sentence(r, r.randint(3, max(4, window // 8)))


def log_line(r: random.Random, _: int) -> str:
    return r.choice(["job ok", "job failed: will retry", "worker idle", "lost the connection"])


def separated(r: random.Random, window: int) -> str:
    return r.choice(["* * *", prose(r, window // 4)])


SHAPES: dict[str, tuple[str, Callable[[random.Random, int], str]]] = {
    "many short paragraphs in a chunk": ("\n\n", part_of_window(0.04, 0.2)),
    "paragraphs of a third to nine tenths of the window": ("\n\n", part_of_window(0.3, 0.9)),
    "very uneven paragraphs": ("\n\n", uneven),
    "paragraphs over the window": ("\n\n", part_of_window(1.0, 2.5)),
    "one giant paragraph of sentences": (" ", one_sentence),
    "lines without blank lines": ("\n", one_sentence),
    "the same few lines again and again": ("\n", log_line),
    "paragraphs between equal separators": ("\n\n", separated),
}


def document(shape: str, window: int, chunks: int, seed: int = 0) -> Paragraphs:
    r = random.Random(f"{shape} {seed}")
    paragraphs: Paragraphs = []
    tokens = 0
    while tokens < 0.7 * window * chunks:  # a chunk is about 0.7 full
        paragraphs.append(SHAPES[shape][1](r, window))
        tokens += len(paragraphs[-1].split())
    return paragraphs


def insert(paragraphs: Paragraphs, at: int, r: random.Random, window: int) -> Paragraphs:
    return [*paragraphs[:at], prose(r, r.randint(3, window * 2 // 3)), *paragraphs[at:]]


def delete(paragraphs: Paragraphs, at: int, _: random.Random, __: int) -> Paragraphs:
    return paragraphs[:at] + paragraphs[at + 1 :]


def lengthen(paragraphs: Paragraphs, at: int, r: random.Random, window: int) -> Paragraphs:
    longer = f"{paragraphs[at]} {prose(r, r.randint(1, window // 6))}"
    return [*paragraphs[:at], longer, *paragraphs[at + 1 :]]


def shorten(paragraphs: Paragraphs, at: int, _: random.Random, __: int) -> Paragraphs:
    kept = paragraphs[at].split()
    shorter = " ".join(kept[: (len(kept) + 1) // 2])
    return [*paragraphs[:at], shorter, *paragraphs[at + 1 :]]


OPERATIONS = [insert, delete, lengthen, shorten]
PLACES = {"start": 0.0, "middle": 0.5, "end": 1.0}


# One chunk


def test_text_that_fits_is_one_chunk_unchanged() -> None:
    text = "\n  one two\n\nthree four five \n"
    assert Chunker(words, 5).split(text) == (Chunk(text, 0, len(text), fingerprint(text)),)


def test_text_of_one_token_more_is_cut() -> None:
    assert len(Chunker(words, 4).split("one two three four five")) == 2


def test_without_a_window_a_text_is_one_chunk_and_not_counted() -> None:
    def count(_: Sequence[str]) -> list[int]:
        raise AssertionError("counted")

    text = "word " * 100_000
    assert Chunker(count, None).split(text) == (Chunk(text, 0, len(text), fingerprint(text)),)


def test_long_text_of_few_tokens_is_one_chunk() -> None:
    text = "one" + " " * 300_000 + "two"
    assert [piece.text for piece in Chunker(words, 5).split(text)] == [text]


def test_long_word_is_as_long_as_the_model_says() -> None:
    text = "x" * 200_000
    assert len(Chunker(words, 5).split(text)) == 1
    assert len(Chunker(minilm(), MINILM_WINDOW).split(text)) == 1  # one unknown word


def unknown(texts: Sequence[str]) -> list[int]:
    """As WordPiece does: a word of more than a hundred characters is one unknown token."""
    return [sum(len(w) if len(w) <= 100 else 1 for w in text.split()) for text in texts]


def test_a_head_that_ends_within_a_word_makes_no_text_too_long() -> None:
    text = "a" * (64 * 5 + 1024 - 95) + " " + "b" * 100_000
    assert unknown([text]) == [2]
    assert len(Chunker(unknown, 5).split(text)) == 1


# Where it is cut


def test_paragraphs_stay_whole_where_they_fit() -> None:
    paragraphs = document("paragraphs of a third to nine tenths of the window", 64, 20)
    chunks = Chunker(words, 64).split("\n\n".join(paragraphs))
    assert [p for piece in chunks for p in piece.text.split("\n\n")] == paragraphs


def test_lines_that_fit_stay_whole_in_a_long_paragraph() -> None:
    lines = document("lines without blank lines", 64, 20)
    chunks = Chunker(words, 64).split("\n".join(lines))
    assert [line for piece in chunks for line in piece.text.split("\n")] == lines


def test_sentences_that_fit_stay_whole_in_a_long_line() -> None:
    text = " ".join(document("one giant paragraph of sentences", 64, 20))
    assert all(piece.text[-1] in ".?!" for piece in Chunker(words, 64).split(text))


def test_words_stay_whole_where_they_fit() -> None:
    text = "\t".join(f"word{n}" for n in range(3000))
    for window in (5, 64, 256):
        chunks = Chunker(words, window).split(text)
        assert " ".join(piece.text for piece in chunks).split() == text.split()


def test_heading_stays_with_its_paragraph() -> None:
    body = prose(random.Random(1), 500)
    chunks = Chunker(words, 64).split(f"# The heading\n\n{body}")
    assert len(chunks[0].text.split()) > 3


def test_quoted_sentences_stay_whole_where_they_fit() -> None:
    spoken = [f"“{one}”" for one in document("one giant paragraph of sentences", 64, 20)]
    assert all(c.text[-1] == "”" for c in Chunker(words, 64).split(" ".join(spoken)))


def test_chinese_is_cut_after_its_full_stops() -> None:
    text = "天地玄黄宇宙洪荒。日月盈昃辰宿列张？" * 200
    chunks = Chunker(letters, 64).split(text)
    assert_sound(text, chunks, letters, 64)
    assert all(piece.text[-1] in "。？" for piece in chunks)


def test_graphemes_stay_whole_where_they_fit() -> None:
    for grapheme in (FAMILY, "e\u0301\u0323", "\U0001f1e9\U0001f1ea", "नि", "\r\n"):
        text = f"a{grapheme}b" * 3000
        for piece in Chunker(letters, 100).split(text):
            assert piece.text.count(grapheme[0]) == piece.text.count(grapheme[-1])


def test_offsets_are_characters_and_not_bytes() -> None:
    text = f"é{FAMILY}e\u0301漢 " * 2000
    for window in (5, 40, 256):
        assert_sound(text, Chunker(letters, window).split(text), letters, window)


def test_neighbours_do_not_fit_together() -> None:
    for shape, (separator, _) in SHAPES.items():
        chunks = Chunker(words, 128).split(separator.join(document(shape, 128, 40)))
        counts = words([piece.text for piece in chunks])
        assert all(a + b > 128 for a, b in pairwise(counts)), shape


def test_a_prompt_takes_part_of_the_window_once_in_each_chunk() -> None:
    text = "\n\n".join(document("many short paragraphs in a chunk", 128, 20))
    counts = prompted([piece.text for piece in Chunker(prompted, 128).split(text)])
    assert all(a + b - 12 > 128 for a, b in pairwise(counts))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), min_size=1), st.integers(1, 30))
def test_gaps_within_a_grain_would_be_closed_anyway(
    pieces: list[tuple[int, int]], limit: int
) -> None:
    ranks = [rank for rank, _ in pieces]
    sums = list(accumulate((size for _, size in pieces), initial=0))
    doubtful = chunk._doubtful_gaps(ranks, sums, limit)
    for window in (limit, limit + 7, 2 * limit):
        assert set(chunk._open_gaps(ranks, sums, window)) <= set(doubtful)


def test_grains_that_are_counted_together_change_no_boundary() -> None:
    for shape, (separator, _) in SHAPES.items():
        text = separator.join(document(shape, 128, 20))
        edges, kinds = chunk._fine_pieces(text, 64)
        ranks = chunk._ranks(text, edges, kinds)
        fine = [0, *(sum(words([text[: edges[n + 1]]])) for n in range(len(ranks)))]
        gaps = [edges[gap] for gap in chunk._open_gaps(ranks, fine, 128)]
        assert [piece.start for piece in Chunker(words, 128).split(text)][1:] == gaps


# The window


@pytest.mark.parametrize("count", [words, letters, thirds, jealous, prompted])
@pytest.mark.parametrize("window", [13, 40, 256])
def test_no_chunk_is_over_the_window(count: CountTokens, window: int) -> None:
    for shape, (separator, _) in SHAPES.items():
        text = separator.join(document(shape, 64, 20))
        assert_sound(text, Chunker(count, window).split(text), count, window)


def test_no_chunk_is_over_the_window_of_minilm() -> None:
    mixed = f"Ünïcödé {FAMILY} 漢字かな交じり文、ไทย ab@example.org https://x.y/?q=%20&z "
    for shape, (separator, _) in SHAPES.items():
        text = separator.join([*document(shape, 200, 10), mixed * 80, "0x7f" * 400, "漢字" * 900])
        chunks = Chunker(minilm(), MINILM_WINDOW).split(text)
        assert_sound(text, chunks, minilm(), MINILM_WINDOW)


def test_word_of_200000_characters_is_cut_to_the_window() -> None:
    text = "abcdefghij" * 20_000
    chunks = Chunker(thirds, 256).split(text)
    assert_sound(text, chunks, thirds, 256)
    assert len(chunks) < 2 * len(text) / 3 / 256


def test_characters_over_the_window_are_chunks_of_their_own() -> None:
    text = "abc déf\n\n" + FAMILY + " ghi."
    chunks = Chunker(refusing, 5).split(text)
    assert [piece.text for piece in chunks] == [letter for letter in text if not letter.isspace()]


def test_blank_text_over_the_window_has_no_chunk() -> None:
    assert Chunker(letters, 5).split(" \n" * 100) == ()


# The same text, the same chunks


def test_chunks_depend_on_nothing_but_the_text() -> None:
    shape = "very uneven paragraphs"
    text = "\n\n".join(document(shape, 64, 20))
    used = Chunker(words, 64)
    used.split("another text\n\n" * 500)
    assert used.split(text) == used.split(text) == Chunker(words, 64).split(text)


GAPS = [" ", "\n", "\n\n", "\r\n", " \n \n", "\u2028", "\x1c", "\xa0", ". ", "。", "? ", ".) "]
PIECES = st.sampled_from(
    [*GAPS, "a", "word", "Ünï", "漢字", FAMILY, "e\u0301", "x" * 90, "\u200b", "\x00", "ア" * 70]
)
TEXTS = st.lists(PIECES | st.text(max_size=8), max_size=120).map("".join)


@given(TEXTS, st.sampled_from([words, letters, thirds, jealous]), st.integers(1, 40))
@settings(max_examples=300, deadline=None)
def test_any_text_is_covered_within_the_window(text: str, count: CountTokens, window: int) -> None:
    chunks = Chunker(count, window).split(text)
    if count([text])[0] <= window:
        assert chunks == (Chunk(text, 0, len(text), fingerprint(text)),)
    else:
        assert_sound(text, chunks, count, window)


@given(TEXTS, TEXTS, TEXTS, st.integers(2, 30))
@settings(max_examples=100, deadline=None)
def test_an_edited_text_is_cut_as_if_it_were_new(a: str, b: str, c: str, window: int) -> None:
    chunker = Chunker(words, window)
    for text in (a + c, a + b + c, b + c):
        assert chunker.split(text) == Chunker(words, window).split(text)


# An edit stays local


@pytest.mark.parametrize("place", cases(PLACES, "middle"))
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_one_edited_paragraph_makes_at_most_four_new_chunks(
    shape: str, operation: Callable[..., Paragraphs], place: str
) -> None:
    chunker = Chunker(words, 96)
    r = random.Random(f"{operation.__name__} {place}")
    for seed in range(4):
        paragraphs = document(shape, 96, 40, seed)
        old = chunker.split(SHAPES[shape][0].join(paragraphs))
        assert 25 <= len(old) <= 55
        at = round(PLACES[place] * (len(paragraphs) - 1))
        if operation is insert and place == "end":
            at += 1
        edited = operation(paragraphs, at, r, 96)
        new = chunker.split(SHAPES[shape][0].join(edited))
        hashes = {piece.hash for piece in old}
        assert sum(piece.hash not in hashes for piece in new) <= 4


def test_equal_paragraphs_make_equal_chunks() -> None:
    paragraph = "Lorem ipsum dolor sit amet."
    chunker = Chunker(words, 64)
    old = chunker.split("\n\n".join([paragraph] * 500))
    assert sum(piece.text.count(paragraph) for piece in old) == 500
    hashes = {piece.hash for piece in old}
    assert len(hashes) <= 5
    longer = chunker.split("\n\n".join([paragraph] * 777))
    assert sum(piece.hash not in hashes for piece in longer) <= 4


def test_an_edit_in_a_giant_line_without_sentences_stays_local() -> None:
    r = random.Random(7)
    text = " ".join(sentence(r, 9).strip(".?!").lower() for _ in range(300))
    old = {piece.hash for piece in Chunker(words, 96).split(text)}
    half = text.index(" ", len(text) // 2)
    new = Chunker(words, 96).split(f"{text[:half]} a few more words{text[half:]}")
    assert len(new) > 25
    assert sum(piece.hash not in old for piece in new) <= 4


@pytest.mark.parametrize(
    ("separator", "paragraphs"),
    [
        ("\n", [("ok", "failed")[random.Random(n).random() < 0.5] for n in range(2500)]),
        ("\n\n", ["* * *" if n % 2 else prose(random.Random(n), 20) for n in range(240)]),
        ("", [f"{sentence(random.Random(n), 20).replace(' ', '')[:24]}。" for n in range(200)]),
    ],
    ids=["two lines in random order", "a separator after each", "no space at all"],
)
def test_edits_between_look_alikes_stay_local(separator: str, paragraphs: Paragraphs) -> None:
    count, window = (words, 64) if separator else (letters, 180)
    chunker = Chunker(count, window)
    old = {piece.hash for piece in chunker.split(separator.join(paragraphs))}
    assert len(old) > 25
    for at in range(40, 140):
        edited = [*paragraphs[:at], f"edited{at}。", *paragraphs[at + 1 :]]
        new = chunker.split(separator.join(edited))
        assert sum(piece.hash not in old for piece in new) <= 4


# Cost


def five_megabytes(separator: str) -> str:
    r = random.Random(5)
    paragraphs = [prose(r, 80) for _ in range(400)]
    return separator.join(f"{n} {r.choice(paragraphs)}" for n in range(9000))[:5_000_000]


@pytest.mark.parametrize("separator", ["\n\n", " "], ids=["paragraphs", "one line"])
def test_five_megabytes_take_seconds_and_few_calls(separator: str) -> None:
    calls: list[int] = []

    def count(texts: Sequence[str]) -> list[int]:
        calls.append(sum(map(len, texts)))
        return thirds(texts)

    text = five_megabytes(separator)
    started = perf_counter()
    chunks = Chunker(count, 256).split(text)
    assert perf_counter() - started < 20  # two, here; the rest is for a loaded machine
    assert len(calls) < 30
    assert max(calls) < 1.2 * 2**20, "megabytes in one call"
    assert_sound(text, chunks, thirds, 256)


@pytest.mark.parametrize(
    "text", ["x " * 150_000, "A! " * 90_000, "a\n" * 150_000, "\n\nb" * 90_000]
)
def test_one_word_repeated_takes_seconds(text: str) -> None:
    started = perf_counter()
    chunks = Chunker(words, 256).split(text)
    assert perf_counter() - started < 10
    assert sum(words([piece.text for piece in chunks])) == len(text.split())


def test_a_long_text_without_spaces_takes_seconds() -> None:
    text = "天地玄黄宇宙洪荒日月盈昃辰宿列张" * 6000
    started = perf_counter()
    chunks = Chunker(thirds, 256).split(text)
    assert perf_counter() - started < 5  # half of one, here; the splitter alone takes minutes
    assert_sound(text, chunks, thirds, 256)
    assert max(b - a for a, b in pairwise(chunk._fine_pieces(text, 128)[0])) <= 256


@pytest.mark.parametrize("letter", "abcdefghijkl")
def test_a_repeated_word_is_not_a_piece_of_its_own(letter: str) -> None:
    for text in (f"{letter} " * 20_000, f"{letter}{letter} the " * 7_000):
        assert len(chunk._fine_pieces(text, 128)[0]) < len(text) / 32


def test_of_the_gaps_between_words_few_are_weighed() -> None:
    text = " ".join(sentence(random.Random(n), 9)[:-1] for n in range(2000))
    assert len(chunk._fine_pieces(text, 128)[0]) < len(text.split()) / 5


# Golden


def golden_text() -> str:
    parts = [separator.join(document(shape, 64, 5)) for shape, (separator, _) in SHAPES.items()]
    unspaced = ["漢字かな交じり文。" * 60, f"{FAMILY}e\u0301" * 200, "0123456789" * 90]
    return "\n\n".join(parts + unspaced)


def boundaries(count: CountTokens, window: int) -> list[dict[str, Any]]:
    chunks = Chunker(count, window).split(golden_text())
    return [{"start": c.start, "end": c.end, "hash": c.hash.hex()} for c in chunks]


@pytest.mark.parametrize(("name", "window"), [("words", 64), ("minilm", MINILM_WINDOW)])
def test_boundaries_are_where_they_always_were(name: str, window: int) -> None:
    golden = json.loads(GOLDEN.read_text())
    assert golden["version"] == CHUNKER_VERSION
    assert fingerprint(golden_text()).hex() == golden["text"], "the test's text is another one"
    assert boundaries({"words": words, "minilm": minilm()}[name], window) == golden[name], (
        "boundaries moved; raise CHUNKER_VERSION and say so in the changelog, "
        "or every stored document is embedded again"
    )


def write_golden() -> None:
    """``python -c 'from tests.unit.test_chunk import write_golden; write_golden()'``"""
    golden = {
        "version": CHUNKER_VERSION,
        "text": fingerprint(golden_text()).hex(),
        "words": boundaries(words, 64),
        "minilm": boundaries(minilm(), MINILM_WINDOW),
    }
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
