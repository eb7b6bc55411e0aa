"""A ping in the middle of a transaction confirms nothing: a real server (CONTRIBUTING.md, T1).

The client is silent because it is stopped for longer than half of ``wal_sender_timeout``. What a
walsender sends then is told by its log; ``test_gate`` has the same with a scripted one.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cdc_embed.demo.postgres import EmbeddedPostgres
from cdc_embed.lsn import LSN
from tests.invariant import confirmed, recorded
from tests.servers import Servers
from tests.site import DOCUMENTS, RunningService, Site, wait_until

PING = "sending replication keepalive"
COLUMNS = 500
ROWS = ["insert into documents select i, 'b', repeat('b', 4000) from generate_series(9, 2000) i"]
RELATIONS = [
    statement
    for number in range(9, 30)
    for statement in (
        f"alter table moods alter column body set statistics {number}",
        f"insert into moods values ({number}, 'b', 'after a Relation')",
    )
]
"""Each Relation comes after a Type message for each of its columns: wherever a socket is full, it
is after one of those, hardly ever after a row."""
TABLES = """
[[tables]]
name = "documents"
text = ["title", "body"]
[[tables]]
name = "moods"
text = ["title", "body"]
"""


@pytest.fixture(scope="module")
def server(servers: Servers) -> Iterator[EmbeddedPostgres]:
    """Pings after ten seconds. Its socket is a Unix one: little fits between it and a client."""
    settings = {"wal_sender_timeout": "20s", "log_min_messages": "debug2"}
    with servers.own(18, settings, tcp=False) as running:
        yield running


@contextmanager
def silent(service: RunningService) -> Iterator[None]:
    """The client is stopped until the server has asked for a reply."""
    site = service.site
    silence = (
        "select extract(epoch from clock_timestamp() - reply_time) from pg_stat_replication "
        "where application_name like %s"
    )
    service.process.send_signal(signal.SIGSTOP)
    try:
        yield
        # what it says of itself comes before, what comes after half of its timeout asks for a reply
        # (when the client was stopped its last report was up to a quarter of it old)
        wait_until(lambda: site.value(silence, f"%{site.name}") > 5.5, "the client is silent")
        before = site.server.log_text().count(PING)
        wait_until(lambda: site.server.log_text().count(PING) > before, "the server pings")
    finally:
        service.process.send_signal(signal.SIGCONT)


def wal_end(site: Site) -> LSN:
    return LSN.parse(site.value("select pg_current_wal_lsn()::text"))


def wait_for_reports(service: RunningService, count: int) -> None:
    """So many more status updates of the client reach the server, or it lets the stream go."""
    site = service.site
    last = "select reply_time from pg_stat_replication where application_name like %s"
    seen = set()

    def arrived() -> bool:
        seen.update(site.sql(last, f"%{site.name}"))
        return len(seen) > count or service.status()["state"] == "reconnecting"

    wait_until(arrived, f"{count} reports")


@pytest.mark.parametrize("kind", ["rows", pytest.param("relations", marks=pytest.mark.long)])
def test_ping_in_a_transaction_confirms_and_loses_nothing(
    server: EmbeddedPostgres, tmp_path: Path, kind: str
) -> None:
    """A is delivered and cannot be written; B is being delivered when the server pings.

    With one cursor for both directions the ping among rows of B, which are older than what is
    confirmed, confirms A; without the wait after a frame that has no position, so does the one
    after a Relation. A is lost then.
    """
    site = Site(server, kind, tmp_path)
    site.sql(DOCUMENTS)
    site.sql("create type mood as enum ('glad')")
    moods = "".join(f", mood_{number} mood" for number in range(COLUMNS))
    site.sql(f"create table moods (id bigint primary key, title text, body text{moods})")
    more = '[index]\nkind = "none"\n'
    site.configure(tables=TABLES, source='publish = "rows"', more=more)
    site.cli("setup")
    with site.service(process=True) as service:
        lock, long = site.connect(), site.connect()
        with lock.cursor() as locking, long.cursor() as writing:
            for statement in ROWS if kind == "rows" else []:
                writing.execute(statement)
            site.sql("insert into documents values (1, 'z', 'is written and confirmed')")
            service.settle()
            wait_until(lambda: confirmed(site) >= recorded(site), "the server was told")
            locking.execute("lock table cdc_embed.documents_embedding in share mode")
            with silent(service):
                site.sql("insert into documents values (2, 'a', 'is delivered, not written')")
                end_of_a = wal_end(site)
                for statement in RELATIONS if kind == "relations" else []:
                    writing.execute(statement)
                long.commit()
            wait_for_reports(service, 2)
            assert confirmed(site) <= recorded(site) < end_of_a
            service.kill()
        lock.close()
        long.close()
    with site.service() as service:
        service.settle()
        assert site.drift() == []
        assert site.drift("moods") == []
        assert service.stop() == 0
    site.close()
