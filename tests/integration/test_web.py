"""The web side under connections that do nothing."""

import os
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial

import pytest

from cdc_embed.flow.patience import LONGEST_DELAY
from cdc_embed.service.tolerance import Tolerance
from tests.site import RunningService, Site, wait_until

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
        opened = f"/proc/{service.process.pid}/fd"
        wait_until(lambda: count(opened) < 200, "few descriptors are open", 5)  # none idles so long
        assert service.get("/livez") == "ok\n"
        assert service.get("/readyz") == "ok\n"
        site.sql("insert into documents values (1, 'one', 'text')")
        service.settle()
        assert site.drift() == []
        assert service.stop() == 0


def test_no_descriptor_to_be_had_is_waited_for(site: Site) -> None:
    """With none at all, and with too few for all that a connection needs."""
    sessions = "application_name like 'cdc_embed%' and datname = current_database()"
    with site.service(process=True) as service:
        service.settle()
        limit = partial(resource.prlimit, service.process.pid, resource.RLIMIT_NOFILE)
        before = limit()
        limit((3, before[1]))
        site.sql(f"select pg_terminate_backend(pid) from pg_stat_activity where {sessions}")
        wait_until(lambda: short_of_files(service), "it is short of descriptors")
        seen = len(short_of_files(service))
        limit((count(f"/proc/{service.process.pid}/fd") + 3, before[1]))
        # the next try can be the longest delay away
        more = lambda: len(short_of_files(service)) > seen  # noqa: E731
        wait_until(more, "it is short again", 2 * LONGEST_DELAY)
        limit(before)
        site.sql("insert into documents values (1, 'one', 'text')")
        service.settle()
        assert site.drift() == []
        assert service.stop() == 0


def short_of_files(service: RunningService) -> list[str]:
    """The problems of connections that were lost, or not made, for want of a descriptor."""
    said = [e["problem"] for e in service.log if e["event"] == "connection lost"]
    return [problem for problem in said if "open files" in problem]


def test_a_connection_that_asks_nothing_is_closed(site: Site) -> None:
    with (
        site.service(tolerance=Tolerance(idle_connection=0.5)) as service,
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
