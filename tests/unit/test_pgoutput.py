"""The decoder: exact on what servers sent, total on everything else.

The golden frames were captured from PostgreSQL 16 and 18 by ``tests/golden/capture.py``; what they
mean stands beside them in words, reviewed against the SQL that made them.
"""

import json
import struct
import tracemalloc
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cdc_embed.errors import DecodeError
from cdc_embed.lsn import LSN
from cdc_embed.wire.messages import (
    UNCHANGED,
    Begin,
    Column,
    Commit,
    Delete,
    Insert,
    LogicalMessage,
    Message,
    OldTuple,
    Origin,
    Relation,
    ReplicaIdentity,
    Truncate,
    TupleData,
    Type,
    Update,
)
from cdc_embed.wire.pgoutput import decode

GOLDEN = Path(__file__).parents[1] / "golden"
VERSIONS = (16, 18)
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
HUGE = 0xFFFFFFFF
TAGS = b"BCORYIUDTM"

total = settings(
    # a decoder that hangs is caught by this, one that is slow on a busy machine is not
    deadline=timedelta(seconds=10),
    max_examples=200,
    suppress_health_check=[HealthCheck.too_slow],
)


@dataclass(frozen=True)
class GoldenFrame:
    payload: bytes
    data_start: LSN
    expected: str


@cache
def golden(version: int) -> list[GoldenFrame]:
    raw = (GOLDEN / f"pgoutput-{version}.jsonl").read_text().splitlines()
    expected = (GOLDEN / f"pgoutput-{version}.txt").read_text().splitlines()
    frames = []
    for line, meaning in zip(map(json.loads, raw), expected, strict=True):
        payload, start = bytes.fromhex(line["payload"]), LSN.parse(line["data_start"])
        frames.append(GoldenFrame(payload, start, meaning))
    return frames


@cache
def steps(version: int) -> dict[str, list[GoldenFrame]]:
    """The frames that each step of the capture script caused; a message announces each step."""
    found: dict[str, list[GoldenFrame]] = {}
    for frame in golden(version):
        message = decode(frame.payload)
        if isinstance(message, LogicalMessage) and message.prefix == "step":
            current = found[message.content.decode()] = []
        else:
            current.append(frame)
    return found


def step(version: int, name: str) -> list[Message]:
    """The messages of one step, without its Relations."""
    messages = [decode(frame.payload) for frame in steps(version)[name]]
    return [message for message in messages if not isinstance(message, Relation)]


def outcome(frame: bytes) -> Message | DecodeError:
    """Return the message or the DecodeError; any other error fails the test."""
    try:
        return decode(frame)
    except DecodeError as error:
        return error


def refusal(frame: bytes) -> DecodeError:
    """The error that the frame gives."""
    error = outcome(frame)
    assert isinstance(error, DecodeError), f"{frame!r} was taken for {error!r}"
    return error


# -- an encoder, as the documentation describes the messages --------------------------------------


def encode(message: Message) -> bytes:
    match message:
        case Begin():
            head = struct.pack(">Q", message.final_lsn)
            return b"B" + head + timestamp(message.committed_at) + struct.pack(">I", message.xid)
        case Commit():
            head = struct.pack(">BQQ", message.flags, message.commit_lsn, message.end_lsn)
            return b"C" + head + timestamp(message.committed_at)
        case Origin():
            return b"O" + struct.pack(">Q", message.commit_lsn) + string(message.name)
        case Relation():
            return encode_relation(message)
        case Type():
            names = namespace(message.namespace) + string(message.name)
            return b"Y" + struct.pack(">I", message.oid) + names
        case Insert():
            return b"I" + struct.pack(">I", message.relation_oid) + b"N" + row(message.new)
        case Update():
            old = b""
            if message.old_kind is not None:
                assert message.old is not None
                old = message.old_kind.value.encode() + row(message.old)
            return b"U" + struct.pack(">I", message.relation_oid) + old + b"N" + row(message.new)
        case Delete():
            kind = message.old_kind.value.encode()
            return b"D" + struct.pack(">I", message.relation_oid) + kind + row(message.old)
        case Truncate():
            oids = message.relation_oids
            options = message.cascade | message.restart_identity << 1
            return b"T" + struct.pack(f">IB{len(oids)}I", len(oids), options, *oids)
        case LogicalMessage():
            head = struct.pack(">BQ", message.transactional, message.lsn) + string(message.prefix)
            return b"M" + head + struct.pack(">I", len(message.content)) + message.content


def encode_relation(relation: Relation) -> bytes:
    names = namespace(relation.namespace) + string(relation.name)
    identity = relation.replica_identity.value.encode()
    columns = (
        bytes([column.part_of_key])
        + string(column.name)
        + struct.pack(">Ii", column.type_oid, column.type_modifier)
        for column in relation.columns
    )
    head = struct.pack(">I", relation.oid) + names + identity
    return b"R" + head + struct.pack(">H", len(relation.columns)) + b"".join(columns)


def timestamp(moment: datetime) -> bytes:
    return struct.pack(">q", (moment - EPOCH) // timedelta(microseconds=1))


def string(text: str) -> bytes:
    return text.encode() + b"\0"


def namespace(name: str) -> bytes:
    return string("" if name == "pg_catalog" else name)


def row(values: TupleData) -> bytes:
    return struct.pack(">H", len(values)) + b"".join(map(encode_value, values))


def encode_value(value: object) -> bytes:
    if value is None:
        return b"n"
    if value is UNCHANGED:
        return b"u"
    assert isinstance(value, str)
    data = value.encode()
    return b"t" + struct.pack(">I", len(data)) + data


uint32 = st.integers(min_value=0, max_value=HUGE)
lsns = st.integers(min_value=0, max_value=2**64 - 1).map(LSN)
moments = st.datetimes(timezones=st.just(UTC))
texts = st.text(alphabet=st.characters(codec="utf-8"), max_size=20)
names = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
namespaces = st.just("pg_catalog") | names.filter(bool)
values = st.none() | st.just(UNCHANGED) | texts
rows = st.lists(values, max_size=6).map(tuple)
columns = st.builds(
    Column,
    name=names,
    type_oid=uint32,
    type_modifier=st.integers(min_value=-(2**31), max_value=2**31 - 1),
    part_of_key=st.booleans(),
)
messages = st.one_of(
    st.builds(Begin, final_lsn=lsns, committed_at=moments, xid=uint32),
    st.builds(
        Commit,
        flags=st.integers(min_value=0, max_value=255),
        commit_lsn=lsns,
        end_lsn=lsns,
        committed_at=moments,
    ),
    st.builds(Origin, commit_lsn=lsns, name=names),
    st.builds(
        Relation,
        oid=uint32,
        namespace=namespaces,
        name=names,
        replica_identity=st.sampled_from(ReplicaIdentity),
        columns=st.lists(columns, max_size=5).map(tuple),
    ),
    st.builds(Type, oid=uint32, namespace=namespaces, name=names),
    st.builds(Insert, relation_oid=uint32, new=rows),
    st.builds(Update, relation_oid=uint32, old_kind=st.none(), old=st.none(), new=rows),
    st.builds(Update, relation_oid=uint32, old_kind=st.sampled_from(OldTuple), old=rows, new=rows),
    st.builds(Delete, relation_oid=uint32, old_kind=st.sampled_from(OldTuple), old=rows),
    st.builds(
        Truncate,
        relation_oids=st.lists(uint32, max_size=6).map(tuple),
        cascade=st.booleans(),
        restart_identity=st.booleans(),
    ),
    st.builds(
        LogicalMessage,
        transactional=st.booleans(),
        lsn=lsns,
        prefix=names,
        content=st.binary(max_size=30),
    ),
)


# -- what servers sent ----------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_golden_frames_decode_to_exactly_the_reviewed_messages(version: int) -> None:
    for frame in golden(version):
        assert ascii(decode(frame.payload)) == frame.expected


@pytest.mark.parametrize("version", VERSIONS)
def test_golden_frames_have_every_message_type_and_kind_of_tuple(
    version: int,
) -> None:
    found = [decode(frame.payload) for frame in golden(version)]
    assert {type(message) for message in found} == set(get_args(Message))
    assert {message.old_kind for message in found if isinstance(message, Update)} == {
        None,
        OldTuple.KEY,
        OldTuple.FULL,
    }
    assert {m.old_kind for m in found if isinstance(m, Delete)} == set(OldTuple)
    assert {m.replica_identity for m in found if isinstance(m, Relation)} == set(ReplicaIdentity)
    assert {m.transactional for m in found if isinstance(m, LogicalMessage)} == {True, False}
    truncates = [m for m in found if isinstance(m, Truncate)]
    assert {(m.cascade, m.restart_identity) for m in truncates} == {
        (False, False),
        (False, True),
        (True, False),
        (True, True),
    }
    assert max(len(m.relation_oids) for m in truncates) == 3
    rows = [m.new for m in found if isinstance(m, Insert | Update)]
    assert any(UNCHANGED in row for row in rows)
    assert any(None in row for row in rows)
    assert any("" in row for row in rows)
    assert max(map(len, rows)) == 60


@pytest.mark.parametrize("version", VERSIONS)
def test_each_golden_transaction_ends_with_its_announced_commit(
    version: int,
) -> None:
    begin: Begin | None = None
    last_end = LSN(0)
    for frame in golden(version):
        message = decode(frame.payload)
        if isinstance(message, Begin):
            assert begin is None
            assert last_end <= message.final_lsn
            begin = message
        elif isinstance(message, Commit):
            assert begin is not None
            assert (begin.final_lsn, begin.committed_at) == (
                message.commit_lsn,
                message.committed_at,
            )
            assert message.end_lsn > message.commit_lsn
            begin, last_end = None, message.end_lsn
        elif isinstance(message, LogicalMessage) and not message.transactional:
            assert begin is None
        else:
            assert begin is not None
    assert begin is None


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("update without an old tuple", None, ("1", "ONE")),
        ("update that changes nothing", None, ("1", "ONE")),
        ("update of the key", ("2", None), ("3", "two")),
        ("unchanged out-of-line text", None, ("1", "FIRST", UNCHANGED)),
        (
            "key update with unchanged out-of-line text",
            ("1", None, None),
            ("7", "FIRST", UNCHANGED),
        ),
        ("replica identity index: the primary key changes", None, ("2", "x", "body")),
        (
            "replica identity index: the code changes",
            (None, "x", None),
            ("2", "y", "body"),
        ),
        (
            "composite key: one part changes",
            (
                "6f9619ff-8b86-d011-b42d-00cf4fc964ff",
                "2024-02-29 18:29:59.999999+00",
                None,
                "1.50",
            ),
            (
                "6f9619ff-8b86-d011-b42d-00cf4fc964ff",
                "2024-02-29 18:29:59.999999+00",
                "BODY",
                "-0.0001",
            ),
        ),
        ("column list: only another column changes", None, ("1", "body")),
    ],
)
def test_an_update_has_an_old_tuple_only_if_its_identity_changed(
    version: int, name: str, old: TupleData | None, new: TupleData
) -> None:
    _, update, _ = step(version, name)
    assert isinstance(update, Update)
    assert (update.old_kind, update.old) == (OldTuple.KEY if old else None, old)
    assert update.new == new


@pytest.mark.parametrize("version", VERSIONS)
def test_full_identity_gives_the_old_row_also_for_unchanged_text(version: int) -> None:
    _, insert, _ = step(version, "replica identity full: insert")
    _, update, _ = step(version, "replica identity full: update")
    _, delete, _ = step(version, "replica identity full: delete")
    assert isinstance(insert, Insert)
    assert isinstance(update, Update)
    assert isinstance(delete, Delete)
    assert (update.old_kind, update.old) == (OldTuple.FULL, insert.new)
    assert isinstance(insert.new[2], str)
    assert len(insert.new[2]) == 70 * 32
    assert update.new == ("1", "named", UNCHANGED)
    assert (delete.old_kind, delete.old) == (OldTuple.FULL, ("2", "named", ""))


@pytest.mark.parametrize("version", VERSIONS)
def test_text_arrives_code_point_by_code_point(version: int) -> None:
    rows = step(version, "emoji, right to left, combining, zero width, outside the BMP")[1:-1]
    assert [message.new[1] for message in rows if isinstance(message, Insert)] == [
        "🙂👍🏽 👩\u200d👩\u200d👧",
        "שלום עולם مرحبا",
        "caf\u00e9",
        "cafe\u0301",
        "a\u200bb\ufeffc",
        "\U00010348\U0010fffd",
        "back\\slash, \"quotes\", 'apostrophes', \x01\x7f",
    ]
    rows = step(version, "null, empty and blank")[1:-1]
    texts = [message.new[1] for message in rows if isinstance(message, Insert)]
    assert texts == [None, "", " ", "\n\t\r", "null"]


@pytest.mark.parametrize("version", VERSIONS)
def test_what_was_rolled_back_is_not_sent(version: int) -> None:
    (kept,) = step(version, "rolled back but for its message outside")
    assert isinstance(kept, LogicalMessage)
    assert (kept.prefix, kept.content) == ("kept", b"outlives the rollback")
    rows = step(version, "savepoint rolled back")[1:-1]
    assert [message.new for message in rows if isinstance(message, Insert)] == [
        ("41", "before"),
        ("43", "after"),
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_transaction_of_another_node_keeps_its_name_and_clock(
    version: int,
) -> None:
    begin, origin, _, commit = step(version, "transaction with an origin")
    assert isinstance(begin, Begin)
    assert isinstance(commit, Commit)
    assert origin == Origin(commit_lsn=LSN.parse("16/B374D848"), name="upstream node")
    moment = datetime(2020, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    assert begin.committed_at == commit.committed_at == moment


@pytest.mark.parametrize("version", VERSIONS)
def test_an_empty_namespace_is_the_catalogue(version: int) -> None:
    name = "enum, enum array, domain, composite, extension type, domain and row of the catalogues"
    types = step(version, name)
    assert [(each.namespace, each.name) for each in types if isinstance(each, Type)] == [
        ("public", "mood"),
        ("public", "_mood"),
        ("pg_catalog", "varchar"),  # a domain is announced by its base type
        ("public", "address"),
        ("public", "vector"),
        ("pg_catalog", "varchar"),
        ("pg_catalog", "pg_tables"),
    ]


@pytest.mark.parametrize(("version", "row"), [(16, ("1", "21", "n")), (18, ("1", "21", "42", "n"))])
def test_a_stored_generated_column_is_sent_only_from_18_on(version: int, row: TupleData) -> None:
    _, insert, _ = step(version, "generated columns")
    assert isinstance(insert, Insert)
    assert insert.new == row


@pytest.mark.parametrize("version", VERSIONS)
def test_relations_types_and_foreign_begins_have_no_position(version: int) -> None:
    """The stream's guard exists for these: PostgreSQL's keepalives are forwarded after them."""
    frames = [(type(decode(frame.payload)), frame.data_start) for frame in golden(version)]
    nowhere = {kind for kind, start in frames if start == LSN(0)}
    somewhere = {kind for kind, start in frames if start > LSN(0)}
    assert nowhere == {Relation, Type, Begin}
    assert not somewhere & {Relation, Type}
    (begin, *_) = steps(version)["transaction with an origin"]
    assert begin.data_start == LSN(0)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_rows_of_one_copy_share_one_place_in_the_log(version: int) -> None:
    copied = [
        frame.data_start
        for frame in steps(version)["copy"]
        if isinstance(decode(frame.payload), Insert)
    ]
    assert len(copied) == 5
    assert len(set(copied)) == 1


# -- what nobody sent -----------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_every_strict_prefix_of_a_golden_frame_is_refused(version: int) -> None:
    for frame in golden(version):
        payload = frame.payload
        name = "Message" if payload[:1] == b"M" else frame.expected.partition("(")[0]
        sizes = range(len(payload))
        middle = sizes[100:-100] if len(payload) <= 2048 else sizes[100:-100:61]
        for size in (*sizes[:100], *middle, *sizes[100:][-100:]):
            error = refusal(payload[:size])
            assert error.message == (name if size else "unknown")
            assert isinstance(error.offset, int)
            assert 0 <= error.offset <= size


@pytest.mark.parametrize("version", VERSIONS)
def test_bytes_after_a_golden_frame_are_refused_at_its_end(version: int) -> None:
    for frame in golden(version):
        for garbage in (b"\0", b"x", frame.payload):
            error = refusal(frame.payload + garbage)
            assert (error.field, error.offset) == ("end", len(frame.payload))
            assert f"{len(garbage)} bytes too many" in str(error)


def check_totality(frame: bytes) -> None:
    """A message that is the same after encoding it, or a DecodeError, and little memory."""
    tracemalloc.start()
    try:
        result = outcome(frame)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000 + 200 * len(frame)
    if isinstance(result, DecodeError):
        assert isinstance(result.offset, int)
        assert 0 <= result.offset <= len(frame)
    else:
        assert isinstance(result, Message)
        assert decode(encode(result)) == result


@total
@given(st.binary(max_size=200))
@example(b"")
@example(b"B")
def test_any_bytes_give_a_message_or_a_decode_error(frame: bytes) -> None:
    check_totality(frame)


@total
@given(st.sampled_from(TAGS), st.binary(max_size=100))
def test_any_bytes_after_a_tag_give_a_message_or_a_decode_error(tag: int, rest: bytes) -> None:
    check_totality(bytes([tag]) + rest)


@total
@given(st.data())
def test_a_damaged_golden_frame_is_a_message_or_a_decode_error(data: st.DataObject) -> None:
    frames = golden(data.draw(st.sampled_from(VERSIONS), "version"))
    frame = bytearray(data.draw(st.sampled_from(frames), "frame").payload)
    for _ in range(data.draw(st.integers(1, 4), "damages")):
        at = data.draw(st.integers(0, len(frame)), "at")
        removed = data.draw(st.integers(0, 8), "removed")
        frame[at : at + removed] = data.draw(st.binary(max_size=8), "put in")
    check_totality(bytes(frame))


@total
@given(messages, st.data())
def test_a_damaged_message_gives_a_message_or_a_decode_error(
    message: Message, data: st.DataObject
) -> None:
    frame = bytearray(encode(message))
    at = data.draw(st.integers(0, len(frame) - 1), "at")
    frame[at] = data.draw(st.integers(0, 255), "byte")
    check_totality(bytes(frame))


ONE_TEXT = b"I" + bytes(4) + b"N" + b"\0\1" + b"t"


@pytest.mark.parametrize(
    ("frame", "field", "offset"),
    [
        pytest.param(ONE_TEXT + b"\xff\xff\xff\xff" + b"abc", "new tuple", 13, id="text"),
        pytest.param(ONE_TEXT + b"\x7f\xff\xff\xff" + b"abc", "new tuple", 13, id="signed text"),
        pytest.param(b"I" + bytes(4) + b"N" + b"\xff\xff", "new tuple", 8, id="columns of a row"),
        pytest.param(
            b"D" + bytes(4) + b"K" + b"\xff\xff" + b"n" * 100, "old tuple", 108, id="old columns"
        ),
        pytest.param(
            b"T" + b"\xff\xff\xff\xff" + b"\0" + bytes(400), "relation_oids", 6, id="oids"
        ),
        pytest.param(
            b"T" + struct.pack(">IB", 101, 0) + bytes(400), "relation_oids", 6, id="one oid"
        ),
        pytest.param(
            b"M" + bytes(9) + b"p\0" + b"\xff\xff\xff\xff" + b"abc", "content", 16, id="content"
        ),
        pytest.param(
            b"R" + bytes(4) + b"s\0t\0d" + b"\xff\xff" + b"\0c\0" + bytes(8),
            "column flags",
            23,
            id="columns of a relation",
        ),
    ],
)
def test_a_claimed_length_or_count_allocates_nothing(frame: bytes, field: str, offset: int) -> None:
    tracemalloc.start()
    try:
        error = refusal(frame)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (error.field, error.offset) == (field, offset)
    assert peak < 100_000


@pytest.mark.parametrize(
    ("frame", "message", "field", "offset", "problem"),
    [
        (b"", "unknown", "tag", 0, "tag b'' is not of proto_version 1"),
        (b"S" + bytes(5), "unknown", "tag", 0, "tag b'S' is not of proto_version 1"),
        (b"{}", "unknown", "tag", 0, "tag b'{' is not of proto_version 1"),
        (b"B", "Begin", "final_lsn", 1, "8 bytes expected, 0 left"),
        (b"B" + bytes(18), "Begin", "xid", 17, "4 bytes expected, 2 left"),
        (b"C" + bytes(24), "Commit", "commit_timestamp", 18, "8 bytes expected, 7 left"),
        (b"C" + bytes(26), "Commit", "end", 26, "1 bytes too many"),
        (b"O" + bytes(8) + b"name", "Origin", "name", 9, "no terminating zero byte"),
        (b"O" + bytes(8) + b"na\xffme\0", "Origin", "name", 11, "not UTF-8"),
        (b"R" + bytes(4) + b"s\0t\0", "Relation", "replica_identity", 9, "1 bytes expected"),
        (b"Y" + bytes(4) + b"s\0", "Type", "name", 7, "no terminating zero byte"),
        (ONE_TEXT + b"\0\0\0\3a\xffb", "Insert", "new tuple", 14, "not UTF-8"),
        # a code point cut in two, a surrogate, and an overlong zero byte
        (ONE_TEXT + b"\0\0\0\2a\xc3", "Insert", "new tuple", 14, "not UTF-8"),
        (ONE_TEXT + b"\0\0\0\3\xed\xa0\x80", "Insert", "new tuple", 13, "not UTF-8"),
        (ONE_TEXT + b"\0\0\0\2\xc0\x80", "Insert", "new tuple", 13, "not UTF-8"),
        (ONE_TEXT + b"\0\0\0\4abc", "Insert", "new tuple", 13, "4 bytes expected, 3 left"),
        (b"U" + bytes(4) + b"K\0\0", "Update", "tuple kind", 8, "1 bytes expected, 0 left"),
        (b"M" + bytes(9) + b"\xfe\0", "Message", "prefix", 10, "not UTF-8"),
    ],
)
def test_an_error_names_the_message_the_field_and_the_byte(
    frame: bytes, message: str, field: str, offset: int, problem: str
) -> None:
    error = refusal(frame)
    assert (error.message, error.field, error.offset) == (message, field, offset)
    assert f"{message} message: {problem}" in str(error)
    assert f"in field {field} at byte {offset}" in str(error)


@pytest.mark.parametrize(
    ("frame", "field", "offset", "problem"),
    [
        (b"B" + bytes(8) + b"\x7f" + b"\xff" * 7 + bytes(4), "commit_timestamp", 9, "range"),
        (b"B" + bytes(8) + b"\x80" + bytes(11), "commit_timestamp", 9, "range"),
        (b"R" + bytes(4) + b"s\0t\0" + b"x" + bytes(2), "replica_identity", 9, "b'x' is unknown"),
        (b"I" + bytes(4) + b"K\0\0", "tuple kind", 5, "b'N' expected, not b'K'"),
        (b"U" + bytes(4) + b"X\0\0", "tuple kind", 5, "b'N' expected, not b'X'"),
        (b"U" + bytes(4) + b"K\0\0O\0\0", "tuple kind", 8, "b'N' expected, not b'O'"),
        (b"D" + bytes(4) + b"N\0\0", "tuple kind", 5, "b'K' or b'O' expected, not b'N'"),
        (b"I" + bytes(4) + b"N\0\2nx", "new tuple", 9, "value kind b'x' is unknown"),
    ],
)
def test_a_refused_byte_is_named_with_its_field_and_its_place(
    frame: bytes, field: str, offset: int, problem: str
) -> None:
    error = refusal(frame)
    assert error.field == field
    assert problem in str(error)
    assert error.offset == offset


@pytest.mark.parametrize(
    ("frame", "message", "field"),
    [
        (b"I" + bytes(4) + b"N\0\1b\0\0\0\1\1", "Insert", "new tuple"),
        (b"U" + bytes(4) + b"O\0\2nb\0\0\0\0N\0\0", "Update", "old tuple"),
        (b"D" + bytes(4) + b"K\0\1b\0\0\0\4abcd", "Delete", "old tuple"),
    ],
)
def test_a_binary_value_is_refused_with_the_reason(frame: bytes, message: str, field: str) -> None:
    error = refusal(frame)
    assert (error.message, error.field) == (message, field)
    assert "a binary value, but START_REPLICATION requested text" in str(error)


def test_a_refused_frame_tells_that_nothing_is_confirmed_past_it() -> None:
    assert "nothing was confirmed past this message" in refusal(b"").hint


# -- there and back -------------------------------------------------------------------------------


@total
@given(messages)
@example(
    Begin(
        final_lsn=LSN(2**64 - 1),
        committed_at=datetime.max.replace(tzinfo=UTC),
        xid=HUGE,
    )
)
@example(Begin(final_lsn=LSN(0), committed_at=datetime.min.replace(tzinfo=UTC), xid=0))
@example(Begin(final_lsn=LSN(1), committed_at=EPOCH, xid=3))
@example(Begin(final_lsn=LSN(1), committed_at=EPOCH - timedelta(microseconds=1), xid=3))
@example(Insert(relation_oid=HUGE, new=()))
@example(Update(relation_oid=0, old_kind=OldTuple.KEY, old=(), new=()))
@example(Delete(relation_oid=0, old_kind=OldTuple.FULL, old=()))
@example(Truncate(relation_oids=(), cascade=True, restart_identity=True))
@example(Insert(relation_oid=1, new=("a\0b", "", None, UNCHANGED)))
def test_a_message_survives_being_encoded_and_decoded(message: Message) -> None:
    assert decode(encode(message)) == message


@pytest.mark.parametrize("count", [0, 1, 0x7FFF, 0x8000, 0xFFFF])
def test_counts_of_sixteen_bits_are_read_unsigned(count: int) -> None:
    row: TupleData = ("", None, UNCHANGED, "x")
    insert = Insert(relation_oid=1, new=(row * (count // 4 + 1))[:count])
    assert decode(encode(insert)) == insert
    column = Column(name="", type_oid=HUGE, type_modifier=-1, part_of_key=True)
    relation = Relation(
        oid=1,
        namespace="pg_catalog",
        name="",
        replica_identity=ReplicaIdentity.FULL,
        columns=(column,) * count,
    )
    assert decode(encode(relation)) == relation


@pytest.mark.parametrize("version", VERSIONS)
def test_golden_frames_are_what_the_documentation_says(version: int) -> None:
    """The encoder of this test was written from the documentation, not from the decoder."""
    for frame in golden(version):
        assert encode(decode(frame.payload)) == frame.payload
