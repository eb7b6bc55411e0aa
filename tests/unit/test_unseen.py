"""Snapshots, and the rows that a read in one of them may be too old about."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_embed.change.document import Key, Table
from cdc_embed.change.event import Change, Op
from cdc_embed.change.snapshot import Snapshot, widen
from cdc_embed.change.unseen import Unseen
from tests.builders import FIRST, SECOND, touch

EPOCH = 1 << 32


def noted(*changes: Change, into: Unseen | None = None) -> Unseen:
    found = into or Unseen()
    for one in changes:
        found.mark_touched(one)
    return found


def snapshot(xmin: int, xmax: int, *running: int) -> Snapshot:
    return Snapshot(xmin=xmin, xmax=xmax, running=frozenset(running))


def keys(*names: str) -> list[Key]:
    return [(name,) for name in names]


def hidden(rows: Unseen, seen: Snapshot, *names: str, of: Table = FIRST) -> set[str] | None:
    found = rows.hidden(seen, of, keys(*names))
    return None if found is None else {key[0] for key in found}


# -- snapshots --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("10:10:", snapshot(10, 10)),
        ("10:20:10,14,15", snapshot(10, 20, 10, 14, 15)),
        (f"{EPOCH + 3}:{EPOCH + 3}:", snapshot(EPOCH + 3, EPOCH + 3)),
    ],
)
def test_a_snapshot_is_read_as_postgresql_writes_it(text: str, parsed: Snapshot) -> None:
    assert Snapshot.parse(text) == parsed


def test_a_snapshot_sees_what_had_ended_when_it_was_taken() -> None:
    taken = Snapshot.parse("10:20:10,14")
    assert [xid for xid in range(8, 23) if taken.sees(xid)] == [8, 9, 11, 12, 13, *range(15, 20)]


@pytest.mark.parametrize("start", [EPOCH, 3 * EPOCH, EPOCH + 2**31])
def test_ids_are_told_apart_where_their_32_bits_begin_again(start: int) -> None:
    taken = snapshot(start - 5, start + 5, start - 5, start + 2)
    around = range(start - 8, start + 8)
    seen = [xid - start for xid in around if taken.sees(xid)]
    assert seen == [-8, -7, -6, -4, -3, -2, -1, 0, 1, 3, 4]


def test_an_id_of_long_ago_is_seen() -> None:
    """A row can be deferred for more than 2^31 transactions."""
    assert snapshot(3 * EPOCH, 3 * EPOCH).sees(7)


@given(st.integers(3, 1 << 50), st.integers(-(2**31), 2**31 - 1))
def test_an_id_near_the_snapshot_is_widened_to_itself(xmax: int, distance: int) -> None:
    assert widen((xmax + distance) & 0xFFFFFFFF, xmax) == xmax + distance


# -- unseen -----------------------------------------------------------------------------------


def test_nothing_is_hidden_when_nothing_was_received() -> None:
    assert hidden(Unseen(), snapshot(1, 1), "1") == set()


def test_keys_of_a_transaction_the_snapshot_misses_are_hidden() -> None:
    rows = noted(touch(10, "1"), touch(11, "2"), touch(12, "3"))
    assert hidden(rows, snapshot(11, 12, 11), "1", "2", "3", "4") == {"2", "3"}
    assert hidden(rows, snapshot(10, 10), "1", "2", "3", "4") == {"1", "2", "3"}
    assert hidden(rows, snapshot(13, 13), "1", "2", "3", "4") == set()


def test_keys_of_another_table_are_not_hidden() -> None:
    assert hidden(noted(touch(10, "1", of=SECOND)), snapshot(10, 10), "1") == set()


@pytest.mark.parametrize("op", [Op.INSERT, Op.UPDATE, Op.DELETE])
def test_every_operation_hides_its_key(op: Op) -> None:
    assert hidden(noted(touch(10, op=op)), snapshot(10, 10), "1", "2") == {"1"}


def test_a_key_change_hides_both_keys() -> None:
    rows = noted(touch(10, "2", old="1"))
    assert hidden(rows, snapshot(10, 10), "1", "2", "3") == {"1", "2"}


def test_a_key_is_hidden_while_one_of_its_transactions_is_unseen() -> None:
    rows = noted(touch(10), touch(11))
    assert hidden(rows, snapshot(11, 11), "1") == {"1"}
    assert hidden(rows, snapshot(10, 12, 10), "1") == {"1"}


def test_a_truncate_hides_every_row_of_its_table_and_of_no_other() -> None:
    rows = noted(touch(10, op=Op.TRUNCATE), touch(10, "1"))
    assert hidden(rows, snapshot(10, 10), "1", "2") is None
    assert hidden(rows, snapshot(10, 10), "1", of=SECOND) == set()
    assert hidden(rows, snapshot(11, 11), "1", "2") == set()


def test_a_truncate_after_other_changes_hides_them_all() -> None:
    rows = noted(touch(10, "1"), touch(10, op=Op.TRUNCATE))
    assert hidden(rows, snapshot(10, 10), "7") is None


def test_seen_transactions_are_forgotten_beside_an_older_one() -> None:
    rows = noted(touch(10, "1"), touch(11, "2"), touch(12, "3"), touch(21, "4"))
    rows.drop_seen(snapshot(9, 20, 9, 11))
    old = snapshot(5, 5)  # none is taken after that: it only shows what is remembered
    assert hidden(rows, old, "1", "2", "3", "4") == {"2", "4"}
    rows.drop_seen(snapshot(22, 22))
    assert hidden(rows, old, "1", "2", "3") == set()


def test_a_transaction_too_large_to_remember_hides_whole_tables() -> None:
    rows = noted(
        *(touch(10, str(number)) for number in range(4)),
        touch(10, of=SECOND),
        into=Unseen(most=3),
    )
    assert hidden(rows, snapshot(10, 10), "x") is None
    assert hidden(rows, snapshot(10, 10), "1", "2", of=SECOND) == {"1"}
    assert hidden(rows, snapshot(11, 11), "x") == set()
    rows.mark_touched(touch(11, "1"))
    assert hidden(rows, snapshot(11, 11), "1", "2") == {"1"}, "another one is remembered by key"


def test_beyond_the_cap_the_largest_transaction_hides_tables() -> None:
    rows = noted(
        touch(10, "1"),
        *(touch(11, str(number)) for number in range(4)),
        touch(12, "1", of=SECOND),
        into=Unseen(most_of_all=5),
    )
    assert hidden(rows, snapshot(11, 11), "x") is None
    assert hidden(rows, snapshot(10, 13, 10, 12), "1", "2") == {"1"}
    assert hidden(rows, snapshot(12, 12), "1", of=SECOND) == {"1"}


def test_forgotten_keys_make_room() -> None:
    rows = Unseen(most_of_all=4)
    for xid in range(10, 60):
        rows.mark_touched(touch(xid, "1"))
        rows.mark_touched(touch(xid, "3", old="2"))
        assert hidden(rows, snapshot(xid, xid), "1", "2", "3", "4") == {"1", "2", "3"}
        rows.drop_seen(snapshot(xid + 1, xid + 1))


# -- whatever happens -------------------------------------------------------------------------

BASE = 2 * EPOCH - 6
"""The first id of the property: the 32 bits of the ids begin again soon after it."""
NAMES = ("1", "2", "3", "4")
xids = st.integers(BASE, BASE + 11)


@st.composite
def changes(draw: st.DrawFn) -> Change:
    op = draw(st.sampled_from([Op.INSERT, Op.UPDATE, Op.UPDATE, Op.DELETE, Op.TRUNCATE]))
    old = draw(st.none() | st.sampled_from(NAMES)) if op is Op.UPDATE else None
    return touch(
        draw(xids),
        draw(st.sampled_from(NAMES)),
        old=old,
        op=op,
        of=draw(st.sampled_from([FIRST, SECOND])),
    )


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """As PostgreSQL takes them: the oldest running transaction is ``xmin``."""
    xmax = draw(st.integers(BASE, BASE + 12))
    running = draw(st.frozensets(st.integers(BASE, xmax - 1))) if xmax > BASE else frozenset()
    return Snapshot(xmin=min(running, default=xmax), xmax=xmax, running=running)


def later_than(former: Snapshot, found: Snapshot) -> bool:
    """Whether PostgreSQL could have taken ``found`` after ``former``: what was seen stays seen."""
    ids = range(BASE, BASE + 13)
    return found.xmax >= former.xmax and all(found.sees(xid) for xid in ids if former.sees(xid))


def touched(received: Iterable[Change], taken: Snapshot, of: Table) -> set[str]:
    """The keys, by the book, that the transactions unseen in ``taken`` touched."""
    found: set[str] = set()
    for one in received:
        if one.table is not of or (one.xid < taken.xmax and one.xid not in taken.running):
            continue
        if one.op is Op.TRUNCATE:
            return set(NAMES)
        found |= {key[0] for key in (one.key, one.old_key) if key is not None}
    return found


@given(st.lists(changes() | snapshots(), max_size=40), st.booleans())
def test_every_key_that_was_touched_and_is_not_seen_is_hidden(
    steps: list[Change | Snapshot], small: bool
) -> None:
    """Exactly those, while they are few; some more when they are many."""
    rows = Unseen(most=2, most_of_all=4) if small else Unseen()
    received: list[Change] = []
    former = snapshot(BASE, BASE)
    for step in steps:
        if isinstance(step, Change):
            rows.mark_touched(step)
            received.append(step)
            continue
        if not later_than(former, step):
            continue
        former = step
        rows.drop_seen(step)
        for of in (FIRST, SECOND):
            found = hidden(rows, step, *NAMES, of=of)
            expected = touched(received, step, of)
            assert found is None or found >= expected
            if not small:
                assert (set(NAMES) if found is None else found) == expected
