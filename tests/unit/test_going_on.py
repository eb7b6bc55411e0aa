"""Answers of an embedder: it is slow, or it takes nothing."""

from cdc_embed.flow.answers import Answers


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_embedder_that_takes_nothing_for_5_s_is_an_outage() -> None:
    clock = Clock()
    answers = Answers(clock, lambda _tries, _asked: 0.0)
    clock.now += 100.0
    assert not answers.outage, "nobody called it"
    answers.asked()
    clock.now += 4.9
    answers.asked()
    assert not answers.outage
    clock.now += 0.2
    assert answers.outage
    answers.took(answers.asked())
    assert not answers.outage
    clock.now += 100.0
    assert not answers.outage


def test_an_embedder_that_was_as_slow_before_is_no_outage() -> None:
    clock = Clock()
    answers = Answers(clock, lambda _tries, _asked: 0.0)
    asked_at = answers.asked()
    clock.now += 8.0
    answers.took(asked_at)
    answers.asked()
    clock.now += 15.9
    assert not answers.outage
    clock.now += 0.2
    assert answers.outage
