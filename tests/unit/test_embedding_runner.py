"""Texts that get a vector, texts that get a refusal, and failures that are waited out."""

import gc
import itertools
import time
from collections.abc import Callable, Collection, Iterator, MutableMapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from contextlib import contextmanager
from dataclasses import replace
from threading import Event, Lock, Thread, current_thread, main_thread
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from cdc_embed.change.document import fingerprint
from cdc_embed.embed.base import (
    CALL,
    Call,
    CalledOffError,
    ModelCard,
    Vectors,
    is_known_good,
)
from cdc_embed.errors import (
    CdcEmbedError,
    EmbedderError,
    EmbedderUnavailableError,
    TextRefusedError,
)
from cdc_embed.flow.answers import Answers
from cdc_embed.flow.blame import MOST_LETTERS_IN_A_ROW
from cdc_embed.flow.calls import Calls
from cdc_embed.flow.embedding import THREADS, EmbeddingRunner, Threads
from cdc_embed.flow.going_on import OthersWait
from cdc_embed.flow.patience import AbandonedError, Delay, Patience, delay
from cdc_embed.flow.texts import Wanted
from cdc_embed.metrics import Metrics
from tests.clock import Clock
from tests.quiet import let_pass

DIMENSIONS = 3
Answer = Callable[[Sequence[str]], Vectors]


def good(texts: Sequence[str]) -> Vectors:
    """One vector for each text, that tells its length."""
    return np.array([[len(text)] * DIMENSIONS for text in texts], np.float32).reshape(-1, 3)


class Fake:
    """Answers as it is told to, and keeps what it was asked."""

    def __init__(
        self,
        answer: Answer = good,
        window: int | None = None,
        max_tokens: int | None = None,
        concurrency: int = 1,
    ) -> None:
        self.answer = answer
        self.window = window
        self.max_tokens = max_tokens
        self.concurrency = concurrency
        self.calls: list[list[str]] = []

    def describe(self) -> ModelCard:
        return ModelCard(
            identity="fake",
            dimensions=DIMENSIONS,
            window=self.window,
            max_tokens=self.max_tokens,
            concurrency=self.concurrency,
            count_tokens=lambda texts: [len(text.split()) for text in texts],
        )

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.calls.append(list(texts))
        return self.answer(texts)

    @property
    def known_good(self) -> int:
        """The number of calls with a known-good text."""
        return sum(is_known_good(call) for call in self.calls)

    def embed_query(self, text: str) -> Vectors:
        return good([text]).reshape(-1)

    def close(self) -> None:
        pass


def at_once(_attempt: int, _chance: float, asked: float | None) -> float:
    """No delay but the one that the service asks for."""
    return asked or 0.0


HANG_SECONDS = 20.0
"""The seconds after which a call that hangs ends if its test has failed."""


@contextmanager
def running(
    fake: Fake,
    abandon: Event | None = None,
    errors: list[CdcEmbedError] | None = None,
    clock: Callable[[], float] = time.monotonic,
    delay: Delay = at_once,
    threads: Threads = THREADS,
) -> Iterator[EmbeddingRunner]:
    heard = errors if errors is not None else []
    patient = Patience(abandon or Event(), lambda _stage, error: heard.append(error), delay=delay)
    metrics = Metrics(slot="s", tables=["public.t"], model="fake")
    threads = replace(threads, clock=clock)
    runner = EmbeddingRunner(fake, patient, metrics, threads=threads)
    try:
        yield runner
    finally:
        runner.close()


def look_often(futures: Sequence[Future[None]], _seconds: float) -> Collection[Future[None]]:
    return wait(futures, 0.01, FIRST_EXCEPTION).not_done


OFTEN = Threads(wait=look_often)
"""A fake clock that passes with each look passes quickly with these."""


def hashed(*texts: str) -> dict[bytes, str]:
    return {fingerprint(text): text for text in texts}


def refusing(poison: Callable[[str], bool]) -> Answer:
    """An answer that refuses every call with a poisonous text."""

    def answer(texts: Sequence[str]) -> Vectors:
        if any(poison(text) for text in texts):
            raise TextRefusedError(problem="poison")
        return good(texts)

    return answer


def failing(times: int, error: CdcEmbedError, then: Answer = good) -> Answer:
    left = [error] * times

    def answer(texts: Sequence[str]) -> Vectors:
        if left:
            raise left.pop()
        return then(texts)

    return answer


def too_much(reason: str = "server_error") -> EmbedderUnavailableError:
    return EmbedderUnavailableError(problem="answers 500", reason=reason)


def away(retry_after: float | None = None) -> EmbedderUnavailableError:
    return EmbedderUnavailableError(problem="away", retry_after=retry_after)


# -- vectors ----------------------------------------------------------------------------------


def test_each_text_gets_its_own_vector() -> None:
    texts = hashed("a", "four", "sixsix", "ab")
    with running(Fake()) as runner:
        result = runner.embed(texts)
    assert {texts[digest]: vector[0] for digest, vector in result.vectors.items()} == {
        text: len(text) for text in texts.values()
    }
    assert result.refused == {}


def test_nothing_to_embed_calls_nothing() -> None:
    fake = Fake()
    with running(fake) as runner:
        assert runner.embed({}).vectors == {}
    assert fake.calls == []


# -- what passes ------------------------------------------------------------------------------


def test_a_transient_failure_is_retried_and_never_a_refusal() -> None:
    heard: list[CdcEmbedError] = []
    fake = Fake(failing(41, away()))
    with running(fake, errors=heard) as runner:
        result = runner.embed(hashed("a", "b"))
    assert set(result.vectors) == set(hashed("a", "b"))
    assert result.refused == {}
    assert len(heard) == 21
    assert len(fake.calls) == 42
    assert fake.known_good == 20, "from the second failure on, none is taken"


def test_a_service_that_asks_for_time_is_given_it_by_each_batch() -> None:
    times: list[float] = []

    def answer(texts: Sequence[str]) -> Vectors:
        times.append(time.monotonic())
        if len(times) < 2:
            raise away(0.4)
        return good(texts)

    with running(Fake(answer)) as runner:
        first = Thread(target=runner.embed, args=(hashed("a"),))
        first.start()
        while not times:
            first.join(0.01)
        assert runner.embed(hashed("b"), others_wait=lambda: False).vectors, "another worker's"
        first.join()
    assert times[1] - times[0] >= 0.4


def test_a_stop_ends_the_wait_for_the_embedder() -> None:
    abandon = Event()

    def answer(_texts: Sequence[str]) -> Vectors:
        abandon.set()
        raise away(3600.0)

    with running(Fake(answer), abandon) as runner, pytest.raises(AbandonedError):
        runner.embed(hashed("a"))


def test_a_fatal_error_is_raised() -> None:
    fake = Fake(failing(1, EmbedderError(problem="wrong key")))
    with running(fake) as runner, pytest.raises(EmbedderError, match="wrong key"):
        runner.embed(hashed("a"))


# -- what is poison ---------------------------------------------------------------------------


@pytest.mark.parametrize("poison", [{"a0"}, {"a6"}, {"a1", "a2"}, {"a0", "a3", "a6"}])
def test_exactly_the_poisonous_texts_are_refused(poison: set[str]) -> None:
    texts = hashed(*(f"a{number}" for number in range(7)))
    with running(Fake(refusing(lambda text: text in poison))) as runner:
        result = runner.embed(texts)
    assert {texts[digest] for digest in result.refused} == poison
    assert {texts[digest] for digest in result.vectors} == set(texts.values()) - poison
    assert {reason for reason, _ in result.refused.values()} == {"refused"}


def is_proven(fake: Fake, bad: list[str]) -> bool:
    """Whether a bad text was tried, then a known-good one, and then both as often, by lot."""
    begun, lots = fake.calls[0] == bad and is_known_good(fake.calls[1]), fake.calls[2:]
    return begun and (lots.count(bad), sum(map(is_known_good, lots)), len(lots)) == (12, 12, 24)


def test_a_known_good_text_must_succeed_before_each_letter() -> None:
    fake = Fake(refusing(lambda text: text.startswith("bad")))
    with running(fake) as runner:
        runner.embed(hashed("bad"))
        assert is_proven(fake, ["bad"])
        fake.calls.clear()
        runner.embed(hashed("bad again"))
        assert is_proven(fake, ["bad again"])


def test_no_text_is_blamed_if_the_service_fails_after_a_letter() -> None:
    ill = 0

    def answer(texts: Sequence[str]) -> Vectors:
        nonlocal ill
        if ill > 0 or texts == ["bad"]:
            ill -= texts != ["bad"]
            raise TextRefusedError(problem="no")
        return good(texts)

    with running(Fake(answer)) as runner:
        assert set(runner.embed(hashed("bad")).refused) == set(hashed("bad"))
        ill = 20
        result = runner.embed(hashed("good", "also good"))
    assert result.refused == {}
    assert set(result.vectors) == set(hashed("good", "also good"))


def test_no_text_is_blamed_while_the_known_good_one_is_refused() -> None:
    heard: list[CdcEmbedError] = []
    well = 5

    def answer(texts: Sequence[str]) -> Vectors:
        if not is_known_good(texts) or len(heard) < well:
            raise TextRefusedError(problem="no")
        return good(texts)

    now = itertools.count()
    fake = Fake(answer)
    with running(fake, errors=heard, clock=lambda: next(now) * 600.0) as runner:
        result = runner.embed(hashed("bad"))
    assert [type(error) for error in heard] == [EmbedderUnavailableError] * well
    assert fake.known_good > well
    assert set(result.refused) == set(hashed("bad"))


def test_a_good_text_is_not_blamed_for_a_service_that_was_ill() -> None:
    ill = TextRefusedError(problem="every call is refused")
    with running(Fake(failing(3, ill))) as runner:
        result = runner.embed(hashed("good"))
    assert result.refused == {}
    assert set(result.vectors) == set(hashed("good"))


def test_a_transient_failure_of_the_known_good_text_is_no_proof() -> None:
    probes = [away()]

    def answer(texts: Sequence[str]) -> Vectors:
        if is_known_good(texts) and probes:
            raise probes.pop()
        if not is_known_good(texts):
            raise TextRefusedError(problem="no")
        return good(texts)

    fake = Fake(answer)
    with running(fake) as runner:
        result = runner.embed(hashed("bad"))
    assert fake.known_good >= 2
    assert set(result.refused) == set(hashed("bad"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0])
def test_a_vector_that_cannot_be_stored_is_a_refusal(value: float) -> None:
    def answer(texts: Sequence[str]) -> Vectors:
        vectors = good(texts)
        vectors[[text == "bad" for text in texts]] = value
        return vectors

    with running(Fake(answer)) as runner:
        result = runner.embed(hashed("bad", "good"))
    assert set(result.refused) == set(hashed("bad"))
    assert set(result.vectors) == set(hashed("good"))


@pytest.mark.parametrize("shape", [(1, DIMENSIONS + 1), (5, DIMENSIONS), (DIMENSIONS,)])
def test_an_array_of_another_shape_blames_no_text(shape: tuple[int, ...]) -> None:
    """One of two servers behind an address is broken: the other one embeds the text."""
    calls = itertools.count()

    def answer(texts: Sequence[str]) -> Vectors:
        return good(texts) if next(calls) % 2 else np.ones(shape, np.float32)

    with running(Fake(answer)) as runner:
        result = runner.embed(hashed("a text", "another"))
    assert not result.refused
    assert set(result.vectors) == set(hashed("a text", "another"))


@pytest.mark.parametrize("reason", ["timeout", "server_error"])
def test_a_service_that_takes_few_texts_at_once_takes_all(reason: str) -> None:
    """0.1 s a text and a limit of 1 s, or a batch that its model cannot hold."""

    calls_made = itertools.count()

    def answer(texts: Sequence[str]) -> Vectors:
        assert next(calls_made) < 200, "the same call again and again"
        if len(texts) > 10:
            raise too_much(reason)
        return good(texts)

    fake = Fake(answer)
    with running(fake) as runner:
        first = runner.embed(hashed(*(f"text {n}" for n in range(300))))
        calls = len(fake.calls)
        second = runner.embed(hashed(*(f"more {n}" for n in range(300))))
    assert (len(first.vectors), len(second.vectors)) == (300, 300)
    assert not first.refused
    assert len(fake.calls) - calls <= 36, "what was learned holds; now and then more is tried"


def test_a_service_that_refuses_many_texts_is_learned_once() -> None:
    """TEI answers 422 to more than 32 texts."""

    def answer(texts: Sequence[str]) -> Vectors:
        if len(texts) > 32:
            raise TextRefusedError(problem="batch size 256 > maximum allowed batch size 32")
        return good(texts)

    fake = Fake(answer)
    with running(fake) as runner:
        for batch in range(8):
            result = runner.embed(hashed(*(f"text {batch} {n}" for n in range(256))))
            assert (len(result.vectors), result.refused) == (256, {})
    assert len([call for call in fake.calls if len(call) > 32]) <= 10
    assert len(fake.calls) <= 64 + 3 * 10


def failing_at(bad: str) -> Answer:
    """An answer that fails at each call with a text; Ollama answers 500 for a vector of NaN."""

    def answer(texts: Sequence[str]) -> Vectors:
        if bad in texts:
            raise too_much()
        return good(texts)

    return answer


def test_a_text_the_service_fails_at_is_left_and_no_other_waits() -> None:
    fake = Fake(failing_at("bad"))
    with running(fake) as runner:
        result = runner.embed(hashed("bad", "one", "two"), others_wait=lambda: False)
    assert set(result.vectors) == set(hashed("one", "two"))
    assert result.untaken == {fingerprint("bad"): "embedder: answers 500"}
    assert (result.refused, result.away) == ({}, False)
    assert (fake.calls.count(["bad"]), fake.known_good) == (2, 3)


def test_a_text_the_service_fails_at_is_blamed_after_a_minute() -> None:
    """It is deferred, and tried again and again; others are embedded meanwhile."""
    now = [0.0]
    fake = Fake(failing_at("bad"))
    with running(fake, clock=lambda: now[0]) as runner:
        for seconds in (0.0, 10.0, 20.0, 40.0, 59.0):
            now[0] = seconds
            assert not runner.embed(hashed("bad", f"at {seconds}")).refused
        now[0] = 61.0
        assert (fake.calls.count(["bad"]), fake.known_good) == (6, 8)
        fake.calls.clear()
        result = runner.embed(hashed("bad"))
    ((reason, error),) = result.refused.values()
    assert (reason, "answers 500" in error) == ("server_error", True)
    assert is_proven(fake, ["bad"])


def test_a_text_the_service_fails_at_makes_no_call_smaller() -> None:
    now = itertools.count()

    def answer(texts: Sequence[str]) -> Vectors:
        if "bad" in texts:
            raise too_much()
        return good(texts)

    fake = Fake(answer)
    with running(fake, clock=lambda: next(now) * 10.0) as runner:
        runner.embed(hashed(*(f"text {n}" for n in range(64))))
        runner.embed(hashed("bad"))
        before = len(fake.calls)
        runner.embed(hashed(*(f"more {n}" for n in range(64))))
    assert [len(call) for call in fake.calls[before:]] == [64]


def test_the_calls_with_a_text_that_is_to_blame_teach_no_size() -> None:
    now = itertools.count()

    def answer(texts: Sequence[str]) -> Vectors:
        if "bad" in texts:
            raise too_much()
        return good(texts)

    fake = Fake(answer)
    with running(fake, clock=lambda: float(next(now))) as runner:
        runner.embed(hashed("bad", *(f"text {n}" for n in range(64))))
        before = len(fake.calls)
        runner.embed(hashed(*(f"more {n}" for n in range(64))))
    assert [len(call) for call in fake.calls[before:]] == [64]


def test_a_storm_of_refusals_teaches_no_size() -> None:
    """A gateway that refuses everything for a while, or a model that gives zeros."""
    storm = TextRefusedError(problem="no")
    fake = Fake(failing(20, storm))
    with running(fake) as runner:
        result = runner.embed(hashed(*(f"text {n}" for n in range(64))))
        before = len(fake.calls)
        runner.embed(hashed(*(f"more {n}" for n in range(64))))
    assert (len(result.vectors), result.refused) == (64, {})
    assert [len(call) for call in fake.calls[before:]] == [64]


def test_an_outage_blames_no_text_however_long() -> None:
    calls = itertools.count()

    def answer(texts: Sequence[str]) -> Vectors:
        if next(calls) < 200:
            raise too_much()
        return good(texts)

    now = itertools.count()
    with running(Fake(answer), clock=lambda: next(now) * 10.0) as runner:
        result = runner.embed(hashed("a text"))
    assert set(result.vectors) == set(hashed("a text"))


def test_an_outage_begins_the_count_of_a_text_anew() -> None:
    """Strikes over minutes, an outage, and the service is well again with every other text."""
    now, ill = [0.0], [0]

    def answer(texts: Sequence[str]) -> Vectors:
        if ill[0] or "bad" in texts:
            ill[0] -= is_known_good(texts)
            raise too_much()
        return good(texts)

    with running(Fake(answer), clock=lambda: now[0]) as runner:
        assert runner.embed(hashed("bad")).untaken
        now[0], ill[0] = 100.0, 1
        assert runner.embed(hashed("bad")).untaken
        for now[0] in (110.0, 120.0, 130.0, 159.0):
            assert runner.embed(hashed("bad")).untaken
        now[0] = 161.0
        assert runner.embed(hashed("bad")).refused


# -- what nothing waits for -------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["", "server_error", "timeout"])
def test_in_an_outage_texts_are_left_if_others_wait(reason: str) -> None:
    clock = Clock(step=1.0)
    with running(Fake(failing(10**6, too_much(reason))), clock=clock) as runner:
        result = runner.embed(hashed("one", "two"), others_wait=lambda: True)
    assert result.untaken.keys() == hashed("one", "two").keys()
    assert (result.away, result.vectors, result.refused) == (True, {}, {})


def test_a_pause_that_the_service_asks_for_blames_no_text() -> None:
    asked, clock = too_much("server_error"), Clock(step=1.0)
    asked.retry_after = 600.0
    with running(Fake(failing(1, asked)), clock=clock) as runner:
        for _ in range(4):
            result = runner.embed(hashed("good"), others_wait=lambda: True)
            assert result.untaken
            assert not result.refused
            clock.now += 30.0


def test_in_an_outage_nothing_but_new_texts_waits_for_its_end() -> None:
    """The log is the better queue: what waits there is not read a second time."""
    looks = itertools.count()
    looked = [0]

    def others_wait() -> bool:
        looked[0] = next(looks)
        return False

    def answer(texts: Sequence[str]) -> Vectors:
        if looked[0] < 10:
            raise away(0.01)
        return good(texts)

    with running(Fake(answer), clock=Clock(step=1.0)) as runner:
        result = runner.embed(hashed("one", "two"), others_wait=others_wait)
    assert set(result.vectors) == set(hashed("one", "two"))


@pytest.mark.parametrize("others_wait", [True, False])
def test_a_text_that_takes_long_is_left_and_embedded_once(others_wait: bool) -> None:
    clock, answered = Clock(step=1.0), Event()

    def answer(texts: Sequence[str]) -> Vectors:
        if texts == ["slow"]:
            answered.wait(HANG_SECONDS)
        return good(texts)

    fake = Fake(answer)
    with running(fake, clock=clock) as runner:
        late = 100.0  # a known-good text is taken before
        result = runner.embed(hashed("slow"), others_wait=lambda: others_wait and clock.now > late)
        assert (set(result.untaken), result.away) == (set(hashed("slow")), False)
        assert runner.embed(hashed("slow")).untaken, "its call is not answered yet"
        answered.set()
        while runner.embed(hashed("slow")).untaken:
            pass
    assert fake.calls.count(["slow"]) == 1


def test_a_slow_call_of_many_texts_makes_the_next_ones_smaller() -> None:
    clock, answered = Clock(step=1.0), Event()

    def answer(texts: Sequence[str]) -> Vectors:
        if len(texts) > 8:
            answered.wait(HANG_SECONDS)
        return good(texts)

    fake = Fake(answer)
    with running(fake, clock=clock) as runner:
        for batch in range(2):
            texts = hashed(*(f"{batch} {n}" for n in range(16)))
            runner.embed(texts, others_wait=lambda: True)
        answered.set()
    assert [len(call) for call in fake.calls if len(call) > 1] == [16, 8, 8]


@pytest.mark.parametrize(
    "failure", [too_much(), TextRefusedError(problem="400")], ids=["500", "400"]
)
def test_an_outage_is_asked_by_one_call_for_all_batches(failure: CdcEmbedError) -> None:
    """Its answers come at once, and something waits behind each batch."""
    now = [0.0]

    def clock() -> float:
        now[0] += 0.2 * (current_thread() is main_thread())
        return now[0]

    fake = Fake(failing(10**6, failure), concurrency=4)
    with running(fake, clock=clock, delay=delay, threads=OFTEN) as runner:
        for batch in range(60):
            texts = hashed(*(f"{batch} {n}" for n in range(8)))
            assert len(runner.embed(texts, others_wait=lambda: True).untaken) == 8
    # from 3.2 s on there are two in each delay, with the known-good text
    assert 10 <= len(fake.calls) <= 2 * (7 + now[0] / 3.2)


def test_one_text_that_fails_slows_no_others() -> None:
    with running(Fake(failing_at("bad"), concurrency=4), delay=delay) as runner:
        for batch in range(6):
            began = time.monotonic()
            texts = hashed("bad", *(f"{batch} {n}" for n in range(32)))
            result = runner.embed(texts, others_wait=lambda: False)
            assert result.vectors.keys() == texts.keys() - hashed("bad").keys()
            assert time.monotonic() - began < 4.0


def held_until(sent: Event) -> Answer:
    """An answer of an embedder whose own rate limit holds calls back."""

    def answer(texts: Sequence[str]) -> Vectors:
        call = CALL.get()
        assert isinstance(call, Call)
        while not sent.is_set():
            call.held = True
            if call.over.is_set():
                raise CalledOffError
            sent.wait(0.001)
        call.held = False
        return good(texts)

    return answer


@pytest.mark.parametrize("others_wait", [lambda: False, None], ids=["stream", "deferred"])
def test_a_wait_for_our_own_turn_is_no_sign_of_anything(others_wait: OthersWait | None) -> None:
    sent, clock = Event(), Clock(step=2.0)
    fake = Fake(held_until(sent))
    texts = hashed(*(f"text {n}" for n in range(16)))

    def look() -> float:
        if clock.now > 200.0:
            sent.set()
        return clock()

    with running(fake, clock=look, threads=OFTEN) as runner:
        assert runner.embed(texts, others_wait=others_wait).vectors.keys() == texts.keys()
        runner.embed(hashed(*(f"more {n}" for n in range(16))))
    assert [len(call) for call in fake.calls] == [16, 16]


def test_deletes_wait_for_no_turn_of_ours() -> None:
    """The texts are left, their call is not sent, and it makes no later call smaller."""
    sent, clock = Event(), Clock(step=1.0)
    fake = Fake(held_until(sent))
    texts = hashed(*(f"text {n}" for n in range(16)))
    with running(fake, clock=clock) as runner:
        began = clock.now
        result = runner.embed(texts, others_wait=lambda: True)
        assert (result.untaken.keys(), result.away) == (texts.keys(), True)
        assert clock.now - began < 20.0
        for _ in range(3):  # the next batches do not wait 5 s each
            began = clock.now
            assert runner.embed(hashed("another"), others_wait=lambda: True).untaken
            assert clock.now - began < 8.0
        sent.set()
        assert runner.embed(texts, others_wait=lambda: True).vectors.keys() == texts.keys()
    assert not fake.known_good
    assert len(fake.calls[-1]) == 16


def test_a_deferred_text_that_hangs_holds_up_no_new_one() -> None:
    answered = Event()

    def answer(texts: Sequence[str]) -> Vectors:
        if texts == ["hangs"]:
            answered.wait(HANG_SECONDS)
        return good(texts)

    with running(Fake(answer)) as runner:
        deferred = Thread(target=runner.embed, args=(hashed("hangs"),))
        deferred.start()
        for number in range(3):
            assert runner.embed(hashed(f"new {number}"), others_wait=lambda: False).vectors
        answered.set()
        deferred.join()


def test_deferred_texts_go_in_several_calls_at_once() -> None:
    """A server of several that hangs holds one of them."""
    answered = Event()

    def answer(texts: Sequence[str]) -> Vectors:
        if "a" in texts:
            assert answered.wait(HANG_SECONDS)
        answered.set()
        return good(texts)

    with running(Fake(answer, concurrency=2)) as runner:
        assert len(runner.embed(hashed("a", "bb")).vectors) == 2


def test_a_call_hangs_if_others_as_large_are_quick() -> None:
    """It waits more than ten times as long as its texts take; of a minute ago nothing is known."""
    clock = Clock()

    def answer(texts: Sequence[str]) -> Vectors:
        clock.now += 1.0
        return good(texts)

    fake = Fake(answer)
    metrics = Metrics(slot="s", tables=["public.t"], model="fake")
    answers = Answers(clock, lambda _failures, _asked: 0.0)
    calls = Calls(fake, fake.describe(), answers, metrics, clock)
    calls.make(["a", "b"])
    cases = {(1, 10.0): False, (1, 11.0): True, (3, 11.0): False, (3, 16.0): True, (5, 50.0): False}
    for (texts, seconds), hangs in cases.items():
        call = Call(Event(), texts=["a"] * texts, sent_at=clock.now)
        assert calls.is_hanging(call, clock.now + seconds) is hangs
    call = Call(Event(), texts=["a"], sent_at=clock.now)
    assert not calls.is_hanging(call, clock.now + 60.0)


def test_texts_that_hang_hold_up_neither_deferred_nor_known_good() -> None:
    answered, clock = Event(), Clock(step=1.0)

    def answer(texts: Sequence[str]) -> Vectors:
        if any("hangs" in text for text in texts):
            answered.wait(HANG_SECONDS)
        return good(texts)

    fake = Fake(answer, concurrency=2)
    with running(fake, clock=clock) as runner:
        for batch in range(4):  # more than there are workers
            texts = hashed(f"hangs {batch}")
            result = runner.embed(texts, others_wait=lambda: clock.now > 2000.0)
            assert (len(result.untaken), result.away) == (1, False)
        assert runner.embed(hashed("deferred")).vectors
        answered.set()


def test_a_fatal_answer_to_the_known_good_text_is_raised() -> None:
    """While the call of the batch hangs, beside which it was asked for."""
    answered = Event()

    def answer(texts: Sequence[str]) -> Vectors:
        if is_known_good(texts):
            raise EmbedderError(problem="another model", hint="")
        answered.wait(HANG_SECONDS)
        return good(texts)

    clock = Clock(step=1.0)
    with running(Fake(answer), clock=clock) as runner:
        try:
            with pytest.raises(EmbedderError, match="another model"):
                runner.embed(hashed("hangs"), others_wait=lambda: clock.now > 200.0)
        finally:
            answered.set()


def test_a_known_good_text_that_is_needless_uses_up_no_call() -> None:
    """Its turn was the one in which others may ask whether the service is back."""
    now = [0.0]
    with running(Fake(), clock=lambda: now[0]) as runner:
        now[0] = 1.0
        assert runner.embed(hashed("a text")).vectors
        runner._answers.mark_failed(too_much(), 2.0)
        now[0] = 3.0
        runner._expect_well(0.5)
        runner._calls.expect_time()


def test_an_outage_that_hangs_keeps_the_texts_of_its_calls_only() -> None:
    answered, clock = Event(), Clock(step=1.0)

    def answer(texts: Sequence[str]) -> Vectors:
        answered.wait(HANG_SECONDS)
        return good(texts)

    with running(Fake(answer, concurrency=2), clock=clock, threads=OFTEN) as runner:
        for batch in range(40):
            texts = hashed(*(f"{batch} {n}" for n in range(64)))
            assert len(runner.embed(texts, others_wait=lambda: True).untaken) == 64
        gc.collect()
        kept = sum(isinstance(each, Wanted) for each in gc.get_objects())
        answered.set()
    assert kept <= 4 * 64


def test_calls_at_once_are_learned() -> None:
    """A server that takes two at once, and answers 429 to more: halved, and remembered."""
    lock, most, here = Lock(), [0], [0]

    def answer(texts: Sequence[str]) -> Vectors:
        with lock:
            here[0] += 1
            most[0] = max(most[0], here[0])
            too_many = here[0] > 2
        try:
            if too_many:
                raise EmbedderUnavailableError(problem="429", overloaded=True)
            let_pass(0.01)
            return good(texts)
        finally:
            with lock:
                here[0] -= 1

    refused: list[CdcEmbedError] = []
    with running(Fake(answer, concurrency=8), errors=refused) as runner:
        for batch in range(5):
            texts = hashed(*(f"{batch} {n}" for n in range(64)))
            assert len(runner.embed(texts, others_wait=lambda: False).vectors) == 64
            if batch == 1:
                refused.clear()
    assert most[0] > 2
    assert len(refused) <= 2


def warnings(logged: list[MutableMapping[str, Any]]) -> list[int]:
    """The number of texts in each warning of many refusals."""
    return [each["texts"] for each in logged if each["event"] == "many texts refused in a row"]


def test_many_refusals_in_a_row_end_nothing_and_are_told_once() -> None:
    """The known-good text is taken, so each is a letter; the warning says how to look further."""
    texts = [f"bad {number}" for number in range(MOST_LETTERS_IN_A_ROW + 1)]
    fake = Fake(refusing(lambda text: text.startswith("bad")))
    with running(fake) as runner, capture_logs() as logged:
        assert len(runner.embed(hashed(*texts[:-1])).refused) == MOST_LETTERS_IN_A_ROW == 25
        assert warnings(logged) == []
        assert len(runner.embed(hashed(texts[-1])).refused) == 1
        assert len(runner.embed(hashed("bad once more")).refused) == 1
        assert warnings(logged) == [26]
    assert "cdc-embed doctor" in logged[0]["hint"]
    assert "bad" not in str(logged)


def test_letters_beside_a_success_do_not_blame_the_configuration() -> None:
    """Texts are tried in the order of their lengths, so bad ones that are alike come in a row."""
    for good_text in ("good", "good and longer than all the others"):
        texts = [f"bad {number}" for number in range(2 * MOST_LETTERS_IN_A_ROW)]
        fake = Fake(refusing(lambda text: text.startswith("bad")))
        with running(fake) as runner, capture_logs() as logged:
            for _ in range(2):
                result = runner.embed(hashed(*texts, good_text))
                assert (len(result.refused), len(result.vectors)) == (len(texts), 1)
        assert warnings(logged) == []


def test_a_success_in_between_starts_the_count_again() -> None:
    fake = Fake(refusing(lambda text: text.startswith("bad")))
    with running(fake) as runner, capture_logs() as logged:
        for episode in range(2):
            texts = [f"bad {episode} {number}" for number in range(MOST_LETTERS_IN_A_ROW)]
            assert len(runner.embed(hashed(*texts)).refused) == MOST_LETTERS_IN_A_ROW
            runner.embed(hashed(f"good {episode}"))
    assert warnings(logged) == []


# -- what is too long -------------------------------------------------------------------------


def test_a_text_beyond_the_window_is_refused_and_never_sent() -> None:
    fake = Fake(window=2)
    with running(fake) as runner:
        result = runner.embed(hashed("one two three", "one two"))
    reason, error = result.refused[fingerprint("one two three")]
    assert reason == "too_long"
    assert error.startswith("3 tokens, at most 2")
    assert fake.calls == [["one two"]]


def test_no_call_has_more_tokens_than_it_can_carry() -> None:
    fake = Fake(max_tokens=10)
    texts = [f"{'word ' * words}{n}" for words in range(12) for n in range(5)]
    with running(fake) as runner:
        result = runner.embed(hashed(*texts))
    assert max(sum(len(text.split()) for text in call) for call in fake.calls) <= 10
    assert len(result.vectors) == 50
    assert {reason for reason, _ in result.refused.values()} == {"too_long"}
    assert len(result.refused) == 10
