"""Messages to changes: numbered in their transaction, in their table's terms, none twice."""

from dataclasses import replace

import pytest

from cdc_embed.change.document import Table, TableColumn
from cdc_embed.change.event import OVERHEAD, Change, Event, Op, TransactionEnd
from cdc_embed.change.transaction import Assembler, Callbacks
from cdc_embed.errors import HistoryGapError, TableChangedError
from cdc_embed.lsn import LSN, ZERO, Position
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
    Relation,
    ReplicaIdentity,
    Truncate,
    Update,
    Value,
)
from tests.builders import NOW, checkpoint, table

FIRST, SECOND = table("first"), table("second", oid=2)


def begin(commit_lsn: int = 0x100) -> Begin:
    return Begin(final_lsn=LSN(commit_lsn), committed_at=NOW, xid=7)


def commit(commit_lsn: int = 0x100) -> Commit:
    at = LSN(commit_lsn)
    return Commit(flags=0, commit_lsn=at, end_lsn=LSN(commit_lsn + 8), committed_at=NOW)


def relation(
    *names: str,
    name: str = "first",
    oid: int = 1,
    identity: ReplicaIdentity = ReplicaIdentity.DEFAULT,
    key: tuple[str, ...] = ("id",),
) -> Relation:
    columns = tuple(
        Column(name=column, type_oid=25, type_modifier=-1, part_of_key=column in key)
        for column in names or ("id", "title", "body")
    )
    return Relation(
        oid=oid, namespace="public", name=name, replica_identity=identity, columns=columns
    )


def insert(*values: Value, oid: int = 1) -> Insert:
    return Insert(relation_oid=oid, new=values)


def update(
    *new: Value, key: tuple[Value, ...] | None = None, full: tuple[Value, ...] | None = None
) -> Update:
    kind = OldTuple.KEY if key is not None else OldTuple.FULL if full is not None else None
    return Update(relation_oid=1, old_kind=kind, old=key if key is not None else full, new=new)


def truncate(*oids: int) -> Truncate:
    return Truncate(relation_oids=oids, cascade=False, restart_identity=False)


def streaming(*messages: Message) -> Assembler:
    """An assembler of both tables from the log's start, fed with ``messages``."""
    assembler = Assembler([FIRST, SECOND], checkpoint(), ZERO)
    for message in messages:
        assembler.feed(message, 0)
    return assembler


def events(assembler: Assembler, *messages: Message) -> list[Event]:
    return [event for message in messages for event in assembler.feed(message, 10)]


def only(assembler: Assembler, message: Message) -> Change:
    (change,) = assembler.feed(message, 10)
    assert isinstance(change, Change)
    return change


def ordinals(found: list[Event]) -> list[int]:
    return [event.position.ordinal for event in found if isinstance(event, Change)]


# -- order ------------------------------------------------------------------------------------


def test_changes_are_numbered_inside_their_transaction() -> None:
    assembler = streaming(relation())
    found = events(
        assembler,
        begin(0x100),
        insert("1", "a", None),
        insert("2", "b", None),
        commit(0x100),
        begin(0x200),
        insert("3", "c", None),
    )
    positions = [event.position for event in found if isinstance(event, Change)]
    assert positions == [
        Position(LSN(0x100), 1),
        Position(LSN(0x100), 2),
        Position(LSN(0x200), 1),
    ]


def test_a_change_carries_its_transactions_facts_and_its_size() -> None:
    change = only(streaming(relation(), begin()), insert("1", "a", None))
    assert (change.xid, change.committed_at, change.table) == (7, NOW, FIRST)
    assert (change.op, change.key, change.old_key) == (Op.INSERT, ("1",), None)
    assert change.texts == ("a", None)
    assert change.size == 10 + OVERHEAD


def test_the_ids_of_transactions_are_widened_across_an_epoch() -> None:
    """The log has 32 bits of an id; a deferred row keeps it for longer than these go round."""
    near = (5 << 32) - 10
    assembler = Assembler([FIRST], checkpoint(), ZERO, near_xid=near)
    assembler.feed(relation(), 0)
    found = []
    for xid in (near - 2**30, near, 5, 2**31 - 1, 2**31 + 5):
        assembler.feed(replace(begin(), xid=xid & 0xFFFFFFFF), 0)
        found.append(only(assembler, insert("1", "a", None)).xid)
        assembler.feed(commit(), 0)
    epoch = 5 << 32
    assert found == [near - 2**30, near, epoch + 5, epoch + 2**31 - 1, epoch + 2**31 + 5]


def test_a_commit_ends_its_transaction() -> None:
    assembler = streaming(begin())
    assert assembler.open_transaction == begin()
    assert assembler.feed(commit(), 10) == [
        TransactionEnd(end_lsn=LSN(0x108), committed_at=NOW, size=10 + OVERHEAD)
    ]
    assert assembler.open_transaction is None


def test_rows_of_unconfigured_tables_count_and_are_left_out() -> None:
    assembler = streaming(relation(), relation("x", name="stranger", oid=3, key=()), begin())
    found = events(assembler, insert("any", oid=3), insert("1", "a", None))
    assert ordinals(found) == [2]


def test_other_messages_are_no_changes() -> None:
    notice = LogicalMessage(transactional=True, lsn=LSN(1), prefix="p", content=b"")
    found = events(streaming(relation(), begin()), notice, insert("1", "a", None))
    assert ordinals(found) == [1]


# -- what the target has already --------------------------------------------------------------


def test_exactly_the_changes_the_record_covers_are_left_out() -> None:
    covered: list[Table] = []
    recorded = checkpoint(Position(LSN(0x200), 2), end_lsn=0x108)
    assembler = Assembler([FIRST], recorded, ZERO, callbacks=Callbacks(on_covered=covered.append))
    found = events(
        assembler,
        relation(),
        begin(0x100),
        insert("1", "a", None),
        commit(0x100),
        begin(0x200),
        insert("2", "a", None),
        insert("3", "a", None),
        insert("4", "a", None),
        commit(0x200),
    )
    changes = [event for event in found if isinstance(event, Change)]
    assert [change.key for change in changes] == [("4",)]
    assert changes[0].position == Position(LSN(0x200), 3)
    assert covered == [FIRST] * 3
    assert sum(isinstance(event, TransactionEnd) for event in found) == 2


def test_a_replay_without_the_recorded_commit_is_a_gap() -> None:
    assembler = Assembler([FIRST], checkpoint(end_lsn=LSN(0x208)), LSN(0x100))
    assembler.feed(begin(0x150), 1)
    assembler.feed(commit(0x150), 1)
    with pytest.raises(HistoryGapError, match="0/208"):
        assembler.feed(commit(0x300), 1)


def test_a_gap_is_told_before_a_change_beyond_it_is_taken() -> None:
    """Nothing is recorded before the recorded commit is seen, so nothing may wait for a record."""
    assembler = Assembler([FIRST], checkpoint(end_lsn=LSN(0x208)), LSN(0x100))
    assert not assembler.verified
    with pytest.raises(HistoryGapError, match="rolled back"):
        assembler.feed(begin(0x208), 1)


def test_a_replay_with_the_recorded_commit_goes_on() -> None:
    assembler = Assembler([FIRST], checkpoint(end_lsn=LSN(0x208)), LSN(0x100))
    assert len(events(assembler, commit(0x200), commit(0x300))) == 2


@pytest.mark.parametrize("replay_from", [0x208, 0x250])
def test_a_stream_from_the_recorded_end_may_omit_its_commit(replay_from: int) -> None:
    assembler = Assembler([FIRST], checkpoint(end_lsn=LSN(0x208)), LSN(replay_from))
    assert len(events(assembler, commit(0x300))) == 1


def test_a_position_that_was_never_recorded_misses_no_commit() -> None:
    assert len(events(Assembler([FIRST], checkpoint(), ZERO), commit(0x300))) == 1


# -- tables -----------------------------------------------------------------------------------


def test_columns_are_found_by_name_at_each_relation() -> None:
    assembler = streaming(relation(), begin())
    assert only(assembler, insert("1", "a", "b")).texts == ("a", "b")
    assembler.feed(relation("extra", "body", "id", "title"), 1)
    change = only(assembler, insert("x", "b", "2", "a"))
    assert (change.key, change.texts) == (("2",), ("a", "b"))


def test_a_key_column_that_is_gone_stops_the_table() -> None:
    gone = relation("title", "body")
    with pytest.raises(TableChangedError, match=r"public\.first: key column id is not in"):
        streaming(gone, begin(), insert("x", "y"))


def test_a_text_column_that_the_log_lacks_is_not_taken_for_empty() -> None:
    """It may come from before the column was published; the row must be read, and if there is no
    such column any more, that read says so."""
    change = only(streaming(relation("id", "title"), begin()), insert("1", "a"))
    assert change.texts == ("a", UNCHANGED)
    assert not change.complete


def test_a_change_the_target_has_may_be_of_a_former_table_layout() -> None:
    """After a column was renamed, and the configuration with it, the log still tells of before."""
    seen = checkpoint(Position(LSN(0x100), 1))
    assembler = Assembler([FIRST], seen, ZERO)
    for message in (relation("id", "title", "old_body"), begin(), insert("1", "a", "b")):
        assert assembler.feed(message, 1) == []


def test_a_table_is_known_by_its_oid_whatever_the_log_calls_it() -> None:
    assert only(streaming(relation(name="archive"), begin()), insert("1", "a", "b")).table is FIRST
    assert streaming(relation(oid=77), begin()).feed(insert("1", "a", "b", oid=77), 1) == []


@pytest.mark.parametrize("key", [(), ("title",), ("id", "title")])
def test_an_identity_other_than_the_primary_key_stops_the_table(
    key: tuple[str, ...],
) -> None:
    with pytest.raises(TableChangedError, match="replica identity"):
        streaming(relation(key=key), begin(), insert("1", "a", "b"))


def test_a_full_identity_always_holds_the_primary_key() -> None:
    full = relation(identity=ReplicaIdentity.FULL, key=("id", "title", "body"))
    assert only(streaming(full, begin()), insert("1", "a", None)).key == ("1",)


def test_a_row_of_an_unannounced_relation_is_a_gap() -> None:
    with pytest.raises(HistoryGapError, match="unannounced relation 99"):
        streaming(begin()).feed(insert("1", oid=99), 1)


def test_a_row_outside_a_transaction_is_a_gap() -> None:
    with pytest.raises(HistoryGapError, match="outside a transaction"):
        streaming(relation()).feed(insert("1", "a", None), 1)
    with pytest.raises(HistoryGapError, match="outside a transaction"):
        streaming(relation(), begin(), commit()).feed(insert("1", "a", None), 1)


@pytest.mark.parametrize(
    "message",
    [
        insert("1", "a"),
        update("1", "a", "b", "c"),
        update("1", "a", "b", key=("1",)),
        Delete(relation_oid=1, old_kind=OldTuple.KEY, old=("1",)),
    ],
)
def test_a_row_of_another_width_than_announced_stops_the_table(message: Message) -> None:
    with pytest.raises(TableChangedError, match="3 were announced"):
        streaming(relation(), begin()).feed(message, 1)


@pytest.mark.parametrize(
    "message", [insert(None, "a", "b"), update(UNCHANGED, "a", "b"), update(None, "a", "b")]
)
def test_a_row_without_its_key_stops_the_table(message: Message) -> None:
    with pytest.raises(TableChangedError, match="without its primary key"):
        streaming(relation(), begin()).feed(message, 1)


def test_a_table_that_cannot_be_read_pauses_alone_until_it_can() -> None:
    """Changes of that time are of no use for ever: the table is compared instead."""
    undelivered: list[Table] = []
    assembler = Assembler(
        [FIRST, SECOND],
        checkpoint(),
        ZERO,
        Callbacks(on_undelivered=lambda table, _: undelivered.append(table)),
    )
    found = events(
        assembler,
        *(relation(key=()), relation(name="second", oid=2)),
        *(begin(0x100), insert("1", "a", "b"), insert("2", "c", "d", oid=2)),
        Delete(relation_oid=2, old_kind=OldTuple.KEY, old=(None, None, None)),
        *(insert("3", "e", "f"), commit(0x100)),
    )
    assert [event.table for event in found if isinstance(event, Change)] == [SECOND]
    assert undelivered == [FIRST, SECOND]
    assert events(assembler, relation(), begin(0x180), insert("4", "g", "h")) != []
    assert undelivered == [FIRST, SECOND]
    assert events(assembler, relation(key=()), insert("5", "i", "j")) == []
    assert undelivered == [FIRST, SECOND, FIRST], "this time is another one"


def test_leaves_are_told_with_the_table_that_has_their_rows() -> None:
    """A leaf is announced behind its table; what comes behind a row is another table's."""
    met: list[tuple[str, int]] = []
    callbacks = Callbacks(on_leaf=lambda table, leaf: met.append((table.full_name, leaf)))
    parted = replace(FIRST, partitioned=True)
    assembler = Assembler([parted, SECOND], checkpoint(), ZERO, callbacks)
    leaf, later, other = (relation(name=f"n{oid}", oid=oid) for oid in (7, 8, 9))
    second = relation(name="second", oid=2)
    events(assembler, begin(), relation(), leaf, insert("1", "a", "b"), relation(), later)
    events(assembler, insert("2", "a", "b"), other, second, other)
    assert met == [("public.first", 7), ("public.first", 8)]


def test_no_change_of_a_paused_table_is_an_event() -> None:
    undelivered: list[Table] = []
    callbacks = Callbacks(
        is_paused=lambda table: table is FIRST,
        on_undelivered=lambda table, _: undelivered.append(table),
    )
    assembler = Assembler([FIRST, SECOND], checkpoint(), ZERO, callbacks)
    assert events(assembler, relation(), begin(0x100), insert("1", "a", "b")) == []
    assert undelivered == [FIRST]


@pytest.mark.parametrize(("oid", "other"), [(23, True), (20, False), (0, False)])
def test_a_column_of_another_type_stops_the_table(oid: int, other: bool) -> None:
    typed = replace(FIRST, key=(TableColumn("id", "bigint", type_oid=20),))
    announced = relation()
    columns = [replace(announced.columns[0], type_oid=oid), *announced.columns[1:]]
    assembler = Assembler([typed], checkpoint(), ZERO)
    changed = replace(announced, columns=tuple(columns))
    if other:
        with pytest.raises(TableChangedError, match="column id is not of the type bigint"):
            events(assembler, changed, begin(), insert("1", "a", "b"))
    else:
        assert events(assembler, changed, begin(), insert("1", "a", "b")) != []


# -- tuples -----------------------------------------------------------------------------------


def test_an_update_says_what_the_log_carries() -> None:
    change = only(streaming(relation(), begin()), update("1", "a", UNCHANGED))
    assert (change.op, change.key, change.old_key) == (Op.UPDATE, ("1",), None)
    assert change.texts == ("a", UNCHANGED)
    assert not change.complete


def test_a_complete_old_tuple_fills_in_what_is_unchanged() -> None:
    message = update("1", "new", UNCHANGED, full=("1", "old", "long"))
    change = only(streaming(relation(), begin()), message)
    assert (change.texts, change.old_key) == (("new", "long"), None)
    assert change.complete


def test_an_old_tuple_of_a_partition_fills_in_nothing() -> None:
    """It is announced as complete with the table's identity; the partition's may be its key."""
    parted = replace(FIRST, partitioned=True)
    assembler = Assembler([parted], checkpoint(), ZERO)
    events(assembler, relation(identity=ReplicaIdentity.FULL), begin())
    change = only(assembler, update("2", "new", UNCHANGED, full=("1", None, None)))
    assert (change.texts, change.old_key) == (("new", UNCHANGED), ("1",))


def test_an_old_tuple_of_the_key_fills_in_no_text() -> None:
    message = update("1", "a", UNCHANGED, key=("1", None, None))
    assert only(streaming(relation(), begin()), message).texts == ("a", UNCHANGED)


@pytest.mark.parametrize("kind", ["key", "full"])
def test_a_key_change_names_the_old_key(kind: str) -> None:
    old: tuple[Value, ...] = ("1", None, None)
    message = update("2", "a", "b", key=old) if kind == "key" else update("2", "a", "b", full=old)
    change = only(streaming(relation(), begin()), message)
    assert (change.key, change.old_key) == (("2",), ("1",))


@pytest.mark.parametrize("kind", ["key", "full"])
def test_an_unchanged_key_is_taken_from_the_old_tuple(kind: str) -> None:
    old: tuple[Value, ...] = ("1", None, None)
    new: tuple[Value, ...] = (UNCHANGED, "a", "b")
    message = update(*new, key=old) if kind == "key" else update(*new, full=old)
    change = only(streaming(relation(), begin()), message)
    assert (change.key, change.old_key) == (("1",), None)


def test_a_delete_has_a_key_and_no_text() -> None:
    message = Delete(relation_oid=1, old_kind=OldTuple.KEY, old=("1", None, None))
    change = only(streaming(relation(), begin()), message)
    assert (change.op, change.key, change.texts) == (Op.DELETE, ("1",), ())


def test_a_truncate_is_one_change_for_each_configured_table() -> None:
    assembler = streaming(
        relation(),
        relation(name="second", oid=2),
        relation("x", name="stranger", oid=3, key=()),
        begin(),
    )
    found = events(assembler, truncate(1, 3, 2))
    changes = [event for event in found if isinstance(event, Change)]
    assert [(change.op, change.table, change.key) for change in changes] == [
        (Op.TRUNCATE, FIRST, ()),
        (Op.TRUNCATE, SECOND, ()),
    ]
    assert ordinals(found) == [1, 3]


# -- metadata ---------------------------------------------------------------------------------

NOTED = table("noted", TableColumn("label", "text"), TableColumn("title", "text"))


def noting(*names: str, identity: ReplicaIdentity = ReplicaIdentity.DEFAULT) -> Assembler:
    """An assembler of a table with metadata inside a transaction; ``title`` is text as well."""
    key = names if identity is ReplicaIdentity.FULL else ("id",)
    assembler = Assembler([NOTED], checkpoint(), ZERO)
    for message in (relation(*names, identity=identity, key=key), begin()):
        assembler.feed(message, 0)
    return assembler


def test_metadata_columns_are_found_by_name_at_each_relation() -> None:
    assembler = noting("id", "title", "body", "label")
    assert only(assembler, insert("1", "t", "b", "l")).metadata == ("l", "t")
    assembler.feed(relation("label", "extra", "body", "id", "title"), 1)
    change = only(assembler, insert("l", "x", None, "1", "t"))
    assert (change.key, change.texts, change.metadata) == (("1",), ("t", None), ("l", "t"))


def test_a_metadata_column_the_log_lacks_is_unchanged_not_null() -> None:
    change = only(noting("id", "title", "body"), insert("1", "t", "b"))
    assert change.metadata == (UNCHANGED, "t")
    assert not change.complete


def test_a_metadata_column_counts_from_its_first_relation_on() -> None:
    assembler = noting("id", "title", "body")
    assert only(assembler, update("1", "t", "b")).metadata == (UNCHANGED, "t")
    assembler.feed(relation("id", "title", "body", "label"), 1)
    assert only(assembler, update("1", "t", "b", None)).metadata == (None, "t")


def test_a_change_is_complete_with_its_metadata_only() -> None:
    assembler = noting("id", "title", "body", "label")
    assert only(assembler, update("1", "t", "b", None)).complete
    assert not only(assembler, update("1", "t", "b", UNCHANGED)).complete
    assert not only(assembler, update("1", "t", UNCHANGED, "l")).complete


def test_a_complete_old_tuple_fills_in_unchanged_metadata() -> None:
    assembler = noting("id", "title", "body", "label", identity=ReplicaIdentity.FULL)
    message = update("1", UNCHANGED, "b", UNCHANGED, full=("1", "t", "old", "l"))
    change = only(assembler, message)
    assert (change.texts, change.metadata) == (("t", "b"), ("l", "t"))
    assert change.complete


def test_a_complete_old_tuple_replaces_no_metadata_that_changed() -> None:
    assembler = noting("id", "title", "body", "label", identity=ReplicaIdentity.FULL)
    message = update("1", "new", "b", None, full=("1", "t", "b", "l"))
    assert only(assembler, message).metadata == (None, "new")


def test_an_old_tuple_without_the_column_fills_in_nothing() -> None:
    assembler = noting("id", "title", "body", identity=ReplicaIdentity.FULL)
    message = update("1", "t", UNCHANGED, full=("1", "t", "b"))
    change = only(assembler, message)
    assert (change.texts, change.metadata) == (("t", "b"), (UNCHANGED, "t"))


def test_an_old_tuple_of_the_key_fills_in_no_metadata() -> None:
    assembler = noting("id", "title", "body", "label")
    message = update("2", "t", "b", UNCHANGED, key=("1", None, None, None))
    change = only(assembler, message)
    assert (change.metadata, change.old_key) == ((UNCHANGED, "t"), ("1",))


def test_a_delete_and_a_truncate_have_no_metadata() -> None:
    assembler = noting("id", "title", "body", "label")
    delete = Delete(relation_oid=1, old_kind=OldTuple.KEY, old=("1", None, None, None))
    for message in (delete, truncate(1)):
        change = only(assembler, message)
        assert (change.metadata, change.complete) == ((), True)
