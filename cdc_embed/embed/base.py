"""The interface of every embedder: a card that describes it and a call that embeds.

An embedder has no rows, batches or retries. It makes one attempt, and the class of an error says
how the attempt failed:

- ``EmbedderUnavailableError``: transient (timeout, 429, 5xx, connection, an answer that is none);
  the same call can succeed later, after ``retry_after`` seconds if the service said so;
- ``TextRefusedError``: poison; one of the texts of this call cannot be embedded;
- ``EmbedderError``: fatal; no call will succeed before someone changes the configuration.

``flow`` waits, repeats and bisects.
"""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from threading import Event, Lock
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from cdc_embed.errors import TextRefusedError, UnusableAnswerError

CHARACTERS_PER_TOKEN: Final = 4
"""The characters of one token of English text, for estimates that are called estimates."""

PROBE: Final = "The quick brown fox jumps over the lazy dog."
"""The known-good text, which a service that is well embeds; also the beginning of others."""

UNKNOWN_WINDOW: Final = 512
"""The tokens of one text for a service of which nothing tells; nearly every model takes them."""

TIMEOUT: Final = "timeout"
SERVER_ERROR: Final = "server_error"

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """The facts about a model that are needed before it gets a text.

    ``identity`` names the weights, not only the model. Two cards with the same identity, dimensions
    and prompts give the same vectors for the same texts.
    """

    identity: str
    dimensions: int
    pins: str = ""
    """The end of the identity, which is not the model's name, but says which of its kind it is."""
    document_prompt: str = ""
    query_prompt: str = ""
    window: int | None = None
    """The tokens that one text can have, prompt and special tokens included; None without a
    limit."""
    count_tokens: Callable[[Sequence[str]], list[int]] = field(compare=False, repr=False)
    """A function that counts the tokens of each text, document prompt and special tokens
    included."""
    max_texts: int = 256
    """The number of texts that one call can carry."""
    max_tokens: int | None = None
    """The number of tokens that one call can carry; None without a limit."""
    concurrency: int = 1
    """The number of calls that can run at the same time."""
    meter: "Meter | None" = field(default=None, compare=False, repr=False)
    """The tokens that are charged for; None if nobody charges, so that what is sent is counted."""
    threads: int | None = None
    """The number of threads of a model in this process; None if it is elsewhere."""
    paid: bool = False
    """Whether each text costs money, so that bulk work without a request needs a confirmation."""
    found_window: int = 0
    """The window where it is no property of the weights and nobody configured it; else 0. Texts are
    cut at it, unless their table wants larger chunks."""
    estimates: bool = False
    """Whether tokens are estimated, and the service cuts longer texts without an error."""
    canary: Vectors | None = field(default=None, compare=False, repr=False)
    """The vector of ``PROBE``, once the embedder was tried; another model gives another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownFacts:
    """The facts that databases and configuration tell of a model before it is asked; 0 for none."""

    dimensions: int = 0
    """The dimensions of the stored vectors."""
    window: int = 0
    """The ``found_window`` with which the stored texts were cut."""
    chunk: int = 0
    """The largest chunk that the configuration wants."""


NOTHING_KNOWN: Final = KnownFacts()


@dataclass(slots=True, eq=False)
class Call:
    """The calls of one thread, as another one sees them. An embedder that sends each call at once
    need not set them."""

    over: Event
    """An event that is set once nobody waits for the answer, so that what is not sent is not to be
    sent."""
    texts: Sequence[str] = ()
    """The texts that are under way."""
    sent_at: float = 0.0
    held: bool = False
    """Whether it is not sent yet, because our own rate limit holds it back."""


CALL: Final[ContextVar[Call | None]] = ContextVar("CALL", default=None)
"""The call that this thread makes; None if nobody else looks at it."""


class CalledOffError(Exception):
    """A call was not sent, because nobody waits for it any more."""


class Meter:
    """Adds up the tokens that a service charges for, in every call that it answered, for documents,
    questions and trials. For several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._untold = 0
        self._tell: Callable[[int], object] | None = None

    def add(self, tokens: int) -> None:
        """Note the tokens of one call."""
        with self._lock:
            self._untold += tokens
            if self._tell is not None:
                self._tell(self._untold)
                self._untold = 0

    def listen(self, tell: Callable[[int], object]) -> None:
        """Have a function called with the tokens so far, and with those of each later call."""
        self._tell = tell
        self.add(0)


def check_vectors(vectors: Vectors, texts: int, dimensions: int) -> None:
    """Raise unless there is one vector for each text, and each can be stored and found.

    A wrong shape is the service's fault (``UnusableAnswerError``). Numbers that are not finite, or
    have no length that pgvector can compute (zeros, above all), so that no search finds the vector,
    are due to a text (``TextRefusedError``).
    """
    if vectors.shape != (texts, dimensions):
        raise UnusableAnswerError(
            problem=f"it answers with vectors of the shape {vectors.shape}, expected "
            f"{(texts, dimensions)}"
        )
    if not np.isfinite(vectors).all():
        raise TextRefusedError(problem="the vector has numbers that are not finite")
    with np.errstate(over="ignore", under="ignore"):
        squares = np.einsum("ij,ij->i", vectors, vectors)  # in 4 bytes, as pgvector computes it
    if not (squares > 0).all():
        raise TextRefusedError(problem="the vector has zeros alone, so that no search finds it")
    if not np.isfinite(squares).all():
        raise TextRefusedError(problem="the vector's length is beyond what pgvector can compute")


def is_known_good(texts: Sequence[str]) -> bool:
    """Return whether a call has known-good texts alone."""
    return all(text.startswith(PROBE) for text in texts)


class Embedder(Protocol):
    def describe(self) -> ModelCard:
        """Return the model's card; it stays the same for the embedder's whole life."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors of documents: float32 array (n, d), one row for each text, in order.

        Up to ``concurrency`` threads call it at once. It makes one attempt and raises
        ``EmbedderUnavailableError``, ``TextRefusedError`` or ``EmbedderError``.
        """

    def embed_query(self, text: str) -> Vectors:
        """Return the vector of one search text: float32 array (d,)."""

    def close(self) -> None:
        """Release connections and memory; a waiting call returns with an error."""
