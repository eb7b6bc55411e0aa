"""Calls wait for their turn one behind the other, and a call that is given up costs none."""

from collections.abc import Iterator
from threading import Condition, Event

import pytest

from cdc_embed.embed.base import CALL, Call, CalledOffError
from cdc_embed.embed.pace import Turns


class Waits:
    """Turns of a clock that passes only while somebody waits."""

    def __init__(self, requests: int = 0, tokens: int = 0) -> None:
        self.now = 0.0
        self.turns = Turns(requests, tokens, lambda: self.now, self.wait)
        self.held: list[bool] = []
        self.over_at = float("inf")
        self.call = Call(Event())

    def wait(self, _: Condition, seconds: float) -> None:
        self.held.append(self.call.held)
        self.now += seconds
        if self.now > self.over_at:
            self.call.over.set()

    def take(self, tokens: int = 0) -> float:
        self.turns.take(tokens)
        return self.now


@pytest.fixture(autouse=True)
def own_call() -> Iterator[None]:
    token = CALL.set(None)
    yield
    CALL.reset(token)


def test_a_call_can_be_seen_to_wait_for_its_turn() -> None:
    waits = Waits(requests=6)
    CALL.set(waits.call)
    assert waits.take() == 0.0
    assert waits.held == []
    assert waits.take() == pytest.approx(9.0)
    assert {*waits.held} == {True}
    assert not waits.call.held
    assert waits.call.sent_at == pytest.approx(9.0)


def test_a_call_that_is_called_off_costs_no_turn() -> None:
    waits = Waits(requests=6)
    waits.take()
    waits.over_at = 4.0
    CALL.set(waits.call)
    with pytest.raises(CalledOffError):
        waits.take()
    assert not waits.call.held
    CALL.set(None)
    assert waits.take() == pytest.approx(9.0)


def test_a_call_waits_for_its_request_and_for_its_tokens() -> None:
    waits = Waits(requests=6, tokens=600)
    assert [waits.take(300), waits.take(10), waits.take(10)] == pytest.approx([0.0, 29.0, 38.0])
