"""The state of the target that is known without asking it, and from when on."""

from collections.abc import Iterable, Mapping

from cdc_embed.change.batch import RowId
from cdc_embed.change.document import Table
from cdc_embed.change.knowledge import (
    ABSENT,
    UNKNOWN,
    Knowledge,
    Known,
    Outcome,
    Provenance,
    Refused,
    State,
    proof,
)
from tests.builders import FIRST, SECOND

ROW: RowId = (FIRST, ("1",))
OTHER: RowId = (FIRST, ("2",))
ELSEWHERE: RowId = (SECOND, ("1",))
A, B = Known(b"a" * 16), Known(b"b" * 16)


def outcome(
    states: Mapping[RowId, State] | None = None,
    *truncated: Table,
    hashes: frozenset[tuple[Table, bytes]] = frozenset(),
) -> Outcome:
    return Outcome(states=states or {}, truncated=frozenset(truncated), hashes=hashes)


def commit(knowledge: Knowledge, states: Mapping[RowId, State], *truncated: Table) -> None:
    knowledge.planned(outcome(states, *truncated))
    knowledge.committed()


def known(knowledge: Knowledge, rows: Iterable[RowId]) -> dict[RowId, State]:
    return knowledge.basis(rows).states


def in_flight(knowledge: Knowledge, rows: Iterable[RowId]) -> dict[RowId, State]:
    return knowledge.basis(rows, cached=False).states


def test_nothing_enters_the_cache_before_its_batch_is_committed() -> None:
    knowledge = Knowledge()
    knowledge.planned(outcome({ROW: A}))
    knowledge.replan([])
    assert known(knowledge, [ROW]) == {}


def test_plans_that_are_dropped_leave_what_is_committed() -> None:
    knowledge = Knowledge()
    commit(knowledge, {ROW: A, OTHER: A})
    knowledge.planned(outcome({ROW: B}, SECOND, hashes=frozenset({(FIRST, b"x")})))
    knowledge.planned(outcome({OTHER: B}))
    knowledge.replan([])
    assert known(knowledge, [ROW, OTHER, ELSEWHERE]) == {ROW: A, OTHER: A}
    assert knowledge.basis([]).arriving == frozenset()


def test_rows_of_a_batch_that_cannot_be_written_are_looked_up() -> None:
    """The target is not as it was taken to be: what is remembered of it may be why."""
    knowledge = Knowledge()
    commit(knowledge, {ROW: A, OTHER: A})
    knowledge.replan([ROW])
    assert known(knowledge, [ROW, OTHER]) == {OTHER: A}


def test_a_committed_letter_is_looked_up_as_it_may_be_dropped() -> None:
    knowledge = Knowledge()
    commit(knowledge, {ROW: A})
    knowledge.planned(outcome({ROW: Refused(b"b" * 16)}))
    assert known(knowledge, [ROW]) == {ROW: Refused(b"b" * 16)}
    knowledge.committed()
    assert known(knowledge, [ROW]) == {}


def test_a_row_that_was_never_seen_must_be_looked_up() -> None:
    assert known(Knowledge(), [ROW]) == {}


def test_a_row_whose_state_is_unknown_needs_no_second_look() -> None:
    knowledge = Knowledge()
    commit(knowledge, {ROW: UNKNOWN, OTHER: ABSENT})
    assert known(knowledge, [ROW, OTHER]) == {ROW: UNKNOWN, OTHER: ABSENT}


def test_the_newest_batch_in_flight_speaks_first() -> None:
    knowledge = Knowledge()
    commit(knowledge, {ROW: Known(b"committed"), OTHER: Known(b"committed")})
    knowledge.planned(outcome({ROW: A}))
    knowledge.planned(outcome({ROW: B}))
    assert known(knowledge, [ROW, OTHER]) == {ROW: B, OTHER: Known(b"committed")}


def test_the_older_batch_answers_for_rows_the_newer_leaves_alone() -> None:
    knowledge = Knowledge()
    knowledge.planned(outcome({ROW: A}))
    knowledge.planned(outcome({OTHER: B}))
    assert known(knowledge, [ROW, OTHER]) == {ROW: A, OTHER: B}


def test_a_commit_of_the_oldest_leaves_the_newer_ones_in_flight() -> None:
    knowledge = Knowledge()
    first = outcome({ROW: A})
    knowledge.planned(first)
    knowledge.planned(outcome({ROW: B}))
    knowledge.committed()
    assert known(knowledge, [ROW]) == {ROW: B}


def test_every_row_of_a_table_truncated_in_flight_is_absent() -> None:
    knowledge = Knowledge()
    commit(knowledge, {ROW: A, ELSEWHERE: A})
    knowledge.planned(outcome({OTHER: B}, FIRST))
    assert known(knowledge, [ROW, OTHER, ELSEWHERE]) == {ROW: ABSENT, OTHER: B, ELSEWHERE: A}


def test_a_batch_after_a_truncate_in_flight_still_speaks_first() -> None:
    knowledge = Knowledge()
    knowledge.planned(outcome({}, FIRST))
    knowledge.planned(outcome({ROW: B}))
    assert known(knowledge, [ROW]) == {ROW: B}


def test_a_truncate_hides_what_older_batches_in_flight_say() -> None:
    knowledge = Knowledge()
    knowledge.planned(outcome({ROW: A}))
    knowledge.planned(outcome({}, FIRST))
    assert known(knowledge, [ROW]) == {ROW: ABSENT}


def test_a_committed_truncate_drops_the_rows_of_its_table_only() -> None:
    knowledge = Knowledge()
    commit(knowledge, {ROW: A, ELSEWHERE: A})
    commit(knowledge, {OTHER: B}, FIRST)
    assert known(knowledge, [ROW, OTHER, ELSEWHERE]) == {OTHER: B, ELSEWHERE: A}


def test_beyond_capacity_the_oldest_change_is_forgotten() -> None:
    knowledge = Knowledge(capacity=2)
    commit(knowledge, {ROW: A})
    commit(knowledge, {OTHER: A})
    commit(knowledge, {ROW: B})
    commit(knowledge, {ELSEWHERE: A})
    assert known(knowledge, [ROW, OTHER, ELSEWHERE]) == {ROW: B, ELSEWHERE: A}


def test_what_was_remembered_long_ago_is_forgotten_alike() -> None:
    """The older half of the cache holds these rows: a state of it that is wrong skips a row."""

    def long_ago() -> Knowledge:
        knowledge = Knowledge(capacity=4)
        commit(knowledge, {ROW: A, OTHER: A, ELSEWHERE: A})
        assert known(knowledge, [ROW, OTHER, ELSEWHERE]) == {ROW: A, OTHER: A, ELSEWHERE: A}
        return knowledge

    knowledge = long_ago()
    commit(knowledge, {OTHER: B}, FIRST)
    assert known(knowledge, [ROW, OTHER, ELSEWHERE]) == {OTHER: B, ELSEWHERE: A}
    knowledge = long_ago()
    knowledge.replan([ROW])
    assert known(knowledge, [ROW, OTHER]) == {OTHER: A}
    knowledge = long_ago()
    knowledge.distrust(FIRST)
    assert known(knowledge, [ROW, ELSEWHERE]) == {ROW: A.unproven(), ELSEWHERE: A}
    knowledge = long_ago()
    commit(knowledge, {ROW: Refused(b"b" * 16)})
    assert known(knowledge, [ROW]) == {}, "a letter is looked up, not the state before it"


def test_chunks_arrive_only_from_batches_in_flight() -> None:
    knowledge = Knowledge()
    first = outcome(hashes=frozenset({(FIRST, b"x")}))
    knowledge.planned(first)
    knowledge.planned(outcome(hashes=frozenset({(SECOND, b"y")})))
    assert knowledge.basis([]).arriving == {(FIRST, b"x"), (SECOND, b"y")}
    knowledge.committed()
    assert knowledge.basis([]).arriving == {(SECOND, b"y")}


def test_states_differ_by_their_metadata_and_by_what_they_prove() -> None:
    states: list[State] = [
        Known(digest, metadata, provenance)
        for provenance in Provenance
        for digest in (b"a", b"b")
        for metadata in (b"", b"m")
    ]
    assert len(set(states)) == 12
    assert [state for state in states if proof(state)] == states[:4]
    for nothing in (ABSENT, UNKNOWN, Refused(b"a"), None):
        assert proof(nothing) is None


def test_a_looked_up_row_proves_nothing_before_the_comparison() -> None:
    """A stored row can have missed changes, or can have been made from other columns."""
    knowledge = Knowledge()
    letter = Refused(b"a" * 16)
    assert knowledge.basis([]).stored(ROW, A) == A.unproven()
    knowledge.trust(FIRST)
    assert knowledge.basis([]).stored(ROW, A) == A
    assert knowledge.basis([]).stored(ROW, A.unproven()) == A.unproven()
    assert knowledge.basis([]).stored(ELSEWHERE, A) == A.unproven()
    knowledge.distrust(FIRST)
    assert knowledge.basis([]).stored(ROW, A) == A.unproven()
    assert [knowledge.basis([]).stored(ROW, s) for s in (letter, ABSENT)] == [letter, ABSENT]


def test_remembered_rows_of_a_distrusted_table_prove_nothing() -> None:
    knowledge = Knowledge()
    commit(knowledge, {ROW: A, OTHER: ABSENT, ELSEWHERE: B})
    knowledge.distrust(FIRST)
    assert known(knowledge, [ROW, OTHER, ELSEWHERE]) == {
        ROW: A.unproven(), OTHER: ABSENT, ELSEWHERE: B
    }  # fmt: skip
    commit(knowledge, {ROW: B})
    assert known(knowledge, [ROW]) == {ROW: B}, "the log has said so since"


def test_rows_untouched_in_flight_are_left_to_the_target() -> None:
    """A comparison of whole documents asks the target, whatever the cache says of them."""
    knowledge = Knowledge()
    commit(knowledge, {ROW: A, OTHER: A, ELSEWHERE: A})
    assert in_flight(knowledge, [ROW, OTHER, ELSEWHERE]) == {}
    knowledge.planned(outcome({ROW: B, OTHER: UNKNOWN}))
    assert in_flight(knowledge, [ROW, OTHER, ELSEWHERE]) == {ROW: B, OTHER: UNKNOWN}
    knowledge.planned(outcome({OTHER: A}, FIRST))
    assert in_flight(knowledge, [ROW, OTHER, ELSEWHERE]) == {ROW: ABSENT, OTHER: A}


def test_a_batch_that_is_committed_is_no_longer_in_flight() -> None:
    knowledge = Knowledge()
    first = outcome({ROW: A})
    knowledge.planned(first)
    knowledge.planned(outcome({OTHER: B}))
    knowledge.committed()
    assert in_flight(knowledge, [ROW, OTHER]) == {OTHER: B}
