"""What every embedder is: a card that describes it and a call that embeds.

An embedder knows nothing of rows, batches or retries. It makes one attempt and says by the
error's class how that attempt failed:

- ``EmbedderUnavailableError``: transient (timeout, 429, 5xx, connection); the same call may
  succeed later, ``retry_after`` seconds from now when the service said so;
- ``TextRefusedError``: poison; one of the texts of this call cannot be embedded;
- ``EmbedderError``: fatal; no call will succeed before someone changes the configuration.

Waiting, repeating and bisecting belong to ``flow``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

CHARACTERS_PER_TOKEN: Final = 4
"""Of English text, for estimates that are called estimates."""

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What must be known of a model before a text is given to it.

    ``identity`` names the weights, not only the model: two cards with the same identity,
    dimensions and prompts give the same vectors for the same texts.
    """

    identity: str
    dimensions: int
    document_prompt: str = ""
    query_prompt: str = ""
    window: int | None = None
    """Tokens that one text may have, prompt and special tokens included; None: no limit."""
    count_tokens: Callable[[Sequence[str]], list[int]] = field(compare=False, repr=False)
    """Tokens of each text as the model sees it, document prompt and special tokens included."""
    max_texts: int = 256
    """Texts that one call may carry."""
    concurrency: int = 1
    """Calls that may run at the same time."""
    paid: bool = False
    """Each text costs money: unasked bulk work wants a confirmation."""


class Embedder(Protocol):
    def describe(self) -> ModelCard:
        """The model's card; the same for the embedder's whole life."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors of documents: float32 array (n, d), one row for each text, in order.

        Called from up to ``concurrency`` threads at once. One attempt: raises
        ``EmbedderUnavailableError``, ``TextRefusedError`` or ``EmbedderError``.
        """

    def embed_query(self, text: str) -> Vectors:
        """The vector of one search text: float32 array (d,)."""

    def close(self) -> None:
        """Release connections and memory; waiting calls return with an error."""
