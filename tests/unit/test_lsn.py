"""Positions: how they print, what may be confirmed, and when a slot no longer fits its record."""

from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cdc_embed.lsn import LSN, START, ZERO, Checkpoint, Identity, Position, Progress, find_gap
from cdc_embed.source.slot import end_of_records
from tests import builders

HIGHEST = 2**64 - 1

lsns = st.integers(min_value=0, max_value=HIGHEST).map(LSN)
near = st.integers(min_value=0, max_value=20).map(LSN)
"""Positions so few that they meet one another."""


# -- text ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0/0", 0),
        ("0/1", 1),
        ("0/A", 10),
        ("1/0", 1 << 32),
        ("16/B374D848", 0x16_B374D848),
        ("0/FFFFFFFF", 0xFFFFFFFF),
        ("FFFFFFFF/FFFFFFFF", HIGHEST),
    ],
)
def test_an_lsn_is_written_as_postgresql_writes_it(text: str, number: int) -> None:
    lsn = LSN.parse(text)
    assert lsn == number
    assert str(lsn) == repr(lsn) == f"{lsn}" == text


@pytest.mark.parametrize("text", ["0/b374d848", "00000000/B374D848"])
def test_an_lsn_may_be_in_lower_case_and_padded(text: str) -> None:
    assert LSN.parse(text) == int(text.split("/")[1], 16)


@given(lsns)
def test_an_lsn_survives_being_written_and_read(lsn: LSN) -> None:
    again = LSN.parse(str(lsn))
    assert again == lsn
    assert type(again) is LSN


@pytest.mark.parametrize(
    "text",
    [
        *("", "/", "0", "16B374D848", "0/", "/0", "0/G", "0/0/0", "0-0", "0/1.0", "now", "0/0 /"),
        *("-1/0", "0/-1", "+1/0", "1/100000000", "100000000/0", "0x1/0", "0/1_0"),
        *(" 0/1", "0/1\n", "0 / 1", "0/١"),
    ],
)
def test_what_is_no_lsn_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an LSN"):
        LSN.parse(text)


def test_positions_are_ordered_by_commit_and_then_by_ordinal() -> None:
    in_order = [START, *(Position(LSN(lsn), n) for lsn, n in [(0, 1), (5, 0), (5, 9), (6, 1)])]
    backward = in_order[::-1]
    assert sorted(backward) == in_order


# -- what may be confirmed ------------------------------------------------------------------------


class ProgressMachine(RuleBasedStateMachine):
    """Positions come in any order; the facts are kept apart from what Progress makes of them."""

    def __init__(self) -> None:
        super().__init__()
        self.progress = Progress(ZERO)
        self.heard: set[LSN] = set()
        self.settled: set[LSN] = set()
        self.recorded: set[LSN] = set()
        self.before = (ZERO, ZERO, ZERO, ZERO)

    @initialize(recorded=near)
    def begin(self, recorded: LSN) -> None:
        self.progress = Progress(recorded)
        self.settled.add(recorded)
        self.recorded.add(recorded)

    @rule(lsn=near)
    def hear(self, lsn: LSN) -> None:
        self.progress.mark_received(lsn)
        self.heard.add(lsn)

    @rule(lsn=near)
    def settle(self, lsn: LSN) -> None:
        self.progress.mark_durable(lsn)
        self.settled.add(lsn)

    @rule()
    def settle_received(self) -> None:
        self.progress.mark_idle()
        self.settled |= self.heard

    @rule(lsn=near)
    def record(self, lsn: LSN) -> None:
        self.progress.mark_recorded(lsn)
        self.recorded.add(lsn)

    @rule()
    def record_what_is_durable(self) -> None:
        self.progress.mark_recorded(self.progress.durable)
        self.recorded.add(self.progress.durable)
        assert self.progress.unrecorded_bytes() == 0
        assert self.progress.confirmable() == self.progress.durable

    @invariant()
    def what_is_not_both_settled_and_recorded_is_not_confirmable(self) -> None:
        confirmable = self.progress.confirmable()
        assert any(lsn >= confirmable for lsn in self.settled)
        assert any(lsn >= confirmable for lsn in self.recorded)

    @invariant()
    def what_is_both_settled_and_recorded_is_confirmable(self) -> None:
        confirmable = self.progress.confirmable()
        assert all(lsn <= confirmable for lsn in self.settled & self.recorded)

    @invariant()
    def nothing_is_durable_or_confirmable_that_was_not_received(self) -> None:
        assert self.progress.confirmable() <= self.progress.durable <= self.progress.received
        assert self.progress.received in self.heard | self.settled

    @invariant()
    def what_is_durable_and_not_recorded_is_counted(self) -> None:
        missing = self.progress.unrecorded_bytes()
        assert missing >= 0
        assert (missing == 0) == any(lsn >= self.progress.durable for lsn in self.recorded)
        assert missing == 0 or self.progress.recorded + missing == self.progress.durable

    @invariant()
    def nothing_ever_goes_back(self) -> None:
        progress = self.progress
        now = (progress.received, progress.durable, progress.recorded, progress.confirmable())
        assert all(old <= new for old, new in zip(self.before, now, strict=True))
        self.before = now


TestProgress = ProgressMachine.TestCase
TestProgress.settings = settings(max_examples=150, stateful_step_count=20, deadline=None)


@given(recorded=lsns, ahead=lsns)
def test_nothing_above_the_record_is_confirmable_even_if_durable(recorded: LSN, ahead: LSN) -> None:
    progress = Progress(recorded)
    progress.mark_received(ahead)
    progress.mark_idle()
    assert progress.confirmable() == recorded
    progress.mark_recorded(ahead)
    assert progress.confirmable() == max(recorded, ahead)


def test_idle_connection_is_durable_up_to_its_open_transaction() -> None:
    progress = Progress(LSN(10))
    progress.mark_received(LSN(40))
    progress.open_commit = LSN(30)
    progress.mark_idle()
    assert progress.durable == LSN(30)
    progress.open_commit = None
    progress.mark_idle()
    assert progress.durable == LSN(40)


def test_a_record_ahead_of_what_is_durable_confirms_only_durable() -> None:
    progress = Progress(LSN(10))
    progress.mark_received(LSN(30))
    progress.mark_recorded(LSN(30))
    assert progress.confirmable() == LSN(10)
    progress.mark_durable(LSN(20))
    assert progress.confirmable() == LSN(20)


def test_nothing_is_lost_of_what_was_durable_on_a_connection() -> None:
    progress = Progress(LSN(10))
    progress.mark_received(LSN(30))
    assert not progress.has_lost_nothing(LSN(30), LSN(10)), "something of it can be missing"
    progress.mark_durable(LSN(30))
    assert progress.has_lost_nothing(LSN(30), LSN(10))
    assert not progress.has_lost_nothing(LSN(31), LSN(10)), "somebody else moved the slot"


def test_an_older_target_has_lost_what_was_durable() -> None:
    """A target that was put back to a backup has lost what was durable."""
    progress = Progress(LSN(10))
    progress.mark_durable(LSN(30))
    progress.mark_recorded(LSN(20))
    assert not progress.has_lost_nothing(LSN(30), LSN(10))
    assert progress.has_lost_nothing(LSN(30), LSN(20))


def test_confirmable_positions_print_as_lsns() -> None:
    progress = Progress(LSN.parse("16/B374D848"))
    assert str(progress.confirmable()) == "16/B374D848"


# -- what the checkpoint covers -------------------------------------------------------------------

CLUSTER = Identity(system_identifier="7300", database="app", timeline=3)
checkpoint = partial(builders.checkpoint, identity=CLUSTER)
AT = LSN.parse("0/5000")


@pytest.mark.parametrize(
    ("change", "covered"),
    [
        ((100, 3), True),  # the very change
        ((100, 1), True),
        ((100, 4), False),  # the next one of the same transaction
        ((99, 9), True),  # transactions that committed before
        ((101, 1), False),
    ],
)
def test_a_cut_transaction_goes_on_after_the_recorded_change(
    change: tuple[int, int], covered: bool
) -> None:
    cut = checkpoint(Position(LSN(100), 3), end_lsn=90, confirmed_lsn=95)
    assert cut.covers(Position(LSN(change[0]), change[1])) is covered


@pytest.mark.parametrize(
    ("change", "covered"),
    [
        ((100, 3), True),
        ((100, 4), True),  # it was complete: whatever else it held needed no vector
        ((109, 1), True),
        ((110, 1), False),  # its commit record starts where the recorded one ends
    ],
)
def test_a_complete_transaction_is_covered_exactly_to_its_end(
    change: tuple[int, int], covered: bool
) -> None:
    whole = checkpoint(Position(LSN(100), 3), end_lsn=110)
    assert whole.covers(Position(LSN(change[0]), change[1])) is covered


@pytest.mark.parametrize(("commit_lsn", "covered"), [(150, True), (199, True), (200, False)])
def test_progress_with_nothing_to_write_covers_what_it_passed(
    commit_lsn: int, covered: bool
) -> None:
    idle = checkpoint(Position(LSN(100), 3), end_lsn=110, confirmed_lsn=200)
    assert idle.recorded == LSN(200)
    assert idle.covers(Position(LSN(commit_lsn), 1)) is covered


def test_a_new_checkpoint_covers_no_change() -> None:
    assert not checkpoint().covers(Position(ZERO, 1))
    assert not checkpoint().covers(Position(LSN(1), 1))


@given(
    recorded=st.tuples(near, st.integers(0, 5)),
    end_lsn=near,
    confirmed_lsn=near,
    changes=st.lists(st.tuples(near, st.integers(0, 5)), min_size=2, max_size=2).map(sorted),
)
def test_what_comes_before_a_covered_change_is_covered_too(
    recorded: tuple[LSN, int],
    end_lsn: LSN,
    confirmed_lsn: LSN,
    changes: list[tuple[LSN, int]],
) -> None:
    point = checkpoint(Position(*recorded), end_lsn=end_lsn, confirmed_lsn=confirmed_lsn)
    earlier, later = (Position(*change) for change in changes)
    assert point.covers(earlier) or not point.covers(later)
    assert point.covers(Position(*recorded))


@pytest.mark.parametrize(
    ("slot_confirmed", "replays"), [(0, True), (109, True), (110, False), (111, False)]
)
def test_a_slot_below_the_recorded_end_replays_its_transaction(
    slot_confirmed: int, replays: bool
) -> None:
    assert checkpoint(end_lsn=110, confirmed_lsn=500).replays(LSN(slot_confirmed)) is replays


@pytest.mark.parametrize(
    ("commit_end", "seen", "missing"),
    [
        (109, False, False),  # not there yet
        (110, False, False),  # this is the recorded one
        (111, False, True),  # it was passed
        (111, True, False),
        (HIGHEST, False, True),
    ],
)
def test_a_replay_that_misses_the_recorded_end_is_noticed(
    commit_end: int, seen: bool, missing: bool
) -> None:
    point = checkpoint(end_lsn=110, confirmed_lsn=500)
    assert point.missing_commit(LSN(commit_end), seen) is missing


def test_a_checkpoint_without_a_transaction_misses_no_commit() -> None:
    assert not checkpoint(confirmed_lsn=500).replays(ZERO)
    assert not checkpoint(confirmed_lsn=500).missing_commit(LSN(600), seen=False)


# -- gaps -----------------------------------------------------------------------------------------

RECORDED = checkpoint(end_lsn=AT - 16, confirmed_lsn=AT)
BEFORE, AFTER = LSN(AT - 1), LSN(AT + 1)
FAR = LSN(AT + 1_000_000)


def gap(
    *,
    recorded: Checkpoint = RECORDED,
    source: Identity = CLUSTER,
    slot_confirmed: LSN = AT,
    wal_end: LSN = FAR,
    history: list[tuple[int, LSN]] | None = None,
) -> str | None:
    ancestors = [(1, LSN(10)), (2, LSN(20))] if history is None else history
    return find_gap(
        recorded,
        source=source,
        slot_confirmed=slot_confirmed,
        wal_end=wal_end,
        history=ancestors,
    )


@pytest.mark.parametrize("slot_confirmed", [ZERO, BEFORE, AT])
@pytest.mark.parametrize("wal_end", [AT, FAR])
def test_a_slot_at_or_behind_the_record_continues_it(slot_confirmed: LSN, wal_end: LSN) -> None:
    assert gap(slot_confirmed=slot_confirmed, wal_end=wal_end) is None


@pytest.mark.parametrize("end_lsn", [ZERO, AT])
def test_the_higher_of_end_and_confirmed_counts_as_recorded(end_lsn: LSN) -> None:
    point = checkpoint(end_lsn=end_lsn, confirmed_lsn=AT - end_lsn)
    assert point.recorded == AT
    assert gap(recorded=point) is None
    assert gap(recorded=point, slot_confirmed=AFTER) is not None


@pytest.mark.parametrize(
    "history",
    [
        [(3, AT)],  # a position at the switch point itself is on both timelines
        [(3, AFTER)],
        [(1, LSN(10)), (2, LSN(20)), (3, FAR)],
        [(1, FAR), (2, FAR), (3, AT)],
    ],
)
def test_a_failover_at_or_after_the_record_continues_it(history: list[tuple[int, LSN]]) -> None:
    promoted = replace(CLUSTER, timeline=4)
    assert gap(source=promoted, history=history) is None


def test_a_second_failover_is_judged_by_the_recorded_timeline() -> None:
    promoted_twice = replace(CLUSTER, timeline=5)
    assert gap(source=promoted_twice, history=[(3, AT), (4, FAR)]) is None
    assert gap(source=promoted_twice, history=[(3, BEFORE), (4, FAR)]) is not None


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (
            {"source": replace(CLUSTER, system_identifier="7301")},
            ["another cluster", "7300", "7301"],
        ),
        ({"source": replace(CLUSTER, database="other")}, ["database app", "other"]),
        (
            {"source": replace(CLUSTER, timeline=4), "history": [(1, FAR), (2, FAR)]},
            ["timeline 4 does not descend from timeline 3"],
        ),
        (
            {"source": replace(CLUSTER, timeline=2), "history": [(1, FAR)]},
            ["timeline 2 does not descend from timeline 3"],
        ),
        (
            {"source": replace(CLUSTER, timeline=4), "history": [(3, BEFORE)]},
            ["left timeline 3 at 0/4FFF", "0/5000"],
        ),
        ({"wal_end": BEFORE}, ["0/5000 is ahead of the server's log (0/4FFF)"]),
        ({"wal_end": ZERO}, ["0/5000 is ahead of the server's log (0/0)"]),
        ({"slot_confirmed": AFTER}, ["stands at 0/5001", "0/5000"]),
        (
            # a continued timeline does not excuse the slot
            {
                "source": replace(CLUSTER, timeline=4),
                "history": [(3, FAR)],
                "slot_confirmed": AFTER,
            },
            ["stands at 0/5001"],
        ),
        (
            {
                "source": replace(CLUSTER, timeline=4),
                "history": [(3, FAR)],
                "wal_end": BEFORE,
            },
            ["ahead of the server's log"],
        ),
    ],
)
def test_what_breaks_the_history_is_named_with_its_positions(
    facts: dict[str, object], words: list[str]
) -> None:
    problem = gap(**facts)  # type: ignore[arg-type]
    assert problem is not None
    for word in words:
        assert word in problem


def test_positions_of_another_cluster_are_not_compared() -> None:
    other = replace(CLUSTER, system_identifier="7301", database="other", timeline=9)
    problem = gap(source=other, slot_confirmed=FAR, wal_end=ZERO, history=[])
    assert problem is not None
    assert "another cluster" in problem


@given(slot_confirmed=near, end_lsn=near, confirmed_lsn=near, wal_end=near)
def test_a_slot_continues_exactly_when_positions_are_in_order(
    slot_confirmed: LSN, end_lsn: LSN, confirmed_lsn: LSN, wal_end: LSN
) -> None:
    point = checkpoint(end_lsn=end_lsn, confirmed_lsn=confirmed_lsn)
    problem = gap(recorded=point, slot_confirmed=slot_confirmed, wal_end=wal_end)
    in_order = [slot_confirmed, max(end_lsn, confirmed_lsn), wal_end]
    assert (problem is None) == (sorted(in_order) == in_order)


@pytest.mark.parametrize(
    ("insert", "end"),
    [
        (0x71BC018, 0x71BC000),
        (0x71BC028, 0x71BC028),
        (0x71BC020, 0x71BC020),
        (0x71BC000, 0x71BC000),
        (0x7000028, 0x7000000),
        (0x7000030, 0x7000030),
        (0x7002018, 0x7002000),
        (0x7002028, 0x7002028),
    ],
)
def test_the_log_ends_before_a_page_header_that_nothing_follows(insert: int, end: int) -> None:
    """A record that ends as far into a page as a segment's header reaches is one all the same."""
    assert end_of_records(LSN(insert), 16 << 20) == end
