"""The rows of a document's chunks: what is equal stays, and every row has a number of its own."""

from hypothesis import given
from hypothesis import strategies as st

from cdc_embed.target.pieces import Piece, assign

HASHES = st.lists(st.sampled_from([b"a", b"b", b"c", b"d", b"e"]), max_size=6)


def test_a_chunk_that_moved_keeps_its_row() -> None:
    stored = {0: b"a", 1: b"b", 2: b"c"}
    first, second, third = (Piece(number, True) for number in range(3))
    assert assign([b"x", b"a", b"b", b"c"], stored) == [Piece(3, False), first, second, third]
    assert assign([b"a", b"x", b"c"], stored) == [first, Piece(1, False), third]
    assert assign([b"c", b"a"], stored) == [Piece(1, False), first], "2 is no number of two rows"


@given(wanted=HASHES, rows=HASHES)
def test_each_chunk_has_a_row_of_its_own(wanted: list[bytes], rows: list[bytes]) -> None:
    stored = dict(enumerate(rows))
    pieces = assign(wanted, stored)
    assert sorted(piece.number for piece in pieces) == list(range(len(wanted)))
    for digest, piece in zip(wanted, pieces, strict=True):
        assert not piece.kept or stored[piece.number] == digest
    if sorted(wanted) == sorted(rows):
        assert all(piece.kept for piece in pieces)
