"""The proof that one text is to blame: no bad server of several and no cache gives it by chance."""

import random
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from threading import Event
from typing import Final

import pytest

from cdc_embed.change.document import fingerprint
from cdc_embed.embed.base import PROBE, Vectors, is_known_good
from cdc_embed.errors import EmbedderUnavailableError, TextRefusedError
from cdc_embed.flow.embedding import EmbeddingRunner, Threads
from cdc_embed.flow.patience import Patience
from cdc_embed.flow.proof import CHANCE, Evidence, KnownGood
from cdc_embed.metrics import Metrics
from tests.cases import cases
from tests.clock import Clock
from tests.shared_clock import SharedClock, Workers
from tests.unit.test_blame import BAD_SERVERS, LATER_SECONDS, only_at, raising
from tests.unit.test_embedding_runner import Answer, Fake, away, good, too_much

TEXTS: Final = 1000
SHORT: Final = 40
BAD: Final = "bad text"
MOST_SECONDS: Final = 5000.0


def asking() -> EmbedderUnavailableError:
    return EmbedderUnavailableError(problem="503", reason="server_error", retry_after=30.0)


BAD_ANSWERS: Final = {**BAD_SERVERS, "a time": raising(asking)}
ORDERS: Final = ["in turns", "at random"]


def one_of(servers: int, order: str, seed: int, bad: Answer) -> Answer:
    """One server of several answers so."""
    calls, drawn = count(seed), random.Random(seed)

    def answer(texts: Sequence[str]) -> Vectors:
        number = next(calls) if order == "in turns" else drawn.randrange(servers)
        return good(texts) if number % servers else bad(texts)

    return answer


def letters_of(
    texts: Sequence[str], answer: Callable[[SharedClock], Answer], size: int
) -> set[str]:
    """Embed texts in batches of so many, in at most ``MOST_SECONDS`` for each; return those that
    are letters."""
    clock, letters = SharedClock(), set()
    threads = Threads(clock=clock, workers=partial(Workers, clock), wait=clock.wait_for)

    def wait(event: Event, seconds: float) -> None:
        clock.sleep(seconds, event.is_set)

    patience = Patience(Event(), lambda _stage, _error: None, clock=clock, wait=wait)
    metrics = Metrics(slot="s", tables=["public.t"], model="fake")
    runner = EmbeddingRunner(Fake(answer(clock)), patience, metrics, threads=threads)
    for start in range(0, len(texts), size):
        left = {fingerprint(text): text for text in texts[start : start + size]}
        began = clock.now
        while left:
            assert clock.now - began < MOST_SECONDS
            result = runner.embed(left)
            letters |= {left[digest] for digest in result.refused}
            left = {digest: left[digest] for digest in result.untaken}
            clock.sleep(LATER_SECONDS if left else 0.0)
    runner.close()
    return letters


def some_texts(number: int) -> list[str]:
    return [f"text number {n}" for n in range(number)]


SEEDS = [*range(2), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 20))]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("servers", [2, 3])
@pytest.mark.parametrize("bad", BAD_ANSWERS.values(), ids=BAD_ANSWERS.keys())
def test_one_bad_server_makes_no_letter(bad: Answer, servers: int, order: str, seed: int) -> None:
    """A table of 1,000 texts, in batches and one by one."""
    random.seed(seed)
    answer = one_of(servers, order, seed, bad)
    assert letters_of(some_texts(TEXTS), lambda _: answer, 50) == set()
    assert letters_of(some_texts(TEXTS // 10), lambda _: answer, 1) == set()


ENDING = cases(
    [kind for kind in BAD_ANSWERS if kind not in ("a page", "no connection")],
    "500",
    "400",
    "timeout",
)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("servers", [2, 3])
@pytest.mark.parametrize("kind", ENDING)
def test_a_bad_text_beside_a_bad_server_is_a_letter(
    kind: str, servers: int, order: str, seed: int
) -> None:
    """All other texts have vectors."""
    random.seed(seed)
    beside = one_of(servers, order, seed, BAD_ANSWERS[kind])

    def answer(texts: Sequence[str]) -> Vectors:
        vectors = beside(texts)
        if BAD in texts:
            raise too_much()
        return vectors

    assert letters_of([BAD, *some_texts(200)], lambda _: answer, 50) == {BAD}


OUTAGE: Final = 20
"""The number of texts of a call with which an outage begins."""


def cached(clock: SharedClock) -> Answer:
    """A gateway has each text that was taken once; the model behind it is away for ten minutes."""
    known: set[str] = set()
    away_since: list[float] = []

    def answer(texts: Sequence[str]) -> Vectors:
        if BAD in texts:
            raise TextRefusedError(problem="no")
        if not known.issuperset(texts):
            away_since.extend([clock.now] * (len(texts) == OUTAGE))
            if away_since and clock.now - away_since[0] < 600.0:
                raise too_much()
            known.update(texts)
        return good(texts)

    return answer


def short_first(clock: SharedClock) -> Answer:
    """No memory for a minute, and for ten minutes not for a long text."""
    away_since: list[float] = []

    def answer(texts: Sequence[str]) -> Vectors:
        if BAD in texts:
            raise TextRefusedError(problem="no")
        away_since.extend([clock.now] * (len(texts) == OUTAGE))
        seconds = clock.now - away_since[0] if away_since else 600.0
        if seconds < (600.0 if max(map(len, texts)) > SHORT * 10 else 60.0):
            raise too_much()
        return good(texts)

    return answer


@pytest.mark.parametrize("outage", [cached, short_first])
def test_an_outage_that_spares_a_short_text_makes_no_letter(
    outage: Callable[[SharedClock], Answer],
) -> None:
    """Known-good texts were taken before, and as long ones as any."""
    long = [f"text {n} ".ljust(SHORT * 20, "a") for n in range(20)]
    before = [BAD, *long[:9], *some_texts(OUTAGE - 10)]
    texts = [*before, *long[9:], *(f"more {n}" for n in range(OUTAGE - 11))]
    assert letters_of(texts, outage, OUTAGE) == {BAD}


def test_too_long_a_text_is_to_blame_at_once() -> None:
    """The known-good texts are no longer than what was taken."""

    def answer(texts: Sequence[str]) -> Vectors:
        if max(map(len, texts)) > SHORT * 10:
            raise too_much()
        return good(texts)

    long = "a" * SHORT * 20
    assert letters_of([*some_texts(30), long], lambda _: answer, 20) == {long}


def test_a_known_good_text_is_another_one_each_time() -> None:
    clock = Clock()
    known_good = KnownGood(clock)
    assert len({known_good.make(10) for _ in range(100)}) > 90
    known_good.took(5000)
    assert len(known_good.make(3000)) == 3000
    assert len(known_good.make(9000)) == 5000
    clock.now += 3600.0
    known_good.took(100)
    assert len(known_good.make(9000)) == 5000
    clock.now += 1.0
    known_good.took(100)
    assert len(known_good.make(9000)) == 100
    assert is_known_good([known_good.make(500), PROBE])


def test_failures_of_the_known_good_text_need_more_calls() -> None:
    """Half of all calls fail."""
    assert Evidence(failed=12, taken=12).chance < CHANCE < Evidence(failed=11, taken=11).chance
    assert Evidence(failed=24, taken=12, good_failed=12).chance > CHANCE
    assert Evidence(failed=36, taken=18, good_failed=18).chance < CHANCE


@pytest.mark.parametrize("failed", range(50))
def test_an_outage_proves_nothing(failed: int) -> None:
    assert Evidence(failed=failed, good_failed=failed).chance == 1.0


def test_a_failure_that_speaks_of_no_text_is_no_proof() -> None:
    """A page, or 429, behind five failures that do."""
    calls = count()

    def failure() -> EmbedderUnavailableError:
        return too_much() if next(calls) < 8 else away()

    with pytest.raises(AssertionError):
        letters_of([BAD, "another"], lambda _: only_at(BAD, raising(failure)), 2)
