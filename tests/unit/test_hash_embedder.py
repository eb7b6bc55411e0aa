import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_embed.embed.base import Embedder
from cdc_embed.embed.hash import HashEmbedder
from tests.embedding_server import vector_of


@given(st.lists(st.text(alphabet=st.characters(codec="utf-8")), max_size=5), st.integers(1, 50))
def test_vectors_follow_the_public_rule(texts: list[str], dimensions: int) -> None:
    vectors = HashEmbedder(dimensions=dimensions).embed(texts)

    assert vectors.dtype == np.float32
    assert vectors.shape == (len(texts), dimensions)
    for vector, text in zip(vectors, texts, strict=True):
        assert vector == pytest.approx(vector_of(text, dimensions), abs=1e-6)


def test_the_rule_never_changes() -> None:
    vector = HashEmbedder(dimensions=3).embed_query("PostgreSQL")

    assert vector == pytest.approx([-0.873442, 0.305630, -0.379063], abs=1e-5)


def test_a_search_text_has_the_vector_of_the_same_document() -> None:
    embedder = HashEmbedder()

    assert np.array_equal(embedder.embed_query("one text"), embedder.embed(["one text"])[0])


def test_card_counts_words_and_has_a_window_only_when_asked() -> None:
    embedder: Embedder = HashEmbedder(window=8, max_batch=5)
    card = embedder.describe()

    assert (card.identity, card.dimensions, card.window, card.max_texts) == ("hash", 384, 8, 5)
    assert card.count_tokens(["", "one", " two\n\twords "]) == [0, 1, 2]
    assert HashEmbedder().describe().window is None
    embedder.close()
