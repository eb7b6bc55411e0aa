"""PostgreSQL's binary COPY format, for rows whose floats Python never touches.

Format: https://www.postgresql.org/docs/current/sql-copy.html#id-1.9.3.55.9.4
"""

import struct
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pgvector import HalfVector, Vector

HEADER: Final = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
TRAILER: Final = struct.pack(">h", -1)
NULL: Final = struct.pack(">i", -1)

_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def text(value: str | None) -> bytes:
    """Return a text field: its bytes in UTF-8."""
    return NULL if value is None else raw(value.encode())


def raw(value: bytes) -> bytes:
    """Return a field of exactly these bytes."""
    return struct.pack(">i", len(value)) + value


def boolean(value: bool) -> bytes:
    return struct.pack(">i?", 1, value)


def int4(value: int) -> bytes:
    return struct.pack(">ii", 4, value)


def int8(value: int | None) -> bytes:
    """Return a bigint or pg_lsn field."""
    if value is None:
        return NULL
    return struct.pack(">iq", 8, value)


def timestamp(value: datetime | None) -> bytes:
    """Return a timestamptz field: microseconds since 2000."""
    if value is None:
        return NULL
    return int8((value - _POSTGRES_EPOCH) // _MICROSECOND)


def vector(value: NDArray[np.float32], *, half: bool) -> bytes:
    """Return the vector (or halfvec) field of a float32 array (d,)."""
    return raw((HalfVector if half else Vector)(value).to_binary())


class CopyInput:
    """The COPY input for rows of encoded fields. A row is made when it is read, to save memory."""

    def __init__(self, rows: Iterable[Sequence[bytes]]) -> None:
        self._parts = chain([HEADER], map(_row, rows), [TRAILER])
        self._buffer = bytearray()

    def read(self, size: int) -> bytes:
        """Return the next ``size`` bytes, fewer only at the end."""
        while len(self._buffer) < size and (part := next(self._parts, None)) is not None:
            self._buffer += part
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken


def _row(fields: Sequence[bytes]) -> bytes:
    return b"".join([struct.pack(">h", len(fields)), *fields])
