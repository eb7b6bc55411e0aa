"""The watch over the invariant: what it takes for a violation, and when it has seen too little."""

from collections.abc import Callable
from typing import Any, cast

import psycopg2
import pytest

from cdc_embed.lsn import LSN
from tests import invariant
from tests.invariant import FEWEST, Watch, watched
from tests.site import Site, wait_until

AWAY = psycopg2.OperationalError("away")
GONE = psycopg2.errors.UndefinedTable("no such table")


class Nowhere:
    name = "nowhere"
    dsn = ""
    target = None


SITE = cast(Site, Nowhere())


class Side:
    """Answers with one position after another, and then with the last one again and again."""

    def __init__(self, *answers: int | Exception) -> None:
        self.answers = list(answers)
        self.reads = 0

    def read(self) -> LSN:
        self.reads += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return LSN(answer)

    def close(self) -> None:
        pass


Script = Callable[[Side, Side], None]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    """Sets what slot and checkpoint answer to the next watch."""
    sides: dict[str, Side] = {}

    def make(_dsn: Any, statement: str, _slot: str) -> Side:
        return sides[statement]

    monkeypatch.setattr(invariant, "_Position", make)

    def set_sides(slot: Side, checkpoint: Side) -> None:
        sides[invariant.CONFIRMED], sides[invariant.RECORDED] = slot, checkpoint

    return set_sides


def watch_for_a_while() -> None:
    with watched(SITE) as watch:
        wait_until(lambda: watch.samples > 2 * FEWEST or watch.failures, "it watches")


def test_a_slot_that_is_never_beyond_its_checkpoint_is_right(script: Script) -> None:
    script(Side(1, 2, 5), Side(1, 4, 5))
    watch_for_a_while()


def test_one_sample_of_a_slot_past_its_checkpoint_is_a_violation(script: Script) -> None:
    script(Side(1, 6, 7), Side(1, 5, 7))
    with pytest.raises(AssertionError, match="confirmed=0/6, recorded=0/5"):
        watch_for_a_while()


def test_slot_positions_are_checked_once_a_lost_target_answers(
    script: Script,
) -> None:
    script(Side(1, 9, 2), Side(1, AWAY, AWAY, 5))
    with pytest.raises(AssertionError, match="confirmed=0/9, recorded=0/5"):
        watch_for_a_while()


def test_a_side_that_was_away_for_a_while_is_no_violation(script: Script) -> None:
    script(Side(1, AWAY, 5), Side(1, AWAY, 5))
    watch_for_a_while()


def test_a_target_that_does_not_come_back_fails_the_watch(script: Script) -> None:
    script(Side(1), Side(*[1] * 20, AWAY))
    with (
        pytest.raises(AssertionError, match="could not look any more"),
        watched(SITE, last=0.1) as watch,
    ):
        wait_until(lambda: watch.samples == 20, "it watches")


@pytest.mark.parametrize("answer", [GONE, LookupError("no row")])
def test_a_side_without_its_row_fails_the_watch(script: Script, answer: Exception) -> None:
    script(Side(1), Side(1, answer))
    with pytest.raises(AssertionError, match="no "):
        watch_for_a_while()


def test_a_watch_that_saw_next_to_nothing_fails(script: Script) -> None:
    script(Side(1), Side(1))
    with pytest.raises(AssertionError, match="samples are too few"), watched(SITE):
        pass


def test_a_slot_made_anew_is_not_compared_with_what_was_before(script: Script) -> None:
    slot, checkpoint = Side(9), Side(9)
    script(slot, checkpoint)
    watch = Watch(SITE, replaced=True)
    watch.start()
    wait_until(lambda: watch.samples, "it watches")
    checkpoint.answers, reads = [AWAY], slot.reads
    wait_until(lambda: slot.reads > reads + 1, "only the slot answers")
    with watch.looking_away():
        slot.answers, checkpoint.answers = [LookupError("no slot"), 2], [GONE, 2]
    samples = watch.samples
    wait_until(lambda: watch.samples > samples, "it goes on")
    assert (watch.failures, watch.violations) == ([], [])
    slot.answers = [3]
    wait_until(lambda: watch.violations, "it looks again")
    watch.stop()
