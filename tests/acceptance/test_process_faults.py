"""Processes that are killed, stopped or kept waiting: the service, its walsender, the source.

What is confirmed is watched throughout; at the end every row is compared.
"""

import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from cdc_embed.demo.postgres import EmbeddedPostgres
from cdc_embed.lsn import LSN
from tests.invariant import confirmed, watched
from tests.pressure import end_sessions, expect_equal, load, sessions
from tests.quiet import let_pass, watch_for
from tests.servers import Servers
from tests.site import DOCUMENTS, EmbeddingServer, RunningService, Site, wait_until
from tests.tcp_proxy import TcpProxy

WHOLE_TEXTS = """
[[tables]]
name = "documents"
text = ["title", "body"]
chunk = { max_tokens = 100000 }
"""
HOLD = 4242
"""The advisory lock that a commit waits for."""


@pytest.fixture
def counted(site: Site, embedding_server: EmbeddingServer) -> Site:
    """The site with a counted embedder."""
    site.cli("teardown", "--yes")
    site.configure(embedder=embedding_server.configuration)
    site.cli("setup")
    embedding_server.reset()
    return site


@contextmanager
def held_commits(site: Site) -> Iterator[None]:
    """Every commit of a batch waits, after its last statement."""
    site.sql(
        "create function hold() returns trigger language plpgsql as $$ begin "
        f"perform pg_advisory_xact_lock({HOLD}); return null; end $$"
    )
    site.sql(
        "create constraint trigger hold after update on cdc_embed.checkpoint "
        "deferrable initially deferred for each row "
        "when (new.batch_seq > old.batch_seq) execute function hold()"
    )
    with closing(site.connect()) as holder, holder.cursor() as cursor:
        cursor.execute("select pg_advisory_lock(%s)", (HOLD,))
        holder.commit()
        yield


def wait_for_held_commit(site: Site) -> None:
    waiting = (
        "select count(*) from pg_stat_activity where application_name like %s "
        "and query = 'COMMIT' and wait_event = 'advisory'"
    )
    wait_until(
        lambda: site.value(waiting, f"cdc_embed writer {site.name}"), "a batch is being committed"
    )


@pytest.mark.parametrize("outcome", ["rolled back", "committed"])
def test_kill_amid_the_target_commit_is_settled_by_the_target(
    counted: Site, embedding_server: EmbeddingServer, outcome: str
) -> None:
    """The process is gone before the answer; the server ends the transaction either way.

    Without the exact position in the batch's own transaction, a batch that was committed would
    be embedded again, or one that was rolled back would be lost.
    """
    site = counted
    with watched(site):
        with site.service(process=True) as service:
            service.wait_for("reconciled")  # from here on what is stored is known from the log
            site.sql("insert into documents values (1, 't', 'first'), (2, 't', 'second')")
            service.settle()
            with held_commits(site):
                site.transaction(
                    "update documents set id = 3 where id = 1",
                    "update documents set id = 1 where id = 2",
                    "update documents set id = 2 where id = 3",
                    "insert into documents values (4, 't', 'third')",
                )
                wait_for_held_commit(site)
                before = site.checkpoint()
                if outcome == "committed":
                    # the server would give up the commit of a client that is gone
                    service.process.send_signal(signal.SIGSTOP)
                else:
                    service.kill()
                    for pid in sessions(site, "writer"):
                        site.sql("select pg_terminate_backend(%s)", pid)
            if outcome == "committed":
                wait_until(
                    lambda: site.checkpoint()["batch_seq"] > before["batch_seq"], "it is committed"
                )
                service.kill()
        wait_until(lambda: not sessions(site, "writer"), "the server ended the transaction")
        after = site.checkpoint()
        slot = confirmed(site)
        if outcome == "committed":
            assert after["batch_seq"] == before["batch_seq"] + 1
            assert slot < LSN.parse(after["end_lsn"]), "it comes once more"
        else:
            assert after == before
        embedding_server.reset()
        with site.service() as service:
            expect_equal(site, service)
            assert embedding_server.texts() == (0 if outcome == "committed" else 1)
            assert service.stop() == 0


def kill_at_random(site: Site, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    with watched(site):
        with load(site, seed) as pace:
            for _ in range(kills):
                with site.service(wait=False, process=True) as service:
                    if chance.random() < 0.8:
                        service.wait_for("streaming")
                    let_pass(chance.uniform(0, 1.5))
                    service.kill()
            assert pace.transactions > 10 * kills
        with site.service() as service:
            expect_equal(site, service, 120)
            assert service.stop() == 0


def test_kill_at_random_times_under_a_mixed_load_loses_nothing(site: Site) -> None:
    kill_at_random(site, kills=5, seed=random.randrange(1000))


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(3))
def test_a_hundred_kills_lose_nothing(each_site: Site, seed: int) -> None:
    kill_at_random(each_site, kills=100, seed=seed)


def lose_sessions(site: Site, seconds: float) -> None:
    ended = 0
    with watched(site), site.service() as service:
        with load(site):
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                let_pass(1)
                end_sessions(site)
                ended += 1
        service.wait_for("streaming")
        expect_equal(site, service)
        assert service.metric("cdc_embed_reconnects_total") >= ended / 2
        assert service.stop() == 0


def test_sessions_ended_each_second_under_load_lose_nothing(site: Site) -> None:
    """The walsender and its sentinel, the writer in mid-transaction, those that only look."""
    lose_sessions(site, 4)


@pytest.mark.long
def test_sessions_ended_each_second_for_two_minutes_lose_nothing(each_site: Site) -> None:
    lose_sessions(each_site, 120)


SELDOM_SAVED = {"checkpoint_timeout": "30s"}


def crash_source(server: EmbeddedPostgres, target: Site, folder: Path, crashes: int) -> None:
    with server:
        site = Site(server, "crashing", folder, target)
        site.sql(DOCUMENTS)
        site.configure()
        site.cli("setup")
        with watched(site), site.service() as service:
            with load(site) as pace:
                for _ in range(crashes):
                    before = pace.transactions
                    wait_until(lambda: pace.transactions > before + 50, "the load goes on")  # noqa: B023
                    server.restart("immediate")
                    service.wait_for("streaming", 60)
            site.close()  # this connection did not live through it
            expect_equal(site, service)
            assert service.stop() == 0
        site.close()


def test_source_crash_under_load_repeats_and_loses_nothing(
    servers: Servers, make_site: Callable[..., Site], tmp_path: Path
) -> None:
    """After a crash the slot is where the server's last checkpoint left it: changes come again.

    The target is another server, which stays up and knows better.
    """
    crash_source(servers.own(18, SELDOM_SAVED), make_site(16), tmp_path, 3)


@pytest.mark.long
def test_source_that_crashes_again_and_again(
    servers: Servers, make_site: Callable[..., Site], tmp_path: Path, version: int
) -> None:
    crash_source(servers.own(version, SELDOM_SAVED), make_site(16), tmp_path, 15)


@pytest.mark.parametrize(
    ("timeout", "rows"), [(2, 1000), pytest.param(5, 4000, marks=pytest.mark.long)]
)
def test_embedder_hanging_three_timeouts_costs_no_connection(
    make_site: Callable[..., Site], embedding_server: EmbeddingServer, timeout: int, rows: int
) -> None:
    """Positions are reported on a clock of their own, also when nothing more can be read.

    The changes do not fit into the memory, so that the server's buffers are full as well.
    """
    site = make_site(18)
    site.sql(DOCUMENTS)
    site.sql(f"alter database {site.name} set wal_sender_timeout = '{timeout}s'")
    site.configure(
        embedder=embedding_server.configuration,
        tables=WHOLE_TEXTS,
        more='[limits]\nmemory = "1MB"\n',
    )
    site.cli("setup")
    with watched(site), site.service() as service:
        streaming = sessions(site, "stream")
        embedding_server.faults(hang=60)
        for first in range(0, rows, 1000):
            site.sql(
                "insert into documents select i, 't', repeat('text ' || i, 500) "
                "from generate_series(%s, %s) i",
                first,
                first + 999,
            )
        wait_until(
            lambda: service.metric("cdc_embed_backpressure_active") == 1, "no more changes are read"
        )
        watch_for(3 * timeout, lambda: sessions(site, "stream") == streaming, "it stays", every=0.5)
        embedding_server.faults()
        expect_equal(site, service, 120)
        assert sessions(site, "stream") == streaming
        assert service.metric("cdc_embed_reconnects_total") == 0
        assert service.stop() == 0


@contextmanager
def locked(site: Site, table: str) -> Iterator[None]:
    """Nobody can read a table of ours."""
    with closing(site.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(f"lock table cdc_embed.{table} in access exclusive mode")
        yield


def wait_for_lock(site: Site) -> None:
    waiting = (
        "select count(*) from pg_stat_activity where application_name like %s "
        "and wait_event_type = 'Lock'"
    )
    wait_until(lambda: site.value(waiting, f"cdc_embed%{site.name}"), "the service waits")


def stop(service: RunningService, number: int = signal.SIGTERM) -> int:
    service.process.send_signal(number)
    return service.wait(20)


@pytest.mark.parametrize("table", ["checkpoint", "embedding_table"])
def test_stop_while_starting_ends_at_once(site: Site, table: str) -> None:
    """The first look at the target waits for a lock, so nothing is running yet."""
    with locked(site, table), site.service(wait=False, process=True) as service:
        wait_for_lock(site)
        assert stop(service) == 0
    with site.service() as service:
        expect_equal(site, service)


def test_stop_while_taking_over_ends_in_time(site: Site) -> None:
    """The slot is taken, and the look at what setup made waits for a lock."""
    site.configure(more='[limits]\ndrain_timeout = "1s"\n')
    with site.service(process=True) as first, site.service(wait=False, process=True) as service:
        service.wait_for("standby, the slot is in use")
        with locked(site, "embedding_table"):
            first.kill()
            wait_for_lock(site)
            assert stop(service) == 0


def test_stop_of_a_standby_or_without_a_source_ends_at_once(site: Site) -> None:
    with site.service(process=True) as leader, site.service(wait=False, process=True) as standby:
        standby.wait_for("standby, the slot is in use")
        epoch = site.checkpoint()["epoch"]
        assert stop(standby) == 0
        assert site.checkpoint()["epoch"] == epoch
        assert leader.alive
    with TcpProxy(site.server.port) as proxy:
        site.environment["CDC_EMBED_SOURCE__DSN"] = proxy.dsn(site.dsn)
        with site.service(process=True) as service:
            proxy.refuse()
            for _ in range(4):
                service.wait_for("connection lost")
            assert stop(service) == 0


def test_stop_in_a_backfill_drains_and_a_second_signal_does_not(
    make_site: Callable[..., Site], embedding_server: EmbeddingServer
) -> None:
    site = make_site(18)
    site.sql(DOCUMENTS)
    site.sql("insert into documents select i, 't', 'text ' || i from generate_series(1, 5000) i")
    site.configure(embedder=embedding_server.configuration)
    site.cli("setup")
    stored = "select count(*) from cdc_embed.documents_embedding"
    embedding_server.faults(hang=2)
    with site.service(process=True) as service:
        wait_until(lambda: site.value(stored) > 0, "some of it is stored")
        assert stop(service) == 0
    after_drain = site.value(stored)
    assert 0 < after_drain < 5000
    embedding_server.faults(hang=60)
    with site.service(process=True) as service:
        wait_until(lambda: embedding_server.counts()["in_flight"], "it embeds")
        service.process.send_signal(signal.SIGTERM)
        wait_until(lambda: service.status()["state"] == "draining", "it drains")
        assert stop(service) == 0, "the second signal"
    assert site.value(stored) == after_drain
    embedding_server.faults()
    with site.service() as service:
        wait_until(lambda: site.value(stored) == 5000, "the rest is stored")
        expect_equal(site, service)
