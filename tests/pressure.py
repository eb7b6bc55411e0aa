"""A mixed load for tests of faults, and what must be true after it.

The load outlives the servers it talks to: it connects again for as long as it is wanted.
"""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import psycopg2

from tests.site import RunningService, Site

KEYS: Final = 300
"""Few enough that rows are changed again while they are in flight."""
JOIN_SECONDS: Final = 60.0


class Pace:
    """The progress of a load."""

    def __init__(self) -> None:
        self.transactions = 0


@contextmanager
def load(site: Site, seed: int = 1, pause: float = 0.005) -> Iterator[Pace]:
    """Mixed transactions on ``documents``, one after another, until the end of the context."""
    chance = random.Random(seed)
    pace = Pace()
    done = threading.Event()

    def write(connection: Any) -> None:
        while not done.wait(pause):
            with (
                suppress(psycopg2.IntegrityError),  # a moved key may be taken
                connection,
                connection.cursor() as cursor,
            ):
                for _ in range(chance.choice([1, 1, 1, 5])):
                    cursor.execute(*_statement(chance))
                if chance.random() < 0.05:
                    connection.rollback()
                pace.transactions += 1

    with _thread(site.dsn, write, done):
        yield pace


def _statement(chance: random.Random) -> tuple[str, list[Any]]:
    key = chance.randrange(KEYS)
    text = f"text {chance.randrange(10**6)} " * chance.choice([1, 1, 1, 400])
    choices: list[tuple[str, list[Any]]] = [
        (
            "insert into documents values (%s, 't', %s) "
            "on conflict (id) do update set body = excluded.body",
            [key, text],
        ),
        ("update documents set body = %s where id between %s and %s", [text, key, key + 3]),
        ("update documents set views = views + 1 where id between %s and %s", [key, key + 20]),
        ("update documents set title = %s where id = %s", [text[:20], key]),
        ("delete from documents where id = %s", [key]),
        (
            "update documents set id = %s where id = %s "
            "and not exists (select from documents where id = %s)",
            [key + KEYS, key, key + KEYS],
        ),
        ("update documents set id = -id where id between %s and %s", [key, key + 3]),
        ("truncate documents", []),
    ]
    return chance.choices(choices, weights=[10, 5, 5, 3, 3, 3, 1, 0.1])[0]


@contextmanager
def _thread(dsn: str, work: Callable[[Any], None], done: threading.Event) -> Iterator[None]:
    """Do ``work`` with a connection, and with another one when that is lost."""
    failures: list[Exception] = []

    def run() -> None:
        while not done.is_set():
            with suppress(psycopg2.OperationalError, psycopg2.InterfaceError):
                connection = psycopg2.connect(dsn, connect_timeout=5)
                try:
                    work(connection)
                except psycopg2.Error as exc:
                    if not connection.closed and exc.pgcode:
                        failures.append(exc)
                        return
                    raise
                finally:
                    connection.close()
            done.wait(0.05)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(JOIN_SECONDS)
    assert not thread.is_alive()
    assert failures == []


def expect_equal(site: Site, service: RunningService, seconds: float = 60) -> None:
    """Everything that is committed is reflected, by our own look and by ``verify``'s."""
    service.settle(seconds)
    assert site.drift() == []
    found = site.verify()
    assert (found["drift"], found["remaining"]) == (0, 0), found


def sessions(site: Site, kind: str = "%") -> list[int]:
    """Server processes of the service's sessions of one kind: ``stream``, ``writer``, ..."""
    rows = (site.target or site).sql(
        "select pid from pg_stat_activity where application_name like %s",
        f"cdc_embed {kind} {site.name}",
    )
    return [pid for (pid,) in rows]


def end_sessions(site: Site) -> None:
    """End every session of the service, in the source and in the target."""
    for side in {site, site.target or site}:
        with suppress(psycopg2.OperationalError):
            side.sql(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where application_name like %s and pid <> pg_backend_pid()",
                f"cdc_embed%{site.name}",
            )
