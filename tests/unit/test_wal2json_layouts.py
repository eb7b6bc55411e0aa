"""Relations and old tuples that the JSON decoder gathers from rows, and requests for tables."""

from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cdc_embed.errors import DecodeError
from cdc_embed.wire.messages import (
    LEFT_OUT,
    Delete,
    Insert,
    Message,
    OldTuple,
    Relation,
    ReplicaIdentity,
    Truncate,
    Update,
)
from cdc_embed.wire.wal2json import OPTIONS, Followed, Wal2json, options
from tests.unit.json_lines import INT8, frame, text

OID = 16384
ONE, TWO = (INT8, "1"), (INT8, "2")


def follow(*columns: str) -> Wal2json:
    """A decoder of ``public.t``."""
    followed = Followed(oid=OID, columns=frozenset(columns or ("id", "body")))
    return Wal2json({("public", "t"): followed})


def feed(decoder: Wal2json, *frames: bytes) -> list[Message]:
    return [message for payload in frames for message in decoder.decode(payload)]


def relations(messages: list[Message]) -> list[tuple[str, str, str]]:
    """(replica identity, columns, columns of the identity) of each Relation."""
    return [
        (
            message.replica_identity.value,
            " ".join(column.name for column in message.columns),
            " ".join(column.name for column in message.columns if column.part_of_key),
        )
        for message in messages
        if isinstance(message, Relation)
    ]


INSERT = frame("I", {"id": ONE, "body": text("a"), "other": text("x")})
UPDATE = frame("U", {"id": ONE, "body": text("b"), "other": text("x")}, {"id": ONE})
DELETE = frame("D", identity={"id": ONE})
FULL_UPDATE = frame(
    "U",
    {"id": ONE, "body": text("b"), "other": text("x")},
    {"id": ONE, "body": text("a"), "other": text("x")},
)
FULL_DELETE = frame("D", identity={"id": ONE, "body": text("b"), "other": text("x")})
CODE_UPDATE = frame("U", {"id": TWO, "body": text("b"), "other": text("x")}, {"other": text("x")})


def test_one_relation_serves_every_row_that_looks_the_same() -> None:
    messages = feed(follow(), INSERT, UPDATE, DELETE, INSERT, UPDATE)
    assert [type(each) for each in messages] == [Relation, Insert, Update, Delete, Insert, Update]
    assert relations(messages) == [("d", "id body", "id")]


def test_another_connection_announces_again() -> None:
    for _ in range(2):
        assert relations(feed(follow(), DELETE)) == [("d", "id", "id")]


def test_what_is_not_followed_of_a_row_is_never_announced() -> None:
    decoder = follow()
    feed(decoder, INSERT)
    more = frame("U", {"id": ONE, "body": text("b"), "new": text("n")}, {"id": ONE})
    assert relations(feed(decoder, more)) == []


def test_of_a_table_that_only_counts_the_key_is_announced() -> None:
    decoder = Wal2json({("public", "t"): Followed(oid=0, columns=frozenset())})
    messages = feed(decoder, INSERT, UPDATE, FULL_UPDATE, DELETE)
    assert {columns for _, columns, _ in relations(messages)} == {"id"}


def test_full_identity_is_told_by_the_first_update_or_delete() -> None:
    decoder = follow()
    assert relations(feed(decoder, INSERT)) == [("d", "id body", "id")], "an insert cannot know"
    messages = feed(decoder, FULL_UPDATE)
    assert relations(messages) == [("f", "id body", "id")]
    assert messages[-1] == Update(
        relation_oid=OID, old_kind=OldTuple.FULL, old=("1", "a"), new=("1", "b")
    )
    assert relations(feed(decoder, INSERT, FULL_DELETE, FULL_UPDATE)) == []
    messages = feed(follow(), FULL_DELETE)
    assert messages[-1] == Delete(relation_oid=OID, old_kind=OldTuple.FULL, old=("1", "b"))


def test_full_identity_puts_unchanged_values_in_the_old_tuple() -> None:
    toasted = frame("U", {"id": ONE}, {"id": ONE, "body": text("a")})
    (relation, update) = feed(follow(), toasted)
    assert relations([relation]) == [("f", "id body", "id")]
    assert update == Update(
        relation_oid=OID, old_kind=OldTuple.FULL, old=("1", "a"), new=("1", LEFT_OUT)
    )


def test_under_full_identity_a_column_that_is_gone_is_no_null() -> None:
    """As NULL, a dropped text column would be embedded as an empty one."""
    decoder = follow()
    feed(decoder, FULL_UPDATE)
    row = {"id": ONE, "other": text("y")}
    (update, delete) = feed(decoder, frame("U", row, row), frame("D", identity=row))
    assert update == Update(
        relation_oid=OID, old_kind=OldTuple.FULL, old=("1", LEFT_OUT), new=("1", LEFT_OUT)
    )
    assert delete == Delete(relation_oid=OID, old_kind=OldTuple.FULL, old=("1", LEFT_OUT))


def test_an_identity_with_more_than_the_key_is_not_a_full_one() -> None:
    wide = {"id": ONE, "other": text("x")}
    messages = feed(follow(), frame("U", {**wide, "body": text("b")}, wide))
    assert relations(messages) == [("d", "id other body", "id other")]


def test_full_identity_of_an_all_key_table_is_as_good_as_its_key() -> None:
    row, moved = {"a": ONE, "b": ONE}, {"a": ONE, "b": TWO}
    decoder = follow("a", "b")
    messages = feed(
        decoder, frame("U", row, row, pk=("b", "a")), frame("U", moved, row, pk=("b", "a"))
    )
    assert relations(messages) == [("d", "a b", "a b")]
    kinds = [message.old_kind for message in messages if isinstance(message, Update)]
    assert kinds == [None, OldTuple.KEY]


def test_an_identity_that_is_not_the_key_is_announced_as_it_is() -> None:
    decoder = follow()
    feed(decoder, INSERT)
    messages = feed(decoder, CODE_UPDATE)
    assert relations(messages) == [("d", "id body other", "other")]
    assert messages[-1] == Update(relation_oid=OID, old_kind=None, old=None, new=("2", "b", "x")), (
        "the primary key's change is not seen: such a table is refused"
    )
    messages = feed(decoder, frame("D", identity={"other": text("x")}))
    assert messages == [Delete(relation_oid=OID, old_kind=OldTuple.KEY, old=(None, None, "x"))]


def test_the_identity_can_change_and_change_back() -> None:
    messages = feed(follow(), UPDATE, FULL_UPDATE, UPDATE, CODE_UPDATE, DELETE)
    assert [(kind, key) for kind, _, key in relations(messages)] == [
        ("d", "id"),
        ("f", "id"),
        ("d", "id"),
        ("d", "other"),
        ("d", "id"),
    ]


def test_a_changed_key_has_an_old_tuple() -> None:
    moved = frame("U", {"id": TWO, "body": text("a")}, {"id": ONE})
    assert feed(follow(), moved)[-1] == Update(
        relation_oid=OID, old_kind=OldTuple.KEY, old=("1", None), new=("2", "a")
    )


def test_a_composite_key_is_old_as_a_whole() -> None:
    old, new = {"a": ONE, "b": ONE}, {"a": ONE, "b": TWO, "body": text("t")}
    messages = feed(follow("a", "b", "body"), frame("U", new, old, pk=("b", "a")))
    assert relations(messages) == [("d", "a b body", "a b")]
    assert messages[-1] == Update(
        relation_oid=OID, old_kind=OldTuple.KEY, old=("1", "1", None), new=("1", "2", "t")
    )


def test_a_new_column_is_announced_once_a_gone_one_is_unchanged() -> None:
    decoder = follow("id", "body", "extra")
    added = frame("U", {"id": ONE, "body": text("b"), "extra": text("e")}, {"id": ONE})
    gone = frame("U", {"id": ONE, "extra": text("E")}, {"id": ONE})
    assert relations(feed(decoder, INSERT, added, added, gone)) == [
        ("d", "id body", "id"),
        ("d", "id body extra", "id"),
    ]
    (update,) = feed(decoder, gone)
    assert isinstance(update, Update)
    assert update.new == ("1", LEFT_OUT, "E")


def test_a_text_out_of_line_at_first_is_announced_when_it_comes() -> None:
    decoder = follow()
    messages = feed(decoder, frame("U", {"id": ONE}, {"id": ONE}), INSERT)
    assert relations(messages) == [("d", "id", "id"), ("d", "id body", "id")]
    assert [each.new for each in messages if isinstance(each, Insert | Update)] == [
        ("1",),
        ("1", "a"),
    ]


def test_a_new_primary_key_is_announced() -> None:
    decoder = follow()
    row = {"id": ONE, "body": text("a")}
    messages = feed(decoder, frame("I", row), frame("I", row, pk=()), frame("I", row, pk=("body",)))
    assert [key for _, _, key in relations(messages)] == ["id", "", "body"]
    full = [frame("U", {**row, "x": ONE}, {**row, "x": ONE}, pk=pk) for pk in (("id",), ("body",))]
    assert relations(feed(follow(), *full)) == [("f", "id body", "id"), ("f", "id body", "body")]


def test_a_truncate_before_any_row_brings_a_relation_of_its_own() -> None:
    """Without one the change would look like one of a table that nobody announced."""
    decoder = follow()
    truncate = frame("T")
    assert [type(each) for each in feed(decoder, truncate, truncate)] == [
        Relation,
        Truncate,
        Truncate,
    ]
    assert relations(feed(decoder, UPDATE)) == [("d", "id body", "id")]
    assert [type(each) for each in feed(decoder, truncate, INSERT)] == [Truncate, Insert]


def test_a_relation_says_which_table_it_is_of() -> None:
    tables = {
        ("public", "t"): Followed(oid=1, columns=frozenset({"body"})),
        ("a.b", "t,t"): Followed(oid=2, columns=frozenset({"body"})),
    }
    other = frame("I", {"id": ONE}, table=("a.b", "t,t"))
    found = [m for m in feed(Wal2json(tables), INSERT, other, INSERT) if isinstance(m, Relation)]
    assert [(each.oid, each.namespace, each.name) for each in found] == [
        (1, "public", "t"),
        (2, "a.b", "t,t"),
    ]
    assert {each.replica_identity for each in found} == {ReplicaIdentity.DEFAULT}


def test_a_table_that_was_not_asked_for_is_refused_by_name() -> None:
    with pytest.raises(DecodeError, match=r"my schema\.x is not in add-tables"):
        feed(follow(), frame("T", table=("my schema", "x")))


# -- how tables are asked for, as wal2json.c reads it ---------------------------------------------

SPACES = b" \t\n\v\f\r"


class Asked(NamedTuple):
    schema: bytes
    table: bytes
    every_schema: bool = False
    every_table: bool = False


def string_to_tables(raw: bytes) -> list[Asked]:
    """``string_to_SelectTable`` and ``parse_table_identifier``, written down a second time."""
    at, found = 0, []
    raw = raw.lstrip(SPACES)
    while raw:
        start = at = 0
        while at < len(raw) and raw[at] not in b"," + SPACES:
            at += 2 if raw[at] == ord("\\") else 1
        assert start < at <= len(raw), "an empty name, or nothing to escape"
        found.append(identifier(raw[:at]))
        rest = raw[at:].lstrip(SPACES)
        assert not rest or rest.startswith(b","), "a space inside of a name"
        raw = rest[1:].lstrip(SPACES)
        assert raw or not rest, "nothing after a comma"
    return found


def identifier(name: bytes) -> Asked:
    schema, rest = unescaped(name, b".")
    assert rest.startswith(b"."), "no schema"
    table, _ = unescaped(rest[1:], b"")
    return Asked(schema, table, name.startswith(b"*."), rest == b".*")


def unescaped(name: bytes, until: bytes) -> tuple[bytes, bytes]:
    """Up to a byte that is not escaped, and the rest."""
    taken, at = bytearray(), 0
    while at < len(name) and name[at : at + 1] != until:
        at += name[at] == ord("\\")
        taken += name[at : at + 1]
        at += 1
    return bytes(taken), name[at:]


names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1) | st.text(
    "*.,\\ '\"\t\n\v\f\r\u0085\u00a0aé", min_size=1, max_size=6
)


@settings(deadline=None)
@given(st.lists(st.tuples(names, names), min_size=1, max_size=4))
@example([("*", "*"), ("a*", "*b")])
@example([("\\", "\\"), ("\\\\", ".\\.")])
@example([(" ", "\n"), ("my schema", ', "quoted" ')])
@example([(".", "."), ("a.b", "c.d")])
def test_the_plugin_reads_back_the_names_that_are_asked_for(tables: list[tuple[str, str]]) -> None:
    asked = string_to_tables(options(tables)["add-tables"].encode())
    assert asked == [Asked(schema.encode(), table.encode()) for schema, table in tables]


def test_every_option_is_asked_for_as_text() -> None:
    asked = options([("public", "t")])
    assert asked == {**OPTIONS, "add-tables": "public.t"}
    assert asked["add-msg-prefixes"] == "cdc_embed", "others' may be of bytes that are no JSON"
