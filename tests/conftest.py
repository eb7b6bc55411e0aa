"""Fixtures for every room: servers are shared, databases and slots are each test's own."""

import gc
import os
import ssl
from collections.abc import Callable, Generator, Iterator
from functools import cache
from pathlib import Path
from unittest.mock import patch

import httpcore2
import pytest

from cdc_embed.demo.postgres import EmbeddedPostgres
from tests.servers import Servers, use_memory
from tests.site import DOCUMENTS, EmbeddingServer, Site
from tests.sources import PUBLISHED, SOURCES, make_source, sites

UNIT = Path(__file__).parent / "unit"
SERVERS = pytest.StashKey[Servers]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also the tests that take long")
    parser.addoption("--history-minutes", type=float, default=15, help="of each long history")


def pytest_xdist_auto_num_workers() -> int:
    """Three more than there are processors, because most tests wait for a server."""
    return len(os.sched_getaffinity(0)) + 3


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: over 20 s, or one case of many; needs --long")
    config.addinivalue_line("markers", "fast: needs no server and takes a moment")
    config.addinivalue_line("markers", "slow: needs no server, but takes a while")
    config.addinivalue_line("markers", "model: loads a real model into the test process")
    use_memory()
    patch("httpcore2.default_ssl_context", certificates).start()


def certificates(*, _trust_env: bool = True) -> ssl.SSLContext:
    """Read the certificates that clients trust once for all of them: it takes 20 ms each time."""
    named = {name: os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")}
    return _read_certificates(_trust_env, *named.values())


_default_certificates = httpcore2.default_ssl_context


@cache
def _read_certificates(_trust_env: bool, *_named: str | None) -> ssl.SSLContext:
    return _default_certificates(_trust_env=_trust_env)


def pytest_collection_finish() -> None:
    """Modules and tests stay to the end, so the garbage collector need not walk them again."""
    gc.freeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long tests out, unless they are asked for; the unit tests are the fast ones.

    The tests with a real model come first: so one worker runs them, and only it loads torch.
    """
    for item in items:
        if item.path.is_relative_to(UNIT) and not item.get_closest_marker("slow"):
            item.add_marker("fast")
    items.sort(key=lambda item: item.get_closest_marker("model") is None)
    if config.getoption("--long"):
        return
    long = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in set(long)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that lacks something of the machine is skipped; in CI that is a failure."""
    report = yield
    if report.skipped and os.environ.get("CI"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {item.nodeid}, {call.excinfo and call.excinfo.value}"
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """To stop a server may take longer than a test has."""
    if SERVERS in session.config.stash:
        session.config.stash[SERVERS].close()


@pytest.fixture(scope="session")
def servers(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Servers:
    """Servers by version, started when first asked for: 16 and 18 embedded, 15 the system's."""
    folder = tmp_path_factory.getbasetemp()
    distributed = "PYTEST_XDIST_WORKER" in os.environ  # then the folder is one worker's
    return pytestconfig.stash.setdefault(SERVERS, Servers(folder.parent if distributed else folder))


@pytest.fixture(params=[18, pytest.param(16, marks=pytest.mark.long)])
def version(request: pytest.FixtureRequest) -> int:
    """The PostgreSQL versions that are embedded; the older with the long tests only."""
    number: int = request.param
    return number


@pytest.fixture
def make_site(
    servers: Callable[[int], EmbeddedPostgres], tmp_path: Path
) -> Iterator[Callable[..., Site]]:
    """Databases of a test's own; their slots are dropped at the end."""
    with sites(servers, tmp_path) as make:
        yield make


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest, make_site: Callable[..., Site]) -> Site:
    """An empty database of each kind of source."""
    return make_source(make_site, request.param)


@pytest.fixture(params=PUBLISHED)
def published(request: pytest.FixtureRequest, make_site: Callable[..., Site]) -> Site:
    """An empty database of each kind of source that reads a publication."""
    return make_source(make_site, request.param)


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """A database of PostgreSQL 18 with the table ``documents``, configured and set up."""
    return ready(make_site(18))


@pytest.fixture
def each_site(make_site: Callable[..., Site], version: int) -> Site:
    """The same on every embedded version."""
    return ready(make_site(version))


def ready(site: Site) -> Site:
    site.sql(DOCUMENTS)
    site.sql("alter table documents alter body set storage external")
    site.configure()
    site.cli("setup")
    return site


@pytest.fixture
def embedding_server() -> Iterator[EmbeddingServer]:
    with EmbeddingServer() as server:
        yield server
