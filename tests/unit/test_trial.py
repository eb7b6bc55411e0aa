"""The first calls of an embedder: what they show of a service, and in how many calls.

Vectors that pgvector cannot store are among it ("A server has limits of its own" in
CONTRIBUTING.md).
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from cdc_embed.config.sections import EmbedderConfig
from cdc_embed.embed.advertised import Advertised
from cdc_embed.embed.base import PROBE, KnownFacts, ModelCard
from cdc_embed.embed.hash import HashEmbedder
from cdc_embed.embed.http import HttpEmbedder
from cdc_embed.embed.trial import Tried, long_texts, try_out
from cdc_embed.embed.watched import WatchedEmbedder
from cdc_embed.errors import (
    CdcEmbedError,
    EmbedderError,
    EmbedderUnavailableError,
    OtherModelError,
    UnusableAnswerError,
)
from tests.services import Service, serving, vector_of

TEI = {"/info": {"max_input_length": 300, "max_client_batch_size": 32, "auto_truncate": True}}
"""https://huggingface.github.io/text-embeddings-inference: the page of the model, shortened."""
VLLM = {"/v1/models": {"object": "list", "data": [{"id": "m", "max_model_len": 400}]}}
"""https://docs.vllm.ai: a model in the list, shortened."""


@pytest.fixture
def service() -> Iterator[Service]:
    with serving() as service:
        yield service


def tried(service: Service, known: KnownFacts = KnownFacts(), **fields: Any) -> Tried:  # noqa: B008
    config = EmbedderConfig(kind="http", url=service.url, model="m", **fields)
    with closing(HttpEmbedder(config, known)) as embedder:
        return try_out(embedder, config)


def refused(service: Service, **fields: Any) -> EmbedderError:
    with pytest.raises(EmbedderError) as caught:
        tried(service, **fields)
    assert caught.value.exit_code == 4
    return caught.value


# --- what is asked -------------------------------------------------------------------------------


def test_a_service_is_called_once_for_documents_and_a_question(service: Service) -> None:
    """With the bodies that later calls send."""
    found = tried(
        service, document_prompt="d: ", query_prompt="q: ", document_body={"input_type": "passage"}
    )
    question, documents = service.asked
    assert question["input"][0].startswith("q: ")
    assert "input_type" not in question
    assert documents["input"][0] == f"d: {PROBE}"
    assert documents["input_type"] == "passage"
    assert found.card.dimensions == 8
    assert found.card.canary is not None
    assert found.card.canary == pytest.approx(vector_of(f"d: {PROBE}".split(), "first", 8))
    assert found.unproven == ""


@pytest.mark.parametrize(
    ("permits", "calls", "texts"), [(512, 4, 32), (64, 4, 12), (8, 4, 1), (4, 2, 1), (1, 1, 1)]
)
def test_calls_and_their_texts_stay_within_what_is_told(
    service: Service, permits: int, calls: int, texts: int
) -> None:
    """TEI has a permit for each text of each call, and answers 429 to one without."""
    service.habits.pages = {"/info": TEI["/info"] | {"max_concurrent_requests": permits}}
    card = tried(service).card
    assert (card.concurrency, card.max_texts) == (calls, texts)


@given(st.integers(4, 1000), st.integers(1, 64), st.integers(1, 2048))
def test_deferred_rows_and_a_known_good_text_have_room(
    permits: int, calls: int, texts: int
) -> None:
    told = Advertised(max_texts=None, at_once=permits)
    calls, texts = told.share(calls, texts)
    assert (calls + 1) * texts + 1 <= permits


@pytest.mark.parametrize("habits", [{"most": 2}, {"most": 4}, {"most": 1}])
def test_a_service_of_small_calls_is_tried_too(service: Service, habits: dict[str, Any]) -> None:
    service.habits.most = habits["most"]
    assert tried(service).card.canary is not None


def test_a_service_that_is_away_is_asked_twice_at_most(service: Service) -> None:
    service.habits.away = 503
    with pytest.raises(EmbedderUnavailableError):
        tried(service, encoding_format="float")
    assert len(service.refused) == 1


def test_a_service_that_fails_at_long_texts_alone_is_not_proven(service: Service) -> None:
    """llama.cpp answers 500 above its physical batch; a slow one answers in vain."""
    service.habits.takes = 100
    answer = service.answer

    def failing(body: dict[str, Any]) -> Any:
        status, content = answer(body)
        return (500 if status == 400 else status), content

    service.answer = failing  # type: ignore[method-assign]
    found = tried(service)
    assert "whether long texts are cut is not known" in found.unproven
    assert found.card.canary is not None


# --- the window ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pages", "fields", "known", "window"),
    [
        (TEI, {}, KnownFacts(), 300),
        (VLLM, {}, KnownFacts(), 400),
        ({}, {}, KnownFacts(), 512),
        (TEI, {"window": 200}, KnownFacts(), 200),
        (TEI, {}, KnownFacts(window=256), 256),
        (TEI, {}, KnownFacts(window=512), 300),
        (TEI, {}, KnownFacts(chunk=5000), 300),
        (TEI, {}, KnownFacts(window=100, chunk=200), 200),
        ({}, {}, KnownFacts(chunk=5000), 5000),
        ({}, {}, KnownFacts(window=700), 700),
    ],
)
def test_the_window_is_configured_or_asked_or_assumed(
    service: Service, pages: Any, fields: Any, known: KnownFacts, window: int
) -> None:
    """A stored window stays, as long as the service takes it: else all texts would be cut anew."""
    service.habits.pages = pages
    card = tried(service, known, **fields).card
    assert card.window == window
    assert card.max_texts == (32 if pages == TEI and not fields else 256)


def test_a_service_that_cuts_what_was_estimated_is_told_of(
    service: Service, tmp_path: Path
) -> None:
    """No call shows it: its own texts are prose."""
    service.habits.pages = TEI
    found = tried(service)
    assert "a text of many numbers or symbols can have more" in found.unproven
    assert "embedder.tokenizer" in found.way_out
    Tokenizer(WordLevel({"?": 0}, unk_token="?")).save(str(tmp_path / "tokenizer.json"))
    assert tried(service, tokenizer=str(tmp_path)).unproven == ""
    service.habits.pages = {"/info": TEI["/info"] | {"auto_truncate": False}}
    assert tried(service).unproven == ""


def test_a_window_that_cannot_be_asked_for_now_is_waited_for(service: Service) -> None:
    """Another number would cut every stored text anew."""
    config = EmbedderConfig(kind="http", url=service.url, model="m", dimensions=8)
    service.habits.away = 503
    with closing(HttpEmbedder(config)) as embedder, pytest.raises(EmbedderUnavailableError):
        embedder.describe()


def test_a_service_that_cuts_is_told_with_the_length(service: Service) -> None:
    service.habits.cuts = 200
    error = refused(service)
    assert "it cuts long texts: the end of a text of 512 tokens does not change" in str(error)
    assert "about 333 tokens (200 words) count" in str(error)
    assert "embedder.window to 333 or less" in error.hint
    assert len(service.asked) <= 5
    assert tried(service, window=333).card.window == 333


def test_a_service_that_cuts_a_little_is_told_too(service: Service) -> None:
    service.habits.cuts = 300  # of the 307 words that the window takes
    assert "it cuts long texts" in str(refused(service))


def test_a_count_of_tokens_that_stays_flat_is_an_error(service: Service) -> None:
    """The vectors do not show it: this service gives each call vectors of its own."""
    service.habits.cuts, service.habits.usage = 150, True
    service.habits.vectors = lambda vectors: np.stack(
        [vectors[0], vectors[0], *[v + n for n, v in enumerate(vectors[2:])]][: len(vectors)]
    )
    error = refused(service)
    assert "it counts 150 tokens in a text of 307 words, and as many in one of" in str(error)
    assert "embedder.window to 150 or less" in error.hint


def test_words_that_are_no_tokens_are_not_cut_off(service: Service) -> None:
    """Mails have dozens of invisible letters between blanks, which tokenizers drop."""
    answer = service.answer

    def counted(body: dict[str, Any]) -> Any:
        status, content = answer(body)
        words = (word for text in body["input"] for word in text.split())
        content["usage"] = {"prompt_tokens": sum(any(map(str.isalnum, w)) for w in words)}
        return status, content

    service.answer = counted  # type: ignore[method-assign]
    config = EmbedderConfig(kind="http", url=service.url, model="m")
    with closing(HttpEmbedder(config)) as embedder:
        try_out(embedder, config)
        mail = "a mail with some words " * 8 + "\u200c " * 60
        assert embedder.embed([mail]).shape == (1, 8)


def test_a_count_of_something_else_is_no_error(service: Service) -> None:
    """Some services count half words, or texts."""
    answer = service.answer
    service.habits.usage = True

    def halved(body: dict[str, Any]) -> Any:
        status, content = answer(body)
        content["usage"]["prompt_tokens"] //= 2
        return status, content

    service.answer = halved  # type: ignore[method-assign]
    config = EmbedderConfig(kind="http", url=service.url, model="m")
    with closing(HttpEmbedder(config)) as embedder:
        try_out(embedder, config)
        service.forget()
        embedder.embed(["a long text"] * 20)
        embedder.embed(["another long text"] * 20)
        assert len(service.asked) == 2, "it is asked for its count once"


def test_a_service_that_takes_less_is_told_with_what_it_takes(service: Service) -> None:
    service.habits.takes = 100
    error = refused(service)
    assert "it refuses a text of 512 tokens" in str(error)
    assert "maximum context length is 100 tokens" in str(error)
    assert "to the 127 tokens that it takes" in error.hint
    assert tried(service, window=127).card.window == 127


def test_long_texts_fit_the_window_and_differ_at_the_end(service: Service) -> None:
    card = tried(service, window=100, document_prompt="passage: ").card
    one, other = long_texts(card)
    assert 95 <= card.count_tokens([one])[0] <= 100
    assert one.split()[:-1] == other.split()[:-1]
    assert one.split()[-1] != other.split()[-1]


def test_a_minute_of_tokens_bounds_the_long_texts(service: Service) -> None:
    card = tried(service, tokens_per_minute=60_000).card
    small = ModelCard(identity="", dimensions=8, window=512, max_tokens=90, paid=True,
                      count_tokens=card.count_tokens)  # fmt: skip
    assert 18 <= max(card.count_tokens(long_texts(small))) <= 22


# --- wrong answers -------------------------------------------------------------------------------


def swapped(vectors: Any) -> Any:
    return vectors[::-1]


def shifted(vectors: Any) -> Any:
    return np.roll(vectors, 1, axis=0)


def constant(vectors: Any) -> Any:
    return np.broadcast_to(vectors[0], vectors.shape)


def zeros(vectors: Any) -> Any:
    return vectors * 0


def tiny(vectors: Any) -> Any:
    return vectors * np.float32(1e-30)


def huge(vectors: Any) -> Any:
    return vectors * np.float32(1e30)


def infinite(vectors: Any) -> Any:
    return vectors * np.inf


def fewer(vectors: Any) -> Any:
    return vectors[1:] if len(vectors) > 1 else vectors


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (swapped, "not in the order of the texts"),
        (shifted, "not in the order of the texts"),
        (constant, "it gives different texts the same vector"),
        (zeros, "zeros alone"),
        (tiny, "zeros alone"),
        (huge, "length is beyond"),
        (infinite, "not finite"),
        (fewer, "one vector for each of 7 texts"),
    ],
)
def test_wrong_vectors_are_fatal_at_the_start(
    service: Service, wrong: Callable[[Any], Any], words: str
) -> None:
    service.habits.vectors = wrong
    assert words in str(refused(service))


def test_vectors_of_another_width_are_fatal_at_the_start(service: Service) -> None:
    answer = service.answer

    def as_it_likes(body: dict[str, Any]) -> Any:
        return answer({key: value for key, value in body.items() if key != "dimensions"})

    service.answer = as_it_likes  # type: ignore[method-assign]
    with pytest.raises(EmbedderError, match=r"shape \(1, 8\), expected \(1, 16\)"):
        tried(service, dimensions=16)
    assert tried(service, KnownFacts(dimensions=16)).card.dimensions == 8, (
        "another space, says setup"
    )


def test_refused_dimensions_are_told_with_the_width_without(service: Service) -> None:
    service.habits.knows_dimensions = False
    error = refused(service, dimensions=8)
    assert "does not support dimensions" in str(error)
    assert "without embedder.dimensions it answers, and its vectors have that many" in str(error)
    assert error.hint == "set embedder.dimensions = 0"
    assert "its vectors have 8" in str(refused(service, dimensions=4))
    assert tried(service).card.dimensions == 8


def test_a_refused_model_name_is_told_at_the_start(service: Service) -> None:
    service.habits.models = ("other",)
    error = refused(service, dimensions=8)
    assert "the model does not exist" in str(error)
    assert "embedder.model" in error.hint


def test_a_local_embedder_is_tried_without_limits() -> None:
    config = EmbedderConfig(kind="hash")
    assert try_out(HashEmbedder(dimensions=8), config).card.canary is not None
    assert try_out(HashEmbedder(dimensions=8, window=50), config).unproven == ""


# --- after an outage -----------------------------------------------------------------------------


class Watching:
    """An embedder that was tried, and is watched."""

    def __init__(self, service: Service, **fields: Any) -> None:
        config = EmbedderConfig(
            kind="http", url=service.url, model="m", encoding_format="float", **fields
        )
        self.inner = HttpEmbedder(config)
        self.embedder = WatchedEmbedder(self.inner, try_out(self.inner, config))
        self.service = service
        service.forget()

    def fail(self, status: int = 503) -> None:
        self.service.habits.away = status
        with pytest.raises(CdcEmbedError):
            self.embedder.embed(["a"])
        self.service.habits.away = None


@pytest.fixture
def watching(service: Service) -> Iterator[Watching]:
    made = Watching(service)
    yield made
    made.embedder.close()


def test_another_model_after_an_outage_gives_no_vector(watching: Watching) -> None:
    embedder, service = watching.embedder, watching.service
    embedder.embed(["a", "b", "c"])
    watching.fail()
    service.habits.weights = "second"
    for _ in range(2):
        with pytest.raises(OtherModelError, match="another model answers to the name http:m"):
            embedder.embed(["a", "b"])
    assert service.asked[-1]["input"] == ["a", "b", PROBE]


def test_the_same_model_is_compared_once_in_a_call_of_others(watching: Watching) -> None:
    embedder, service = watching.embedder, watching.service
    embedder.embed(["a", "b", "c"])
    watching.fail()
    assert embedder.embed(["a", "b"]).shape == (2, 8)
    assert embedder.embed(["d", "e"]).shape == (2, 8)
    assert [body["input"] for body in service.asked] == [
        ["a", "b", "c"],
        ["a", "b", PROBE],
        ["d", "e"],
    ]


def test_a_call_is_never_larger_than_one_that_was_taken(service: Service) -> None:
    watching = Watching(service, max_batch=3)
    watching.fail()
    watching.embedder.embed(["a", "b", "c"])
    assert [body["input"] for body in service.asked] == [["a", "b", "c"], [PROBE]]
    watching.embedder.close()


def test_a_rate_limit_costs_no_vectors(service: Service) -> None:
    """A full call leaves no room for the known-good text, and one call more would be refused each
    time; another model is found with the next call that has room."""
    watching = Watching(service, max_batch=3)
    embedder = watching.embedder
    watching.fail(429)
    service.habits.weights = "second"
    assert embedder.embed(["a", "b", "c"]).shape == (3, 8)
    with pytest.raises(OtherModelError):
        embedder.embed(["d"])
    assert [body["input"] for body in service.asked] == [["a", "b", "c"], ["d", PROBE]]
    embedder.close()


def test_a_failure_during_the_comparison_is_waited_for(service: Service) -> None:
    watching = Watching(service, max_batch=1)
    embedder = watching.embedder
    watching.fail()
    answer = service.answer

    def failing(body: dict[str, Any]) -> Any:
        return (422, {}) if PROBE in body["input"] else answer(body)

    service.answer = failing  # type: ignore[method-assign]
    with pytest.raises(EmbedderUnavailableError) as caught:
        embedder.embed(["a"])
    assert caught.value.of_known_good, "no size and no other text is to blame"
    service.answer = answer  # type: ignore[method-assign]
    assert embedder.embed(["a"]).shape == (1, 8)
    embedder.close()


def test_one_malformed_answer_is_no_outage(watching: Watching) -> None:
    """One of several servers is broken, and the call after it reaches another."""
    embedder, service = watching.embedder, watching.service
    embedder.embed(["a", "b", "c"])
    answer = service.answer
    service.answer = MagicMock(return_value=(200, {}))  # type: ignore[method-assign]
    with pytest.raises(UnusableAnswerError):
        embedder.embed(["a"])
    service.answer = answer  # type: ignore[method-assign]
    embedder.embed(["a"])
    assert service.asked[-1]["input"] == ["a"]


def test_the_comparison_is_made_with_another_server_if_one_fails(service: Service) -> None:
    """The texts were taken, so they need not be embedded again."""
    watching = Watching(service, max_batch=1)
    watching.fail()
    answer, failures = service.answer, [500]

    def failing(body: dict[str, Any]) -> Any:
        return (failures.pop(), {}) if failures and PROBE in body["input"] else answer(body)

    service.answer = failing  # type: ignore[method-assign]
    assert watching.embedder.embed(["a"]).shape == (1, 8)
    assert [body["input"] for body in service.asked] == [["a"], [PROBE]]
    watching.embedder.close()
