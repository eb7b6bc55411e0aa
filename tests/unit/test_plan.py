"""The decision for each row: every combination of what the log says and what is stored."""

from datetime import UTC, datetime

import pytest

from cdc_embed.change.batch import Batch, RowId
from cdc_embed.change.document import Document, Key, Table, TableColumn, fingerprint
from cdc_embed.change.knowledge import ABSENT, UNKNOWN, Known, Refused, Reread, State
from cdc_embed.change.plan import (
    Action,
    Delete,
    Forget,
    Move,
    Plan,
    Refuse,
    Row,
    Skip,
    Supersede,
    Texts,
    Write,
    plan,
    rows_to_look_up,
    skipped,
)
from cdc_embed.change.transaction import Change, Op
from cdc_embed.lsn import LSN, Position
from cdc_embed.wire.messages import UNCHANGED, Value

TABLE = Table(
    schema="public",
    name="t",
    oid=5,
    key=(TableColumn("id", "bigint"),),
    text_columns=("title", "body"),
    template=None,
    embedding_table="t_embedding",
)
KEY, NEW = ("1",), ("2",)
ROW: RowId = (TABLE, KEY)
MOVED: RowId = (TABLE, NEW)
TEXT = "a\n\nb"
WHOLE: tuple[Value, ...] = ("a", "b")
ALL_U: tuple[Value, ...] = (UNCHANGED, UNCHANGED)
PART_U: tuple[Value, ...] = ("a", UNCHANGED)
SAME, OTHER = Known(fingerprint(TEXT)), Known(fingerprint("another"))
SAME_LETTER, OTHER_LETTER = Refused(fingerprint(TEXT)), Refused(fingerprint("another"))
STATES = (SAME, OTHER, SAME_LETTER, OTHER_LETTER, ABSENT, UNKNOWN)
WRITE = Write(Document.whole(TEXT))


def change(
    op: Op, key: Key = (), texts: tuple[Value, ...] = (), old_key: Key | None = None
) -> Change:
    return Change(
        position=Position(LSN(1), 1),
        xid=1,
        committed_at=datetime(2026, 1, 1, tzinfo=UTC),
        table=TABLE,
        op=op,
        key=key,
        old_key=old_key,
        texts=texts,
    )


def updated(texts: tuple[Value, ...]) -> Batch:
    return Batch.of([change(Op.UPDATE, KEY, texts)])


def moved(texts: tuple[Value, ...]) -> Batch:
    return Batch.of([change(Op.UPDATE, NEW, texts, old_key=KEY)])


@pytest.mark.parametrize(
    ("stored", "action"),
    [
        (SAME, Skip("unchanged", SAME)),
        (OTHER, WRITE),
        (SAME_LETTER, Skip("unchanged", SAME_LETTER)),
        (OTHER_LETTER, WRITE),
        (ABSENT, WRITE),
        (UNKNOWN, WRITE),
    ],
)
def test_a_complete_text_is_compared_with_what_is_stored(stored: State, action: Action) -> None:
    batch = updated(WHOLE)
    assert plan(batch, {ROW: stored}).actions == {ROW: action}


def test_a_row_that_the_look_up_did_not_find_is_absent() -> None:
    assert plan(updated(WHOLE), {}).actions == {ROW: WRITE}


@pytest.mark.parametrize("stored", STATES)
@pytest.mark.parametrize("texts", [(None, None), ("", " \n"), (None, "\t")])
def test_a_row_without_text_keeps_nothing_whatever_is_stored(
    texts: tuple[Value, ...], stored: State
) -> None:
    assert plan(updated(texts), {ROW: stored}).actions == {ROW: Delete()}


@pytest.mark.parametrize("stored", STATES)
def test_a_deleted_row_keeps_nothing_whatever_is_stored(stored: State) -> None:
    assert plan(Batch.of([change(Op.DELETE, KEY)]), {ROW: stored}).actions == {ROW: Delete()}


@pytest.mark.parametrize("stored", STATES)
def test_unchanged_values_prove_a_skip_only_when_the_stored_version_is_known(
    stored: State,
) -> None:
    planned = plan(updated(ALL_U), {ROW: stored})
    if isinstance(stored, Known):
        assert planned.actions == {ROW: Skip("toast", stored)}
        assert planned.refetch == []
    else:
        assert planned.actions == {}
        assert planned.refetch == [ROW]


@pytest.mark.parametrize("stored", STATES)
def test_a_text_that_is_unchanged_only_in_part_is_read_again(stored: State) -> None:
    planned = plan(updated(PART_U), {ROW: stored})
    assert (planned.actions, planned.refetch) == ({}, [ROW])


@pytest.mark.parametrize("at_new_key", STATES)
@pytest.mark.parametrize("at_origin", STATES)
def test_chunks_move_to_a_new_key_only_when_those_at_the_old_one_are_known(
    at_origin: State, at_new_key: State
) -> None:
    planned = plan(moved(ALL_U), {ROW: at_origin, MOVED: at_new_key})
    assert planned.actions[ROW] == Delete()
    if isinstance(at_origin, Known):
        assert planned.actions[MOVED] == Move(KEY, at_origin.fingerprint)
    else:
        assert MOVED not in planned.actions
        assert planned.refetch == [MOVED]


def test_a_complete_text_at_a_new_key_is_compared_with_what_is_stored_there() -> None:
    assert plan(moved(WHOLE), {ROW: SAME}).actions == {ROW: Delete(), MOVED: WRITE}
    planned = plan(moved(WHOLE), {ROW: SAME, MOVED: SAME})
    assert planned.actions == {ROW: Delete(), MOVED: Skip("unchanged", SAME)}


def test_a_moved_text_that_is_unchanged_only_in_part_is_read_again() -> None:
    planned = plan(moved(PART_U), {ROW: SAME, MOVED: SAME})
    assert planned.actions == {ROW: Delete()}
    assert planned.refetch == [MOVED]


@pytest.mark.parametrize("stored", STATES)
def test_after_a_truncate_nothing_that_was_stored_counts(stored: State) -> None:
    batch = Batch.of([change(Op.TRUNCATE), change(Op.INSERT, KEY, WHOLE)])
    assert plan(batch, {ROW: stored}).actions == {ROW: WRITE}


@pytest.mark.parametrize("stored", STATES)
def test_unchanged_values_after_a_truncate_prove_nothing(stored: State) -> None:
    batch = Batch.of([change(Op.TRUNCATE), change(Op.UPDATE, KEY, ALL_U)])
    assert plan(batch, {ROW: stored}).refetch == [ROW]


@pytest.mark.parametrize("batch", [updated(PART_U), updated(ALL_U)])
@pytest.mark.parametrize("stored", [SAME_LETTER, ABSENT, UNKNOWN])
@pytest.mark.parametrize("found", [("a", "b"), (None, ""), None])
def test_a_row_that_was_read_again_is_decided_by_what_was_found(
    batch: Batch, stored: State, found: Texts | None
) -> None:
    planned = plan(batch, {ROW: stored}, refetched={ROW: None if found is None else Row(found)})
    expected: Action
    if found is None:
        expected = Forget()
    elif found == (None, ""):
        expected = Delete()
    else:
        reread = Write(WRITE.document, reread=True)
        expected = Skip("unchanged", stored) if stored == SAME_LETTER else reread
    assert (planned.actions, planned.refetch) == ({ROW: expected}, [])


def test_a_row_that_a_later_change_replaces_is_left_alone() -> None:
    planned = plan(updated(PART_U), {}, left_out={ROW})
    assert (planned.actions, planned.refetch) == ({ROW: Supersede()}, [])
    assert not planned.writes


def test_two_rows_of_one_new_text_share_one_text_entry() -> None:
    batch = Batch.of([change(Op.INSERT, KEY, WHOLE), change(Op.INSERT, NEW, WHOLE)])
    planned = plan(batch, {})
    assert planned.actions == {ROW: WRITE, MOVED: WRITE}
    assert planned.texts() == {(TABLE, fingerprint(TEXT)): TEXT}


def test_the_outcome_says_what_each_action_leaves() -> None:
    letter = Refuse(fingerprint("x"), "refused", "why")
    actions: dict[RowId, Action] = {
        (TABLE, ("write",)): WRITE,
        (TABLE, ("refuse",)): letter,
        (TABLE, ("move",)): Move(KEY, fingerprint("m")),
        (TABLE, ("delete",)): Delete(),
        (TABLE, ("forget",)): Forget(),
        (TABLE, ("skip",)): Skip("unchanged", SAME_LETTER),
        (TABLE, ("supersede",)): Supersede(),
    }
    outcome = Plan(Batch.of([change(Op.TRUNCATE)]), actions).outcome()
    assert {row[1][0]: state for row, state in outcome.states.items()} == {
        "write": SAME,
        "refuse": Refused(fingerprint("x")),
        "move": Known(fingerprint("m")),
        "delete": ABSENT,
        "forget": UNKNOWN,
        "skip": SAME_LETTER,
    }
    assert outcome.truncated == {TABLE}
    assert outcome.hashes == {(TABLE, fingerprint(TEXT))}


def test_every_row_with_a_refused_text_becomes_a_dead_letter_and_no_other() -> None:
    batch = Batch.of(
        [
            change(Op.INSERT, KEY, WHOLE),
            change(Op.INSERT, NEW, WHOLE),
            change(Op.INSERT, ("3",), ("fine", None)),
            change(Op.DELETE, ("4",)),
        ]
    )
    planned = plan(batch, {})
    planned.refuse({fingerprint(TEXT): ("refused", "why")})
    letter = Refuse(fingerprint(TEXT), "refused", "why")
    assert planned.actions == {
        ROW: letter,
        MOVED: letter,
        (TABLE, ("3",)): Write(Document.whole("fine")),
        (TABLE, ("4",)): Delete(),
    }
    assert planned.texts() == {(TABLE, fingerprint("fine")): "fine"}
    assert planned.outcome().states[ROW] == SAME_LETTER


@pytest.mark.parametrize(
    ("action", "writes"),
    [
        (WRITE, True),
        (Delete(), True),
        (Move(KEY, b"f"), True),
        (Forget(), True),
        (Refuse(b"f", "refused", "why"), True),
        (Skip("toast", SAME), False),
        (Supersede(), False),
    ],
)
def test_only_skips_write_nothing(action: Action, writes: bool) -> None:
    assert Plan(updated(WHOLE), {ROW: action}).writes is writes
    assert Plan(updated(WHOLE), {ROW: action, MOVED: Skip("toast", SAME)}).writes is writes


def test_a_truncate_is_written_even_without_rows() -> None:
    assert plan(Batch.of([change(Op.TRUNCATE)]), {}).writes
    assert not plan(Batch(), {}).writes


def test_only_rows_that_the_decision_asks_for_are_looked_up() -> None:
    assert rows_to_look_up(updated(WHOLE)) == [ROW]
    assert rows_to_look_up(Batch.of([change(Op.DELETE, KEY)])) == []
    assert rows_to_look_up(moved(WHOLE)) == [MOVED]
    assert rows_to_look_up(moved(ALL_U)) == [MOVED, ROW]
    assert rows_to_look_up(moved(ALL_U), left_out={MOVED}) == []
    truncated = Batch.of([change(Op.TRUNCATE), change(Op.INSERT, KEY, WHOLE)])
    assert rows_to_look_up(truncated) == []


def test_what_was_skipped_is_counted_with_its_reason() -> None:
    planned = Plan(
        updated(WHOLE),
        {ROW: Skip("toast", SAME), MOVED: Supersede(), (TABLE, ("3",)): WRITE},
    )
    assert list(skipped(planned)) == [("public.t", "toast"), ("public.t", "superseded")]


def test_a_text_read_again_proves_nothing_about_a_version_that_the_log_calls_unchanged() -> None:
    """The read was ahead of the log: it may be another row's text, so a key change must not carry
    it along, and even an equal text is marked as known from the read alone."""
    known = Known(WRITE.document.fingerprint)
    planned = plan(updated(PART_U), {ROW: known}, refetched={ROW: Row(("a", "b"))})
    assert planned.actions[ROW] == Write(WRITE.document, reread=True)
    state = planned.outcome().states[ROW]
    assert state == Reread(WRITE.document.fingerprint)
    again = plan(updated(ALL_U), {ROW: state})
    assert again.refetch == [ROW]
    complete = plan(updated(("a", "b")), {ROW: state})
    assert complete.actions[ROW] == Skip("unchanged", known)
