"""Vectors from a hash of the text: deterministic, instant, without meaning.

They are for tests and for a try-out without a model. The rule is public, so that anyone can compute
the vector that a text must have. The other modules of this room give real vectors.
"""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from cdc_embed.embed.base import ModelCard, Vectors


class HashEmbedder:
    """Standard normal numbers, seeded with the text's BLAKE2b, scaled to unit length.

    A token is a word between white space. Without ``window`` a text can have any length.
    """

    def __init__(
        self, *, dimensions: int = 384, window: int | None = None, max_batch: int = 256
    ) -> None:
        self._card = ModelCard(
            identity="hash",
            dimensions=dimensions,
            window=window,
            count_tokens=_count_words,
            max_texts=max_batch,
        )

    def describe(self) -> ModelCard:
        """Return the model's card."""
        return self._card

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors of documents: float32 array (n, d), unit length."""
        vectors = np.empty((len(texts), self._card.dimensions), dtype=np.float32)
        for row, text in enumerate(texts):
            vectors[row] = self.embed_query(text)
        return vectors

    def embed_query(self, text: str) -> Vectors:
        """Return the vector of one text: float32 array (d,), unit length."""
        seed = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
        numbers = np.random.default_rng(seed).standard_normal(self._card.dimensions)
        vector = numbers.astype(np.float32)
        return vector / np.linalg.norm(vector)

    def close(self) -> None:
        """Do nothing, because nothing is held."""


def _count_words(texts: Sequence[str]) -> list[int]:
    return [len(text.split()) for text in texts]
