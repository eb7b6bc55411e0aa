"""Passwords that change while they are used: in the server first, in the file seconds later."""

import itertools
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest

from cdc_embed.demo.postgres import EmbeddedPostgres
from cdc_embed.errors import AuthenticationError
from cdc_embed.postgres.session import Session
from cdc_embed.postgres.side import SOURCE
from cdc_embed.rotation import Login
from cdc_embed.service.tolerance import Tolerance
from tests.secret import guarded_server
from tests.servers import Servers
from tests.site import DOCUMENTS, RunningService, Site, wait_until

_numbers = itertools.count(1)
TABLES = '[[tables]]\nname = "documents"\ntext = ["title", "body"]\n'
SESSIONS = "pg_stat_activity where usename = 'app' and datname = current_database()"


@pytest.fixture(scope="module")
def server(servers: Servers) -> Iterator[EmbeddedPostgres]:
    with guarded_server(servers) as running:
        yield running


class Rotated(Site):
    """A site whose service logs in as ``app``, with the connection string in a file."""

    @property
    def dsn_file(self) -> Path:
        return self.folder / "dsn"

    def write(self, password: str) -> None:
        address = f"127.0.0.1:{self.server.port}/{self.name}"
        self.dsn_file.write_text(f"postgresql://app:{quote(password, safe='')}@{address}\n")

    def rotate(self, password: str) -> None:
        """The server takes another password from now on, and ends what used the former one."""
        self.sql(f"alter role app password '{password}'")
        self.sql(f"select pg_terminate_backend(pid) from {SESSIONS}")


@pytest.fixture
def site(server: EmbeddedPostgres, tmp_path: Path) -> Iterator[Rotated]:
    site = Rotated(server, f"rotated{next(_numbers)}", tmp_path)
    site.sql(DOCUMENTS)
    site.sql("alter role app password 'first'")
    site.write("first")
    site.config_path.write_text(
        f'[source]\ndsn_file = "{site.dsn_file}"\nslot = "{site.name}"\n'
        f'[embedder]\nkind = "hash"\n[serve]\nport = 0\n{TABLES}'
    )
    site.cli("setup")
    yield site
    site.close()


def is_refused(service: RunningService) -> bool:
    return "password authentication failed" in str(service.status()["waiting"])


def test_a_password_that_is_rotated_is_read_again(site: Rotated) -> None:
    """Twice; the file is empty for a moment."""
    with site.service() as service:
        for number, password in enumerate(("second", "third")):
            site.rotate(password)
            site.sql("insert into documents values (%s, 't', 'a text')", number)
            wait_until(lambda: is_refused(service), "the former password is refused")
            site.dsn_file.write_text("")
            wait_until(lambda: is_refused(service), "the former password is refused")
            site.write(password)
            service.wait_for("streaming")
            service.settle()
            assert site.drift() == []
        assert service.stop() == 0


def test_a_string_that_is_half_written_is_read_again(site: Rotated) -> None:
    """It is a connection string, but leads nowhere; the one after it is tried at once."""
    whole = site.dsn_file.read_text().strip()
    found = [whole, "postgresql://app@127.0.0.1:1/", ""]
    login = Login(whole.replace("first", "former"), found.pop, in_file=True)
    with closing(Session(SOURCE, login, "cdc_embed test")) as session:
        with pytest.raises(AuthenticationError):
            session.fetch("one", "select 1")
        assert session.fetch("one", "select 1") == [(1,)]
    assert login.dsn == whole


def test_a_file_that_is_first_costs_no_connection(site: Rotated) -> None:
    """Sessions that are open go on; the next one has the new password."""
    with site.service() as service:
        site.write("second")
        site.sql("alter role app password 'second'")
        site.sql("insert into documents values (1, 't', 'a text')")
        service.settle()
        site.sql(f"select pg_terminate_backend(pid) from {SESSIONS}")
        service.wait_for("streaming")
        site.sql("insert into documents values (2, 't', 'a text')")
        service.settle()
        assert site.drift() == []
        assert not [entry for entry in service.log if "password" in str(entry)]
        assert service.stop() == 0


def test_a_start_waits_for_a_password_that_is_rotated(site: Rotated) -> None:
    site.rotate("second")
    site.sql("insert into documents values (1, 't', 'a text')")
    with site.service(wait=False) as service:
        assert "password authentication failed" in service.wait_for("waiting")["problem"]
        site.write("second")
        service.wait_for("streaming")
        service.settle()
        assert site.drift() == []
        assert service.stop() == 0


def test_a_password_that_nobody_rotates_ends_the_service(site: Rotated) -> None:
    """After a minute, here two seconds; a command that a person waits for says it at once."""
    two_seconds = Tolerance(refused_secret=2.0)
    with site.service(tolerance=two_seconds) as service:
        site.rotate("second")
        assert service.wait() == 4
        assert "password authentication failed" in "".join(service.output)
    with site.service(wait=False, tolerance=two_seconds) as service:
        service.wait_for("waiting")
        assert service.wait() == 4
    for command in (("setup",), ("doctor",), ("run", "--no-wait")):
        done = site.cli(*command, expect=4)
        assert "password authentication failed" in done.stdout + done.stderr
