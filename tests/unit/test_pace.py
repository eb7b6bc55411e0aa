"""Limits of a minute: for each call, and for all calls of any minute together."""

from hypothesis import given
from hypothesis import strategies as st

from cdc_embed.embed.pace import BURST_SECONDS, MINUTE, Pace

calls = st.lists(st.tuples(st.integers(1, 50), st.floats(0, 30)), max_size=60)


def waits(pace: Pace, now: float, *units: int) -> list[float]:
    return [pace.reserve(each, now).at - now for each in units]


def test_limit_lets_one_second_through_at_once_and_then_spreads() -> None:
    pace = Pace(120)

    assert waits(pace, 0.0, *[1] * 5) == [0.0, 0.0, 0.0, 0.5, 1.0]
    assert waits(pace, 100.0, 1) == [0.0]


def test_more_than_a_limit_allows_is_paid_for_afterwards() -> None:
    pace = Pace(60)

    assert waits(pace, 0.0, 90) == [0.0]
    assert waits(pace, 0.0, 1) == [89.0]
    assert waits(pace, 90.0, 1) == [0.0]


def test_a_call_of_a_whole_minute_has_the_minute_for_itself() -> None:
    """A limit of 10,000 takes no 10,000 behind 100, whatever was left of the second."""
    pace = Pace(10_000)

    assert waits(pace, 0.0, 100) == [0.0]
    assert waits(pace, 5.0, 10_000) == [MINUTE - 5.0]
    assert waits(pace, 6.0, 1) == [2 * MINUTE - 6.0]


@given(st.integers(1, 600), calls)
def test_no_minute_has_more_than_its_limit(per_minute: int, calls: list[tuple[int, float]]) -> None:
    pace, now, taken = Pace(per_minute), 0.0, []
    for units, pause in calls:
        now += pause
        taken.append((pace.reserve(units, now).at, units))

    assert taken == sorted(taken, key=lambda turn: turn[0])
    for begin, _ in taken:
        minute = [units for at, units in taken if begin <= at < begin + MINUTE - 1e-6]
        assert sum(minute) <= max(per_minute, minute[0])


@given(st.integers(60, 600), calls)
def test_no_call_waits_longer_than_the_limit_asks_for(
    per_minute: int, calls: list[tuple[int, float]]
) -> None:
    """Half the speed at the least, because two calls that are too large for one minute have two."""
    pace, now, total = Pace(per_minute), 0.0, 0
    for units, _ in calls:
        turn = pace.reserve(units, now)
        assert turn.at - now <= MINUTE * (2 * total / per_minute + 1) + BURST_SECONDS
        total += units


def test_what_the_service_counts_corrects_what_was_reserved() -> None:
    pace = Pace(60)
    first = pace.reserve(30, 0.0)
    pace.correct(first, 45)
    assert waits(pace, 0.0, 1) == [44.0]

    pace = Pace(60)
    pace.correct(pace.reserve(30, 0.0), 5)
    assert waits(pace, 0.0, 1) == [4.0]


def test_a_minute_is_corrected_with_the_call() -> None:
    """Thirty were reserved and sixty used: the minute is full."""
    pace = Pace(60)
    pace.correct(pace.reserve(30, 0.0), 60)
    assert waits(pace, 59.5, 1) == [0.5]

    pace = Pace(60)
    turn = pace.reserve(60, 0.0)
    assert waits(pace, 61.0, 60) == [0.0]
    pace.correct(turn, 1)
    assert waits(pace, 121.0, 60) == [0.0], "a call of an earlier minute is forgotten"


def test_zero_is_no_limit() -> None:
    assert waits(Pace(0), 0.0, *[10**9] * 3) == [0.0] * 3
    assert not Pace(0).limited
    assert Pace(1).limited
