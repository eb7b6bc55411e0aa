"""The number of texts in a call: halved, doubled, and never again what was refused."""

import sys
from collections.abc import Callable
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_embed.flow.call_size import FORGET_CALLS, FORGET_SECONDS, CallSize

MOST = 256


def play(size: CallSize, texts: list[str], takes: Callable[[list[str]], str]) -> list[int]:
    """Send the texts as the runner does; the sizes of the calls that were not taken."""
    bad = []
    while texts:
        head = texts[: size.head(texts)]
        outcome = takes(head)
        if outcome == "ok":
            size.succeeded(head)
            texts = texts[len(head) :]
            continue
        bad.append(len(head))
        if outcome == "fails":
            size.mark_failed(head)
        else:
            middle = len(head) // 2
            bad += play(size, head[:middle], takes) + play(size, head[middle:], takes)
            size.refused(head)
            texts = texts[len(head) :]
    return bad


@given(st.integers(1, 300))
def test_the_largest_number_that_is_taken_is_found_and_kept(limit: int) -> None:
    size = CallSize(MOST, clock=lambda: 0.0)
    taken = lambda head: "ok" if len(head) <= limit else "refused"  # noqa: E731
    refused = play(size, ["text"] * (40 * min(limit, MOST)), taken)
    assert len(refused) <= 2 * MOST.bit_length() + 4
    assert 0.9 * min(limit, MOST) <= size.now + 1 <= limit + 3
    assert len(play(size, ["text"] * (80 * min(limit, MOST)), taken)) <= 3


@given(st.integers(1, 300))
def test_a_service_that_times_out_gets_as_many_as_it_can(limit: int) -> None:
    """Now and then one more is tried, ever more rarely, because load passes."""
    size, calls = CallSize(MOST, clock=lambda: 0.0), count()

    def fails(head: list[str]) -> str:
        next(calls)
        return "ok" if len(head) <= limit else "fails"

    failed = play(size, ["text"] * (40 * min(limit, MOST)), fails)
    assert len(failed) <= 2 * MOST.bit_length() + 4
    before = next(calls)
    failed = play(size, ["text"] * (80 * min(limit, MOST)), fails)
    assert len(failed) <= 4
    assert next(calls) - before <= 1.3 * 80


def test_texts_too_long_together_are_fewer_in_a_call() -> None:
    """300,000 tokens a request: short ones go on as many as before."""
    size = CallSize(MOST)
    takes = lambda head: "ok" if sum(map(len, head)) <= 10_000 else "refused"  # noqa: E731
    assert play(size, ["short"] * 1000, takes) == []
    assert play(size, ["long" * 100] * 300, takes) == [256, 128, 64, 32]
    assert len(play(size, ["long" * 100] * 1000, takes)) <= 4
    assert size.head(["short"] * 1000) == MOST


def test_a_text_longer_than_a_call_takes_goes_alone() -> None:
    size = CallSize(MOST)
    size.succeeded(["a"] * 100)
    size.refused(["a" * 100] * 2)
    assert size.head(["a" * 1000, "a"]) == 1


def test_an_outage_leaves_no_trace() -> None:
    size = CallSize(MOST, clock=lambda: 0.0)
    up = count()
    failed = play(size, ["text"] * 5000, lambda _: "fails" if next(up) < 40 else "ok")
    assert failed[:9] == [256, 128, 64, 32, 16, 8, 4, 2, 1]
    assert failed[9:] == [1] * 31
    assert size.now == MOST


@pytest.mark.parametrize(("passed", "calls"), [(0.0, FORGET_CALLS), (FORGET_SECONDS + 1, 1)])
def test_what_failed_is_tried_again_after_a_while(passed: float, calls: int) -> None:
    """After some good calls, or some time; then the load has passed."""
    clock = [0.0]
    size = CallSize(MOST, clock=lambda: clock[0])
    size.mark_failed(["text"] * 128)
    clock[0] = passed
    for _ in range(calls - 1):
        size.succeeded(["text"] * size.now)
    assert size.now < 128
    for _ in range(9):
        size.succeeded(["text"] * size.now)
    assert size.now == MOST


def test_what_fails_again_is_tried_more_rarely() -> None:
    size, tried = CallSize(MOST, clock=lambda: 0.0), []
    for call in range(1000):
        texts = ["text"] * size.now
        if size.now > 10:
            tried.append(call)
            size.mark_failed(texts)
        else:
            size.succeeded(texts)
    later = [call for call in tried if call > 30]
    assert len(later) <= 7
    assert all(
        2 * (b - a) <= 2.5 * (c - b) for a, b, c in zip(later, later[1:], later[2:], strict=False)
    )


def test_an_old_call_that_was_larger_says_nothing_new() -> None:
    """Calls at once: one of them began before the size was learned."""
    size = CallSize(MOST, clock=lambda: 0.0)
    size.mark_failed(["text"] * 256)
    size.mark_failed(["text"] * 128)
    size.mark_failed(["text"] * 256)
    assert size.now == 64
    size.succeeded(["text"] * 3)
    assert size.now == 64


def test_a_failure_behind_another_one_says_nothing_of_its_size() -> None:
    """The service is still at work on a call that nobody waits for any more."""
    size = CallSize(MOST, clock=lambda: 0.0)
    for texts in (256, 128, 64, 32, 16, 8, 4, 2):
        size.mark_failed(["text"] * texts)
    for _ in range(6):
        size.succeeded(["text"] * size.now)
    assert size.now == 64


def test_a_text_that_is_to_blame_takes_its_failures_with_it() -> None:
    """The calls that it was in; those of other texts say what they said."""
    size = CallSize(MOST, clock=lambda: 0.0)
    size.mark_failed(["good"] * 200)
    size.succeeded(["good"] * 100)
    for beside in (149, 74, 36, 17, 8, 3, 1):
        size.mark_failed(["good"] * beside + ["bad"])
    assert size.now == 1
    size.blamed("bad")
    assert size.now == 100
    size.succeeded(["good"] * 100)
    assert 100 < size.now < 200


def test_sizes_that_failed_keep_no_text() -> None:
    """Their memory is nobody's."""
    size, texts = CallSize(256), [f"a text {n}" for n in range(8)]
    before = [sys.getrefcount(text) for text in texts]
    size.mark_failed(texts)
    assert [sys.getrefcount(text) for text in texts] == before
