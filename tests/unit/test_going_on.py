"""Answers of an embedder: it is slow, or it takes nothing."""

from threading import Event

from cdc_embed.embed.base import Call
from cdc_embed.errors import EmbedderUnavailableError
from cdc_embed.flow.answers import Answers
from tests.clock import Clock


def called(answers: Answers) -> Call:
    call = Call(Event())
    answers.begin(call)
    return call


def take(answers: Answers, call: Call) -> None:
    answers.end(call)
    answers.took(call.sent_at)


def test_an_embedder_that_takes_nothing_for_5_s_is_an_outage() -> None:
    clock = Clock(100.0)
    answers = Answers(clock, lambda _tries, _asked: 0.0)
    clock.now += 100.0
    assert not answers.outage, "nobody called it"
    called(answers)
    clock.now += 4.9
    called(answers)
    assert not answers.outage
    clock.now += 0.2
    assert answers.outage
    take(answers, called(answers))
    assert not answers.outage
    clock.now += 100.0
    assert not answers.outage


def test_an_embedder_that_was_as_slow_before_is_no_outage() -> None:
    clock = Clock(100.0)
    answers = Answers(clock, lambda _tries, _asked: 0.0)
    call = called(answers)
    clock.now += 8.0
    take(answers, call)
    called(answers)
    clock.now += 15.9
    assert not answers.outage
    clock.now += 0.2
    assert answers.outage


def test_calls_that_our_own_limit_holds_are_no_outage() -> None:
    """Behind a failure neither: it is as old, whatever we wait for."""
    clock = Clock(100.0)
    answers = Answers(clock, lambda _tries, _asked: 0.0)
    answers.mark_failed(EmbedderUnavailableError(problem="500"), clock.now)
    call = called(answers)
    call.held = True
    clock.now += 60.0
    assert not answers.outage
    call.held, call.sent_at = False, clock.now
    answers.mark_failed(EmbedderUnavailableError(problem="500"), clock.now)
    assert answers.outage, "it failed for a minute"
