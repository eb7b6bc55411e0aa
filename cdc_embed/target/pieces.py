"""The rows of a document with several chunks, of which some stay when its text changes.

A row has a number of its own (``chunk_row``), which no edit of other chunks changes. So a chunk
that only moved is updated in place, because an index has its key and that number, not its place.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Piece(NamedTuple):
    """The row of one chunk."""

    number: int
    kept: bool
    """Whether the row is stored with the chunk's vector, and is updated; else it is inserted."""


def assign(wanted: Sequence[bytes], stored: Mapping[int, bytes]) -> list[Piece]:
    """Return a row for each of a document's chunks, given by their hashes in order.

    ``stored`` has the hashes of the rows there are, by number. The numbers of n chunks are 0 to
    n - 1, so that a missing row is noticed; a row beyond them is not kept.
    """
    rows: dict[bytes, list[int]] = {}
    for number in sorted(stored, reverse=True):
        if number < len(wanted):
            rows.setdefault(stored[number], []).append(number)
    kept = [rows[digest].pop() if rows.get(digest) else None for digest in wanted]
    free = iter(sorted(set(range(len(wanted))) - set(kept)))
    return [Piece(next(free), False) if number is None else Piece(number, True) for number in kept]
