"""The oracle of the other tests finds every kind of difference, and none where there is none."""

from collections.abc import Sequence
from typing import Any, cast

import pytest

from tests.oracle import Chunk, Documents, differences, fingerprint, hash_vector
from tests.site import Site

TEXT = "first\n\nsecond"
METADATA = ("7",)


def chunk(number: int, start: int, end: int, of: str = TEXT) -> Chunk:
    return Chunk(
        number=number,
        start=start,
        end=end,
        text=of[start:end],
        document_hash=fingerprint(of),
        vector=hash_vector(of[start:end], 4),
        metadata=METADATA,
    )


WHOLE = chunk(0, 0, len(TEXT))
FIRST, SECOND = chunk(0, 0, 5), chunk(1, 7, 13)


@pytest.mark.parametrize("chunks", [[WHOLE], [FIRST, SECOND]])
def test_chunks_that_are_right_have_no_difference(chunks: list[Chunk]) -> None:
    assert list(differences(TEXT, METADATA, chunks)) == []


@pytest.mark.parametrize(
    ("chunks", "kinds"),
    [
        ([WHOLE._replace(document_hash=fingerprint("another"))], ["stale"]),
        ([WHOLE._replace(vector=-WHOLE.vector)], ["wrong vector"]),
        ([WHOLE._replace(vector=WHOLE.vector + 1e-3)], ["wrong vector"]),
        ([WHOLE._replace(text="another")], ["other text"]),
        ([WHOLE._replace(metadata=("8",))], ["metadata"]),
        ([WHOLE._replace(metadata=(None,))], ["metadata"]),
        ([WHOLE._replace(metadata=())], ["metadata"]),
        ([WHOLE._replace(number=1)], ["misplaced"]),
        ([FIRST], ["cut off"]),
        ([SECOND._replace(number=0)], ["misplaced"]),
        ([FIRST, SECOND._replace(number=2)], ["misplaced"]),
        ([FIRST, chunk(1, 8, 13)], ["misplaced"]),
        ([FIRST, chunk(1, 4, 13)], ["misplaced"]),
        ([FIRST, chunk(1, 7, 12)], ["cut off"]),
        ([FIRST, SECOND._replace(vector=FIRST.vector)], ["wrong vector"]),
        ([FIRST, SECOND._replace(document_hash=b"")], ["stale"]),
        ([FIRST, SECOND._replace(metadata=("8",))], ["metadata"]),
    ],
)
def test_every_kind_of_difference_is_found(chunks: list[Chunk], kinds: list[str]) -> None:
    assert [found.kind for found in differences(TEXT, METADATA, chunks)] == kinds


class Database:
    """Answers the one statement that the oracle has for each side."""

    def __init__(self, rows: Sequence[Any], target: "Database | None" = None) -> None:
        self.rows = [tuple(row) for row in rows]
        self.target = target

    def sql(self, _statement: Any) -> list[tuple[Any, ...]]:
        return self.rows


def stored(key: str, text: str) -> list[Any]:
    """A row of a table of vectors, in its text form."""
    vector = str(hash_vector(text, 4).tolist())
    digest = "\\x" + fingerprint(text).hex()
    return [key, "0", "0", str(len(text)), text, digest, vector]


def drift(
    source: Sequence[tuple[str | None, ...]], target: list[list[Any]], *, chunked: bool = False
) -> list[str]:
    site = cast(Site, Database(source, Database(target)))
    return Documents(name="documents", chunked=chunked).drift(site)


def test_rows_that_are_stored_as_they_are_have_no_drift() -> None:
    source = [("1", "a", "b"), ("2", None, "b"), ("3", None, " "), ("4", "", None)]
    assert drift(source, [stored("1", "a\n\nb"), stored("2", "b")]) == []


def test_rows_that_are_missing_left_over_or_stale_are_named() -> None:
    source = [("1", "a", None), ("2", "b", None), ("3", None, None), ("4", "c", None)]
    target = [stored("2", "old"), stored("3", "d"), stored("4", "c"), stored("5", "e")]
    assert drift(source, target) == ["missing 1", "orphan 3", "orphan 5", "stale 2"]


def test_a_flipped_vector_is_drift() -> None:
    flipped = stored("1", "a")
    flipped[-1] = str((-hash_vector("a", 4)).tolist())
    assert drift([("1", "a", None)], [flipped]) == ["wrong vector 1"]


def test_a_second_chunk_is_drift_where_a_text_has_one() -> None:
    target = []
    for piece in (FIRST, SECOND):
        row = stored("1", TEXT[piece.start : piece.end])
        row[1:4] = map(str, (piece.number, piece.start, piece.end))
        row[5] = "\\x" + fingerprint(TEXT).hex()
        target.append(row)
    source = [("1", *TEXT.split("\n\n"))]
    assert drift(source, target, chunked=True) == []
    assert drift(source, target[::-1], chunked=True) == [], "rows come in any order"
    assert drift(source, target) == ["not whole 1"]


@pytest.mark.parametrize(
    ("template", "values", "text"),
    [
        ("", ("a", "b"), "a\n\nb"),
        ("", ("a", "\t"), "a"),
        ("", (None, " "), ""),
        ("# {title}: {body}", ("a", None), "# a: "),
        ("# {title}", (None, ""), ""),
        ("{{{title}}} {body}", ("{body}", "b"), "{{body}} b"),
    ],
)
def test_the_text_of_a_row_is_that_of_the_documentation(
    template: str, values: tuple[str | None, str | None], text: str
) -> None:
    table = Documents(name="documents", template=template, metadata=("views",))
    expected = table.expected(lambda _: [("1", "7", *values)])
    assert expected == ({("1",): (text, ("7",))} if text else {})
