"""The JSON decoder on what no server sent: a refusal with the field's name, never anything else."""

import copy
import json
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cdc_embed.errors import DecodeError
from cdc_embed.wire.messages import LEFT_OUT, WITHHELD, Begin, Commit, Relation
from cdc_embed.wire.wal2json import Followed, QualifiedName, Wal2json
from tests.unit.json_lines import INT8, MOMENT, decoder, frame, golden, outcome, refusal, text

total = settings(
    # a decoder that hangs is caught by this, one that is slow on a busy machine is not
    deadline=timedelta(seconds=10),
    max_examples=300,
    suppress_health_check=[HealthCheck.too_slow],
)


def check(payload: bytes, tables: Mapping[QualifiedName, Followed]) -> None:
    """Messages whose rows fit their Relation, or a DecodeError."""
    messages = outcome(payload, Wal2json(tables))
    if isinstance(messages, DecodeError):
        assert isinstance(messages.offset, int)
        assert 0 <= messages.offset <= len(payload)
        return
    width = -1
    for message in messages:
        if isinstance(message, Relation):
            assert all(isinstance(column.name, str) for column in message.columns)
            width = len(message.columns)
        for row in filter(None, (getattr(message, "new", None), getattr(message, "old", None))):
            assert len(row) == width
            assert all(each in {None, LEFT_OUT, WITHHELD} or type(each) is str for each in row)
        if isinstance(message, Begin | Commit):
            assert message.committed_at.tzinfo is not None
        if isinstance(message, Begin):
            assert type(message.xid) is int


def test_every_strict_prefix_of_a_golden_frame_is_refused() -> None:
    tables, frames, _ = golden()
    for payload in frames:
        sizes = range(len(payload))
        for size in {*sizes[:400], *sizes[400:-50:97], *sizes[-50:]}:
            assert refusal(payload[:size], Wal2json(tables)).message == "unknown"
        assert refusal(payload + b"x", Wal2json(tables)).message == "unknown"


@total
@given(st.binary(max_size=200) | st.text().map(str.encode))
@example(b"")
@example(b"[" * 100_000)
@example(b'{"action":' + b"[" * 1000 + b"]" * 1000 + b"}")
@example(b'{"action":"I","action":1e999}')
@example(b'"\\ud800"')
def test_any_bytes_give_messages_or_a_decode_error(payload: bytes) -> None:
    check(payload, golden()[0])


@total
@given(st.data())
def test_a_damaged_golden_frame_gives_messages_or_a_decode_error(data: st.DataObject) -> None:
    tables, frames, _ = golden()
    payload = bytearray(data.draw(st.sampled_from(frames), "frame"))
    for _ in range(data.draw(st.integers(1, 4), "damages")):
        at = data.draw(st.integers(0, len(payload)), "at")
        removed = data.draw(st.integers(0, 8), "removed")
        payload[at : at + removed] = data.draw(st.binary(max_size=8), "put in")
    check(bytes(payload), tables)


@pytest.mark.parametrize(
    ("found", "instead", "message", "field"),
    [
        ('"action":"I"', '"action":"X"', "unknown", "line"),
        ('"action":"I"', '"action":["I"]', "unknown", "line"),
        ('"schema":"public"', '"schema":7', "Insert", "schema"),
        ('"table":"t"', '"table":null', "Insert", "table"),
        ('"table":"t"', '"table":"T"', "Insert", "table"),
        ('"pk":[', '"pk":"","x":[', "Insert", "pk"),
        ('"pk":[', '"pk":{},"x":[', "Insert", "pk"),
        ('"pk":[', '"pk":[["id"],7],"x":[', "Insert", "pk"),
        ('"pk":[', '"pk":[{"name":[]}],"x":[', "Insert", "pk"),
        ('"pk":[', '"pk":[{"name":null}],"x":[', "Insert", "pk"),
        ('"columns":[', '"columns":[{}],"x":[', "Insert", "columns"),
        ('"columns":[', '"columns":null,"x":[', "Insert", "columns"),
        ('"columns":[', '"columns":[{"name":"id","typeoid":1}],"x":[', "Insert", "columns"),
        ('"columns":[', '"columns":[{"name":"id","value":1}],"x":[', "Insert", "columns"),
        ('"typeoid":20,"value":1', '"typeoid":[],"value":null', "Insert", "columns"),
        ('"typeoid":20,"value":1', '"typeoid":20,"value":{"value":1}', "Insert", "columns"),
        ('"typeoid":20,"value":1', '"typeoid":20,"value":[1.5]', "Insert", "columns"),
        ('"typeoid":20,"value":1', '"typeoid":20,"valu\\u0065":1.5', "Insert", "columns"),
    ],
)
def test_a_refused_row_names_its_message_and_field(
    found: str, instead: str, message: str, field: str
) -> None:
    payload = frame("I", {"id": (INT8, "1"), "body": text("b")}).decode()
    assert found in payload
    error = refusal(payload.replace(found, instead).encode())
    assert (error.message, error.field) == (message, field)


@pytest.mark.parametrize(
    ("field", "instead"),
    [
        *(("xid", wrong) for wrong in (None, "7", True, 7.0, [7])),
        *(("lsn", wrong) for wrong in (None, 7, "", "0", "0/1/2", "0/123456789", "x/y")),
        *(("timestamp", wrong) for wrong in (None, 7, "", "now", "2026-13-01 00:00:00+00")),
        ("timestamp", "2026-11-20 13:32:47"),  # of which time zone?
    ],
)
def test_a_refused_begin_names_the_field(field: str, instead: object) -> None:
    begin = {"action": "B", "xid": 7, "timestamp": MOMENT, "lsn": "0/1"}
    assert len(decoder().decode(json.dumps(begin).encode())) == 1
    error = refusal(json.dumps({**begin, field: instead}).encode())
    assert (error.message, error.field) == ("Begin", field)


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.sampled_from(["0/0", "public", "id", MOMENT, "2026-11-20", "-1/0", 10**30, -(2**63), 17]),
)
keys = st.sampled_from(["name", "typeoid", "value", "id"]) | st.text(max_size=3)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=6,
)


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    if isinstance(node, dict | list):
        for key in node if isinstance(node, dict) else range(len(node)):
            yield node, key
            yield from places(node[key])


@total
@given(st.data())
def test_any_json_in_any_field_gives_messages_or_a_decode_error(data: st.DataObject) -> None:
    tables, frames, _ = golden()
    fields = copy.deepcopy(json.loads(data.draw(st.sampled_from(frames), "frame")))
    for _ in range(data.draw(st.integers(1, 3), "damages")):
        container, key = data.draw(st.sampled_from(list(places(fields))), "place")
        if data.draw(st.booleans(), "removed") and isinstance(container, dict):
            del container[key]
        else:
            container[key] = data.draw(anything, "instead")
        if not fields:
            return
    check(json.dumps(fields, ensure_ascii=False).encode("utf-8", "replace"), tables)
