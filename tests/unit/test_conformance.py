"""Every dialect of an embedding service, on every bad day: nothing is lost, blamed or sent twice.

A clock that passes only while somebody waits takes the place of minutes and hours.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import ceil, log2
from pathlib import Path
from threading import Event
from typing import Any

import httpx2
import numpy as np
import pytest

from cdc_embed.change.document import fingerprint
from cdc_embed.config.sections import EmbedderConfig
from cdc_embed.embed.http import HttpEmbedder
from cdc_embed.errors import CdcEmbedError
from cdc_embed.flow.embedding import PROBE, EmbeddingRunner
from cdc_embed.flow.patience import Patience, delay
from cdc_embed.metrics import Metrics
from tests.bad_days import BAD, DAYS, Day
from tests.dialects import DIALECTS, DIMENSIONS, Clock, Dialect, FakeService
from tests.embedding_server import vector_of

README = (Path(__file__).parents[2] / "README.md").read_text()
ALIASES = {"api_key": "api"}
FIRST = 5
"""Texts with which the service has worked before its day begins."""


@dataclass
class Bench:
    """A service, an embedder that asks it, and the runner of a whole service of ours."""

    service: FakeService
    embedder: HttpEmbedder
    runner: EmbeddingRunner
    clock: Clock
    errors: list[CdcEmbedError]
    vectors: dict[str, Any] = field(default_factory=dict)
    letters: dict[str, str] = field(default_factory=dict)

    def embed(self, texts: list[str]) -> float:
        """Have texts embedded as batches would; the seconds that it took."""
        began = self.clock.now
        for start in range(0, len(texts), 4096):
            batch = {fingerprint(text): text for text in texts[start : start + 4096]}
            result = self.runner.embed(batch)
            self.vectors |= {batch[digest]: vector for digest, vector in result.vectors.items()}
            self.letters |= {batch[digest]: why for digest, (why, _) in result.refused.items()}
        return self.clock.now - began

    @property
    def most(self) -> int:
        """The texts of the largest call that both sides want."""
        most = self.embedder.describe().max_texts
        return min(most, self.service.dialect.texts or most)


Set = Callable[[Dialect, Day], Bench]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Set]:
    made: list[Bench] = []
    client = httpx2.Client

    def make(dialect: Dialect, day: Day) -> Bench:
        clock = Clock()
        service = FakeService(dialect, clock, day.fault())
        transport = httpx2.MockTransport(service)
        monkeypatch.setattr(httpx2, "Client", lambda **given: client(**given, transport=transport))
        settings = {
            "kind": "http",
            "url": "http://service/v1/embeddings",
            "model": "m",
            "concurrency": 1,
            **dialect.settings,
            **day.settings,
        }
        if key := settings.pop("api_key", None):
            (tmp_path / "key").write_text(key)
            settings["api_key_file"] = str(tmp_path / "key")
        embedder = HttpEmbedder(
            EmbedderConfig(**settings), stored_dimensions=DIMENSIONS, clock=clock
        )
        monkeypatch.setattr(embedder._closed, "wait", clock.sleep)
        errors: list[CdcEmbedError] = []

        def wait(attempt: int, chance: float, asked: float | None) -> float:
            clock.sleep(delay(attempt, chance, asked))
            return 0.0

        patience = Patience(Event(), lambda _, error: errors.append(error), clock=clock, delay=wait)
        metrics = Metrics(slot="s", tables=["public.t"])
        runner = EmbeddingRunner(embedder, embedder.describe(), patience, metrics, clock=clock)
        made.append(Bench(service, embedder, runner, clock, errors))
        return made[-1]

    yield make
    for each in made:
        each.runner.close()
        each.embedder.close()


def some_texts(day: Day) -> list[str]:
    good = [f"text number {n} of a table, of some length" for n in range(day.texts)]
    if day.reason:
        good.insert(day.texts // 3, f"{BAD} that is about as long as others")
    return good


@pytest.mark.parametrize("kind", DIALECTS)
@pytest.mark.parametrize("name", DAYS)
def test_every_service_is_used_well_on_every_day(bench: Set, kind: str, name: str) -> None:
    """Each text has its own vector, but for the one that deserves a letter; in time. Calls: those
    that the texts need, one for each that the day spoils, and those that find the size; beside
    them the known-good text, at most as often as the service fails."""
    day = DAYS[name]
    here = bench(DIALECTS[kind](), day)
    first, texts = [f"first {n}" for n in range(FIRST)], some_texts(day)
    here.embed(first)
    seconds = here.embed(texts)

    bad = {text for text in texts if text.startswith(BAD)}
    assert here.letters == dict.fromkeys(bad, day.reason)
    assert here.vectors.keys() == {*first, *texts} - bad
    for text, vector in here.vectors.items():
        assert np.allclose(vector, vector_of(text, DIMENSIONS), atol=1e-6)
    assert seconds <= day.within
    if day.calls is not None:
        assert here.service.injected <= day.calls

    service = here.service
    doublings = log2(here.embedder.describe().max_texts)
    assert service.refused_size <= 2 * doublings
    found = 2 * service.refused_size + 2 * doublings * (service.injected > 0)
    needed = 1 + ceil(len(texts) / min(here.most, day.takes))
    spoilt = service.injected + service.refused_base64
    known_good = sum(call.texts == [PROBE] for call in service.calls)
    assert known_good <= service.injected
    assert len(service.calls) - known_good <= 1.1 * (needed + spoilt) + found


@pytest.mark.parametrize("kind", DIALECTS)
def test_what_was_learned_of_a_service_costs_nothing_more(bench: Set, kind: str) -> None:
    """Ten per cent of the calls are enough to learn, and later ones are all good."""
    here = bench(DIALECTS[kind](), DAYS["a good day"])
    texts = [f"text {n}" for n in range(200 * min(here.most, 100))]
    here.embed(texts)
    learned = len(here.service.calls)
    assert learned <= 1.1 * ceil(len(texts) / min(here.most, 256))

    here.embed([f"more {n}" for n in range(4096)])
    assert all(call.status == 200 for call in here.service.calls[learned:])
    assert len(here.service.calls) - learned == ceil(4096 / here.most)


def test_the_readme_has_each_dialect_with_its_settings() -> None:
    section = README.partition("### Embedding services")[2].partition("\n## ")[0]
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| ")][1:]
    shown = {row[0].removeprefix("| "): " ".join(row[1:]) for row in rows}
    assert shown.keys() == DIALECTS.keys()
    for name, make in DIALECTS.items():
        for key in make().settings:
            assert ALIASES.get(key, key) in shown[name], (name, key)
