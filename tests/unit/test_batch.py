"""Folding a range of the log into one final image for each key, exactly."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from cdc_embed.change.batch import Batch, Image
from cdc_embed.change.document import Key
from cdc_embed.change.event import Change, Event, Op, TransactionEnd
from cdc_embed.lsn import LSN, ZERO, Position
from cdc_embed.wire.messages import UNCHANGED, Value
from tests.builders import NOW, TABLE, change, table

U = UNCHANGED


OTHER = table("other")


def insert(key: str, a: Value, b: Value = None) -> Change:
    return change(Op.INSERT, (key,), (a, b), size=10)


def update(key: str, a: Value, b: Value = None, *, old: str | None = None) -> Change:
    return change(Op.UPDATE, (key,), (a, b), (old,) if old is not None else None, size=10)


def delete(key: str) -> Change:
    return change(Op.DELETE, (key,), size=10)


TRUNCATE = change(Op.TRUNCATE, size=10)


def folded(*events: Event) -> dict[str, tuple[tuple[Value, ...] | None, str | None]]:
    """(texts, origin) of each key of TABLE."""
    return {
        key[0]: (image.texts, image.origin[0] if image.origin is not None else None)
        for (_, key), image in Batch.of(events).images.items()
    }


def test_an_insert_stands_by_itself() -> None:
    assert folded(insert("1", "a", "b")) == {"1": (("a", "b"), None)}


def test_an_update_may_rest_on_the_version_before_the_batch() -> None:
    assert folded(update("1", "a", U)) == {"1": (("a", U), "1")}


def test_a_deleted_row_is_gone() -> None:
    assert folded(insert("1", "a"), delete("1")) == {"1": (None, None)}


def test_a_row_that_came_back_says_nothing_of_the_one_before() -> None:
    assert folded(delete("1"), insert("1", "new", None)) == {"1": (("new", None), None)}


def test_unchanged_values_are_filled_from_the_pending_version() -> None:
    events = (insert("1", "a", "b"), update("1", "c", U), update("1", U, U))
    assert folded(*events) == {"1": (("c", "b"), None)}


def test_a_value_left_out_may_be_of_a_dropped_column() -> None:
    """So the pending version does not say it, and the row is read again."""
    without = replace(update("1", "c", U), leaves_out=True)
    assert folded(insert("1", "a", "b"), without) == {"1": (("c", U), None)}
    assert folded(insert("1", "a", "b"), without, update("1", U, U)) == {"1": (("c", U), None)}
    assert folded(update("1", "x", U), without) == {"1": (("c", U), "1")}, "of the stored one"
    assert folded(insert("1", "a"), without, insert("1", "d", "e")) == {"1": (("d", "e"), None)}


def test_values_that_stay_unchanged_keep_their_origin() -> None:
    assert folded(update("1", "x", U), update("1", U, U)) == {"1": (("x", U), "1")}


def test_key_change_deletes_the_old_key() -> None:
    images = folded(update("2", "a", "b", old="1"))
    assert images["1"] == (None, None)
    assert images["2"] == (("a", "b"), "1")


def test_an_unchanged_text_follows_its_row_over_several_keys() -> None:
    images = folded(update("2", U, U, old="1"), update("3", "x", U, old="2"))
    assert images == {"1": (None, None), "2": (None, None), "3": (("x", U), "1")}


def test_two_keys_that_are_swapped_swap_their_origins() -> None:
    images = folded(
        update("9", U, U, old="1"), update("1", U, U, old="2"), update("2", U, U, old="9")
    )
    assert images == {"1": ((U, U), "2"), "2": ((U, U), "1"), "9": (None, None)}


def test_keys_that_are_shifted_by_one_take_each_its_neighbour() -> None:
    images = folded(
        update("4", U, U, old="3"), update("3", U, U, old="2"), update("2", U, U, old="1")
    )
    assert images == {
        "1": (None, None),
        "2": ((U, U), "1"),
        "3": ((U, U), "2"),
        "4": ((U, U), "3"),
    }


def test_a_truncate_ends_all_images_of_its_table_and_no_other() -> None:
    elsewhere = change(Op.INSERT, ("1",), ("a", "b"), table=OTHER)
    batch = Batch.of([insert("1", "a"), elsewhere, TRUNCATE])
    assert list(batch.images) == [(OTHER, ("1",))]
    assert batch.truncated == {TABLE: TRUNCATE}


def test_after_a_truncate_no_row_needs_the_version_before() -> None:
    assert folded(TRUNCATE, update("1", U, "b")) == {"1": ((U, "b"), None)}
    assert folded(TRUNCATE, insert("1", "a", "b"), update("1", U, U)) == {"1": (("a", "b"), None)}


def test_an_image_is_complete_when_nothing_must_be_looked_up() -> None:
    row = insert("1", "a")
    assert Image(texts=("a", None), origin=None, change=row).complete
    assert Image(texts=None, origin=None, change=row).complete
    assert not Image(texts=("a", U), origin=("1",), change=row).complete
    assert not Image(texts=("a",), metadata=("b", U), origin=("1",), change=row).complete
    assert Image(texts=("a",), metadata=("b", None), origin=("1",), change=row).complete


def test_an_image_names_the_last_change_of_its_key() -> None:
    last = update("1", "b")
    assert Batch.of([insert("1", "a"), last, insert("2", "c")]).images[TABLE, ("1",)].change is last


# -- metadata ---------------------------------------------------------------------------------


def noted(op: Op, key: str, *metadata: Value, old: str | None = None, text: Value = U) -> Change:
    """A change with metadata; an insert has a text of its own."""
    texts = ("a" if op is Op.INSERT and text is U else text, None)
    return change(op, (key,), texts, (old,) if old is not None else None, metadata=metadata)


def beside(*events: Event) -> dict[str, tuple[tuple[Value, ...], str | None]]:
    """(metadata, origin) of each key that has a row."""
    return {
        key[0]: (image.metadata, image.origin[0] if image.origin is not None else None)
        for (_, key), image in Batch.of(events).images.items()
        if image.texts is not None
    }


def test_unchanged_metadata_is_filled_from_the_pending_version() -> None:
    first = noted(Op.INSERT, "1", "long", "1")
    assert beside(first, noted(Op.UPDATE, "1", U, "2")) == {"1": (("long", "2"), None)}
    third = noted(Op.UPDATE, "1", None, U)
    assert beside(first, noted(Op.UPDATE, "1", U, "2"), third) == {"1": ((None, "2"), None)}


def test_unchanged_metadata_from_before_a_batch_keeps_its_origin() -> None:
    one, two = noted(Op.UPDATE, "1", U, "2"), noted(Op.UPDATE, "1", U, U)
    assert beside(one, two) == {"1": ((U, "2"), "1")}


def test_metadata_and_texts_are_each_filled_beside_complete_ones() -> None:
    before = noted(Op.INSERT, "1", "long", "1", text="text")
    after = Batch.of([before, noted(Op.UPDATE, "1", U, "2", text="new")]).images[TABLE, ("1",)]
    assert (after.texts, after.metadata) == (("new", None), ("long", "2"))
    after = Batch.of([before, noted(Op.UPDATE, "1", "x", "2")]).images[TABLE, ("1",)]
    assert (after.texts, after.metadata) == (("text", None), ("x", "2"))


def test_a_key_change_carries_metadata_along() -> None:
    inserted, moved = noted(Op.INSERT, "1", "long", "1"), noted(Op.UPDATE, "2", U, "2", old="1")
    assert beside(inserted, moved) == {"2": (("long", "2"), None)}
    again = noted(Op.UPDATE, "3", U, U, old="2")
    assert beside(moved, again) == {"3": ((U, "2"), "1")}


def test_metadata_of_swapped_keys_has_the_other_as_its_origin() -> None:
    images = beside(
        noted(Op.UPDATE, "9", U, "1", old="1"),
        noted(Op.UPDATE, "1", U, "2", old="2"),
        noted(Op.UPDATE, "2", U, U, old="9"),
    )
    assert images == {"1": ((U, "2"), "2"), "2": ((U, "1"), "1")}


def test_metadata_of_a_row_that_came_back_is_its_own() -> None:
    gone, back = change(Op.DELETE, ("1",)), noted(Op.INSERT, "1", "new", None)
    assert beside(noted(Op.UPDATE, "1", "old", "1"), gone, back) == {"1": (("new", None), None)}
    after = noted(Op.UPDATE, "1", U, "3")
    assert beside(gone, back, after) == {"1": (("new", "3"), None)}
    assert beside(gone, after) == {"1": ((U, "3"), None)}, "nothing is left to take it from"


def test_metadata_after_a_truncate_rests_on_nothing_before_it() -> None:
    inserted, after = noted(Op.INSERT, "1", "long", "1"), noted(Op.UPDATE, "1", U, "2")
    assert beside(inserted, TRUNCATE, after) == {"1": ((U, "2"), None)}
    assert beside(TRUNCATE, inserted, after) == {"1": (("long", "2"), None)}


def test_a_deleted_row_has_no_metadata() -> None:
    gone = Batch.of([noted(Op.INSERT, "1", "long"), change(Op.DELETE, ("1",))])
    assert gone.images[TABLE, ("1",)].metadata == ()
    left = Batch.of([noted(Op.UPDATE, "2", U, old="1")]).images[TABLE, ("1",)]
    assert (left.texts, left.metadata, left.complete) == (None, (), True)


def placed(commit: int, ordinal: int) -> Change:
    made = change(Op.INSERT, (f"{commit}.{ordinal}",), ("a", "b"), size=100, at=(commit, ordinal))
    when = NOW + timedelta(seconds=commit)
    return replace(made, xid=commit, committed_at=when)


def test_a_range_cut_in_a_transaction_ends_with_the_one_before() -> None:
    end = TransactionEnd(end_lsn=LSN(0x11), committed_at=NOW, size=7)
    batch = Batch.of([placed(0x10, 1), end, placed(0x20, 1), placed(0x20, 2)])
    assert batch.end_lsn == LSN(0x11)
    assert batch.last == Position(LSN(0x20), 2)
    assert batch.changes == 3
    assert batch.size == 307
    assert batch.committed_at == NOW + timedelta(seconds=0x10)


def test_a_range_that_completes_no_transaction_has_no_end() -> None:
    batch = Batch.of([placed(0x20, 1)])
    assert (batch.end_lsn, batch.last) == (ZERO, Position(LSN(0x20), 1))


def test_a_range_of_transaction_ends_only_changes_nothing() -> None:
    ends = [TransactionEnd(end_lsn=LSN(at), committed_at=NOW) for at in (0x11, 0x21)]
    batch = Batch.of(ends)
    assert (batch.end_lsn, batch.last, batch.changes, batch.images) == (LSN(0x21), None, 0, {})


def test_changes_that_a_newer_one_of_a_row_replaced_are_counted() -> None:
    batch = Batch.of(
        [insert("1", "a"), update("1", "b"), delete("1"), insert("2", "c"), update("3", "d")]
    )
    assert batch.folded == {TABLE: 2}
    assert batch.changes == 5


# -- against a table that is simulated --------------------------------------------------------

Rows = dict[Key, tuple[str | None, ...]]
KEYS = tuple((str(number),) for number in range(4))
VALUES = (None, "a", "b", "c")


@dataclass
class History:
    """A table's changes as its log would carry them, and its rows before and after each."""

    rows: Rows = field(default_factory=dict)
    states: list[Rows] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)

    def append(self, entry: Change) -> None:
        self.states.append(dict(self.rows))
        self.changes.append(entry)
        if entry.op is Op.TRUNCATE:
            self.rows.clear()
        elif entry.op is Op.DELETE:
            del self.rows[entry.key]


def step(history: History, draw: st.DrawFn) -> None:
    """One random statement of one row, whose metadata is a copy of its texts."""
    rows = history.rows
    if draw(st.integers(0, 11)) == 0:
        history.append(TRUNCATE)
        return
    key = draw(st.sampled_from(KEYS))
    if key not in rows:
        texts = tuple(draw(st.sampled_from(VALUES)) for _ in range(2))
        history.append(change(Op.INSERT, key, texts, metadata=texts))
        rows[key] = texts
        return
    if draw(st.integers(0, 3)) == 0:
        history.append(change(Op.DELETE, key))
        return
    new = tuple(draw(st.sampled_from((old, *VALUES))) for old in rows[key])
    carried, beside = (
        tuple(
            UNCHANGED if value == old and draw(st.booleans()) else value
            for old, value in zip(rows[key], new, strict=True)
        )
        for _ in ("texts", "metadata")
    )
    free = [other for other in KEYS if other not in rows]
    target = draw(st.sampled_from([key, key, *free]))
    history.append(
        change(Op.UPDATE, target, carried, key if target != key else None, metadata=beside),
    )
    del rows[key]
    rows[target] = new


@st.composite
def histories(draw: st.DrawFn) -> History:
    history = History()
    for _ in range(draw(st.integers(0, 25))):
        step(history, draw)
    history.states.append(dict(history.rows))
    return history


def resolved(
    image: Image, values: tuple[Value, ...] | None, before: Rows
) -> Sequence[Value] | None:
    """Return the row's ``values`` after the image, given the rows before the batch."""
    if values is None:
        return None
    origin = before[image.origin] if image.origin is not None else (UNCHANGED,) * 2
    return tuple(
        old if value is UNCHANGED else value for value, old in zip(values, origin, strict=True)
    )


@given(histories(), st.data())
def test_any_range_folds_to_what_its_changes_make_one_by_one(
    history: History, data: st.DataObject
) -> None:
    first = data.draw(st.integers(0, len(history.changes)))
    last = data.draw(st.integers(first, len(history.changes)))
    before, after = history.states[first], history.states[last]
    batch = Batch.of(history.changes[first:last])
    for (_, key), image in batch.images.items():
        assert resolved(image, image.texts, before) == after.get(key)
        if image.texts is not None:
            assert resolved(image, image.metadata, before) == after[key]
    for key in set(KEYS) - {key for _, key in batch.images}:
        assert after.get(key) == (None if batch.truncated else before.get(key))
    assert batch.changes == last - first
