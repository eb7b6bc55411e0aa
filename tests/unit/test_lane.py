"""Rows that were read, on their way into the order of the log."""

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import replace

import pytest

from cdc_embed.change.action import Row
from cdc_embed.change.document import Key, Table
from cdc_embed.change.event import Op
from cdc_embed.change.snapshot import Snapshot
from cdc_embed.flow.facts import BatchFacts
from cdc_embed.flow.lane import Examined, Lane, Slice
from tests.builders import FIRST, SECOND, touch


def part(*keys: str, seen: int = 10, of: Table = FIRST) -> Slice:
    """Rows of a snapshot that sees every transaction before ``seen``."""
    snapshot = Snapshot(xmin=seen, xmax=seen, running=frozenset())
    rows: dict[Key, Row | None] = {(key,): Row((f"text {key}",)) for key in keys}
    return Slice(table=of, rows=rows, snapshot=snapshot, repair=True)


@pytest.fixture
def lane() -> Lane:
    lane = Lane()
    lane.remember_touched()
    return lane


def taken(lane: Lane) -> tuple[Slice, set[str]] | None:
    found = lane.next_slice()
    return None if found is None else (found[0].slice, {key[0] for key in found[1]})


# -- slices -----------------------------------------------------------------------------------


def test_an_empty_lane_has_nothing_to_take(lane: Lane) -> None:
    assert not lane.waiting
    assert lane.next_slice() is None


def test_slices_are_taken_in_their_order(lane: Lane) -> None:
    first, second = part("1"), part("2")
    lane.submit(first)
    lane.submit(second)
    assert lane.waiting
    assert (taken(lane), taken(lane), taken(lane)) == ((first, set()), (second, set()), None)
    assert not lane.waiting


def test_a_slice_is_taken_with_rows_its_snapshot_is_too_old_for(lane: Lane) -> None:
    lane.mark_touched(touch(9, "1"))
    lane.mark_touched(touch(10, "2"))
    lane.mark_touched(touch(11, "4", old="3"))
    rows = part("1", "2", "3", "5")
    answer = lane.submit(rows)
    assert taken(lane) == (rows, {"2", "3"})
    assert not answer.done()


def test_a_change_that_comes_while_a_slice_waits_counts(lane: Lane) -> None:
    rows = part("1", "2")
    lane.submit(rows)
    lane.mark_touched(touch(10, "2"))
    assert taken(lane) == (rows, {"2"})


def test_a_slice_of_hidden_rows_is_answered_without_being_taken(lane: Lane) -> None:
    lane.mark_touched(touch(10, "1"))
    lane.mark_touched(touch(11, "2"))
    hidden = lane.submit(part("1", "2"))
    assert lane.next_slice() is None
    assert hidden.result(0) == Examined(hidden=frozenset({("1",), ("2",)}))


def test_deferred_rows_are_taken_whatever_the_log_touched(lane: Lane) -> None:
    """The row that defers them says what a read must see; nobody else reads meanwhile."""
    lane.forget_touched()
    rows = replace(part("1", "2"), embedded=BatchFacts())
    lane.submit(rows)
    assert taken(lane) == (rows, set())


def test_a_slice_that_defers_outdates_the_reads_before_it(lane: Lane) -> None:
    """It has no transaction: nothing else tells the older read from a newer one."""
    old = lane.submit(replace(part("1"), embedded=BatchFacts(), deferrals=lane.deferrals))
    lane.deferrals += 1
    assert lane.next_slice() is None
    assert old.result(0).hidden == {("1",)}


def test_a_slice_that_is_hidden_makes_way_for_the_next(lane: Lane) -> None:
    lane.mark_touched(touch(10, op=Op.TRUNCATE))
    hidden, other = lane.submit(part("1", "2")), part("1", of=SECOND)
    lane.submit(other)
    assert taken(lane) == (other, set())
    assert hidden.result(0).hidden == {("1",), ("2",)}


def test_an_empty_slice_is_answered_at_once(lane: Lane) -> None:
    answer = lane.submit(part())
    assert lane.next_slice() is None
    assert answer.result(0) == Examined()


def test_a_slice_that_is_called_off_is_not_taken(lane: Lane) -> None:
    answer, second = lane.submit(part("1")), part("2")
    lane.submit(second)
    assert answer.cancel()
    assert taken(lane) == (second, set())


def test_a_slice_that_was_taken_cannot_be_called_off(lane: Lane) -> None:
    answer = lane.submit(part("1"))
    lane.next_slice()
    assert not answer.cancel()


def test_every_row_is_hidden_before_touched_rows_are_remembered() -> None:
    lane = Lane()
    lane.mark_touched(touch(10, "1"))
    answer = lane.submit(part("1", "2"))
    assert lane.next_slice() is None
    assert answer.result(0).hidden == {("1",), ("2",)}


def test_nothing_is_remembered_of_what_came_before() -> None:
    lane = Lane()
    lane.mark_touched(touch(10, "1"))
    lane.remember_touched()
    lane.mark_touched(touch(10, "2"))
    rows = part("1", "2")
    lane.submit(rows)
    assert taken(lane) == (rows, {"2"}), "whoever follows waits until what came before is seen"


def test_what_every_later_read_sees_is_forgotten_between_reads() -> None:
    lane = Lane()
    lane.drop_seen(part(seen=11).snapshot)
    lane.remember_touched()
    lane.mark_touched(touch(10, "1"))
    lane.mark_touched(touch(11, "2"))
    lane.drop_seen(part(seen=11).snapshot)
    rows = part("1", "2", "3", seen=10)
    lane.submit(rows)
    assert taken(lane) == (rows, {"2"}), "too old a snapshot only shows what is remembered"


def test_following_twice_forgets_nothing_and_leaving_does(lane: Lane) -> None:
    lane.mark_touched(touch(10, "1"))
    lane.remember_touched()
    rows = part("1", "2")
    lane.submit(rows)
    assert taken(lane) == (rows, {"1"})
    lane.forget_touched()
    answer = lane.submit(rows)
    assert lane.next_slice() is None
    assert answer.result(0).hidden == {("1",), ("2",)}
    lane.remember_touched()
    lane.submit(rows)
    assert taken(lane) == (rows, set())


# -- its end ----------------------------------------------------------------------------------


def test_a_lane_that_closes_calls_off_what_waits(lane: Lane) -> None:
    running = lane.submit(part("1"))
    lane.next_slice()
    waiting = lane.submit(part("2"))
    lane.close()
    assert waiting.cancelled()
    assert not lane.waiting
    assert lane.next_slice() is None
    running.set_result(Examined())
    assert running.result(0) == Examined()


def test_a_closed_lane_takes_nothing_in(lane: Lane) -> None:
    lane.close()
    answer = lane.submit(part("1"))
    assert answer.cancelled()
    with pytest.raises(CancelledError):
        answer.result(0)
    assert lane.next_slice() is None


# -- watched rows -----------------------------------------------------------------------------


def watch(lane: Lane, *keys: str, of: Table = FIRST) -> None:
    lane.watch([(of, (key,)) for key in keys])


def touched(lane: Lane) -> set[str]:
    return {key[0] for _, key in lane.touched()}


def test_a_watched_row_is_touched_by_its_own_changes_only(lane: Lane) -> None:
    lane.mark_touched(touch(10, "1"))
    watch(lane, "1", "2", "3")
    assert touched(lane) == set()
    lane.mark_touched(touch(11, "2"))
    lane.mark_touched(touch(11, "9"))
    lane.mark_touched(touch(11, "1", of=SECOND))
    assert touched(lane) == {"2"}


@pytest.mark.parametrize("op", [Op.INSERT, Op.UPDATE, Op.DELETE])
def test_every_operation_touches_its_row(lane: Lane, op: Op) -> None:
    watch(lane, "1", "2")
    lane.mark_touched(touch(10, "1", op=op))
    assert touched(lane) == {"1"}


def test_a_key_change_touches_both_rows(lane: Lane) -> None:
    watch(lane, "1", "2", "3")
    lane.mark_touched(touch(10, "2", old="1"))
    assert touched(lane) == {"1", "2"}


def test_a_truncate_touches_every_row_of_its_table(lane: Lane) -> None:
    watch(lane, "1", "2")
    lane.mark_touched(touch(10, op=Op.TRUNCATE, of=SECOND))
    assert touched(lane) == set()
    lane.mark_touched(touch(10, op=Op.TRUNCATE))
    assert touched(lane) == {"1", "2"}


def test_rows_are_watched_whether_or_not_the_log_is_followed() -> None:
    lane = Lane()
    watch(lane, "1")
    lane.mark_touched(touch(10, "1"))
    assert touched(lane) == {"1"}


def test_watching_other_rows_forgets_the_former(lane: Lane) -> None:
    watch(lane, "1")
    lane.mark_touched(touch(10, "1"))
    watch(lane, "1", "2")
    assert touched(lane) == set()
    lane.watch(())
    lane.mark_touched(touch(10, "1"))
    assert touched(lane) == set()


# -- two threads ------------------------------------------------------------------------------


@contextmanager
def loop(lane: Lane, answers: list[frozenset[Key]]) -> Iterator[None]:
    """The loop's side: every slice is answered with what it hides."""
    done = threading.Event()

    def answer() -> None:
        xid = 100
        while not done.is_set() or lane.waiting:
            lane.mark_touched(touch(xid, str(xid % 7)))
            xid += 1
            found = lane.next_slice()
            if found is not None:
                answers.append(found[1])
                found[0].answer.set_result(Examined(hidden=found[1]))

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(30)
    assert not thread.is_alive()


def test_each_slice_that_one_thread_submits_is_answered_once(lane: Lane) -> None:
    answers: list[frozenset[Key]] = []
    waited = []
    with loop(lane, answers):
        for number in range(200):
            watch(lane, *"0123456")
            # "x" is never touched: no slice is hidden altogether
            waited.append(lane.submit(part("x", *"0123456", seen=number)))
        found = [answer.result(30).hidden for answer in waited]
    assert found == answers
    assert all(("x",) not in hidden for hidden in found)
