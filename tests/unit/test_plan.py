"""The decision for each row: every combination of what the log says and what is stored."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_embed.change.action import (
    Action,
    Annotate,
    Defer,
    Forget,
    Metadata,
    Move,
    Refuse,
    Remove,
    Row,
    Skip,
    Supersede,
    Texts,
    Write,
)
from cdc_embed.change.batch import Batch, RowId
from cdc_embed.change.document import Document, Key, TableColumn, fingerprint
from cdc_embed.change.event import Change, Op
from cdc_embed.change.knowledge import (
    ABSENT,
    LOG,
    READ,
    UNKNOWN,
    Deferred,
    Known,
    Refused,
    State,
)
from cdc_embed.change.plan import Plan, plan, rows_to_look_up, skipped
from cdc_embed.wire.messages import UNCHANGED, Value
from tests.builders import TABLE, change, table

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
    assert plan(updated(texts), {ROW: stored}).actions == {ROW: Remove()}


@pytest.mark.parametrize("stored", STATES)
def test_a_deleted_row_keeps_nothing_whatever_is_stored(stored: State) -> None:
    assert plan(Batch.of([change(Op.DELETE, KEY)]), {ROW: stored}).actions == {ROW: Remove()}


@pytest.mark.parametrize("stored", STATES)
def test_unchanged_values_prove_a_skip_only_of_a_known_version(
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
def test_chunks_move_to_a_new_key_only_if_the_old_ones_are_known(
    at_origin: State, at_new_key: State
) -> None:
    planned = plan(moved(ALL_U), {ROW: at_origin, MOVED: at_new_key})
    assert planned.actions[ROW] == Remove()
    if isinstance(at_origin, Known):
        assert planned.actions[MOVED] == Move(KEY, at_origin.fingerprint)
    else:
        assert MOVED not in planned.actions
        assert planned.refetch == [MOVED]


def test_a_complete_text_is_compared_with_that_at_its_new_key() -> None:
    assert plan(moved(WHOLE), {ROW: SAME}).actions == {ROW: Remove(), MOVED: WRITE}
    planned = plan(moved(WHOLE), {ROW: SAME, MOVED: SAME})
    assert planned.actions == {ROW: Remove(), MOVED: Skip("unchanged", SAME)}


def test_a_moved_text_that_is_partly_unchanged_is_read_again() -> None:
    planned = plan(moved(PART_U), {ROW: SAME, MOVED: SAME})
    assert planned.actions == {ROW: Remove()}
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
        expected = Remove()
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
        (TABLE, ("delete",)): Remove(),
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


@pytest.mark.parametrize("texts", [ALL_U, PART_U])
@pytest.mark.parametrize("batch", [updated, moved])
def test_a_deferred_row_proves_nothing(
    batch: Callable[[tuple[Value, ...]], Batch], texts: tuple[Value, ...]
) -> None:
    planned = plan(batch(texts), {ROW: Deferred(7)})
    assert planned.refetch == [ROW if batch is updated else MOVED]


def test_a_complete_change_of_a_deferred_row_is_written() -> None:
    assert plan(updated(WHOLE), {ROW: Deferred(7)}).actions == {ROW: WRITE}
    assert plan(updated((None, " ")), {ROW: Deferred(7)}).actions == {ROW: Remove()}


def test_exactly_rows_with_a_text_that_is_not_taken_are_deferred() -> None:
    changes = [change(Op.INSERT, KEY, ("a", "b")), change(Op.INSERT, NEW, ("c", "d"))]
    planned = plan(Batch.of(changes), {})
    assert planned.only_texts
    planned.defer_texts({fingerprint(TEXT)})
    assert planned.actions[ROW] == Defer(changes[0].xid)
    assert isinstance(planned.actions[MOVED], Write)
    assert planned.outcome().states[ROW] == Deferred(changes[0].xid)
    assert (planned.writes, planned.defers, planned.only_texts) == (True, True, False)


def test_exactly_rows_with_a_refused_text_become_dead_letters() -> None:
    batch = Batch.of(
        [
            change(Op.INSERT, KEY, WHOLE),
            change(Op.INSERT, NEW, WHOLE),
            change(Op.INSERT, ("3",), ("fine", None)),
            change(Op.DELETE, ("4",)),
        ]
    )
    planned = plan(batch, {})
    planned.refuse_texts({fingerprint(TEXT): ("refused", "why")})
    letter = Refuse(fingerprint(TEXT), "refused", "why")
    assert planned.actions == {
        ROW: letter,
        MOVED: letter,
        (TABLE, ("3",)): Write(Document.whole("fine")),
        (TABLE, ("4",)): Remove(),
    }
    assert planned.texts() == {(TABLE, fingerprint("fine")): "fine"}
    assert planned.outcome().states[ROW] == SAME_LETTER


@pytest.mark.parametrize(
    ("action", "writes"),
    [
        (WRITE, True),
        (Remove(), True),
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
    assert rows_to_look_up(moved(WHOLE)) == [MOVED, ROW]
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


def test_a_text_read_again_proves_no_version_called_unchanged() -> None:
    """The read was ahead of the log: it may be another row's text, so a key change must not carry
    it along, and even an equal text is marked as known from the read alone."""
    known = Known(WRITE.document.fingerprint)
    planned = plan(updated(PART_U), {ROW: known}, refetched={ROW: Row(("a", "b"))})
    assert planned.actions[ROW] == Write(WRITE.document, reread=True)
    state = planned.outcome().states[ROW]
    assert state == Known(WRITE.document.fingerprint, provenance=READ)
    again = plan(updated(ALL_U), {ROW: state})
    assert again.refetch == [ROW]
    complete = plan(updated(("a", "b")), {ROW: state})
    assert complete.actions[ROW] == Skip("unchanged", known)


# -- metadata ---------------------------------------------------------------------------------

NOTED = table("noted", TableColumn("far", "text"), TableColumn("views", "integer"))
HERE: RowId = (NOTED, KEY)
THERE: RowId = (NOTED, NEW)
U = UNCHANGED
DIGEST, OTHER_DIGEST = fingerprint(TEXT), fingerprint("another")
FIRST_VALUES, SECOND_VALUES = ("f", "1"), ("g", "9")


def noted(values: Sequence[Value]) -> bytes:
    found = NOTED.hash_metadata(values)
    assert found is not None
    return found


FIRST, SECOND = noted(FIRST_VALUES), noted(SECOND_VALUES)
VALUES_OF = {FIRST: FIRST_VALUES, SECOND: SECOND_VALUES}
"""The stored values of a state with this hash."""
NOTED_STATES: tuple[State, ...] = (
    *(Known(digest, hashed) for digest in (DIGEST, OTHER_DIGEST) for hashed in (FIRST, SECOND)),
    *(
        Known(digest, hashed, READ)
        for digest in (DIGEST, OTHER_DIGEST)
        for hashed in (FIRST, SECOND)
    ),
    SAME_LETTER,
    OTHER_LETTER,
    *(Refused(DIGEST + hashed, "database", "why") for hashed in (FIRST, SECOND)),
    ABSENT,
    UNKNOWN,
)
METADATA: dict[str, tuple[Value, ...]] = {
    "same": FIRST_VALUES,
    "other": ("f", "2"),
    "null": (None, None),
    "part u, rest same": (U, "1"),
    "part u, rest other": (U, "2"),
    "all u": (U, U),
}


def noted_update(
    texts: tuple[Value, ...], metadata: tuple[Value, ...], *, to: Key = KEY, of: Key = KEY
) -> Change:
    return change(
        Op.UPDATE,
        to,
        texts,
        old_key=of if of != to else None,
        metadata=metadata,
        table=NOTED,
    )


def filled(metadata: tuple[Value, ...], before: Known | None) -> bytes | None:
    """The hash of the row's values after the change; None where the log does not tell them."""
    if U not in metadata:
        return noted(metadata)
    if before is None:
        return None
    stored = VALUES_OF[before.metadata]
    return noted([old if new is U else new for new, old in zip(metadata, stored, strict=True)])


def expected(
    texts: tuple[Value, ...], metadata: tuple[Value, ...], origin: State, stored: State, to: Key
) -> Action | None:
    """The action by the rules; None: the row is read again.

    - What the log leaves out is what the version before has, and of that only Known tells.
    - A text that is left out in part can never be told.
    - A text that is told is compared with what is stored at its key; one that is left out is the
      origin's, and goes where its row goes.
    - Metadata is compared only where the text is the stored one.
    - What was refused is not tried again, at its own key or at the one that its row goes to: a
      text, or a text with its metadata where the database refused the two.
    - Unchanged values are taken from the origin; an annotation can take them from its own key only.
    """
    before = origin if isinstance(origin, Known) and origin.provenance is LOG else None
    hashed = filled(metadata, before)
    kept = KEY if U in metadata else None
    if texts == PART_U or (texts == ALL_U and before is None):
        return None
    letters = {DIGEST, DIGEST + (hashed or b"")}
    if texts == WHOLE and isinstance(stored, Refused) and stored.fingerprint in letters:
        return Skip("unchanged", stored)
    if hashed is None:
        return None
    beside = Metadata(metadata, hashed, kept)
    if texts == ALL_U:
        assert before is not None
        if to != KEY:
            return Move(KEY, before.fingerprint, beside)
        if hashed == before.metadata:
            return Skip("toast", before)
        return Annotate(beside, Known(before.fingerprint, hashed))
    if isinstance(stored, Known) and stored.fingerprint == DIGEST:
        after = Known(DIGEST, hashed)
        if stored.metadata == hashed:
            return Skip("unchanged", after)
        if kept is None or to == KEY:
            return Annotate(beside, after)
    if to != KEY and isinstance(origin, Refused) and origin.fingerprint in letters:
        return Refuse(origin.fingerprint, origin.reason, origin.error)
    return Write(Document.whole(TEXT), beside)


@pytest.mark.parametrize("stored", NOTED_STATES, ids=repr)
@pytest.mark.parametrize("metadata", METADATA.values(), ids=METADATA.keys())
@pytest.mark.parametrize("texts", [WHOLE, ALL_U, PART_U], ids=repr)
def test_text_and_metadata_are_decided_together(
    texts: tuple[Value, ...], metadata: tuple[Value, ...], stored: State
) -> None:
    action = expected(texts, metadata, stored, stored, KEY)
    planned = plan(Batch.of([noted_update(texts, metadata)]), {HERE: stored})
    assert planned.actions == ({} if action is None else {HERE: action})
    assert planned.refetch == ([HERE] if action is None else [])


@pytest.mark.parametrize("origin", NOTED_STATES, ids=repr)
@pytest.mark.parametrize("metadata", METADATA.values(), ids=METADATA.keys())
@pytest.mark.parametrize("texts", [WHOLE, ALL_U, PART_U], ids=repr)
def test_text_and_metadata_go_together_to_a_new_key(
    texts: tuple[Value, ...], metadata: tuple[Value, ...], origin: State
) -> None:
    batch = Batch.of([noted_update(texts, metadata, to=NEW)])
    for stored in NOTED_STATES:
        action = expected(texts, metadata, origin, stored, NEW)
        planned = plan(batch, {HERE: origin, THERE: stored})
        left: dict[RowId, Action] = {HERE: Remove()}
        assert planned.actions == (left if action is None else {**left, THERE: action})
        assert planned.refetch == ([THERE] if action is None else [])


def test_changed_metadata_alone_is_annotated_without_a_write() -> None:
    planned = plan(Batch.of([noted_update(WHOLE, ("f", "2"))]), {HERE: Known(DIGEST, FIRST)})
    hashed = noted(("f", "2"))
    assert planned.actions == {HERE: Annotate(Metadata(("f", "2"), hashed), Known(DIGEST, hashed))}
    assert planned.texts() == {}
    assert planned.writes
    assert planned.outcome().states == {HERE: Known(DIGEST, hashed)}


def test_changed_metadata_beside_a_text_out_of_line_is_annotated() -> None:
    planned = plan(Batch.of([noted_update(ALL_U, (U, "2"))]), {HERE: Known(DIGEST, FIRST)})
    beside = Metadata((U, "2"), noted(("f", "2")), KEY)
    assert planned.actions == {HERE: Annotate(beside, Known(DIGEST, beside.hash))}


def test_a_new_text_keeps_the_metadata_that_the_log_leaves_out() -> None:
    planned = plan(Batch.of([noted_update(WHOLE, (U, "2"))]), {HERE: Known(OTHER_DIGEST, FIRST)})
    beside = Metadata((U, "2"), noted(("f", "2")), KEY)
    assert planned.actions == {HERE: Write(Document.whole(TEXT), beside)}
    assert planned.outcome().states == {HERE: Known(DIGEST, beside.hash)}


@pytest.mark.parametrize("texts", [WHOLE, ALL_U])
@pytest.mark.parametrize(
    "stored",
    [
        Known(DIGEST, FIRST, READ),
        Known(OTHER_DIGEST, FIRST, READ),
        ABSENT,
        UNKNOWN,
        OTHER_LETTER,
    ],
    ids=repr,
)
def test_metadata_left_out_by_the_log_is_read_again_unless_known(
    texts: tuple[Value, ...], stored: State
) -> None:
    planned = plan(Batch.of([noted_update(texts, (U, "2"))]), {HERE: stored})
    assert (planned.actions, planned.refetch) == ({}, [HERE])


def test_metadata_that_is_stored_for_other_columns_is_read_again() -> None:
    """A column came or went: what is stored of the others proves nothing of them all."""
    stored = Known(DIGEST, b"hash of other columns")
    assert plan(Batch.of([noted_update(ALL_U, (U, "2"))]), {HERE: stored}).refetch == [HERE]
    planned = plan(Batch.of([noted_update(ALL_U, FIRST_VALUES)]), {HERE: stored})
    assert planned.actions == {HERE: Annotate(Metadata(FIRST_VALUES, FIRST), Known(DIGEST, FIRST))}


def test_a_row_that_moves_takes_its_changed_metadata_along() -> None:
    planned = plan(Batch.of([noted_update(ALL_U, (U, "2"), to=NEW)]), {HERE: Known(DIGEST, FIRST)})
    hashed = noted(("f", "2"))
    assert planned.actions[THERE] == Move(KEY, DIGEST, Metadata((U, "2"), hashed, KEY))
    assert planned.outcome().states == {HERE: ABSENT, THERE: Known(DIGEST, hashed)}


def test_swapped_rows_of_equal_texts_keep_their_own_metadata() -> None:
    """Each text is stored at its new key already, but what it leaves out is at the old one."""
    batch = Batch.of(
        [
            noted_update(WHOLE, (U, U), to=("9",), of=KEY),
            noted_update(WHOLE, (U, U), to=KEY, of=NEW),
            noted_update(WHOLE, (U, U), to=NEW, of=("9",)),
        ]
    )
    states = {HERE: Known(DIGEST, FIRST), THERE: Known(DIGEST, SECOND)}
    assert set(rows_to_look_up(batch)) == {HERE, THERE}
    planned = plan(batch, states)
    document = Document.whole(TEXT)
    assert planned.actions == {
        (NOTED, ("9",)): Remove(),
        HERE: Write(document, Metadata((U, U), SECOND, NEW)),
        THERE: Write(document, Metadata((U, U), FIRST, KEY)),
    }


def test_a_letter_follows_its_row_though_the_text_was_read_again() -> None:
    letter, other = Refused(DIGEST, "refused", "why"), Refused(OTHER_DIGEST, "refused", "why")
    batch = Batch.of([noted_update(ALL_U, FIRST_VALUES, to=NEW)])
    found = {THERE: Row(("a", "b"), FIRST_VALUES)}
    planned = plan(batch, {HERE: letter}, refetched=found)
    assert planned.actions == {HERE: Remove(), THERE: Refuse(DIGEST, "refused", "why")}
    assert planned.outcome().states[THERE] == letter
    assert isinstance(plan(batch, {HERE: other}, refetched=found).actions[THERE], Write)


def test_the_origin_is_looked_up_for_its_metadata_and_its_letter() -> None:
    assert rows_to_look_up(Batch.of([noted_update(WHOLE, FIRST_VALUES, to=NEW)])) == [THERE, HERE]
    assert rows_to_look_up(Batch.of([noted_update(WHOLE, (U, "1"), to=NEW)])) == [THERE, HERE]


def test_a_row_without_text_needs_no_metadata() -> None:
    planned = plan(Batch.of([noted_update((None, " "), (U, "1"))]), {HERE: UNKNOWN})
    assert (planned.actions, planned.refetch) == ({HERE: Remove()}, [])


@pytest.mark.parametrize("stored", NOTED_STATES, ids=repr)
@pytest.mark.parametrize("values", [FIRST_VALUES, ("f", None)])
def test_a_row_that_was_read_again_is_known_from_the_read_alone(
    values: tuple[str | None, ...], stored: State
) -> None:
    """A state that the log made known is written again, even if all values are equal."""
    hashed, row = noted(values), Row(("a", "b"), values)
    planned = plan(
        Batch.of([noted_update(PART_U, (U, "1"))]), {HERE: stored}, refetched={HERE: row}
    )
    action: Action = Write(Document.whole(TEXT), Metadata(values, hashed), reread=True)
    letters = {SAME_LETTER, Refused(DIGEST + hashed)}
    if stored in letters or stored == Known(DIGEST, hashed, READ):
        action = Skip("unchanged", stored)
    elif isinstance(stored, Known) and stored.provenance is READ and stored.fingerprint == DIGEST:
        action = Annotate(Metadata(values, hashed), Known(DIGEST, hashed, READ))
    assert (planned.actions, planned.refetch) == ({HERE: action}, [])
    after = planned.outcome().states[HERE]
    assert after == (stored if stored in letters else Known(DIGEST, hashed, READ))


def test_a_complete_row_makes_known_what_was_read() -> None:
    read = Known(DIGEST, FIRST, READ)
    same = plan(Batch.of([noted_update(WHOLE, FIRST_VALUES)]), {HERE: read})
    assert same.actions == {HERE: Skip("unchanged", Known(DIGEST, FIRST))}
    other = plan(Batch.of([noted_update(WHOLE, SECOND_VALUES)]), {HERE: read})
    assert other.outcome().states == {HERE: Known(DIGEST, SECOND)}


# -- against rows that are simulated ----------------------------------------------------------

Stored = dict[Key, tuple[str, tuple[Value, ...]]]
"""Text and metadata by key, as the rows are and as the target has them."""
NAMES = ("1", "2", "3")


@st.composite
def histories(draw: st.DrawFn) -> tuple[Stored, list[Change], Stored]:
    """The rows, what is done to them as the log tells it, and the rows after that."""
    values = st.tuples(st.sampled_from("fg"), st.sampled_from([None, "1"]))
    rows: Stored = {}
    for name in NAMES[: draw(st.integers(1, 3))]:
        rows[name,] = (draw(st.sampled_from("ab")), draw(values))
    before, log = dict(rows), []
    for _ in range(draw(st.integers(1, 6))):
        key = draw(st.sampled_from([(name,) for name in (*NAMES, "4")]))
        if key not in rows:
            rows[key] = (draw(st.sampled_from("ab")), draw(values))
            text, metadata = rows[key]
            log.append(change(Op.INSERT, key, (text, None), metadata=metadata, table=NOTED))
            continue
        if draw(st.integers(0, 4)) == 0:
            del rows[key]
            log.append(change(Op.DELETE, key, table=NOTED))
            continue
        old_text, old = rows.pop(key)
        text = draw(st.sampled_from([old_text, "a", "b"]))
        new = draw(st.sampled_from([old, old]) | values)
        to = draw(st.sampled_from([key, *((n,) for n in (*NAMES, "4") if (n,) not in rows)]))
        texts: tuple[Value, ...] = (
            (U, U) if text == old_text and draw(st.booleans()) else (text, None)
        )
        carried = tuple(
            U if now == then and now is not None and draw(st.booleans()) else now
            for now, then in zip(new, old, strict=True)
        )
        rows[to] = (text, new)
        log.append(noted_update(texts, carried, to=to, of=key))
    return before, log, rows


def written(planned: Plan, stored: Stored) -> Stored:
    """Return the target's row afterwards; all that is kept is taken from the row before."""

    def beside(metadata: Metadata) -> tuple[Value, ...]:
        if metadata.origin is None:
            return metadata.values
        kept = stored[metadata.origin][1]
        return tuple(k if v is U else v for v, k in zip(metadata.values, kept, strict=True))

    after = dict(stored)
    for (_, key), action in planned.actions.items():
        match action:
            case Write(document, metadata):
                after[key] = (document.chunks[0].text, beside(metadata))
            case Move(origin, digest, metadata):
                assert digest == fingerprint(stored[origin][0])
                after[key] = (stored[origin][0], beside(metadata))
            case Annotate(metadata):
                assert metadata.origin in {None, key}
                after[key] = (stored[key][0], beside(metadata))
            case Remove():
                after.pop(key, None)
            case _:
                assert isinstance(action, Skip)
    return after


@given(histories())
def test_any_batch_makes_what_is_stored_equal_to_the_rows(
    history: tuple[Stored, list[Change], Stored],
) -> None:
    before, log, after = history
    states: dict[RowId, State] = {
        (NOTED, key): Known(fingerprint(text), noted(values))
        for key, (text, values) in before.items()
    }
    planned = plan(Batch.of(log), states)
    assert planned.refetch == []
    assert written(planned, before) == after
    for (_, key), state in planned.outcome().states.items():
        if key in after:
            text, values = after[key]
            assert state == Known(fingerprint(text), noted(values))
        else:
            assert state is ABSENT
