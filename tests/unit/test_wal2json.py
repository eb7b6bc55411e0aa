"""The JSON decoder: exact on what a server sent, total on everything else.

The golden frames were captured from PostgreSQL 15 by ``tests/golden/capture.py``; what they mean
stands beside them in words, reviewed against the SQL that made them.
"""

import codecs
import copy
import json
from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cdc_embed.errors import DecodeError
from cdc_embed.lsn import LSN
from cdc_embed.wire.messages import (
    UNCHANGED,
    WITHHELD,
    Begin,
    Commit,
    Delete,
    Insert,
    Message,
    Relation,
    Truncate,
    TupleData,
    Update,
)
from cdc_embed.wire.wal2json import Followed, TableName, Wal2json
from tests.unit.json_lines import BYTEA, INT8, MOMENT, NUMERIC, TEXT, frame, text

GOLDEN = Path(__file__).parents[1] / "golden"
NAME = "wal2json-15"
OID = 16384

total = settings(
    # a decoder that hangs is caught by this, one that is slow on a busy machine is not
    deadline=timedelta(seconds=10),
    max_examples=300,
    suppress_health_check=[HealthCheck.too_slow],
)


@cache
def golden() -> tuple[dict[TableName, Followed], list[bytes], list[str]]:
    """The tables that were asked for, the frames, and what they mean."""
    head, *lines = map(json.loads, (GOLDEN / f"{NAME}.jsonl").read_text().splitlines())
    tables = {
        (table["schema"], table["table"]): Followed(
            oid=table["oid"], columns=frozenset(table["columns"])
        )
        for table in head["tables"]
    }
    frames = [line["payload"].encode() for line in lines]
    return tables, frames, (GOLDEN / f"{NAME}.txt").read_text().splitlines()


@cache
def steps() -> dict[str, list[Message]]:
    """The messages that each step of the capture script caused; a message announces each step."""
    tables, frames, _ = golden()
    follower = Wal2json(tables)
    found: dict[str, list[Message]] = {}
    for payload in frames:
        fields = json.loads(payload)
        if fields["action"] == "M":
            current = found[fields["content"]] = []
        current += follower.decode(payload)
    return found


def step(name: str) -> list[Message]:
    """The row messages of one step."""
    around = (Begin, Commit, Relation)
    return [message for message in steps()[name] if not isinstance(message, around)]


def decoder(*columns: str, codec: str = "utf-8") -> Wal2json:
    """One that follows ``public.t``."""
    followed = Followed(oid=OID, columns=frozenset(columns or ("id", "body")))
    return Wal2json({("public", "t"): followed}, codec)


def value(kind: int, written: str) -> object:
    """What becomes of one column's value."""
    *_, insert = decoder("v").decode(frame("I", {"v": (kind, written)}, pk=()))
    assert isinstance(insert, Insert)
    return insert.new[0]


def outcome(payload: bytes, follower: Wal2json) -> tuple[Message, ...] | DecodeError:
    """What decoding comes to; any error but a DecodeError fails the test."""
    try:
        return follower.decode(payload)
    except DecodeError as error:
        return error


def refusal(payload: bytes, follower: Wal2json | None = None) -> DecodeError:
    error = outcome(payload, follower or decoder())
    assert isinstance(error, DecodeError), f"{payload!r} was taken for {error!r}"
    return error


# -- what a server sent ---------------------------------------------------------------------------


def test_golden_frames_decode_to_exactly_the_reviewed_messages() -> None:
    tables, frames, expected = golden()
    follower = Wal2json(tables)
    for payload, meaning in zip(frames, expected, strict=True):
        messages = " ".join(map(ascii, follower.decode(payload)))
        assert messages == ("" if meaning.startswith("#") else meaning)


def test_every_golden_change_lies_in_the_transaction_that_its_begin_announced() -> None:
    begin: Begin | None = None
    last_end = LSN(0)
    for message in (message for found in steps().values() for message in found):
        if isinstance(message, Begin):
            assert begin is None
            assert last_end <= message.final_lsn
            begin = message
        elif isinstance(message, Commit):
            assert begin is not None
            assert begin.final_lsn == message.commit_lsn < message.end_lsn
            assert begin.committed_at == message.committed_at
            begin, last_end = None, message.end_lsn
        else:
            assert begin is not None
    assert begin is None


def test_a_relation_comes_before_the_first_row_that_does_not_fit_the_last_one() -> None:
    relations: dict[int, Relation] = {}
    for message in (message for found in steps().values() for message in found):
        match message:
            case Relation():
                assert relations.get(message.oid) != message, "said twice"
                relations[message.oid] = message
            case Insert():
                assert len(message.new) == len(relations[message.relation_oid].columns)
            case Update() | Delete():
                rows = [message.old, getattr(message, "new", None)]
                width = len(relations[message.relation_oid].columns)
                assert {len(row) for row in rows if row is not None} == {width}
            case Truncate():
                assert set(message.relation_oids) <= relations.keys()


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("update without an old tuple", None, ("1", "ONE")),
        ("update of the key", ("2", None), ("3", "two")),
        ("unchanged out-of-line text", None, ("1", "FIRST", UNCHANGED)),
        (
            "key update with unchanged out-of-line text",
            ("1", None, None),
            ("7", "FIRST", UNCHANGED),
        ),
        ("replica identity index: the code changes", (None, "x", None), ("2", "y", "body")),
        ("column list: only another column changes", None, ("1", "body")),
        ("replica identity changes: to full", ("1", "one"), ("1", "ONE")),
    ],
)
def test_old_and_new_tuples_are_those_of_the_sql(
    name: str, old: TupleData | None, new: TupleData
) -> None:
    (update,) = step(name)
    assert isinstance(update, Update)
    assert (update.old, update.new) == (old, new)


def test_an_unchanged_key_that_lies_out_of_line_is_in_the_old_tuple() -> None:
    (update,) = step("key out of line: another column")
    assert isinstance(update, Update)
    assert update.new[0] is UNCHANGED
    assert update.old is not None
    assert str(update.old[0]).startswith("key kkk")


def test_each_table_of_a_truncate_has_a_message_of_its_own() -> None:
    assert [type(m) for m in step("truncate of two, identities restarted")] == [Truncate] * 2
    assert len(step("truncate before any row, of a table that is not asked for too")) == 1


def test_what_needs_no_message_gives_none() -> None:
    for name in ("message alone in a transaction", "message beside a transaction, of bytes"):
        assert step(name) == []
    assert step("the table is renamed") == [], "under another name it is not asked for"


# -- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [20, 21, 23, 26, 700, 701, 1700])
@pytest.mark.parametrize(
    "number",
    [
        *("0", "-0", "-0.0", "1.50", "-0.0001", "1e+20", "5e-324", "1e-07", "1." + "0" * 40),
        *("9223372036854775807", "-9223372036854775808", "18446744073709551615"),
        *("18446744073709551616", "-9223372036854775809", "1" + "0" * 400, "1" + "0" * 131071),
        *("0." + "0" * 400 + "1", "1e+400"),
    ],
)
def test_a_number_keeps_its_digits(kind: int, number: str) -> None:
    if kind in {20, 21, 23, 26} and number.startswith("-0"):
        number = "-1"
    assert value(kind, number) == number


numbers = st.one_of(
    st.integers().map(str),
    st.decimals(allow_nan=False, allow_infinity=False).map(lambda number: f"{number:f}"),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0")) | st.sampled_from(
    ['"value":1.5', ',"value":1.5}', '\\"value":-1', "\\", '","value":2.5,"x":"', "\x01\x1f\x7f"]
)


@total
@given(st.lists(texts), st.lists(numbers))
@example(['"value":1.50,'], ["1.50", "1" + "0" * 400])
def test_texts_and_numbers_of_one_row_come_back_as_they_are(
    some: list[str], others: list[str]
) -> None:
    row = {f"t{place}": text(each) for place, each in enumerate(some)}
    row |= {f"n{place}": (NUMERIC, each) for place, each in enumerate(others)}
    *_, insert = decoder(*row).decode(frame("I", row, pk=()))
    assert isinstance(insert, Insert)
    assert insert.new == (*some, *others)


def test_values_have_the_text_form_of_their_type() -> None:
    assert (value(16, "true"), value(16, "false")) == ("t", "f")
    assert (value(BYTEA, '"00ff"'), value(BYTEA, '""')) == ("\\x00ff", "\\x")
    assert value(99999, '"\\\\x00ff"') == "\\x00ff", "of a domain over it"
    assert value(TEXT, '"\\u0001\\n\\"\\\\"') == '\x01\n"\\'


@pytest.mark.parametrize("kind", [700, 701, 1700])
def test_a_null_that_may_have_been_nan_is_withheld(kind: int) -> None:
    assert value(kind, "null") is WITHHELD


@pytest.mark.parametrize("kind", [16, 17, 20, 21, 23, 25, 26, 99999])
def test_another_null_is_null(kind: int) -> None:
    assert value(kind, "null") is None


@pytest.mark.parametrize("codec", ["latin-1", "euc_jp", "cp1251", "utf-8"])
def test_lines_in_the_encoding_of_the_database_are_read(codec: str) -> None:
    written = {"latin-1": "ÿ«é\x80", "euc_jp": "日本語 \\ ｱ", "cp1251": "ключ «ѣ»"}
    body = written.get(codec, "ключ 日本語").replace("ѣ", "ъ")
    row = {"id": (INT8, "1"), "body": text(body)}
    payload = frame("I", row).decode().encode(codec)
    *_, insert = decoder(codec=codec).decode(payload)
    assert insert == Insert(relation_oid=OID, new=("1", body))


def test_bytes_that_are_not_of_the_encoding_are_refused_at_their_place() -> None:
    error = refusal(b'{"action":"M\x98', decoder(codec="cp1251"))
    assert (error.offset, "cp1251" in str(error)) == (12, True)
    assert refusal(b'{"action":"M\xff"}').field == "line"
    with pytest.raises(LookupError):
        decoder(codec="no such encoding")
    assert codecs.lookup("iso8859_1").name == "iso8859-1"


# -- what nobody sent -----------------------------------------------------------------------------


def check(payload: bytes, tables: Mapping[TableName, Followed]) -> None:
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
            assert all(each in {None, UNCHANGED, WITHHELD} or type(each) is str for each in row)
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
