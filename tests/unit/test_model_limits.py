"""Limits of a model that some text exceeds are told before anything is embedded."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

from cdc_embed.embed.base import ModelCard
from cdc_embed.embed.hash import HashEmbedder
from cdc_embed.finding import Severity
from cdc_embed.setup.connections import Connections
from cdc_embed.setup.preflight import check_model


def told(card: ModelCard, max_tokens: int = 0) -> list[str]:
    """The warnings for a table with this ``chunk.max_tokens``."""
    entry = SimpleNamespace(chunk=SimpleNamespace(max_tokens=max_tokens))
    index = SimpleNamespace(kind="hnsw", type="vector")
    databases: Any = SimpleNamespace(config=SimpleNamespace(tables=[entry], index=index))
    found = check_model(cast("Connections", databases), card)
    return [f.message + f.fix for f in found if f.severity is Severity.WARNING and not f.ok]


def test_a_limit_below_the_stored_window_is_told() -> None:
    """A text of more tokens than a minute has never passes."""
    card = replace(HashEmbedder(dimensions=4).describe(), window=512, found_window=512)
    (warning,) = told(replace(card, max_tokens=200))
    assert "a text of 200 to 512 tokens never passes" in warning
    assert "set embedder.tokens_per_minute to 512 or more" in warning
    assert told(replace(card, max_tokens=200), max_tokens=200) == []
    assert told(replace(card, max_tokens=512)) == told(card) == []
