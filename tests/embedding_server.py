"""An embedding service that counts: OpenAI's shape over HTTP, as a process of its own.

    python tests/embedding_server.py --port 0 [--dimensions 384] [--delay 0.0]

The first line on stdout is ``{"port": N}``. Vectors follow the public rule of the ``hash``
embedder, written here once more, so that the two check each other. The process ends on SIGTERM
and when its stdin closes, so that no test can leave it behind.

    POST /v1/embeddings  {"model", "input", "encoding_format", "dimensions"}
    GET  /counts         {"requests", "times", "failed", "texts", "by_text": {text: n}}; a request
                         counts, and has its time, when it comes, a text once it is answered;
                         "failed": the times of the answers without a vector for each text
    POST /reset          counts to zero, faults gone
    POST /faults         the faults from now on, in place of those before; see ``Faults``
"""

import argparse
import base64
import json
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

TRIAL = "A letter from Oslo"
"""Begins a text of the calls that try the service out, which count for nothing here."""


@dataclass(kw_only=True)
class Faults:
    """The faults of the server. The numbers count down with each request that meets the fault."""

    fail_next: int = 0
    """Requests to answer with ``status`` and, when given, a Retry-After of ``retry_after`` s."""
    status: int = 500
    retry_after: float | None = None
    """Also of the answers to the texts at which it breaks."""
    drop_connection: int = 0
    """Requests to end without an answer."""
    reset_connection: int = 0
    """Requests to end with a TCP reset."""
    refuse: list[str] = field(default_factory=list)
    """A request is answered with 400 when one of its texts contains one of these."""
    break_at: list[str] = field(default_factory=list)
    """A request is answered with 500 when one of its texts contains one of these."""
    drop_at: list[str] = field(default_factory=list)
    """A request is not answered when one of its texts contains one of these."""
    forbid: list[str] = field(default_factory=list)
    """A request is answered with 403 when one of its texts contains one of these."""
    most: int = 0
    """Texts of a request: one with more is answered with 422; 0: any number."""
    slow: list[str] = field(default_factory=list)
    """A request whose texts contain one of these is answered after ``slow_seconds``."""
    slow_seconds: float = 0.0
    nan: list[str] = field(default_factory=list)
    """The vector of a text that contains one of these is not a number."""
    zeros: list[str] = field(default_factory=list)
    """The vector of a text that contains one of these is all zeros."""
    turns: bool = False
    """Only every other request meets the faults, except those of the texts that it refuses, breaks
    at or drops: one of two servers is ill."""
    fewer: bool = False
    """One vector less than texts."""
    wrong_dimensions: bool = False
    garbage: bool = False
    """Answer 200 with a body that is no JSON."""
    usage: int = 0
    """The tokens that it counts for a word; 0: it tells no usage."""
    hang: float = 0.0
    """Seconds to wait before each answer; a reset or other faults end the wait."""


class State:
    """Counts and faults, shared by the threads that answer."""

    def __init__(self, dimensions: int, delay: float) -> None:
        self.dimensions = dimensions
        self.delay = delay
        self._lock = threading.Lock()
        self._in_flight = 0
        self._turn = False
        self.reset()

    def reset(self) -> None:
        with self._lock:
            self._times: list[float] = []
            self._failed: list[float] = []
            self._texts: Counter[str] = Counter()
        self.fail(Faults())

    def fail(self, faults: Faults) -> None:
        with self._lock:
            before = getattr(self, "_changed", None)
            self._faults, self._changed = faults, threading.Event()
        if before:
            before.set()

    def begin(self, *, trial: bool) -> tuple[Faults, threading.Event]:
        """Count a request; the faults it meets and the signal that they are over."""
        with self._lock:
            if not trial:
                self._times.append(time.monotonic())
            self._in_flight += 1
            met = replace(self._faults)
            if met.turns:
                self._turn = not self._turn
                if self._turn:
                    well = Faults(refuse=met.refuse, break_at=met.break_at, drop_at=met.drop_at)
                    return well, self._changed
            if met.drop_connection:
                self._faults.drop_connection -= 1
            elif met.reset_connection:
                self._faults.reset_connection -= 1
            elif met.fail_next:
                self._faults.fail_next -= 1
            return met, self._changed

    def end(self) -> None:
        with self._lock:
            self._in_flight -= 1

    def failed(self) -> None:
        with self._lock:
            self._failed.append(time.monotonic())

    def answered(self, texts: list[str]) -> None:
        with self._lock:
            self._texts.update(texts)

    def counts(self) -> dict[str, Any]:
        with self._lock:
            texts = dict(self._texts)
            return {
                "requests": len(self._times),
                "times": list(self._times),
                "failed": list(self._failed),
                "in_flight": self._in_flight,
                "texts": sum(texts.values()),
                "by_text": texts,
            }


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, state: State) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.state = state


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def do_GET(self) -> None:
        if self.path == "/counts":
            self._answer(200, self.server.state.counts())
        else:
            self._answer(404, _error("no such page"))

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = json.loads(content) if content else {}
        state = self.server.state
        if self.path == "/v1/embeddings":
            faults, changed = state.begin(trial=TRIAL in str(body["input"]))
            try:
                slow = _contains(_texts(body), faults.slow) * faults.slow_seconds
                changed.wait(state.delay + faults.hang + slow)
                if not self._embed(body, faults):
                    state.failed()
            finally:
                state.end()
        elif self.path == "/faults":
            state.fail(Faults(**body))
            self._answer(200, {})
        elif self.path == "/reset":
            state.reset()
            self._answer(200, {})
        else:
            self._answer(404, _error("no such page"))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Quiet: stdout carries the port and nothing else."""

    def _embed(self, body: dict[str, Any], faults: Faults) -> bool:
        """Answer; return whether each text got a vector."""
        state = self.server.state
        texts = _texts(body)
        wait = {} if faults.retry_after is None else {"Retry-After": f"{faults.retry_after:g}"}
        if faults.drop_connection:
            self.close_connection = True
        elif faults.reset_connection:
            self._reset()
        elif faults.fail_next:
            self._answer(faults.status, _error("told to fail"), wait)
        elif _contains(texts, faults.refuse):
            self._answer(400, _error("a text is refused"))
        elif _contains(texts, faults.break_at):
            self._answer(500, _error("unsupported value: NaN"), wait)
        elif _contains(texts, faults.drop_at):
            self.close_connection = True
        elif _contains(texts, faults.forbid):
            self._answer(403, _error("blocked"))
        elif faults.most and len(texts) > faults.most:
            self._answer(422, _error(f"batch size {len(texts)} > maximum {faults.most}"))
        elif faults.garbage:
            self._send(200, b"<html>not what you asked for</html>", {})
        else:
            if TRIAL not in str(texts):
                state.answered(texts)
            self._answer(200, self._embeddings(body, texts, faults))
            bad = faults.fewer or faults.wrong_dimensions or _contains(texts, faults.nan)
            return not (bad or _contains(texts, faults.zeros) or self.close_connection)
        return False

    def _embeddings(self, body: dict[str, Any], texts: list[str], faults: Faults) -> dict[str, Any]:
        dimensions = body.get("dimensions") or self.server.state.dimensions
        data = []
        for index, text in enumerate(texts):
            vector = vector_of(text, dimensions + faults.wrong_dimensions)
            if _contains([text], faults.nan):
                vector = np.full_like(vector, np.nan)
            if _contains([text], faults.zeros):
                vector = np.zeros_like(vector)
            embedding: Any = vector.tolist()
            if body.get("encoding_format") == "base64":
                embedding = base64.b64encode(vector.astype("<f4").tobytes()).decode()
            data.append({"object": "embedding", "index": index, "embedding": embedding})
        answer = {"object": "list", "model": body["model"], "data": data[faults.fewer :]}
        if faults.usage:
            counted = faults.usage * sum(len(text.split()) for text in texts)
            answer["usage"] = {"prompt_tokens": counted, "total_tokens": counted}
        return answer

    def _reset(self) -> None:
        """Close without a goodbye: lingering for no time makes the kernel send RST."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def _answer(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(body).encode(), headers or {})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        try:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except ConnectionError:  # whoever asked has given up
            self.close_connection = True


@lru_cache(1 << 14)
def vector_of(text: str, dimensions: int) -> Any:
    """The public rule of the ``hash`` embedder: float32 array (d,), unit length."""
    seed = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
    vector = np.random.default_rng(seed).standard_normal(dimensions).astype(np.float32)
    vector /= np.linalg.norm(vector)
    vector.flags.writeable = False  # it is another test's, too
    return vector


def _texts(body: dict[str, Any]) -> list[str]:
    return [body["input"]] if isinstance(body["input"], str) else body["input"]


def _contains(texts: list[str], pieces: list[str]) -> bool:
    return any(piece in text for text in texts for piece in pieces)


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "fault"}}


def _end_with_stdin() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds for each request")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    server = Server(options.port, State(options.dimensions, options.delay))
    sys.stdout.write(json.dumps({"port": server.server_port}) + "\n")
    sys.stdout.flush()
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    main()
