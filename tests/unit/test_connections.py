"""A request ends in time and its answer is bounded, whatever the service sends, and how slowly."""

import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, repeat
from threading import Event, Thread
from threading import enumerate as enumerate_threads

import httpx2
import pytest

from cdc_embed.embed.connections import HttpConnections, HttpRequest, Reply
from cdc_embed.errors import UnusableAnswerError
from tests.site import wait_until

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"
SECONDS = 0.4


@contextmanager
def service(*answers: Iterable[bytes], pause: float = 0.0) -> Iterator[httpx2.URL]:
    """The address of a service that sends these answers on one connection, part by part."""
    over = Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                for answer in answers:
                    read_request(connection)
                    for part in answer:
                        connection.sendall(part)
                        if over.wait(pause):
                            return
                over.wait(10)

        thread = Thread(target=serve, daemon=True)
        thread.start()
        yield httpx2.URL(f"http://127.0.0.1:{listener.getsockname()[1]}/v1/embeddings")
        over.set()
        thread.join(10)


def read_request(connection: socket.socket) -> None:
    """Read a whole one: its head and its body can come apart."""
    read = b""
    while not read.endswith(b"\r\n\r\n{}"):
        part = connection.recv(65536)
        if not part:
            raise ConnectionError
        read += part


@pytest.fixture
def connections() -> Iterator[HttpConnections]:
    made = HttpConnections(httpx2.Client)
    yield made
    made.close()


def ask(connections: HttpConnections, url: httpx2.URL, seconds: float = SECONDS) -> Reply:
    return connections.send(
        HttpRequest(url=url, body=b"{}", headers={}, seconds=seconds, vectors=1),
    )


@pytest.mark.parametrize(
    "answer",
    [
        chain([HEAD], repeat(b"1\r\n \r\n")),
        chain([HEAD[:15]], repeat(b"X")),
        repeat(b"HTTP/1.1 102 Processing\r\n\r\n"),
    ],
    ids=["blanks", "a header letter by letter", "interim answers"],
)
def test_an_answer_in_drops_ends_in_time(
    connections: HttpConnections, answer: Iterable[bytes]
) -> None:
    with service(answer, pause=0.05) as url:
        began = time.monotonic()
        with pytest.raises(httpx2.ReadTimeout, match=r"no whole answer within 0\.4 s"):
            ask(connections, url)
        assert SECONDS <= time.monotonic() - began < 5


def test_an_answer_without_end_is_not_kept(connections: HttpConnections) -> None:
    with (
        service(chain([HEAD], repeat(b"10000\r\n" + 0x10000 * b" " + b"\r\n"))) as url,
        pytest.raises(UnusableAnswerError, match="more than 2 MB"),
    ):
        ask(connections, url, seconds=5)


def test_the_time_of_a_former_request_ends_no_other(connections: HttpConnections) -> None:
    parts = [WHOLE[start : start + 6] for start in range(0, len(WHOLE), 6)]
    with service([WHOLE], parts, pause=SECONDS / 5) as url:
        assert ask(connections, url).content == b"[]"
        assert len(parts) > 5
        assert ask(connections, url, seconds=10).content == b"[]"


def test_a_shorter_time_is_kept_beside_a_longer_one(connections: HttpConnections) -> None:
    with service([]) as hanging, service([]) as other:
        thread = Thread(target=lambda: suppress_errors(connections, hanging), daemon=True)
        thread.start()
        wait_until(lambda: connections._deadlines._due, "a request under way")
        began = time.monotonic()
        with pytest.raises(httpx2.ReadTimeout):
            ask(connections, other)
        assert time.monotonic() - began < 5
        connections.close()
        thread.join(5)


def test_one_thread_ends_all_requests_and_then_itself(connections: HttpConnections) -> None:
    before = {*enumerate_threads()}
    for _ in range(3):
        with service(*[[WHOLE]] * 3) as url:
            for _ in range(3):
                ask(connections, url, seconds=2)
    added = {*enumerate_threads()} - before
    assert [each.name for each in added] == ["embed-deadlines"]
    for each in added:
        each.join(10)
        assert not each.is_alive()


def test_a_hanging_request_holds_up_no_other(connections: HttpConnections) -> None:
    with service([]) as hanging, service([WHOLE]) as well:
        thread = Thread(target=lambda: suppress_errors(connections, hanging), daemon=True)
        thread.start()
        assert ask(connections, well, seconds=10).status == 200
        connections.close()
        thread.join(5)
        assert not thread.is_alive(), "closing ends the wait"


def suppress_errors(connections: HttpConnections, url: httpx2.URL) -> None:
    with suppress(httpx2.RequestError, RuntimeError):  # closed before it began
        ask(connections, url, seconds=60)
