"""Frames of ``pgoutput`` for one table, as the server sends them: bytes of the wire.

Of https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html they have what a
test of the loop needs; the decoder's own tests encode every message.
"""

import struct
from typing import Final

from tests import builders

OID: Final = 5
TABLE: Final = builders.table(oid=OID, text=("body",))
"""The table that the frames are of."""
RELATION: Final = (
    b"R" + struct.pack(">I", OID) + b"public\0t\0d" + struct.pack(">H", 2)
    + b"\x01id\0" + struct.pack(">Ii", 20, -1)
    + b"\x00body\0" + struct.pack(">Ii", 25, -1)
)  # fmt: skip


def begin(final: int) -> bytes:
    return b"B" + struct.pack(">QqI", final, 0, 7)


def insert(key: object, body: str) -> bytes:
    return b"I" + _new(str(key), body)


def update(key: object, body: str) -> bytes:
    return b"U" + _new(str(key), body)


def _new(*values: str) -> bytes:
    data = b"".join(b"t" + struct.pack(">I", len(v)) + v.encode() for v in values)
    return struct.pack(">I", OID) + b"N" + struct.pack(">H", len(values)) + data


def commit(at: int, end: int) -> bytes:
    return b"C" + struct.pack(">BQQq", 0, at, end, 0)
