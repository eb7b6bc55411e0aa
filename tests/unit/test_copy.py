"""Fields and streams of binary COPY, byte for byte as the documentation lays them out."""

import struct
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest

from cdc_embed.target import copy

SIGNATURE = b"PGCOPY\n\xff\r\n\0"


def test_a_stream_is_signature_rows_and_trailer() -> None:
    rows = [[copy.int4(1), copy.text("é")], [copy.NULL, copy.raw(b"\x00\xff")]]
    assert copy.CopyInput(rows).read(1000) == (
        SIGNATURE
        + struct.pack(">ii", 0, 0)
        + struct.pack(">hiii2s", 2, 4, 1, 2, b"\xc3\xa9")
        + struct.pack(">hii2s", 2, -1, 2, b"\x00\xff")
        + struct.pack(">h", -1)
    )


def test_a_stream_without_rows_is_still_whole() -> None:
    assert copy.CopyInput([]).read(1000) == SIGNATURE + bytes(8) + b"\xff\xff"


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_a_stream_is_read_in_pieces_of_any_size(size: int) -> None:
    rows = [[copy.int4(number), copy.text("x" * number)] for number in range(40)]
    stream = copy.CopyInput(rows)
    pieces = list(iter(lambda: stream.read(size), b""))
    assert b"".join(pieces) == copy.CopyInput(rows).read(10_000)
    assert all(len(piece) == size for piece in pieces[:-1])
    assert stream.read(size) == b""


def test_a_row_is_made_when_it_is_read() -> None:
    rows = ([copy.int4(number)] for number in range(1000))
    copy.CopyInput(rows).read(100)
    assert len(list(rows)) > 980


@pytest.mark.parametrize("value", ["", "plain", "tab\tnew\nline \\N", "漢字 🐘"])
def test_a_text_is_its_bytes_unescaped(value: str) -> None:
    encoded = value.encode()
    assert copy.text(value) == struct.pack(">i", len(encoded)) + encoded


def test_null_has_the_length_minus_one_and_no_bytes() -> None:
    assert copy.NULL == b"\xff\xff\xff\xff"
    assert copy.text(None) == copy.NULL
    assert copy.timestamp(None) == copy.NULL


@pytest.mark.parametrize("value", [0, 1, -1, 2**31 - 1, -(2**31)])
def test_an_int4_has_four_bytes_in_network_order(value: int) -> None:
    assert copy.int4(value) == b"\0\0\0\x04" + value.to_bytes(4, "big", signed=True)


@pytest.mark.parametrize("value", [0, -1, 2**63 - 1, -(2**63)])
def test_an_int8_has_eight_bytes_in_network_order(value: int) -> None:
    assert copy.int8(value) == b"\0\0\0\x08" + value.to_bytes(8, "big", signed=True)


@pytest.mark.parametrize(
    ("value", "microseconds"),
    [
        (datetime(2000, 1, 1, tzinfo=UTC), 0),
        (datetime(2000, 1, 1, 0, 0, 1, 5, tzinfo=UTC), 1_000_005),
        (datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), -1),
        (datetime(2000, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), 0),
        (datetime(2026, 7, 1, 12, 0, 0, 1, tzinfo=UTC), 836_222_400_000_001),
    ],
)
def test_a_timestamp_is_microseconds_since_2000(value: datetime, microseconds: int) -> None:
    assert copy.timestamp(value) == struct.pack(">iq", 8, microseconds)


def test_a_vector_is_its_dimensions_and_floats() -> None:
    value = np.array([1.0, -0.5, 0.1], dtype=np.float32)
    assert copy.vector(value, half=False) == struct.pack(">iHH3f", 16, 3, 0, 1.0, -0.5, 0.1)


def test_a_half_vector_is_its_dimensions_and_half_floats() -> None:
    value = np.array([1.0, -0.5, 0.1], dtype=np.float32)
    assert copy.vector(value, half=True) == struct.pack(">iHH3e", 10, 3, 0, 1.0, -0.5, 0.1)
