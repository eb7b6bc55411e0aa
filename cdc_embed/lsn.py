"""Positions in the write-ahead log: the one place that compares them.

``Progress`` says what may be confirmed, ``find_gap`` whether a recorded position and a slot
still belong together. Both are pure: they take facts and give an answer.
"""

from dataclasses import dataclass
from typing import NamedTuple, Self


class LSN(int):
    """A byte position in the write-ahead log; prints as PostgreSQL prints it, ``X/X``."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """The LSN of its text form, e.g. ``16/B374D848``; ValueError when it is none."""
        high, _, low = text.partition("/")
        return cls((int(high, 16) << 32) | int(low, 16))

    def __str__(self) -> str:
        return f"{self >> 32:X}/{self & 0xFFFFFFFF:X}"

    __repr__ = __str__


ZERO = LSN(0)


class Position(NamedTuple):
    """The place of one change in the order of commits: commit LSN, then ordinal in it.

    Change LSNs are not usable for this: they are ordered only inside a transaction, and the rows
    of one COPY share one.
    """

    commit_lsn: LSN
    ordinal: int


START = Position(ZERO, 0)
