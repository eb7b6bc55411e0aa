"""The blame for failures: the service's, one bad server's of several, a size's, or a text's."""

import itertools
from collections.abc import Callable, Sequence
from random import Random

import numpy as np
import pytest

from cdc_embed.change.document import fingerprint
from cdc_embed.embed.base import Vectors, is_known_good
from cdc_embed.errors import (
    CdcEmbedError,
    EmbedderError,
    EmbedderUnavailableError,
    QuotaSpentError,
    TextRefusedError,
    UnauthorizedError,
    UnusableAnswerError,
)
from cdc_embed.flow.embedding import EmbeddingRunner
from tests.clock import Clock
from tests.unit.test_embedding_runner import (
    Answer,
    Fake,
    away,
    good,
    hashed,
    is_proven,
    running,
    too_much,
)

LATER_SECONDS = 5.0
"""After so long texts are tried again that were left."""


def raising(error: Callable[[], CdcEmbedError]) -> Answer:
    def answer(_texts: Sequence[str]) -> Vectors:
        raise error()

    return answer


def not_numbers(texts: Sequence[str]) -> Vectors:
    return good(texts) * np.nan


def forbidden(for_all: CdcEmbedError | None = None) -> UnauthorizedError:
    return UnauthorizedError(problem="answers 403", for_all_texts=for_all or away())


BAD_SERVERS = {
    "400": raising(lambda: TextRefusedError(problem="answers 400")),
    "403": raising(forbidden),
    "NaN": not_numbers,
    "zeros": lambda texts: np.zeros_like(good(texts)),
    "500": raising(too_much),
    "timeout": raising(lambda: too_much("timeout")),
    "a page": raising(lambda: UnusableAnswerError(problem="no list of embeddings")),
    "no connection": raising(away),
}


def only_at(bad: str, answer: Answer) -> Answer:
    """Every call with a text is answered so."""
    return lambda texts: answer(texts) if bad in texts else good(texts)


def in_turns(servers: int, bad: Answer, begin: int = 1) -> Answer:
    """One of several servers answers so, and they answer in turns."""
    calls = itertools.count(begin)
    return lambda texts: good(texts) if next(calls) % servers else bad(texts)


def tried_again(
    runner: EmbeddingRunner, clock: Clock, texts: Sequence[str], seconds: float = 0.0
) -> dict[str, str]:
    """Embed texts until none is left, or for so long; the reasons of the letters."""
    letters: dict[str, str] = {}
    began, left = clock.now, hashed(*texts)
    while left and (not seconds or clock.now - began < seconds):
        result = runner.embed(left)
        letters |= {left[digest]: reason for digest, (reason, _) in result.refused.items()}
        left = {digest: left[digest] for digest in result.untaken}
        clock.now += LATER_SECONDS
    return letters


# -- one bad server of several ----------------------------------------------------------------


@pytest.mark.parametrize("servers", [2, 3, 4])
@pytest.mark.parametrize("bad", BAD_SERVERS.values(), ids=BAD_SERVERS.keys())
def test_one_bad_server_in_strict_turns_makes_no_letter(bad: Answer, servers: int) -> None:
    """Not for a text alone, and not for several, wherever the turns begin."""
    for begin, size in itertools.product(range(servers), (1, 5)):
        clock, fake = Clock(), Fake(in_turns(servers, bad, begin))
        with running(fake, clock=clock) as runner:
            for part in range(20):
                texts = [f"text {part} {number}" for number in range(size)]
                assert tried_again(runner, clock, texts) == {}


@pytest.mark.parametrize("bad", BAD_SERVERS.values(), ids=BAD_SERVERS.keys())
@pytest.mark.parametrize("size", [1, 50])
def test_a_bad_server_met_at_random_makes_no_letter(bad: Answer, size: int) -> None:
    """Half of the calls of 1,000 texts."""
    random, clock = Random(7), Clock()
    fake = Fake(lambda texts: good(texts) if random.random() < 0.5 else bad(texts))
    with running(fake, clock=clock) as runner:
        for start in range(0, 1000, size):
            texts = [f"text {start + number}" for number in range(size)]
            assert tried_again(runner, clock, texts) == {}


def test_a_service_that_contradicts_itself_gets_a_minute() -> None:
    """It refused a text, and took it on a later try."""
    clock, refused_once = Clock(), ["good"]

    def answer(texts: Sequence[str]) -> Vectors:
        if "bad" in texts or (refused_once and refused_once.pop() in texts):
            raise TextRefusedError(problem="no")
        return good(texts)

    fake = Fake(answer)
    with running(fake, clock=clock) as runner:
        assert runner.embed(hashed("good")).vectors
        for clock.now in (0.0, 10.0, 30.0, 59.0):
            assert runner.embed(hashed("bad")).untaken
        clock.now = 61.0
        assert runner.embed(hashed("bad")).refused
        clock.now = 601.0
        fake.calls.clear()
        assert runner.embed(hashed("bad")).refused
        assert is_proven(fake, ["bad"])


def test_a_refused_call_is_made_again_after_a_contradiction() -> None:
    """It is halved only if it is refused three times."""
    fake = Fake(in_turns(2, BAD_SERVERS["400"]))
    with running(fake) as runner:
        runner.embed(hashed(*(f"text {number}" for number in range(64))))
        runner.embed(hashed("a text"))
        before = len(fake.calls)
        for part in range(5):
            texts = hashed(*(f"text {part} {number}" for number in range(64)))
            assert len(runner.embed(texts).vectors) == 64
    assert {len(call) for call in fake.calls[before:]} == {64}


@pytest.mark.parametrize("reason", ["server_error", ""])
def test_one_failure_between_good_calls_halves_nothing(reason: str) -> None:
    fake = Fake(in_turns(2, raising(lambda: too_much(reason))))
    with running(fake) as runner:
        for part in range(5):
            runner.embed(hashed(*(f"text {part} {number}" for number in range(64))))
    assert {len(call) for call in fake.calls} == {64}


# -- one text ---------------------------------------------------------------------------------


def test_a_text_that_failed_goes_alone_and_is_tried_once() -> None:
    """It would spoil the call of others; after an outage, too, which forgets its strikes."""
    ill: list[str] = []

    def answer(texts: Sequence[str]) -> Vectors:
        if ill or "bad" in texts:
            raise too_much()
        return good(texts)

    clock, fake = Clock(step=1.0), Fake(answer)
    with running(fake, clock=clock) as runner:
        runner.embed(hashed("bad", "first"))
        ill.append("all")
        assert runner.embed(hashed("another"), others_wait=lambda: True).untaken
        ill.clear()
        for number in range(3):
            before = len(fake.calls)
            texts = hashed("a", "bad", f"more {number}", f"other {number}")
            assert len(runner.embed(texts).vectors) == 3
            assert [call for call in fake.calls[before:] if "bad" in call] == [["bad"]]


ALONE = {
    "429": raising(away),
    "a page": raising(lambda: UnusableAnswerError(problem="no list of embeddings")),
    "500": raising(too_much),
    "403": raising(forbidden),
}


@pytest.mark.parametrize("failure", ALONE.values(), ids=ALONE.keys())
def test_a_text_that_fails_keeps_no_other_waiting(failure: Answer) -> None:
    """Four deferred rows are read together, in the same order each time."""
    with running(Fake(only_at("bad", failure))) as runner:
        result = runner.embed(hashed("one", "two", "bad", "three"))
    assert set(result.vectors) == set(hashed("one", "two", "three"))
    assert {*result.untaken, *result.refused} == set(hashed("bad"))


@pytest.mark.parametrize("kind", ["429", "a page"])
def test_what_speaks_of_no_text_makes_no_letter(kind: str) -> None:
    """However long it fails alone: it is left, and named."""
    clock, fake = Clock(), Fake(only_at("bad", ALONE[kind]))
    with running(fake, clock=clock) as runner:
        assert tried_again(runner, clock, ["bad", "good"], seconds=600.0) == {}
        result = runner.embed(hashed("bad"))
    assert result.untaken.keys() == hashed("bad").keys()
    assert result.untaken[fingerprint("bad")].startswith("embedder: ")
    assert fake.calls.count(["bad"]) < 150, "nothing is to be proven"


@pytest.mark.parametrize("reason", ["server_error", ""], ids=["503", "429"])
def test_a_text_for_which_there_is_no_room_gets_an_hour(reason: str) -> None:
    """While others use the service: it says that it has too much to do. The text is tried after
    seconds that double up to a minute, and no other waits."""

    def busy() -> EmbedderUnavailableError:
        return EmbedderUnavailableError(problem="503: queue full", reason=reason, overloaded=True)

    clock, fake = Clock(), Fake(only_at("long", raising(busy)))
    with running(fake, clock=clock) as runner:
        assert tried_again(runner, clock, ["long", "short"], seconds=3500.0) == {}
        assert 50 < fake.calls.count(["long"]) < 150
        assert runner.embed(hashed("long", "another")).vectors.keys() == hashed("another").keys()
        assert tried_again(runner, clock, ["long"], seconds=300.0) == {"long": "server_error"}
        assert 3600.0 <= clock.now <= 3700.0


def test_one_failure_among_overloads_makes_no_letter() -> None:
    clock, failures = Clock(), itertools.count()

    def failure() -> EmbedderUnavailableError:
        overloaded = next(failures) % 5 > 0
        return EmbedderUnavailableError(problem="503", reason="server_error", overloaded=overloaded)

    with running(Fake(only_at("long", raising(failure))), clock=clock) as runner:
        assert tried_again(runner, clock, ["long"], seconds=300.0) == {}


def test_what_a_firewall_forbids_is_a_refused_text() -> None:
    fake = Fake(only_at("bad", raising(forbidden)))
    with running(fake) as runner:
        result = runner.embed(hashed("bad"))
    assert [reason for reason, _ in result.refused.values()] == ["refused"]
    assert is_proven(fake, ["bad"])


def test_a_key_refused_for_every_text_ends_the_service() -> None:
    """For the known-good one, too; as long as another key can come, that is waited for."""
    errors = [EmbedderError(problem="wrong key"), away(), away()]

    def answer(texts: Sequence[str]) -> Vectors:
        raise forbidden(errors.pop() if is_known_good(texts) else None)

    with running(Fake(answer)) as runner, pytest.raises(EmbedderError, match="wrong key"):
        runner.embed(hashed("a text", "another"))
    assert errors == []


@pytest.mark.parametrize(
    "failure", [away(60.0), QuotaSpentError(problem="answers 402", retry_after=60.0)]
)
def test_a_service_that_names_a_time_is_not_asked_before(
    failure: EmbedderUnavailableError,
) -> None:
    """Not even for the known-good text."""
    fake = Fake(raising(lambda: failure))
    with running(fake, clock=Clock(step=1.0)) as runner:
        result = runner.embed(hashed("a text"), others_wait=lambda: True)
        assert result.untaken.keys() == hashed("a text").keys()
    assert fake.calls == [["a text"]]


def asking(*seconds: float) -> Callable[[], EmbedderUnavailableError]:
    """Failures that ask for time, one after the other; the last one for good."""
    left = list(seconds)

    def failure() -> EmbedderUnavailableError:
        asked = left.pop(0) if len(left) > 1 else left[0]
        return EmbedderUnavailableError(problem="500", reason="server_error", retry_after=asked)

    return failure


def failing_first(failures: list[EmbedderUnavailableError]) -> Answer:
    """An answer that raises each of these once, and then is a good one."""

    def answer(texts: Sequence[str]) -> Vectors:
        if failures:
            raise failures.pop()
        return good(texts)

    return answer


def test_after_a_pause_the_known_good_text_goes_first() -> None:
    failures = [away(0.01), away(0.01)]

    fake = Fake(failing_first(failures))
    with running(fake) as runner:
        assert len(runner.embed(hashed("one", "two")).vectors) == 2
    assert fake.calls[::3] == [["one", "two"], ["one", "two"]]
    assert (len(fake.calls), fake.known_good) == (4, 2)


def test_a_text_that_asks_for_time_keeps_no_other_waiting() -> None:
    """After one pause of all; then it is left, and not tried before its own time."""
    fake = Fake(only_at("bad", raising(asking(0.01, 60.0))))
    with running(fake) as runner:
        result = runner.embed(hashed("one", "two", "bad", "three"))
        assert set(result.vectors) == set(hashed("one", "two", "three"))
        assert set(result.untaken) == set(hashed("bad"))
        before = len(fake.calls)
        for others_wait in (None, lambda: False):
            again = runner.embed(hashed("bad", "more"), others_wait=others_wait)
            assert again.untaken == result.untaken
        assert fake.calls[before:] == [["more"], ["more"]]


def test_a_known_good_text_that_fails_halves_no_call() -> None:
    """The known-good text that goes beside a call failed, and not the call."""

    def failing() -> EmbedderUnavailableError:
        failure = too_much()
        failure.of_known_good = True
        return failure

    failures = [failing() for _ in range(3)]

    fake = Fake(failing_first(failures))
    with running(fake) as runner:
        runner.embed(hashed("one", "two"))
    assert {len(call) for call in fake.calls} == {2}
