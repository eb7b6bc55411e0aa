"""The web side under connections that do nothing."""

import os
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from tests.site import Site, wait_until

IDLE = 1100


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """This process may open enough; what it starts before may not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * IDLE:
        pytest.skip("this process may not open so many files")
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_descriptors")
def test_idle_connections_end_neither_service_nor_answers(site: Site) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    with site.service(process=True) as service, ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (4 * IDLE, hard))
        port = service.port
        for _ in range(IDLE):
            idle = socket.create_connection(("127.0.0.1", port))
            stack.enter_context(closing(idle))
        assert service.get("/livez") == "ok\n"
        assert service.get("/readyz") == "ok\n"
        site.sql("insert into documents values (1, 'one', 'text')")
        service.settle()
        assert site.drift() == []
        opened = f"/proc/{service.process.pid}/fd"
        wait_until(lambda: count(opened) < 200, "few descriptors are open", 5)  # none idles so long
        assert service.stop() == 0


def test_a_connection_that_asks_nothing_is_closed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdc_embed.serve.limited.IDLE_SECONDS", 0.5)
    with (
        site.service() as service,
        closing(socket.create_connection(("127.0.0.1", service.port))) as slow,
    ):
        slow.sendall(b"GET /livez HTTP/1.1\r\n")
        slow.settimeout(10)
        try:
            answer = slow.recv(100)
        except ConnectionResetError:
            answer = b""
        assert answer == b""


def count(folder: str) -> int:
    return len(os.listdir(folder))
