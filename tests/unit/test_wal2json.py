"""The JSON decoder on what a server sent: exact, digit by digit.

The golden frames were captured from PostgreSQL 15 by ``tests/golden/capture.py``; what they mean
stands beside them in words, reviewed against the SQL that made them.
"""

import json
from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cdc_embed.lsn import LSN
from cdc_embed.wire.messages import (
    LEFT_OUT,
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
from cdc_embed.wire.wal2json import Wal2json
from tests.unit.json_lines import (
    BYTEA,
    INT8,
    NUMERIC,
    OID,
    TEXT,
    decoder,
    frame,
    golden,
    refusal,
    starts,
    text,
)


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


def value(kind: int, written: str) -> object:
    """Return the decoded value of one column."""
    *_, insert = decoder("v").decode(frame("I", {"v": (kind, written)}, pk=()))
    assert isinstance(insert, Insert)
    return insert.new[0]


# -- what a server sent ---------------------------------------------------------------------------


def test_golden_frames_decode_to_exactly_the_reviewed_messages() -> None:
    tables, frames, expected = golden()
    follower = Wal2json(tables)
    for payload, meaning in zip(frames, expected, strict=True):
        messages = " ".join(map(ascii, follower.decode(payload)))
        assert messages == ("" if meaning.startswith("#") else meaning)


def test_each_golden_change_is_in_the_transaction_of_its_begin() -> None:
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


def test_a_relation_comes_before_the_first_row_that_needs_it() -> None:
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
        ("unchanged out-of-line text", None, ("1", "FIRST", LEFT_OUT)),
        (
            "key update with unchanged out-of-line text",
            ("1", None, None),
            ("7", "FIRST", LEFT_OUT),
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


def test_an_unchanged_key_out_of_line_is_in_the_old_tuple() -> None:
    (update,) = step("key out of line: another column")
    assert isinstance(update, Update)
    assert update.new[0] is LEFT_OUT
    assert update.old is not None
    assert str(update.old[0]).startswith("key kkk")


def test_each_table_of_a_truncate_has_a_message_of_its_own() -> None:
    assert [type(m) for m in step("truncate of two, identities restarted")] == [Truncate] * 2
    assert len(step("truncate before any row, of a table that is not asked for too")) == 1


def test_every_frame_has_a_place_in_the_log() -> None:
    """After one that has none the stream would have to wait, as keepalives are forwarded then."""
    assert LSN(0) not in map(LSN.parse, starts())


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


@settings(deadline=None)
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


def test_bytes_outside_the_encoding_are_refused_at_their_place() -> None:
    error = refusal(b'{"action":"M\x98', decoder(codec="cp1251"))
    assert (error.offset, "cp1251" in str(error)) == (12, True)
    assert refusal(b'{"action":"M\xff"}').field == "line"
