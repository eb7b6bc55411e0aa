"""A session: what it sets, what it gives up, and what its errors mean."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from cdc_embed.errors import AuthenticationError, TargetUnavailableError
from cdc_embed.postgres.session import Session
from cdc_embed.postgres.side import TARGET
from cdc_embed.rotation import Login
from tests.site import Site, wait_until


@pytest.fixture
def database(make_site: Callable[..., Site], version: int) -> Site:
    return make_site(version)


@pytest.fixture
def session(database: Site) -> Iterator[Session]:
    session = Session(TARGET, Login(database.dsn), "a session")
    yield session
    session.close()


def run(session: Session, statement: str) -> None:
    with session.transaction() as cursor:
        cursor.execute(statement)


def test_time_limits_of_the_database_do_not_end_what_takes_long(
    database: Site, session: Session
) -> None:
    limits = ["statement_timeout", "lock_timeout", "idle_session_timeout"]
    if database.server.version >= 17:
        limits.append("transaction_timeout")
    for limit in limits:
        database.sql(f'alter database "{database.name}" set {limit} = 2000')
    run(session, "select pg_sleep(3)")


def test_waiting_statement_can_be_given_up_and_leaves_nothing(
    database: Site, session: Session
) -> None:
    """The server notices that the connection is cut, though the statement still waits."""
    database.sql("create table held (x int)")
    lock = database.connect()
    lock.cursor().execute("lock table held")
    waiting = "select count(*) from pg_locks where not granted"
    with ThreadPoolExecutor(1) as executor:
        statement = executor.submit(run, session, "select from public.held")
        wait_until(lambda: database.value(waiting), "it waits for the lock")
        session.cancel()
        with pytest.raises(TargetUnavailableError):
            statement.result(10)
    wait_until(lambda: database.value(waiting) == 0, "the server gives it up")
    lock.close()
    run(session, "select from public.held")


def test_cancel_of_an_idle_session_spares_the_next_statement(session: Session) -> None:
    run(session, "select 1")
    session.cancel()
    run(session, "select 1")


class Server:
    """Accepts one connection, and answers it with ``greeting``, or with nothing."""

    def __init__(self, greeting: bytes = b"") -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._peers: list[socket.socket] = []
        self._greeting = greeting
        self.dsn = f"host=127.0.0.1 port={self._listener.getsockname()[1]} user=u sslmode=disable"
        self.called = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        peer, _ = self._listener.accept()
        self._peers.append(peer)
        peer.recv(1000)
        peer.sendall(self._greeting)
        self.called.set()

    def close(self) -> None:
        for end in (self._listener, *self._peers):
            end.close()


@pytest.fixture
def make_server() -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def make(greeting: bytes = b"") -> Server:
        made.append(Server(greeting))
        return made[-1]

    yield make
    for server in made:
        server.close()


def test_connecting_to_a_silent_server_can_be_cancelled(
    make_server: Callable[..., Server],
) -> None:
    server = make_server()
    session = Session(TARGET, Login(server.dsn), "a session")
    with ThreadPoolExecutor(1) as executor:
        statement = executor.submit(run, session, "select 1")
        assert server.called.wait(10)
        session.cancel()
        with pytest.raises(TargetUnavailableError, match="was cancelled"):
            statement.result(5)


def test_missing_password_is_nothing_that_passes(
    make_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver says so, not the server; retried, it would be waited for without an end."""
    monkeypatch.setenv("PGPASSFILE", "/nowhere")
    asks_for_one = b"R" + struct.pack(">II", 8, 3)
    session = Session(TARGET, Login(make_server(asks_for_one).dsn), "a session")
    with pytest.raises(AuthenticationError, match="no password"):
        run(session, "select 1")
