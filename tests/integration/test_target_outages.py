"""A target that is away: nothing is lost, nothing is confirmed too early, and it is said."""

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from cdc_embed.demo.postgres import EmbeddedPostgres
from tests.invariant import confirmed, recorded, watched
from tests.servers import Servers
from tests.site import DOCUMENTS, EmbeddingServer, RunningService, Site, wait_until
from tests.tcp_proxy import TcpProxy


@pytest.fixture(scope="module")
def server(servers: Servers) -> Iterator[EmbeddedPostgres]:
    """The target's server: nobody else's, so that it may be stopped."""
    with servers.own(18) as server:
        yield server


@pytest.fixture
def pair(
    make_site: Callable[..., Site],
    server: EmbeddedPostgres,
    embedding_server: EmbeddingServer,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Iterator[Site]:
    """A source on 16 that has five seconds of patience with its reader; texts are counted."""
    server.start()
    target = Site(server, f"t{os.getpid()}_{abs(hash(request.node.name))}", tmp_path)
    source = make_site(16, target=target)
    source.sql(DOCUMENTS)
    source.configure(
        embedder=embedding_server.configuration,
        tables='[[tables]]\nname = "documents"\ntext = ["title", "body"]\n'
        "chunk = { max_tokens = 100000 }\n",
        more='[limits]\nmemory = "1MB"\ndrain_timeout = "1s"\n',
    )
    source.environment["CDC_EMBED_SOURCE__DSN"] = (
        f"{source.dsn}?options=-c%20wal_sender_timeout%3D5s"
    )
    source.cli("setup")
    embedding_server.reset()
    yield source
    target.close()


@pytest.fixture
def target(pair: Site) -> Site:
    assert pair.target is not None
    return pair.target


def reader(site: Site) -> int | None:
    """The process that serves the stream."""
    statement = "select active_pid from pg_replication_slots where slot_name = %s"
    pid: int | None = site.value(statement, site.name)
    return pid


def waits_for_target(service: RunningService) -> str:
    return str(service.status()["waiting"].get("target", ""))


def test_long_target_outage_costs_no_change_and_no_connection(
    pair: Site, target: Site, server: EmbeddedPostgres, embedding_server: EmbeddingServer
) -> None:
    """Longer than the server's patience with a silent reader, with more than memory holds."""
    with watched(pair), pair.service() as service:
        service.wait_for("indexed")
        pair.sql("insert into documents values (0, 't', 'text 0')")
        service.settle()
        stream, before = reader(pair), recorded(pair)
        assert stream is not None
        target.close()
        server.stop()
        pair.sql(
            "insert into documents select i, 't', 'text ' || i || repeat(' word', 1600) "
            "from generate_series(1, 300) i"
        )
        wait_until(lambda: "refused" in waits_for_target(service), "it says so")
        wait_until(lambda: service.metric("cdc_embed_backpressure_active"), "memory is full")
        since = pair.value("select now()")
        wait_until(lambda: pair.value("select now() > %s + interval '7 s'", since), "an outage")
        assert reader(pair) == stream
        assert confirmed(pair) <= before
        server.start()
        service.settle(60)
        assert pair.drift() == []
        assert set(embedding_server.counts()["by_text"].values()) == {1}
        assert service.metric("cdc_embed_reconnects_total") == 0
        assert service.status()["waiting"] == {}
        assert service.stop() == 0


def test_target_that_restarts_under_load_is_written_to_again(
    pair: Site, target: Site, server: EmbeddedPostgres, embedding_server: EmbeddingServer
) -> None:
    """A crash and a shutdown in the middle of batches; what was embedded is not embedded again."""
    with watched(pair), pair.service() as service:
        service.wait_for("indexed")
        stored = 0
        for mode in ("immediate", "fast"):
            pair.sql(
                "insert into documents select %s + i, 't', %s || i from generate_series(1, 600) i",
                stored * 10,
                mode,
            )
            wait_until(partial(documents, target, stored), "some batches are committed")
            target.close()
            server.restart(mode)
            service.settle(60)
            stored = documents(target)
        assert stored == 1200
        assert pair.drift() == []
        assert set(embedding_server.counts()["by_text"].values()) == {1}
        assert service.metric("cdc_embed_errors_total", stage="target") > 0
        assert service.stop() == 0


def documents(target: Site, more_than: int = 0) -> int:
    """Count the stored documents; 0 if they are not more than so many."""
    count: int = target.value("select count(*) from cdc_embed.documents_embedding")
    return count if count > more_than else 0


def test_stop_start_and_kill_without_the_target_lose_nothing(
    pair: Site, target: Site, server: EmbeddedPostgres
) -> None:
    with watched(pair):
        with pair.service(process=True) as service:
            service.wait_for("indexed")
            service.settle()
            target.close()
            server.stop()
            pair.sql("insert into documents values (1, 't', 'before the stop')")
            wait_until(lambda: waits_for_target(service), "it says so")
            stop_in_time(service)
        stands = confirmed(pair)
        refused = pair.cli("run", "--no-wait", expect=75)
        assert "target database" in refused.stderr
        assert "target.dsn" in refused.stderr, "what to do"
        assert confirmed(pair) == stands
        server.start()
        with pair.service(process=True) as service:
            service.settle()
            assert pair.drift() == []
            target.close()
            server.stop()
            pair.sql("insert into documents values (2, 't', 'before the kill')")
            wait_until(lambda: waits_for_target(service), "it says so")
            service.kill()
        server.start()
        with pair.service() as service:
            service.settle()
            assert pair.drift() == []
            assert service.stop() == 0


def test_standby_that_takes_over_waits_for_a_target_that_is_away(
    pair: Site, target: Site, server: EmbeddedPostgres
) -> None:
    with (
        watched(pair),
        pair.service(process=True) as first,
        pair.service(wait=False, process=True) as second,
    ):
        second.wait_for("standby, the slot is in use")
        first.settle()
        target.close()
        server.stop()
        pair.sql("insert into documents values (1, 't', 'text')")
        stands = confirmed(pair)
        first.kill()
        assert "target" in second.wait_for("connection lost")["reason"]
        assert confirmed(pair) == stands
        server.start()
        second.wait_for("streaming", 60)
        second.settle()
        assert pair.drift() == []
        assert second.stop() == 0


@pytest.mark.long
def test_long_outage_makes_the_service_unready_until_it_ends(
    pair: Site, target: Site, server: EmbeddedPostgres
) -> None:
    with pair.service() as service:
        service.wait_for("indexed")
        service.settle()
        assert service.get("/readyz") == "ok\n"
        target.close()
        server.stop()
        pair.sql("insert into documents values (1, 't', 'text')")
        told = wait_until(lambda: service.unready(), "it is not ready", 90)
        assert "target" in told
        assert service.get("/livez") == "ok\n"
        server.start()
        service.settle(60)
        assert service.get("/readyz") == "ok\n"
        assert service.stop() == 0


@pytest.fixture
def proxy(pair: Site, target: Site, server: EmbeddedPostgres) -> Iterator[TcpProxy]:
    """The service reaches the target through it."""
    with TcpProxy(server.port) as proxy:
        pair.environment["CDC_EMBED_TARGET__DSN"] = proxy.dsn(target.dsn)
        yield proxy


@pytest.mark.parametrize("how", ["stall", pytest.param("vanish", marks=pytest.mark.long)])
def test_stop_ends_in_time_when_the_target_does_not_answer(
    pair: Site, proxy: TcpProxy, how: str
) -> None:
    """It accepts and says nothing, or it is gone without a word: a cancel would wait for ever."""
    with watched(pair):
        with pair.service(process=True) as service:
            service.wait_for("indexed")
            service.settle()
            getattr(proxy, how)()
            pair.sql("insert into documents values (1, 't', 'text')")
            if how == "vanish":  # connections are being made when the stop comes
                wait_until(lambda: "timeout" in waits_for_target(service), "it says so", 60)
            stop_in_time(service)
        proxy.resume()
        with pair.service() as service:
            service.settle()
            assert pair.drift() == []
            assert service.stop() == 0


def stop_in_time(service: RunningService) -> None:
    began = time.monotonic()
    assert service.stop() == 0
    assert time.monotonic() - began < 10, "the drain timeout is a second"


def test_stop_is_heard_while_the_start_waits_for_the_target(pair: Site, proxy: TcpProxy) -> None:
    """A thread that is in a statement runs no signal handler."""
    waits = proxy.stall_at(b"cdc_embed reader", b"set epoch = epoch + 1", lost=True)
    with pair.service(wait=False, process=True) as service:
        assert waits.wait(30)
        stop_in_time(service)
    proxy.cut()
    with pair.service() as service:
        service.settle()
        assert service.stop() == 0


def test_stop_ends_in_time_when_a_table_of_the_target_is_locked(pair: Site, target: Site) -> None:
    """The watch counts the rows of the tables, so it waits for the lock too."""
    lock = target.connect()
    waits = (
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock' "
        f"and application_name = 'cdc_embed {pair.name}'"
    )
    with pair.service(process=True) as service:
        service.settle()
        lock.cursor().execute("lock table cdc_embed.documents_embedding in access exclusive mode")
        wait_until(lambda: target.value(waits), "the rows are counted")
        stop_in_time(service)
    lock.close()


def test_kill_before_anything_could_be_recorded_is_no_gap(pair: Site, target: Site) -> None:
    """The start waits for so long that the server asks for an answer, and a full disk lets nothing
    be recorded. The driver would answer by itself with a position that nobody has recorded."""
    patience = 4
    pair.environment["CDC_EMBED_SOURCE__DSN"] = (
        f"{pair.dsn}?options=-c%20wal_sender_timeout%3D{patience}s"
    )
    pair.sql("create table other (x int)")
    pair.sql("insert into other select generate_series(1, 1000)")
    target.sql(
        "create function full_disk() returns trigger language plpgsql as "
        "$$ begin raise 'full' using errcode = '53100'; end $$"
    )
    target.sql(
        "create trigger full_disk after update on cdc_embed.checkpoint for each row "
        "when (old.epoch = new.epoch) execute function full_disk()"
    )
    lock = target.connect()
    waits = "select count(*) from pg_locks where not granted"
    with watched(pair):
        lock.cursor().execute("lock table cdc_embed.checkpoint in exclusive mode")
        with pair.service(wait=False, process=True) as service:
            wait_until(lambda: target.value(waits), "the start waits")
            lock.cursor().execute("select pg_sleep(%s)", (0.7 * patience,))
            lock.close()
            service.wait_for("streaming")
            wait_until(lambda: "full" in waits_for_target(service), "nothing can be recorded")
            service.kill()
        target.sql("drop trigger full_disk on cdc_embed.checkpoint")
        with pair.service() as service:
            service.settle()
            assert service.stop() == 0
