"""The queue of changes, and which of them a later one makes superfluous."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from cdc_embed.change.document import Table
from cdc_embed.change.event import Change, Event, Op, TransactionEnd
from cdc_embed.change.pending import LaterChanges, Pending
from cdc_embed.lsn import LSN
from cdc_embed.wire.messages import UNCHANGED
from tests import builders
from tests.builders import FIRST, NOW, SECOND


def change(
    op: Op,
    key: str | None = None,
    *,
    old: str | None = None,
    unchanged: bool = False,
    size: int = 10,
    of: Table = FIRST,
) -> Change:
    return builders.change(
        op,
        (key,) if key is not None else (),
        (UNCHANGED if unchanged else "text",) if op in (Op.INSERT, Op.UPDATE) else (),
        (old,) if old is not None else None,
        table=of,
        size=size,
    )


def end(at: int, size: int = 3) -> TransactionEnd:
    return TransactionEnd(end_lsn=LSN(at), committed_at=NOW + timedelta(seconds=at), size=size)


def row(key: str, of: Table = FIRST) -> tuple[Table, tuple[str, ...]]:
    return of, (key,)


def says(later: LaterChanges, key: str) -> str:
    """The answer of ``LaterChanges`` of one row of FIRST."""
    replaced, needed = later.replaces(row(key)), later.needs(row(key))
    return {
        (False, False): "nothing",
        (True, False): "replaced",
        (False, True): "needed",
        (True, True): "both",
    }[replaced, needed]


# -- the queue --------------------------------------------------------------------------------


LARGE = 10**9


def filled() -> tuple[Pending, list[Event]]:
    events: list[Event] = [
        change(Op.INSERT, "1"),
        change(Op.INSERT, "2", size=20),
        end(1),
        end(2),
        change(Op.INSERT, "3"),
        end(3),
    ]
    pending = Pending()
    for event in events:
        pending.add(event)
    return pending, events


def test_a_take_gives_the_oldest_changes_in_their_order() -> None:
    pending, events = filled()
    assert pending.take(1, LARGE) == events[:1]
    assert pending.take(10, LARGE) == events[1:]
    assert pending.take(10, LARGE) == []


def test_a_take_is_bounded_by_bytes_but_never_empty() -> None:
    pending, events = filled()
    first, second = events[0].size, events[1].size
    assert pending.take(10, first + second - 1) == events[:1]
    assert pending.take(10, 1) == events[1:4]


def test_the_transaction_ends_that_follow_a_take_go_with_it() -> None:
    pending, events = filled()
    assert pending.take(2, LARGE) == events[:4]
    assert len(pending) == 2


def test_sizes_and_counts_are_of_what_is_still_there() -> None:
    pending, _ = filled()
    assert (pending.size, pending.changes, len(pending)) == (49, 3, 6)
    taken = pending.take(2, LARGE)
    assert (pending.size, pending.changes, len(pending)) == (13, 1, 2)
    pending.put_back(taken[1:])
    assert (pending.size, pending.changes, len(pending)) == (39, 2, 5)
    pending.take(10, LARGE)
    assert (pending.size, pending.changes, len(pending)) == (0, 0, 0)


def test_what_is_put_back_comes_first_and_in_its_order() -> None:
    pending, events = filled()
    taken = pending.take(2, LARGE)
    pending.put_back(taken[1:])
    assert pending.take(10, LARGE) == events[1:]


def test_the_oldest_is_the_commit_time_of_the_first() -> None:
    pending, _ = filled()
    assert pending.oldest == NOW
    pending.take(3, LARGE)
    assert pending.oldest is None
    pending.add(end(9))
    assert pending.oldest == NOW + timedelta(seconds=9)


# -- what is superfluous ----------------------------------------------------------------------


def test_nothing_later_replaces_and_needs_nothing() -> None:
    assert says(LaterChanges(), "1") == "nothing"
    assert says(LaterChanges([end(1)]), "1") == "nothing"


def test_a_complete_later_version_replaces_its_row_only() -> None:
    later = LaterChanges([change(Op.UPDATE, "1")])
    assert says(later, "1") == "replaced"
    assert says(later, "2") == "nothing"
    assert not later.replaces(row("1", SECOND))


def test_a_later_delete_or_insert_replaces() -> None:
    assert says(LaterChanges([change(Op.DELETE, "1")]), "1") == "replaced"
    assert says(LaterChanges([change(Op.INSERT, "1")]), "1") == "replaced"


def test_a_later_version_with_unchanged_values_replaces_nothing() -> None:
    assert says(LaterChanges([change(Op.UPDATE, "1", unchanged=True)]), "1") == "nothing"


def test_a_later_truncate_replaces_every_row_of_its_table() -> None:
    later = LaterChanges([change(Op.TRUNCATE)])
    assert says(later, "1") == "replaced"
    assert not later.replaces(row("1", SECOND))


def test_a_complete_key_change_replaces_the_old_row_and_the_new() -> None:
    later = LaterChanges([change(Op.UPDATE, "2", old="1")])
    assert (says(later, "1"), says(later, "2")) == ("replaced", "replaced")


def test_a_key_change_with_unchanged_values_needs_the_old_row() -> None:
    later = LaterChanges([change(Op.UPDATE, "2", old="1", unchanged=True)])
    assert (says(later, "1"), says(later, "2")) == ("needed", "nothing")


def test_a_row_that_is_carried_on_and_then_replaced_stays_needed() -> None:
    later = LaterChanges([change(Op.UPDATE, "2", old="1", unchanged=True), change(Op.INSERT, "1")])
    assert says(later, "1") == "both"
    assert (
        says(LaterChanges([change(Op.UPDATE, "1", old="2"), change(Op.TRUNCATE)]), "1")
        == "replaced"
    )


def test_a_change_that_went_into_a_batch_replaces_nothing_more() -> None:
    pending = Pending()
    pending.add(change(Op.UPDATE, "1"))
    pending.add(change(Op.UPDATE, "2", old="3", unchanged=True))
    pending.add(change(Op.TRUNCATE, of=SECOND))
    assert [says(pending.later, key) for key in "123"] == ["replaced", "nothing", "needed"]
    pending.take(3, LARGE)
    assert [says(pending.later, key) for key in "123"] == ["nothing"] * 3
    assert not pending.later.replaces(row("1", SECOND))


def test_a_newer_mark_survives_the_taking_of_an_older_one() -> None:
    pending = Pending()
    pending.add(change(Op.UPDATE, "1"))
    pending.add(change(Op.UPDATE, "1"))
    pending.take(1, LARGE)
    assert says(pending.later, "1") == "replaced"


def test_what_is_put_back_is_later_than_the_batch_that_was_cut() -> None:
    pending = Pending()
    pending.add(change(Op.UPDATE, "1"))
    pending.put_back(pending.take(1, LARGE))
    assert says(pending.later, "1") == "replaced"
    pending.take(1, LARGE)
    assert says(pending.later, "1") == "nothing"


def test_a_newer_mark_outlasts_an_older_one_that_is_put_back() -> None:
    pending = Pending()
    pending.add(change(Op.UPDATE, "1"))
    pending.add(change(Op.DELETE, "1"))
    pending.put_back(pending.take(1, LARGE))
    pending.take(1, LARGE)
    assert says(pending.later, "1") == "replaced"


# -- whatever is taken and put back -----------------------------------------------------------

KEYS = ("1", "2", "3")
writes = st.builds(
    lambda key, old, unchanged: change(
        Op.UPDATE, key, old=old if old != key else None, unchanged=unchanged
    ),
    st.sampled_from(KEYS),
    st.sampled_from((None, *KEYS)),
    st.booleans(),
)
events = st.one_of(
    writes,
    writes,
    st.builds(change, st.just(Op.INSERT), st.sampled_from(KEYS)),
    st.builds(change, st.just(Op.DELETE), st.sampled_from(KEYS)),
    st.builds(change, st.just(Op.TRUNCATE)),
    st.builds(end, st.integers(1, 9)),
)


@st.composite
def worked(draw: st.DrawFn) -> tuple[Pending, list[Event]]:
    """A queue after random work, and what must still be in it."""
    pending = Pending()
    left: list[Event] = []
    for _ in range(draw(st.integers(1, 6))):
        for event in draw(st.lists(events, max_size=5)):
            pending.add(event)
            left.append(event)
        taken = pending.take(draw(st.integers(1, 4)), draw(st.integers(1, 60)))
        for event in draw(st.lists(events, max_size=3)):
            pending.add(event)
            left.append(event)
        cut = draw(st.integers(0, len(taken)))
        if cut < len(taken):
            pending.put_back(taken[cut:])
        left = left[cut:]
    return pending, left


@given(worked())
def test_after_any_takes_and_put_backs_only_what_is_left_counts(
    state: tuple[Pending, list[Event]],
) -> None:
    pending, left = state
    fresh = LaterChanges(left)
    for key in KEYS:
        if says(pending.later, key) == "replaced":
            assert says(fresh, key) == "replaced", "left out, and nothing would make up for it"
        assert says(pending.later, key) == says(fresh, key)
    assert pending.size == sum(event.size for event in left)
    assert pending.changes == sum(isinstance(event, Change) for event in left)
    assert pending.take(1000, LARGE) == left
    assert says(pending.later, "1") == "nothing"
