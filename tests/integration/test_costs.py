"""The tokens of a paid service: what they cost, and what a backfill will cost before it begins."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from tests.site import DOCUMENTS, EmbeddingServer, RunningService, Site, wait_until

ROWS = 40
PENDING = "cdc_embed_backfill_pending_tokens"
WORDS = 5
"""Of a row: its title, and four of its body. By their bytes they would be twice as many tokens."""


def word_tokenizer(folder: Path) -> str:
    """A tokenizer whose tokens are the words."""
    words = Tokenizer(WordLevel({"?": 0}, unk_token="?"))
    words.pre_tokenizer = Whitespace()
    folder.mkdir()
    words.save(str(folder / "tokenizer.json"))
    return str(folder)


@pytest.fixture
def paid(make_site: Callable[..., Site]) -> Site:
    site = make_site(18)
    site.sql(DOCUMENTS)
    site.sql(
        "insert into documents select i, 'title' || i, 'considerable words number ' || i "
        "from generate_series(1, %s) i",
        ROWS,
    )
    return site


def configure(site: Site, server: EmbeddingServer, *, most: int, price: str = "") -> None:
    folder = site.folder / "tokenizer"
    tokenizer = str(folder) if folder.exists() else word_tokenizer(folder)
    site.configure(
        embedder=f'{server.configuration}\ntokenizer = "{tokenizer}"\n{price}',
        more=f"[backfill]\nmax_tokens_unasked = {most}\n",
    )


def embedding(service: RunningService) -> dict[str, Any]:
    wait_until(lambda: service.status()["tables"], "the first look at both databases")
    found: dict[str, Any] = service.status()["embedding"]
    return found


@pytest.mark.parametrize("most", [ROWS * WORDS, ROWS * WORDS - 1])
def test_unasked_tokens_are_those_of_the_tokenizer(
    paid: Site, embedding_server: EmbeddingServer, most: int
) -> None:
    configure(paid, embedding_server, most=most)
    paid.cli("setup")
    with paid.service() as service:
        if most == ROWS * WORDS:
            service.wait_for("reconciled")
            wait_until(lambda: embedding(service)["pending_tokens"] == 0, "nothing is pending")
        else:
            reason = service.wait_for("backfill waits")["reason"]
            assert f"about {ROWS * WORDS} tokens" in reason
            assert embedding(service)["pending_tokens"] == ROWS * WORDS
        assert embedding(service)["cost"] is None
        assert service.stop() == 0


def test_money_is_shown_spent_and_to_be_spent(
    paid: Site, embedding_server: EmbeddingServer
) -> None:
    """The service counts three tokens a word, whatever its tokenizer says. A start measures the
    backfills that an earlier one has left."""
    configure(paid, embedding_server, most=1, price="price_per_million_tokens = 2000\n")
    paid.cli("setup")
    for _ in range(2):
        with paid.service() as service:
            wait_until(lambda: embedding(service)["pending_tokens"], "it is measured")
            waiting = embedding(service)
            assert waiting["pending_tokens"] == ROWS * WORDS
            assert waiting["pending_cost"] == pytest.approx(ROWS * WORDS * 0.002)
            wait_until(lambda: service.metric(PENDING) == ROWS * WORDS, "the metric shows it")
            assert service.stop() == 0
    with paid.service() as service:
        embedding_server.faults(usage=3)
        before = embedding(service)["tokens"]
        paid.cli("backfill", "--yes")
        wait_until(lambda: embedding(service)["pending_tokens"] == 0, "nothing is pending")
        spent = embedding(service)
        assert spent["tokens"] - before == ROWS * WORDS * 3
        assert spent["cost"] == pytest.approx(spent["tokens"] * 0.002)
        assert service.metric("cdc_embed_embed_tokens_total") == spent["tokens"]
        assert service.metric("cdc_embed_embed_cost_total") == pytest.approx(spent["cost"])
        assert service.metric("cdc_embed_backfill_pending_cost") == 0
        assert service.stop() == 0


def test_threads_and_tokens_of_a_model_at_home_are_shown(site: Site) -> None:
    site.sql("insert into documents values (1, 'title', 'a text of words')")
    with site.service() as service:
        service.wait_for("reconciled")
        found = embedding(service)
        assert (found["threads"], found["tokens"], found["cost"]) == (None, 5, None)
        assert service.stop() == 0
