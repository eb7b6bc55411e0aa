"""Embedding services as they are: one server in this process, whose habits are drawn by name.

Its vectors say of which text they are, by a rule of its own: the words that the service has read,
and the model that read them. So a text that was cut has the vector of its beginning.
"""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

Answer = tuple[int, dict[str, Any]]


@dataclass(kw_only=True)
class Habits:
    """The habits of one service; a test changes them while it runs."""

    dimensions: int = 8
    weights: str = "first"
    """The model itself, whatever it is called."""
    models: tuple[str, ...] = ()
    """Its names; empty: it does not look at the name."""
    takes: int | None = None
    """Words of one text: a longer one is refused with 400."""
    cuts: int | None = None
    """Words of one text: the rest is not read."""
    most: int | None = None
    """Texts of one call: more are refused with 422."""
    knows_dimensions: bool = True
    usage: bool = False
    """It counts the words that it has read."""
    pages: dict[str, Any] = field(default_factory=dict)
    """The answers to GET, by path."""
    away: int | None = None
    """It answers this to everything."""
    vectors: Any = None
    """A function of the vectors that it gives, float32 (n, d), to those that it answers with."""


class Service(ThreadingHTTPServer):
    """Remembers the texts of each call that it answered, and each call that it refused."""

    daemon_threads = True

    def __init__(self, habits: Habits) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.habits = habits
        self.asked: list[dict[str, Any]] = []
        self.refused: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/embeddings"

    @property
    def configuration(self) -> str:
        return f'kind = "http"\nmodel = "m"\nurl = "{self.url}"\n'

    @property
    def texts(self) -> list[str]:
        return [text for body in self.asked for text in body["input"]]

    def forget(self) -> None:
        self.asked, self.refused = [], []

    def answer(self, body: dict[str, Any]) -> Answer:
        habits, texts = self.habits, body["input"]
        read = [text.split()[: habits.cuts] for text in texts]
        problem = self._problem(body)
        if problem:
            self.refused.append(body)
            return problem
        self.asked.append(body)
        dimensions = body.get("dimensions") or habits.dimensions
        vectors = np.stack([vector_of(words, habits.weights, dimensions) for words in read])
        if habits.vectors is not None:
            vectors = habits.vectors(vectors)
        packed = body.get("encoding_format") == "base64"
        data = [
            {"index": index, "embedding": _pack(vector) if packed else vector.tolist()}
            for index, vector in enumerate(vectors)
        ]
        usage = {"usage": {"prompt_tokens": sum(map(len, read))}} if habits.usage else {}
        return 200, {"data": data, **usage}

    def _problem(self, body: dict[str, Any]) -> Answer | None:
        habits = self.habits
        if habits.away:
            return habits.away, _error("not now")
        if habits.models and body["model"] not in habits.models:
            return 400, _error("the model does not exist")
        if "dimensions" in body and not habits.knows_dimensions:
            return 400, _error("this model does not support dimensions")
        if habits.most and len(body["input"]) > habits.most:
            return 422, _error(f"batch size > maximum {habits.most}")
        if habits.takes and any(len(text.split()) > habits.takes for text in body["input"]):
            return 400, _error(f"maximum context length is {habits.takes} tokens")
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Service

    def do_GET(self) -> None:
        page = self.server.habits.pages.get(self.path)
        if self.server.habits.away:
            self._send(self.server.habits.away, _error("not now"))
        else:
            self._send(404, _error("no such page")) if page is None else self._send(200, page)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._send(*self.server.answer(body))

    def _send(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Quiet."""


@contextmanager
def serving(**habits: Any) -> Iterator[Service]:
    """A service with these habits."""
    with Service(Habits(**habits)) as service:
        thread = threading.Thread(target=service.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield service
        finally:
            service.shutdown()
            thread.join()


def vector_of(words: list[str], weights: str, dimensions: int) -> Any:
    """The vector that a model gives to the words that it reads: float32 (d,), unit length."""
    digest = blake2b(" ".join([weights, *words]).encode(), digest_size=8).digest()
    vector = np.random.default_rng(int.from_bytes(digest, "big")).standard_normal(dimensions)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def _pack(vector: Any) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error"}}
