"""Against real servers on a local port: the counting one, and one that follows a script."""

import base64
import json
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from cdc_embed.config.sections import EmbedderConfig
from cdc_embed.embed.answers import (
    decode_vectors,
    parse_body,
    retry_after_seconds,
    server_message,
    tokens_used,
)
from cdc_embed.embed.base import Embedder, KnownFacts
from cdc_embed.embed.http import HttpEmbedder
from cdc_embed.errors import (
    CdcEmbedError,
    EmbedderError,
    EmbedderUnavailableError,
    QuotaSpentError,
    TextRefusedError,
    UnauthorizedError,
    UnusableAnswerError,
)
from tests.embedding_server import vector_of
from tests.site import EmbeddingServer

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
KEY = "sk-very-secret-0123456789"
SECRET_TEXT = "The diagnosis of Ms. Example is confidential."


def embeddings(*vectors: list[float]) -> bytes:
    data = [{"index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    return orjson.dumps({"data": data})


class ScriptedServer(ThreadingHTTPServer):
    """Gives every request the same answer and remembers what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _ScriptedHandler)
        self.status = 200
        self.headers: dict[str, str] = {}
        self.body = embeddings([1.0, 2.0])
        self.asked: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.begun = threading.Event()
        self.may_answer = threading.Event()
        self.may_answer.set()

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.status, self.body, self.headers = status, body, headers or {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/embeddings"


class _ScriptedHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ScriptedServer

    def do_POST(self) -> None:
        server = self.server
        content = self.rfile.read(int(self.headers["Content-Length"]))
        server.asked.append((dict(self.headers), json.loads(content)))
        server.begun.set()
        server.may_answer.wait()
        self.send_response(server.status)
        for name, value in {**server.headers, "Content-Length": str(len(server.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(server.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.may_answer.set()
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def running() -> Iterator[EmbeddingServer]:
    with EmbeddingServer("--dimensions", "8") as running:
        yield running


@pytest.fixture
def counting(running: EmbeddingServer) -> EmbeddingServer:
    running.reset()
    return running


def configured(url: str, **fields: Any) -> EmbedderConfig:
    return EmbedderConfig(**{"kind": "http", "url": url, "model": "m", **fields})


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    path = tmp_path / "key"
    path.write_text(f"{KEY}\n")
    return str(path)


Make = Callable[..., HttpEmbedder]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[HttpEmbedder] = []

    def make(server: ScriptedServer | EmbeddingServer | str, **arguments: Any) -> HttpEmbedder:
        if isinstance(server, EmbeddingServer):
            server = f"http://127.0.0.1:{server.port}/v1/embeddings"
        url = server if isinstance(server, str) else server.url
        made.append(HttpEmbedder(configured(url, **{"dimensions": 2, **arguments})))
        return made[-1]

    yield make
    for embedder in made:
        embedder.close()


def failure(embedder: Embedder, *texts: str) -> CdcEmbedError:
    with pytest.raises(CdcEmbedError) as caught:
        embedder.embed(texts or ["a text"])
    return caught.value


# --- what is asked and answered ------------------------------------------------------------------


def test_vectors_come_in_the_order_of_the_texts(counting: EmbeddingServer, make: Make) -> None:
    texts = [f"text {number}" for number in range(50)]
    vectors = make(counting, dimensions=8).embed(texts)

    assert vectors.dtype == np.float32
    assert vectors == pytest.approx(np.stack([vector_of(text, 8) for text in texts]), abs=1e-6)
    counts = counting.counts()
    assert (counts["requests"], counts["texts"]) == (1, 50)
    assert counts["by_text"] == dict.fromkeys(texts, 1)


def test_answers_are_put_in_order_by_their_index() -> None:
    data = [{"index": 1, "embedding": [3, 4]}, {"index": 0, "embedding": [1, 2]}]

    vectors = decode_vectors({"data": data}, count=2, dimensions=2)
    assert vectors.tolist() == [[1, 2], [3, 4]]


def test_base64_and_plain_numbers_are_both_understood() -> None:
    packed = base64.b64encode(struct.pack("<3f", 0.5, -1, 3e-5)).decode()

    for embedding in (packed, [0.5, -1, 3e-5]):
        body = orjson.dumps({"data": [{"embedding": embedding}]})
        vectors = decode_vectors(parse_body(body), count=1, dimensions=3)
        assert vectors[0] == pytest.approx(np.array([0.5, -1, 3e-5], dtype=np.float32))


def test_request_has_the_shape_of_openai(server: ScriptedServer, make: Make, key_file: str) -> None:
    make(server, api_key_file=key_file).embed(["a"])

    headers, body = server.asked[0]
    assert body == {"model": "m", "input": ["a"], "encoding_format": "base64", "dimensions": 2}
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert headers["Content-Type"] == "application/json"


def test_without_dimensions_the_service_is_asked_once(
    counting: EmbeddingServer, make: Make
) -> None:
    embedder = make(counting, dimensions=0)

    assert embedder.describe().dimensions == 8
    assert embedder.embed(["a"]).shape == (1, 8)
    assert counting.counts()["requests"] == 2


def test_prompts_are_put_before_documents_and_search_texts(
    server: ScriptedServer, make: Make
) -> None:
    embedder = make(server, document_prompt="passage: ", query_prompt="query: ")
    embedder.embed(["a"])

    assert embedder.embed_query("b").tolist() == [1, 2]
    assert [body["input"] for _, body in server.asked] == [["passage: a"], ["query: b"]]


def test_no_texts_ask_nothing(server: ScriptedServer, make: Make) -> None:
    assert make(server).embed([]).shape == (0, 2)
    assert server.asked == []


def test_calls_run_at_the_same_time(counting: EmbeddingServer, make: Make) -> None:
    embedder = make(counting, dimensions=8, concurrency=4)
    texts = [f"text {number}" for number in range(40)]

    with ThreadPoolExecutor(4) as executor:
        vectors = np.concatenate(list(executor.map(lambda text: embedder.embed([text]), texts)))

    assert vectors == pytest.approx(np.stack([vector_of(text, 8) for text in texts]), abs=1e-6)


# --- the card ------------------------------------------------------------------------------------


def test_card_names_the_model_and_what_is_pinned(server: ScriptedServer, make: Make) -> None:
    card = make(server, revision="2024-01", concurrency=3, max_batch=7).describe()

    assert card.identity == "http:m@2024-01"
    assert (card.dimensions, card.concurrency, card.max_texts) == (2, 3, 7)
    assert make(server).describe().identity == "http:m"


def test_without_a_tokenizer_three_bytes_are_a_token(server: ScriptedServer, make: Make) -> None:
    card = make(server, document_prompt="p:").describe()

    assert card.count_tokens(["", "a", "ab", "äöü"]) == [1, 1, 2, 3]
    assert card.window == card.found_window == 512


def test_with_a_tokenizer_its_tokens_are_counted(
    server: ScriptedServer, make: Make, tmp_path: Path
) -> None:
    words = Tokenizer(WordLevel({"the": 0, "quick": 1, "fox": 2, "?": 3}, unk_token="?"))
    words.pre_tokenizer = Whitespace()
    words.enable_truncation(10)
    words.enable_padding(length=10)
    words.save(str(tmp_path / "tokenizer.json"))
    card = make(server, tokenizer=str(tmp_path), document_prompt="the ").describe()

    assert card.count_tokens(["", "quick fox " * 400]) == [1, 801]
    assert card.window == 10


@pytest.mark.parametrize(
    ("settings", "window"),
    [
        ('{"model_max_length": 256}', 256),
        ('{"model_max_length": 1e30}', 512),
        ("{}", 512),
        ("[]", 512),
        ("no JSON", 512),
        (None, 512),
    ],
)
def test_a_tokenizer_tells_the_window_in_its_settings(
    server: ScriptedServer, make: Make, tmp_path: Path, settings: str | None, window: int
) -> None:
    Tokenizer(WordLevel({"?": 3}, unk_token="?")).save(str(tmp_path / "tokenizer.json"))
    if settings is not None:
        (tmp_path / "tokenizer_config.json").write_text(settings)
    assert make(server, tokenizer=str(tmp_path)).describe().window == window


def test_missing_tokenizer_is_named(server: ScriptedServer, tmp_path: Path) -> None:
    with pytest.raises(EmbedderError, match=r"tokenizer .* cannot be loaded") as caught:
        HttpEmbedder(configured(server.url, tokenizer=str(tmp_path)))
    assert "tokenizer.json" in caught.value.hint


def test_a_service_may_cost_money_whatever_its_address_is(make: Make) -> None:
    assert make("http://127.0.0.1:1/v1/embeddings", window=512).describe().paid


@pytest.mark.parametrize("url", ["", "embeddings", "ftp://a/b", "http://", "http://user:pw@a/b"])
def test_an_address_that_cannot_work_is_refused(url: str) -> None:
    with pytest.raises(EmbedderError, match=r"embedder\.url") as caught:
        HttpEmbedder(EmbedderConfig.model_construct(kind="http", url=url, model="m"))
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize("proxy", ["foo://me:pw@host", "http://a:pw:x", "socks5://me:pw@host:1"])
def test_a_proxy_that_cannot_work_is_refused(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    with pytest.raises(EmbedderError, match="proxy") as caught:
        HttpEmbedder(configured("http://a/b", dimensions=8))
    assert "HTTP_PROXY" in caught.value.hint
    assert "pw" not in "".join(traceback.format_exception(caught.value))


def test_certificates_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/certificates.pem")
    with pytest.raises(EmbedderError, match="certificates") as caught:
        HttpEmbedder(configured("https://a/b", dimensions=8))
    assert "SSL_CERT_FILE" in caught.value.hint


# --- transient -----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_overloaded_service_is_transient(
    counting: EmbeddingServer, make: Make, status: int
) -> None:
    embedder = make(counting, dimensions=8, encoding_format="base64")
    counting.faults(fail_next=1, status=status)
    error = failure(embedder)

    assert isinstance(error, EmbedderUnavailableError)
    assert str(status) in str(error)
    assert error.retry_after is None
    assert embedder.embed(["a text"]).shape == (1, 8)


def test_rate_limited_call_says_when_to_come_back(counting: EmbeddingServer, make: Make) -> None:
    embedder = make(counting, dimensions=8)
    counting.faults(fail_next=1, status=429, retry_after=7.5)
    error = failure(embedder)

    assert isinstance(error, EmbedderUnavailableError)
    assert error.retry_after == 7.5


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("30", 30.0),
        ("-5", 0.0),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(NOW - timedelta(seconds=90), usegmt=True), 0.0),
        ("Sun, 01 Mar 2026 12:00:10 -0000", None),
        ("soon", None),
        ("nan", None),
        ("1e999", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header, NOW) == seconds


def test_dropped_connection_is_transient(counting: EmbeddingServer, make: Make) -> None:
    embedder = make(counting, dimensions=8)
    for fault in ("drop_connection", "reset_connection"):
        counting.faults(**{fault: 1})
        error = failure(embedder)

        assert isinstance(error, EmbedderUnavailableError)
        assert error.reason == "server_error", "a text can be why"
        assert embedder.embed(["a text"]).shape == (1, 8)


def test_slow_answer_is_transient(counting: EmbeddingServer, make: Make) -> None:
    embedder = make(counting, dimensions=8, timeout="50ms")
    counting.faults(hang=60)
    error = failure(embedder)
    counting.reset()

    assert isinstance(error, EmbedderUnavailableError)
    assert "timed out" in str(error)
    assert error.reason == "timeout"


def test_nobody_listening_is_transient(make: Make) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        embedder = make(f"http://127.0.0.1:{unused.getsockname()[1]}/v1/embeddings")
        error = failure(embedder)

    assert isinstance(error, EmbedderUnavailableError)
    assert "refused" in str(error)
    assert error.reason == "", "fewer texts are not heard either"


def test_service_that_is_down_at_the_start_is_transient(server: ScriptedServer) -> None:
    server.answer(503)
    embedder = HttpEmbedder(configured(server.url))
    with closing(embedder), pytest.raises(EmbedderUnavailableError):
        embedder.describe()


# --- poison --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        *((status, "server_error") for status in (424, 500, 502, 503)),
        *((status, "timeout") for status in (408, 504)),
        *((status, "") for status in (425, 429)),
    ],
)
def test_a_failure_says_whether_fewer_texts_can_help(
    server: ScriptedServer, make: Make, status: int, reason: str
) -> None:
    server.answer(status)
    error = failure(make(server, encoding_format="base64"))
    assert isinstance(error, EmbedderUnavailableError)
    assert error.reason == reason


@pytest.mark.parametrize("status", [400, 413, 422])
def test_refused_texts_are_poison(server: ScriptedServer, make: Make, status: int) -> None:
    server.answer(status, b'{"error": {"message": "too long", "type": "validation"}}')
    error = failure(make(server))

    assert isinstance(error, TextRefusedError)
    assert str(error).endswith(f"answers {status}: validation: too long")


def test_one_refused_text_does_not_spoil_the_others(counting: EmbeddingServer, make: Make) -> None:
    embedder = make(counting, dimensions=8)
    counting.faults(refuse=["poison"])

    assert isinstance(failure(embedder, "good", "poisonous"), TextRefusedError)
    assert embedder.embed(["good"]).shape == (1, 8)


def test_a_vector_of_no_numbers_is_poison(counting: EmbeddingServer, make: Make) -> None:
    embedder = make(counting, dimensions=8)
    counting.faults(nan=["b"])

    assert isinstance(failure(embedder, "a", "b"), TextRefusedError)


@pytest.mark.parametrize("faults", [{"wrong_dimensions": True}, {"garbage": True}], ids=str)
def test_unusable_answer_blames_no_text(
    counting: EmbeddingServer, make: Make, faults: dict[str, Any]
) -> None:
    embedder = make(counting, dimensions=8)
    counting.faults(**faults)

    assert isinstance(failure(embedder, "a", "b"), UnusableAnswerError)


@pytest.mark.parametrize("vectors", [[[0.0, 0.0], [1, 2]], [[1, 2], [-0.0, 0.0]]])
def test_a_vector_of_zeros_is_poison(vectors: list[list[float]]) -> None:
    with pytest.raises(TextRefusedError, match="zeros"):
        decode_vectors(parse_body(embeddings(*vectors)), count=2, dimensions=2)


def test_a_question_gets_no_vector_of_zeros(server: ScriptedServer, make: Make) -> None:
    server.answer(200, embeddings([0.0, 0.0]))
    with pytest.raises(TextRefusedError, match="zeros"):
        make(server).embed_query("a question")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'{"error": {"message": "200 is a lie"}}',
        b'{"data": {}}',
        b'{"data": []}',
        b'{"data": [7, 8]}',
        b'{"data": [{"embedding": null}, {"embedding": [1, 2]}]}',
        b'{"data": [{"embedding": "????"}, {"embedding": [1, 2]}]}',
        b'{"data": [{"embedding": "AAA="}, {"embedding": [1, 2]}]}',
        b'{"data": [{"embedding": [[1, 2]]}, {"embedding": [1, 2]}]}',
        b'{"data": [{"embedding": [1, "x"]}, {"embedding": [1, 2]}]}',
        b'{"data": [{"index": [], "embedding": [1, 2]}, {"embedding": [1, 2]}]}',
        b'{"data": [{"index": 1e300, "embedding": [1, 2]}, {"embedding": [1, 2]}]}',
        embeddings([1, 2]),
        embeddings([1, 2], [3, 4], [5, 6]),
        embeddings([1, 2], [3, 4, 5]),
        embeddings([1], [2]),
        orjson.dumps({"data": [{"index": 0, "embedding": [1, 2]}] * 2}),
        orjson.dumps({"data": [{"index": 9, "embedding": [1, 2]}] * 2}),
    ],
    ids=lambda body: body.decode(),
)
def test_every_malformed_answer_blames_no_text(body: bytes) -> None:
    with pytest.raises(UnusableAnswerError):
        decode_vectors(parse_body(body), count=2, dimensions=2)


@pytest.mark.parametrize("number", [1e300, -1e300])
def test_numbers_beyond_float32_are_poison(number: float) -> None:
    with pytest.raises(TextRefusedError):
        decode_vectors(parse_body(embeddings([number, 2], [3, 4])), count=2, dimensions=2)


def test_vectors_without_numbers_blame_no_text() -> None:
    with pytest.raises(UnusableAnswerError):
        decode_vectors(parse_body(embeddings([])), count=1, dimensions=0)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-9, 9) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.fixed_dictionaries(
        {"data": JSON | st.lists(st.fixed_dictionaries({"embedding": JSON, "index": JSON}))}
    )
    | JSON
)
def test_no_answer_breaks_the_decoder(body: Any) -> None:
    try:
        vectors = decode_vectors(parse_body(json.dumps(body).encode()), count=1, dimensions=0)
    except (TextRefusedError, UnusableAnswerError):
        return
    assert vectors.shape[0] == 1
    assert np.isfinite(vectors).all()
    assert np.linalg.norm(vectors) > 0


def test_text_that_is_no_unicode_is_poison(server: ScriptedServer, make: Make) -> None:
    assert isinstance(failure(make(server), "\ud800"), TextRefusedError)
    assert server.asked == []


# --- fatal ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        (401, "embedder.api_key_env"),
        (403, "embedder.api_key_env"),
        (404, "embedder.url"),
        (405, "embedder.url"),
    ],
)
def test_wrong_configuration_is_fatal_and_says_where(
    server: ScriptedServer, make: Make, status: int, hint: str
) -> None:
    server.answer(status)
    error = failure(make(server))

    assert isinstance(error, EmbedderError)
    assert error.exit_code == 4
    assert hint in error.hint


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_has_worked_is_refused_with_a_text(server: ScriptedServer, status: int) -> None:
    """A firewall forbids one text; if all are refused, the key can come back for a minute."""
    now = [0.0]
    embedder = HttpEmbedder(configured(server.url, dimensions=2), clock=lambda: now[0])
    embedder.embed(["a"])
    server.answer(status)
    for seconds, error in ((5.0, EmbedderUnavailableError), (66.0, EmbedderError)):
        now[0] = seconds
        refused = failure(embedder)
        assert isinstance(refused, UnauthorizedError)
        assert type(refused.for_all_texts) is error
        assert "embedder.api_key_env" in refused.for_all_texts.hint
    with closing(embedder), pytest.raises(EmbedderError):
        embedder.embed_query("a question")


@pytest.mark.parametrize("status", [302, 404, 405, 410])
def test_what_has_worked_is_an_outage(server: ScriptedServer, make: Make, status: int) -> None:
    """A deploy or a gateway answers so for a while: no configuration was changed."""
    embedder = make(server)
    embedder.embed(["a"])
    server.answer(status)

    assert isinstance(failure(embedder), EmbedderUnavailableError)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (402, {}),
        (429, {"type": "insufficient_quota", "message": "You exceeded your current quota"}),
        (429, {"code": "insufficient_quota"}),
        (403, {"code": "billing_hard_limit_reached"}),
    ],
)
@pytest.mark.parametrize("worked", [False, True])
def test_money_comes_back_without_a_new_configuration(
    server: ScriptedServer, make: Make, status: int, error: dict[str, str], *, worked: bool
) -> None:
    embedder = make(server)
    if worked:
        embedder.embed(["a"])
    server.answer(status, orjson.dumps({"error": error}), {"Retry-After": "1"})
    spent = failure(embedder)

    assert isinstance(spent, QuotaSpentError)
    assert spent.lasts
    assert (spent.retry_after or 0) >= 60


def test_redirects_are_not_followed(server: ScriptedServer, make: Make) -> None:
    server.answer(307, headers={"Location": server.url})
    error = failure(make(server))

    assert isinstance(error, EmbedderError)
    assert "redirect" in str(error)
    assert len(server.asked) == 1


def test_garbage_instead_of_the_dimensions_is_fatal(server: ScriptedServer) -> None:
    server.answer(200, b"<html>")
    embedder = HttpEmbedder(configured(server.url))
    with closing(embedder), pytest.raises(EmbedderError) as caught:
        embedder.describe()
    assert "embedder.dimensions" in caught.value.hint


# --- secrets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 400, 401, 404, 413, 429, 500])
@pytest.mark.parametrize(
    "message",
    [
        f"cannot embed: {SECRET_TEXT}",
        f"cannot embed: {SECRET_TEXT[4:30]} ...",
        SECRET_TEXT.replace(" ", "\n").upper(),
        f"Incorrect API key provided: {KEY}",
        f"Incorrect API key provided: {KEY[:20]}...",
    ],
)
def test_no_error_holds_a_text_or_the_key(
    server: ScriptedServer, make: Make, key_file: str, status: int, message: str
) -> None:
    server.answer(status, orjson.dumps({"error": {"message": message}}))
    embedder = make(server, api_key_file=key_file)
    error = failure(embedder, "short", SECRET_TEXT)

    shown = "".join(traceback.format_exception(error)) + error.hint + repr(embedder)
    assert message[:30] not in shown
    assert SECRET_TEXT[4:30].casefold() not in " ".join(shown.split()).casefold()
    assert KEY[:12] not in shown


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "model overloaded", "type": "busy"}}', "busy: model overloaded"),
        (
            b'{"error": "input too large", "error_type": "Validation"}',
            "Validation: input too large",
        ),
        (b'{"object": "error", "message": "no such model"}', "no such model"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b'{"detail": [{"input": "a text"}]}', ""),
        (b'{"message": "\\u001b[31mred\\nalert"}', "[31mred alert"),
        (b"<html>Bad Gateway</html>", ""),
        (b"7", ""),
        (b'{"message": "' + b"x" * 999 + b'"}', "x" * 200),
    ],
)
def test_what_the_service_says_is_passed_on_in_short(body: bytes, message: str) -> None:
    assert server_message(body, ["some text that is not quoted"]) == message


def test_a_key_that_no_header_can_carry_is_refused_unseen(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("geheim-\n-ß")
    config = configured("http://localhost/", api_key_file=str(tmp_path / "key"))
    with pytest.raises(EmbedderError) as caught:
        HttpEmbedder(config)
    assert "geheim" not in str(caught.value)


# --- rate limits and closing ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"usage": {"prompt_tokens": 7, "total_tokens": 9}}, 7),
        ({"usage": {"total_tokens": 9}}, 9),
        ({"usage": {"prompt_tokens": -1}}, None),
        ({"usage": {"prompt_tokens": "many"}}, None),
        ({"usage": 3}, None),
        ({}, None),
        ([], None),
    ],
)
def test_the_tokens_of_an_answer_are_read(body: Any, tokens: int | None) -> None:
    assert tokens_used(parse_body(orjson.dumps(body))) == tokens
    assert tokens_used(parse_body(b"<html>")) is None


def test_the_next_call_waits_for_the_tokens_of_the_last(server: ScriptedServer, make: Make) -> None:
    """The service counts a hundred times what three bytes a token made of the text."""
    answer = {"data": [{"embedding": [1, 2]}], "usage": {"prompt_tokens": 30_000}}
    server.answer(200, orjson.dumps(answer))
    embedder = make(server, tokens_per_minute=600_000)
    began = time.monotonic()
    for _ in range(2):
        embedder.embed(["a text"])
    assert time.monotonic() - began > 1.9


def test_a_call_that_can_never_pass_is_no_matter_of_time(
    server: ScriptedServer, make: Make
) -> None:
    message = "Request too large for m on tokens per min (TPM): Limit 10000, Requested 24119"
    server.answer(429, orjson.dumps({"error": {"message": message, "type": "tokens"}}))
    assert isinstance(failure(make(server)), TextRefusedError)


def test_one_call_has_no_more_tokens_than_a_minute(server: ScriptedServer, make: Make) -> None:
    assert make(server, tokens_per_minute=10_000).describe().max_tokens == 10_000
    assert make(server).describe().max_tokens is None


def test_texts_are_cut_to_fit_a_minute_from_the_first(server: ScriptedServer) -> None:
    """Stored texts keep their window: another one would cut, and pay for, all of them anew."""
    config = configured(server.url, dimensions=2, tokens_per_minute=300)
    for known, found in ((KnownFacts(), 300), (KnownFacts(window=400), 400)):
        with closing(HttpEmbedder(config, known)) as embedder:
            assert embedder.describe().found_window == found


@pytest.mark.parametrize("limit", ["requests_per_minute", "tokens_per_minute"])
def test_closing_ends_the_wait_for_a_turn(server: ScriptedServer, make: Make, limit: str) -> None:
    embedder = make(server, **{limit: 1})
    embedder.embed(["a text of several tokens"])
    with ThreadPoolExecutor(2) as executor:
        calls = [executor.submit(embedder.embed, ["another"]) for _ in range(2)]
        embedder.close()
        errors = [call.exception(timeout=30) for call in calls]

    assert [type(error) for error in errors] == [EmbedderUnavailableError] * 2
    assert len(server.asked) == 1


def test_calls_beside_the_stream_have_their_own_connections(
    server: ScriptedServer, make: Make
) -> None:
    """A text that hangs in the stream, a deferred one, a known-good one, a question, and one more
    text of the stream."""
    server.may_answer.clear()
    embedder = make(server, concurrency=1, timeout="10m")
    with ThreadPoolExecutor(5) as executor:
        calls = [executor.submit(embedder.embed, ["a text"]) for _ in range(4)]
        calls.append(executor.submit(embedder.embed_query, "a question"))
        deadline = time.monotonic() + 20.0
        while len(server.asked) < 5 and time.monotonic() < deadline:
            server.begun.clear()
            server.begun.wait(0.1)
        asked = len(server.asked)
        server.may_answer.set()
    assert asked == 5
    assert not any(call.exception() for call in calls)


def test_a_service_with_too_much_to_do_says_so(server: ScriptedServer, make: Make) -> None:
    """With 429 and 503."""
    told = []
    for status, headers in ((429, {}), (503, {}), (429, {"Retry-After": "7"}), (500, {})):
        server.answer(status, headers=headers)
        error = failure(make(server))
        assert isinstance(error, EmbedderUnavailableError)
        told.append(error.overloaded)
    assert told == [True, True, True, False]


def test_closing_ends_the_wait_for_an_answer(server: ScriptedServer, make: Make) -> None:
    server.may_answer.clear()
    embedder = make(server, timeout="10m")
    with ThreadPoolExecutor(1) as executor:
        call = executor.submit(embedder.embed, ["a text"])
        server.begun.wait()
        embedder.close()
        error = call.exception(timeout=30)

    assert isinstance(error, EmbedderUnavailableError)


def test_closed_embedder_is_unavailable(server: ScriptedServer, make: Make) -> None:
    embedder = make(server)
    embedder.close()
    embedder.close()

    assert isinstance(failure(embedder), EmbedderUnavailableError)
    assert server.asked == []


def test_a_remote_model_needs_no_model_library(server: ScriptedServer) -> None:
    script = (
        "import sys; from cdc_embed.config.sections import EmbedderConfig; "
        "from cdc_embed.embed.http import HttpEmbedder; "
        f"HttpEmbedder(EmbedderConfig(kind='http', url={server.url!r}, model='m')).embed(['a']); "
        "print({'torch', 'transformers', 'sentence_transformers'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "set()\n"
