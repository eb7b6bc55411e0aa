"""What may be known of the target without asking it, and from when on."""

from collections.abc import Iterable, Mapping

from cdc_embed.change.batch import RowId
from cdc_embed.change.document import Table, TableColumn
from cdc_embed.change.knowledge import (
    ABSENT,
    UNKNOWN,
    Knowledge,
    Known,
    Outcome,
    Refused,
    Reread,
    State,
)


def table(name: str) -> Table:
    return Table(
        schema="public",
        name=name,
        oid=1,
        key=(TableColumn("id", "bigint"),),
        text_columns=("body",),
        template=None,
        embedding_table=f"{name}_embedding",
    )


FIRST, SECOND = table("first"), table("second")
ROW: RowId = (FIRST, ("1",))
OTHER: RowId = (FIRST, ("2",))
ELSEWHERE: RowId = (SECOND, ("1",))
A, B = Known(b"a" * 16), Known(b"b" * 16)


def outcome(
    states: Mapping[RowId, State] | None = None,
    *truncated: Table,
    hashes: frozenset[tuple[Table, bytes]] = frozenset(),
    kept: Iterable[RowId] = (),
) -> Outcome:
    return Outcome(
        states=states or {}, truncated=frozenset(truncated), hashes=hashes, kept=frozenset(kept)
    )


def commit(knowledge: Knowledge, states: Mapping[RowId, State], *truncated: Table) -> None:
    result = outcome(states, *truncated)
    knowledge.planned(result)
    knowledge.committed(result)


def test_nothing_enters_the_cache_before_its_batch_is_committed() -> None:
    knowledge = Knowledge()
    knowledge.planned(outcome({ROW: A}))
    knowledge.committed(outcome())
    assert knowledge.known([ROW]) == {}


def test_what_came_of_a_batch_counts_and_not_what_was_planned() -> None:
    knowledge = Knowledge()
    knowledge.planned(outcome({ROW: A}))
    knowledge.committed(outcome({ROW: ABSENT}))
    assert knowledge.known([ROW]) == {ROW: ABSENT}


def test_a_committed_letter_is_looked_up_because_somebody_may_drop_it() -> None:
    knowledge = Knowledge()
    commit(knowledge, {ROW: A})
    knowledge.planned(outcome({ROW: Refused(b"b" * 16)}))
    assert knowledge.known([ROW]) == {ROW: Refused(b"b" * 16)}
    knowledge.committed(outcome({ROW: Refused(b"b" * 16)}))
    assert knowledge.known([ROW]) == {}


KEPT = outcome({ROW: A, OTHER: B}, kept=[ROW])
"""One row is as it was, the other is written."""
LETTERS = outcome({ROW: Refused(b"a" * 16), OTHER: Refused(b"b" * 16)})
"""The database refused the two, which was not planned."""


def test_what_a_batch_only_kept_is_not_known_when_the_database_refused_it_before() -> None:
    """It was taken for stored: a next change that calls its text unchanged would be left out."""
    knowledge = Knowledge()
    knowledge.planned(outcome({ROW: A, OTHER: A}))
    knowledge.planned(KEPT)
    assert knowledge.known([ROW, OTHER]) == {ROW: A, OTHER: B}
    knowledge.committed(LETTERS)
    assert knowledge.known([ROW, OTHER]) == {OTHER: B}, "in flight"
    knowledge.committed(KEPT)
    assert knowledge.known([ROW, OTHER]) == {OTHER: B}, "committed"


def test_nor_is_it_when_the_batch_was_still_prepared_meanwhile() -> None:
    knowledge = Knowledge()
    knowledge.planned(outcome({ROW: A, OTHER: A}))
    knowledge.committed(LETTERS)
    knowledge.planned(KEPT)
    assert knowledge.known([ROW, OTHER]) == {OTHER: B}
    knowledge.planned(KEPT)
    assert knowledge.known([ROW]) == {ROW: A}, "prepared after that, so it looked"


def test_a_row_that_is_refused_as_planned_may_be_kept_after_that() -> None:
    knowledge = Knowledge()
    knowledge.planned(LETTERS)
    kept = outcome(LETTERS.states, kept=[ROW, OTHER])
    knowledge.planned(kept)
    knowledge.committed(LETTERS)
    assert knowledge.known([ROW, OTHER]) == LETTERS.states


def test_a_row_that_was_never_seen_must_be_looked_up() -> None:
    assert Knowledge().known([ROW]) == {}


def test_a_row_whose_state_is_unknown_needs_no_second_look() -> None:
    knowledge = Knowledge()
    commit(knowledge, {ROW: UNKNOWN, OTHER: ABSENT})
    assert knowledge.known([ROW, OTHER]) == {ROW: UNKNOWN, OTHER: ABSENT}


def test_the_newest_batch_in_flight_speaks_first() -> None:
    knowledge = Knowledge()
    commit(knowledge, {ROW: Known(b"committed"), OTHER: Known(b"committed")})
    knowledge.planned(outcome({ROW: A}))
    knowledge.planned(outcome({ROW: B}))
    assert knowledge.known([ROW, OTHER]) == {ROW: B, OTHER: Known(b"committed")}


def test_the_older_batch_still_speaks_for_rows_that_the_newer_one_leaves_alone() -> None:
    knowledge = Knowledge()
    knowledge.planned(outcome({ROW: A}))
    knowledge.planned(outcome({OTHER: B}))
    assert knowledge.known([ROW, OTHER]) == {ROW: A, OTHER: B}


def test_a_commit_of_the_oldest_leaves_the_newer_ones_in_flight() -> None:
    knowledge = Knowledge()
    first = outcome({ROW: A})
    knowledge.planned(first)
    knowledge.planned(outcome({ROW: B}))
    knowledge.committed(first)
    assert knowledge.known([ROW]) == {ROW: B}


def test_every_row_of_a_table_that_a_batch_in_flight_truncates_is_absent() -> None:
    knowledge = Knowledge()
    commit(knowledge, {ROW: A, ELSEWHERE: A})
    knowledge.planned(outcome({OTHER: B}, FIRST))
    assert knowledge.known([ROW, OTHER, ELSEWHERE]) == {ROW: ABSENT, OTHER: B, ELSEWHERE: A}


def test_a_batch_after_a_truncate_in_flight_still_speaks_first() -> None:
    knowledge = Knowledge()
    knowledge.planned(outcome({}, FIRST))
    knowledge.planned(outcome({ROW: B}))
    assert knowledge.known([ROW]) == {ROW: B}


def test_a_truncate_hides_what_older_batches_in_flight_say() -> None:
    knowledge = Knowledge()
    knowledge.planned(outcome({ROW: A}))
    knowledge.planned(outcome({}, FIRST))
    assert knowledge.known([ROW]) == {ROW: ABSENT}


def test_a_committed_truncate_drops_the_rows_of_its_table_only() -> None:
    knowledge = Knowledge()
    commit(knowledge, {ROW: A, ELSEWHERE: A})
    commit(knowledge, {OTHER: B}, FIRST)
    assert knowledge.known([ROW, OTHER, ELSEWHERE]) == {OTHER: B, ELSEWHERE: A}


def test_beyond_its_capacity_the_row_that_changed_longest_ago_is_forgotten() -> None:
    knowledge = Knowledge(capacity=2)
    commit(knowledge, {ROW: A})
    commit(knowledge, {OTHER: A})
    commit(knowledge, {ROW: B})
    commit(knowledge, {ELSEWHERE: A})
    assert knowledge.known([ROW, OTHER, ELSEWHERE]) == {ROW: B, ELSEWHERE: A}


def test_chunks_arrive_only_from_batches_in_flight() -> None:
    knowledge = Knowledge()
    first = outcome(hashes=frozenset({(FIRST, b"x")}))
    knowledge.planned(first)
    knowledge.planned(outcome(hashes=frozenset({(SECOND, b"y")})))
    assert knowledge.arriving() == {(FIRST, b"x"), (SECOND, b"y")}
    knowledge.committed(first)
    assert knowledge.arriving() == {(SECOND, b"y")}


def test_clear_forgets_what_is_committed_and_what_is_in_flight() -> None:
    knowledge = Knowledge()
    commit(knowledge, {ROW: A})
    knowledge.planned(outcome({OTHER: B}, SECOND, hashes=frozenset({(FIRST, b"x")})))
    knowledge.clear()
    assert knowledge.known([ROW, OTHER, ELSEWHERE]) == {}
    assert knowledge.arriving() == frozenset()


def test_states_differ_by_their_metadata_and_by_where_they_are_known_from() -> None:
    states: list[State] = [
        kind(digest, metadata)
        for kind in (Known, Reread)
        for digest in (b"a", b"b")
        for metadata in (b"", b"m")
    ]
    assert len(set(states)) == 8
    knowledge = Knowledge()
    commit(knowledge, {ROW: Known(b"a", b"m")})
    commit(knowledge, {ROW: Reread(b"a", b"m")})
    assert knowledge.known([ROW]) == {ROW: Reread(b"a", b"m")}


def test_rows_that_no_batch_in_flight_touches_are_left_to_the_target() -> None:
    """Who compares whole documents asks the target, whatever the cache says of them."""
    knowledge = Knowledge()
    commit(knowledge, {ROW: A, OTHER: A, ELSEWHERE: A})
    assert knowledge.in_flight([ROW, OTHER, ELSEWHERE]) == {}
    knowledge.planned(outcome({ROW: B, OTHER: UNKNOWN}))
    assert knowledge.in_flight([ROW, OTHER, ELSEWHERE]) == {ROW: B, OTHER: UNKNOWN}
    knowledge.planned(outcome({OTHER: A}, FIRST))
    assert knowledge.in_flight([ROW, OTHER, ELSEWHERE]) == {ROW: ABSENT, OTHER: A}


def test_a_batch_that_is_committed_is_no_longer_in_flight() -> None:
    knowledge = Knowledge()
    first = outcome({ROW: A})
    knowledge.planned(first)
    knowledge.planned(outcome({OTHER: B}))
    knowledge.committed(first)
    assert knowledge.in_flight([ROW, OTHER]) == {OTHER: B}
    knowledge.clear()
    assert knowledge.in_flight([ROW, OTHER]) == {}
