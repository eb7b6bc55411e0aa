"""Every dialect of an embedding service, on every bad day: nothing is lost, blamed or sent twice.

A clock that passes only while everybody waits takes the place of minutes and hours.
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import ceil, log2
from pathlib import Path
from random import Random
from threading import Condition, Event
from typing import Any

import httpx2
import numpy as np
import pytest

from cdc_embed.change.chunk import Chunker
from cdc_embed.change.document import fingerprint
from cdc_embed.config.sections import EmbedderConfig
from cdc_embed.embed.base import ModelCard, is_known_good
from cdc_embed.embed.http import HttpEmbedder
from cdc_embed.embed.trial import try_out
from cdc_embed.embed.watched import WatchedEmbedder
from cdc_embed.errors import EmbedderError, OtherModelError
from cdc_embed.flow.answers import GO_ON_SECONDS
from cdc_embed.flow.embedding import EmbeddingRunner, Threads
from cdc_embed.flow.going_on import OthersWait
from cdc_embed.flow.patience import Patience
from cdc_embed.metrics import Metrics
from tests.bad_days import BAD, DAYS, Day, away
from tests.cases import cases
from tests.dialects import DIALECTS, DIMENSIONS, Dialect, FakeService
from tests.embedding_server import vector_of
from tests.shared_clock import SharedClock, Workers

README = (Path(__file__).parents[2] / "README.md").read_text()
ALIASES = {"api_key": "api"}
GUARDED = {
    ("NIM", "one text always fails"),
    ("TEI", "slow"),
    ("TEI", "one server of two hangs"),
    ("NIM", "one server of three hangs for half a minute"),
    ("NIM", "one text always hangs"),
}
"""Cases that found a fault, which mutations put back."""
BACK = 2
"""The known-good texts that show that a service is back, and the same as before."""
LATER_SECONDS = 5.0
"""After so long the texts are tried again that a batch was not to wait for."""
PLAIN = {"kind": "http", "url": "http://service/v1/embeddings", "model": "m", "concurrency": 1}


@dataclass
class Bench:
    """A service, an embedder that asks it, and the runner of a whole service of ours."""

    service: FakeService
    runner: EmbeddingRunner
    clock: SharedClock
    card: ModelCard
    vectors: dict[str, Any] = field(default_factory=dict)
    letters: dict[str, str] = field(default_factory=dict)

    def embed(self, texts: list[str]) -> float:
        """Have texts embedded as batches would; the seconds that it took."""
        began = self.clock.now
        for start in range(0, len(texts), 4096):
            batch = {fingerprint(text): text for text in texts[start : start + 4096]}
            while batch:
                result = self.runner.embed(batch)
                self.vectors |= {batch[digest]: vector for digest, vector in result.vectors.items()}
                self.letters |= {batch[digest]: why for digest, (why, _) in result.refused.items()}
                batch = {digest: batch[digest] for digest in result.untaken}
                if batch:  # they are deferred
                    self.clock.sleep(LATER_SECONDS)
        return self.clock.now - began

    @property
    def most(self) -> int:
        """The texts of the largest call that both sides want."""
        return min(self.card.max_texts, self.service.dialect.texts or self.card.max_texts)


Set = Callable[..., Bench]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Set]:
    made: list[Bench] = []
    client = httpx2.Client
    before = random.getstate()
    random.seed(1)  # delays and lots are drawn; a day is to be the same each time

    def make(dialect: Dialect, day: Day, **fields: Any) -> Bench:
        clock = SharedClock()
        service = FakeService(dialect, clock, day.fault())
        transport = httpx2.MockTransport(service)
        monkeypatch.setattr(httpx2, "Client", lambda **given: client(**given, transport=transport))
        settings = {**PLAIN, **dialect.settings, **day.settings, **fields}
        if key := settings.pop("api_key", None):
            (tmp_path / "key").write_text(key)
            settings["api_key_file"] = str(tmp_path / "key")
        config = EmbedderConfig(**settings)
        embedder = HttpEmbedder(config, clock=clock, wait=partial(wait_unlocked, clock))
        tried = try_out(embedder, config)
        service.begin()

        def wait(event: Event, seconds: float) -> None:
            clock.sleep(seconds, event.is_set)

        threads = Threads(clock=clock, workers=partial(Workers, clock), wait=clock.wait_for)
        patience = Patience(Event(), lambda _stage, _error: None, clock=clock, wait=wait)
        metrics = Metrics(slot="s", tables=["public.t"])
        watched = WatchedEmbedder(embedder, tried)
        runner = EmbeddingRunner(watched, patience, metrics, threads=threads)
        made.append(Bench(service, runner, clock, tried.card))
        return made[-1]

    yield make
    for each in made:
        each.runner.give_up()
    random.setstate(before)


def wait_unlocked(clock: SharedClock, changed: Condition, seconds: float) -> None:
    changed.release()
    clock.sleep(seconds)
    changed.acquire()


def some_texts(day: Day) -> list[str]:
    good = [f"text number {n} of a table, of some length" for n in range(day.texts)]
    for bad in range(day.bad if day.reason else 0):
        number = f" {bad}" if bad else ""
        good.insert(
            (day.texts // 3 + bad * 7) % len(good), f"{BAD} that is about as long as others{number}"
        )
    return good


def expect_right(vectors: Mapping[str, Any]) -> None:
    """Each text has its own vector."""
    right = [vector_of(text, DIMENSIONS) for text in vectors]
    assert np.allclose([*vectors.values()], right, atol=1e-6)


def table() -> Iterator[Any]:
    """Each dialect on each day; every one of both in what is always run, the rest with --long."""
    for row, kind in enumerate(DIALECTS):
        for column, name in enumerate(DAYS):
            always = (row + column) % 5 == 0 or (kind, name) in GUARDED
            marks = [] if always else [pytest.mark.long]
            yield pytest.param(kind, name, id=f"{kind}-{name}", marks=marks)


@pytest.mark.parametrize(("kind", "name"), list(table()))
def test_every_service_is_used_well_on_every_day(bench: Set, kind: str, name: str) -> None:
    """Each text has its own vector, but for the one that deserves a letter; in time. Calls: those
    that the texts need, one for each that the day spoils, and those that find the size; beside
    them the known-good text, at most as often as the service fails."""
    day = DAYS[name]
    here = bench(DIALECTS[kind](), day)
    texts = some_texts(day)
    seconds = here.embed(texts)

    bad = {text for text in texts if text.startswith(BAD)}
    assert here.letters == dict.fromkeys(bad, day.reason)
    assert here.vectors.keys() == {*texts} - bad
    expect_right(here.vectors)
    assert seconds <= day.within
    if day.calls is not None:
        assert here.service.injected <= day.calls

    service = here.service
    doublings = log2(here.card.max_texts)
    assert service.refused_size <= 2 * doublings
    found = 2 * service.refused_size + 2 * doublings * (service.injected > 0)
    needed = ceil(len(texts) / min(here.most, day.takes))
    spoilt = service.injected + service.refused_base64
    known_good = sum(is_known_good(call.texts) for call in service.calls)
    assert known_good <= day.proofs * service.injected + BACK
    assert len(service.calls) - known_good <= 1.1 * (needed + spoilt) + found


DEFERRED_SECONDS = 35.0
"""So soon a text that came in an outage has its vector, once the service takes anything: it is
tried again every 30 s."""
MOST_SECONDS = 5000.0


class Stream:
    """Batches of two tables, with a delete behind each, and a reader of what was deferred."""

    def __init__(self, here: Bench) -> None:
        self._here = here
        self._clock = here.clock
        self._deferred: dict[str, tuple[int, float]] = {}
        self._over = False
        self.came: dict[str, float] = {}
        """When each text of the other table came."""
        self.served: dict[str, float] = {}
        self.longest = 0.0
        """The seconds that a batch waited."""

    def run(self, texts: list[str], rate: int) -> None:
        """Have so many texts embedded in each second, and one of the other table."""
        clock = self._clock
        began = clock.now
        reader = Workers(clock, 1).submit(self._read_deferred)
        left = {*texts}
        while texts or self._deferred:
            assert clock.now - began < MOST_SECONDS
            part, texts = texts[:rate], texts[rate:]
            left -= self._here.vectors.keys() | self._here.letters.keys()
            if left:
                other = f"other {len(self.came)}"
                self.came[other] = clock.now
                part.append(other)
            sent = clock.now
            self._deferred |= dict.fromkeys(self._embed(part, lambda: True), (0, 0.0))
            self.longest = max(self.longest, clock.now - sent)
            clock.sleep(1.0)
        self._over = True
        clock.sleep(1.0, reader.done)
        reader.result(1.0)

    def _read_deferred(self) -> None:
        most = 1
        while not self._over:
            now = self._clock.now
            count = 128 if self._here.runner.hangs else most
            due = [text for text, (_, at) in list(self._deferred.items()) if at <= now][:count]
            untaken = self._embed(due, None) if due else []
            first = any(self._deferred[text][0] == 0 for text in untaken)
            most = 1 if first else min(128, 2 * most)
            for text in due:
                tries, _ = self._deferred.pop(text)
                if text in untaken:
                    later = self._clock.now + min(30.0, 2.0**tries)
                    self._deferred[text] = tries + 1, later
            self._clock.sleep(0.0 if due else 0.2)

    def _embed(self, texts: list[str], others_wait: OthersWait | None) -> list[str]:
        """Have texts embedded; return those that are not taken."""
        batch = {fingerprint(text): text for text in texts}
        result = self._here.runner.embed(batch, others_wait=others_wait)
        taken = {batch[digest]: vector for digest, vector in result.vectors.items()}
        self._here.vectors |= taken
        self._here.letters |= {batch[digest]: why for digest, (why, _) in result.refused.items()}
        self.served |= dict.fromkeys(taken, self._clock.now)
        return [batch[digest] for digest in result.untaken]


@pytest.mark.parametrize(("kind", "name"), list(table()))
def test_another_table_is_served_on_every_day(bench: Set, kind: str, name: str) -> None:
    """Four calls at once, and something waits behind each batch: no batch waits longer than 5 s, no
    text of the other table longer than that while the service takes anything; but some times as
    long where one server of two is broken, because its texts are deferred then, and as long as
    chance has it where it fails at random."""
    day = DAYS[name]
    here = bench(DIALECTS[kind](), day, concurrency=4)
    stream, texts = Stream(here), some_texts(day)
    stream.run(texts, day.rate)

    bad = {text for text in texts if text.startswith(BAD)}
    assert here.letters == dict.fromkeys(bad, day.reason)
    assert here.vectors.keys() == {*texts, *stream.came} - bad
    assert stream.longest <= GO_ON_SECONDS + 0.5
    known_good = sum(is_known_good(call.texts) for call in here.service.calls)
    assert known_good <= day.proofs * here.service.injected + BACK
    for text, came in stream.came.items():
        well = next(at for at in here.service.taken if at >= came)
        most = day.served if well - came <= day.served else DEFERRED_SECONDS
        assert stream.served[text] - well <= most or day.held, (text, came)


@pytest.mark.parametrize("requests_per_minute", [0, 6, 60])
def test_an_outage_is_seen_behind_a_limit_of_ours(bench: Set, requests_per_minute: int) -> None:
    """So that what can wait behind its texts does not; no call is needed but those of the texts."""
    day = Day(fault=lambda: away(600.0, lambda s: s.dialect.ill), within=700.0)
    limits = {"requests_per_minute": requests_per_minute, "max_batch": 4}
    here = bench(DIALECTS["OpenAI"](), day, concurrency=2, **limits)
    clock, runner = here.clock, here.runner
    for batch in range(3):
        began = clock.now
        texts = {fingerprint(text): text for text in (f"{batch} {n}" for n in range(16))}
        result = runner.embed(texts, others_wait=lambda: runner.outage)
        assert result.untaken.keys() == texts.keys()
        assert clock.now - began < (21.0 if requests_per_minute == 6 else 8.0)
        assert runner.outage


@pytest.mark.parametrize("seed", [1, *(pytest.param(n, marks=pytest.mark.long) for n in range(20))])
@pytest.mark.parametrize(
    "kind", cases(["TEI", "OpenAI", "Gemini", "one that caps"], "TEI", "one that caps")
)
def test_bad_days_one_after_another_are_lived_through(bench: Set, kind: str, seed: int) -> None:
    """A day teaches nothing that spoils the next one: the calls of all days together."""
    chance = Random(seed)
    here = bench(DIALECTS[kind](), DAYS["a good day"])
    service, needed, spoilt = here.service, 0, 0
    names = [name for name, day in DAYS.items() if day.calls is None and day.bad == 1]
    for number, name in enumerate(chance.choices(names, k=40)):
        day = DAYS[name]
        service.fault = day.fault()
        texts = [f"{text}, day {number}" for text in some_texts(day)]
        here.embed(texts)
        needed += ceil(len(texts) / min(here.most, day.takes))
        bad = {text for text in here.letters if text.startswith(BAD)}
        assert here.letters.keys() == bad, name
        assert {*texts} <= here.vectors.keys() | bad, name
    known_good = sum(is_known_good(call.texts) for call in service.calls)
    spoilt = service.injected + service.refused_base64
    found = 2 * service.refused_size + 2 * 40 * log2(here.card.max_texts)
    assert len(service.calls) - known_good <= 1.1 * (needed + spoilt) + found


@pytest.mark.parametrize("kind", DIALECTS)
def test_a_key_is_rotated_while_texts_wait(bench: Set, kind: str, tmp_path: Path) -> None:
    """The service takes another one; its file has it half a minute later."""
    dialect = DIALECTS[kind]()
    path = tmp_path / "rotated"
    path.write_text("sk-1")
    here = bench(dialect, DAYS["a good day"], api_key="", api_key_file=str(path))
    began = here.clock.now

    def fault(service: FakeService, request: httpx2.Request, _: list[str]) -> Any:
        if service.clock.now > began + 30.0:
            path.write_text("sk-2")
        key = request.headers.get("api-key") or request.headers["authorization"]
        return None if key.endswith("sk-2") else dialect.unauthorized

    here.service.fault = fault
    assert 30.0 < here.embed(["a text", "another one"]) < 60.0
    assert here.vectors.keys() == {"a text", "another one"}


@pytest.mark.parametrize("kind", DIALECTS)
def test_what_was_learned_of_a_service_costs_nothing_more(bench: Set, kind: str) -> None:
    """Ten per cent of the calls are enough to learn, and later ones are all good."""
    here = bench(DIALECTS[kind](), DAYS["a good day"])
    texts = [f"text {n}" for n in range(200 * here.most if here.most <= 100 else 512)]
    here.embed(texts)
    learned = len(here.service.calls)
    assert learned <= 1.1 * ceil(len(texts) / here.most)

    here.embed([f"more {n}" for n in range(2048)])
    assert all(call.status == 200 for call in here.service.calls[learned:])
    assert len(here.service.calls) - learned == ceil(2048 / here.most)


@pytest.mark.parametrize("kind", DIALECTS)
def test_a_long_row_is_whole_in_every_service(bench: Set, kind: str) -> None:
    """5,000 words, in chunks that it takes and reads to their ends."""
    here = bench(DIALECTS[kind](), DAYS["a good day"])
    row = " ".join(f"word{n}" for n in range(5000))
    chunks = Chunker(here.card.count_tokens, here.card.window).split(row)
    here.embed([chunk.text for chunk in chunks])
    assert len(chunks) > 3
    assert " ".join(chunk.text for chunk in chunks).split() == row.split()
    assert here.letters == {}
    expect_right(here.vectors)
    assert {call.status for call in here.service.calls} == {200}


@pytest.mark.parametrize("kind", ["one that cuts", "one that caps"])
def test_a_window_beyond_what_a_service_takes_is_told(bench: Set, kind: str) -> None:
    """At the start, with a number; with that one it goes."""
    dialect = DIALECTS[kind]()
    with pytest.raises(EmbedderError) as caught:
        bench(dialect, DAYS["a good day"], window=5000)
    (window, *_) = map(int, re.findall(r"\b\d+\b", caught.value.hint))
    here = bench(dialect, DAYS["a good day"], window=window)
    assert here.card.window == window


@pytest.mark.parametrize("kind", DIALECTS)
def test_another_model_after_an_outage_ends_the_service(bench: Set, kind: str) -> None:
    """Behind the same name; no vector of it comes out."""
    here = bench(DIALECTS[kind](), DAYS["not found for a minute"])
    here.service.weights = "another model: "
    with pytest.raises(OtherModelError) as caught:
        here.embed(["a text", "another one"])
    assert caught.value.exit_code == 4
    assert here.vectors == {}


def test_the_readme_has_each_dialect_with_its_settings() -> None:
    section = README.partition("### Embedding services")[2].partition("\n## ")[0]
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| ")][1:]
    shown = {row[0].removeprefix("| "): " ".join(row[1:]) for row in rows}
    assert shown.keys() == DIALECTS.keys()
    for name, make in DIALECTS.items():
        for key in make().settings:
            assert ALIASES.get(key, key) in shown[name], (name, key)
