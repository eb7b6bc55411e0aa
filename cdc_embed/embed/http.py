"""An embedding service over HTTP, with OpenAI's interface, as TEI, vLLM, Ollama and others have it.

One call is one POST, or two while it is not known yet what the service understands. This module
keeps to the service's rate limits and checks every number; ``failures`` sorts the errors. It
repeats nothing, because ``flow`` does, and never imports torch. No error holds a text or the key.

Format: https://platform.openai.com/docs/api-reference/embeddings/create
"""

import math
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

import httpx2
import numpy as np
import orjson

from cdc_embed.config.sections import EmbedderConfig
from cdc_embed.embed.advertised import Advertised, ask
from cdc_embed.embed.answers import decode_vectors, parse_body, tokens_used
from cdc_embed.embed.base import (
    NOTHING_KNOWN,
    PROBE,
    UNKNOWN_WINDOW,
    KnownFacts,
    Meter,
    ModelCard,
    Vectors,
)
from cdc_embed.embed.connections import HttpConnections, HttpRequest, Reply
from cdc_embed.embed.dialect import Dialect
from cdc_embed.embed.failures import ADDRESS_HINT, AWAY, UNAUTHORIZED, failure_of, reason_of
from cdc_embed.embed.pace import Turns, WaitForTurn
from cdc_embed.embed.tokenizer import load_tokenizer
from cdc_embed.errors import (
    CdcEmbedError,
    EmbedderError,
    EmbedderUnavailableError,
    TextRefusedError,
    UnauthorizedError,
    UnusableAnswerError,
)

_BYTES_PER_TOKEN = 3  # fewer than any tokenizer needs for prose, so the estimate is rather too high

ASK_SECONDS: Final = 5.0
"""The time limit of a request that needs no model."""
PLAIN_WORD: Final = "sentence"
"""A word that every tokenizer has, or cuts into more than one token."""
LEAST_WINDOW: Final = 16
"""The least window. No model takes fewer tokens, so a smaller number of them is no count."""
_PROXY_HINT = (
    "correct or unset HTTP_PROXY, HTTPS_PROXY and ALL_PROXY (http://host:port, no SOCKS), "
    "SSL_CERT_FILE and SSL_CERT_DIR"
)


class HttpEmbedder:
    """A service that answers ``{"model", "input"}`` with a list of embeddings.

    A configured number of ``dimensions`` is sent with each request; 0 leaves it to the service.
    Then all its vectors must be as wide as the first, or as those that are stored if it was not
    asked before it was described.

    Raises EmbedderError for a configuration that cannot work.
    """

    def __init__(
        self,
        config: EmbedderConfig,
        known: KnownFacts = NOTHING_KNOWN,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: WaitForTurn = threading.Condition.wait,
    ) -> None:
        self._config = config
        self._url = _checked(config.url)
        self._dialect = Dialect(config)
        self._worked = False
        self._clock = clock
        self._known = known
        self._tokenizer = load_tokenizer(config.tokenizer) if config.tokenizer else None
        self._usage_is_of_tokens = True
        """Whether the service counts tokens, and not something else that is fewer than words."""
        self._meter = Meter()
        self._turns = Turns(config.requests_per_minute, config.tokens_per_minute, clock, wait)
        self._lock = threading.Lock()
        self._connections = _connections()
        self._dimensions = config.dimensions
        self._card: ModelCard | None = None

    def describe(self) -> ModelCard:
        """Return the model's card; ask the service first for what nobody configured.

        Raises EmbedderUnavailableError or EmbedderError.
        """
        if self._card is None:
            self._card = self._make_card()
        return self._card

    def _make_card(self) -> ModelCard:
        config = self._config
        self._dimensions = self._dimensions or self._known.dimensions or self._ask_dimensions()
        told = Advertised() if config.window else self._ask_window()
        found = self._find_window(told)
        calls, texts = told.share(config.concurrency, config.max_batch)
        pins = f"@{config.revision}" if config.revision else ""
        if config.document_body:
            pins += orjson.dumps(config.document_body, option=orjson.OPT_SORT_KEYS).decode()
        return ModelCard(
            identity=f"http:{config.model}{pins}",
            pins=pins,
            dimensions=self._dimensions,
            document_prompt=config.document_prompt,
            query_prompt=config.query_prompt,
            window=config.window or min(max(found, self._known.chunk), told.window or sys.maxsize),
            count_tokens=self._count_tokens,
            max_texts=texts,
            max_tokens=config.tokens_per_minute or None,  # more than that never passes
            concurrency=calls,
            meter=self._meter,
            paid=True,  # the address does not tell whether the service costs money
            found_window=0 if config.window else found,
            estimates=told.cuts and self._tokenizer is None,
        )

    def _ask_window(self) -> Advertised:
        try:
            return ask(self._get, self._url.path, self._config.model)
        except EmbedderUnavailableError:
            if not self._known.window:  # another number would cut every stored text anew
                raise
            return Advertised()

    def _find_window(self, told: Advertised) -> int:
        """Return the tokens of one text. The number is that for stored texts, as long as the
        service takes them, because another number would cut every long text anew. The first time
        they fit into a minute, too."""
        window = told.window or (self._tokenizer and self._tokenizer.window) or UNKNOWN_WINDOW
        if not self._known.window:
            return min(window, self._config.tokens_per_minute or window)
        return min(self._known.window, told.window or self._known.window)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors of documents: float32 array (n, d), one row for each text, in order.

        Waits first, as long as the rate limits require. Raises EmbedderUnavailableError,
        TextRefusedError or EmbedderError.
        """
        if not texts:
            return np.empty((0, self._dimensions), dtype=np.float32)
        return self._call([self._config.document_prompt + text for text in texts])

    def embed_query(self, text: str) -> Vectors:
        """Return the vector of one search text: float32 array (d,); raise as ``embed`` does."""
        vector: Vectors = self._call([self._config.query_prompt + text], query=True)[0]
        return vector

    def close(self) -> None:
        """Close the connections; a call that waits, for the rate limit or for an answer, ends at
        once."""
        self._turns.close()
        self._connections.close()

    def _call(self, inputs: list[str], *, query: bool = False) -> Vectors:
        headers = self._dialect.headers
        response, body = self._ask(inputs, self._dialect.body(inputs, query=query))
        if response.status not in UNAUTHORIZED:
            self._config.rotation.interrupted()
        if response.status in UNAUTHORIZED and self._has_other_key(headers):
            response, body = self._ask(inputs, self._dialect.body(inputs, query=query))
        refused = None
        if self._dialect.may_be_unknown(response.status):
            second, other = self._ask(inputs, self._dialect.body(inputs, query=query, plain=True))
            if second.is_success:
                refused, response, body = response.status, second, other
        if not response.is_success:
            raise self._failure(response, inputs, query=query)
        vectors = decode_vectors(body, count=len(inputs), dimensions=self._dimensions)
        self._dialect.settle(refused)
        self._dimensions = self._dimensions or vectors.shape[1]
        self._config.rotation.accepted()
        self._worked = True
        if not query:
            self._expect_whole(inputs, tokens_used(body))
        return vectors

    def _expect_whole(self, inputs: list[str], used: int | None) -> None:
        """Raise if the service counts fewer tokens than a text has words, and no more of them for
        longer texts of one plain word, because it cuts. In another text a word can be no token."""
        words = sum(len(text.split()) for text in inputs)
        if not self._usage_is_of_tokens or used is None or used >= words:
            return
        if used < LEAST_WINDOW * len(inputs):
            return
        longest = [PLAIN_WORD] * len(max(inputs, key=len).split())
        whole = self._count_used(longest)
        shorter = longest[: (whole + len(longest)) // 2]
        flat = LEAST_WINDOW <= whole < len(longest) and whole <= self._count_used(shorter)
        if flat and len(shorter) < len(longest):
            raise EmbedderError(
                problem=f"{_shown(self._url)} cuts long texts: it counts {whole} tokens in a text "
                f"of {len(longest)} words, and as many in one of {len(shorter)} words",
                hint=f"set embedder.window to {whole} or less, and embedder.tokenizer, so that "
                "tokens are counted as the service counts them",
            )
        self._usage_is_of_tokens = False

    def _count_used(self, words: Sequence[str]) -> int:
        """Return the tokens that the service counts in a text; 0 if it tells none."""
        text = " ".join(words)
        _, body = self._ask([text], self._dialect.body([text], query=False))
        return tokens_used(body) or 0

    def _has_other_key(self, used: Mapping[str, str]) -> bool:
        """Read the key again, where it is in a file; return whether it is not the one in ``used``,
        the headers of a request."""
        with self._lock:
            if self._config.rotation.renewed():
                with suppress(EmbedderError):  # it is being written
                    self._dialect.take_secrets()
            return self._dialect.headers != used

    def _failure(self, response: Reply, inputs: list[str], *, query: bool = False) -> CdcEmbedError:
        secrets = [*inputs, *self._dialect.secrets, *filter(None, [self._url.query.decode()])]
        error = failure_of(response, _shown(self._url), worked=self._worked, secrets=secrets)
        if response.status not in UNAUTHORIZED or not isinstance(error, EmbedderError):
            return error
        problem = error.fields["problem"]
        if self._config.rotation.may_come(self._clock()):
            error = EmbedderUnavailableError(problem=problem, hint=error.hint)
        if self._worked and not query:  # a firewall can refuse one text
            return UnauthorizedError(problem=problem, for_all_texts=error)
        return error

    def _ask(self, inputs: list[str], request: bytes) -> tuple[Reply, Any]:
        """Return the answer, and the body of a good one."""
        turn = self._turns.take(sum(self._tokens_of(inputs)) if self._turns.of_tokens else 0)
        response = self._post(request, len(inputs))
        if not response.is_success:
            return response, None
        body = parse_body(response.content)
        used = tokens_used(body)
        if used is not None:
            self._turns.correct(turn, used)
        self._meter.add(sum(self._tokens_of(inputs)) if used is None else used)
        return response, body

    def _post(self, body: bytes, vectors: int) -> Reply:
        return self._send(
            HttpRequest(
                url=self._url,
                body=body,
                headers=self._dialect.headers,
                seconds=self._config.timeout,
                vectors=vectors,
            )
        )

    def _send(self, request: HttpRequest) -> Reply:
        try:
            return self._connections.send(request)
        except (httpx2.RequestError, RuntimeError) as exc:  # RuntimeError: closed meanwhile
            problem = f"{_shown(self._url)}: {str(exc) or type(exc).__name__}"
            raise EmbedderUnavailableError(problem=problem, reason=reason_of(exc)) from exc

    def _get(self, path: str) -> bytes | None:
        """Return the body of another page of the service; None if it has none."""
        try:
            response = self._send(
                HttpRequest(
                    url=self._url.copy_with(path=path),
                    headers=self._dialect.headers,
                    seconds=min(self._config.timeout, ASK_SECONDS),
                )
            )
        except EmbedderUnavailableError:  # some end the connection at what they do not know
            return None
        if response.status in AWAY:
            raise self._failure(response, [])
        return response.content if response.is_success else None

    def _ask_dimensions(self) -> int:
        try:
            return int(self._call([PROBE]).shape[1])
        except (TextRefusedError, UnusableAnswerError) as exc:
            hint = f"{ADDRESS_HINT}; or set embedder.dimensions"
            raise EmbedderError(problem=exc.fields["problem"], hint=hint) from exc

    def _count_tokens(self, texts: Sequence[str]) -> list[int]:
        return self._tokens_of([self._config.document_prompt + text for text in texts])

    def _tokens_of(self, inputs: list[str]) -> list[int]:
        if self._tokenizer is None:
            return [math.ceil(len(text.encode()) / _BYTES_PER_TOKEN) for text in inputs]
        return self._tokenizer.count(inputs)


def _checked(url: str) -> httpx2.URL:
    with suppress(httpx2.InvalidURL):
        parsed = httpx2.URL(url)
        if parsed.scheme in ("http", "https") and parsed.host and not parsed.userinfo:
            return parsed
    raise EmbedderError(
        problem="embedder.url is not an address that begins with http:// or https://, "
        "without a user or password",
        hint=ADDRESS_HINT,
    )


def _connections() -> HttpConnections:
    try:
        context = httpx2.create_ssl_context()  # it reads every certificate, so once for all
        return HttpConnections(partial(httpx2.Client, verify=context))
    except (ValueError, ImportError, OSError, httpx2.InvalidURL):  # they quote the password
        problem = "the proxy or the certificates that the environment names cannot be used"
        raise EmbedderError(problem=problem, hint=_PROXY_HINT) from None


def _shown(url: httpx2.URL) -> str:
    return url.netloc.decode("ascii")
