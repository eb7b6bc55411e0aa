"""Nothing is confirmed before it is committed, and nothing is lost when the process is killed."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from cdc_embed.flow.confirm import Confirmation
from cdc_embed.lsn import LSN
from cdc_embed.service.instance import Instance
from cdc_embed.source.slot import SlotCatalogue
from cdc_embed.source.stream import Stream
from tests.invariant import confirmed, watched
from tests.quiet import let_pass
from tests.servers import Servers
from tests.site import DOCUMENTS, EmbeddingServer, Site, wait_until


def test_slot_never_passes_the_commits_and_kill_loses_nothing(
    make_site: Callable[..., Site], version: int, embedding_server: EmbeddingServer
) -> None:
    """A slow embedder, an interleaved long transaction, pings of the server, then kill -9."""
    site = make_site(version)
    site.sql(f"alter database {site.name} set wal_sender_timeout = '4s'")
    site.sql(DOCUMENTS)
    site.configure(embedder=embedding_server.configuration)
    site.cli("setup")
    embedding_server.faults(hang=3)
    with watched(site):
        with site.service(process=True) as service:
            long = site.connect()
            with long.cursor() as cursor:
                cursor.execute(
                    "insert into documents select i, 'long', 'long ' || i "
                    "from generate_series(1000, 3000) i"
                )
                for number in range(1, 9):
                    site.sql(
                        "insert into documents values (%s, 'small', %s)", number, f"s {number}"
                    )
                    let_pass(0.2)
                wait_until(lambda: embedding_server.texts() > 0, "the embedder is busy")
                long.commit()
                for number in range(9, 13):
                    site.sql(
                        "insert into documents values (%s, 'small', %s)", number, f"s {number}"
                    )
            long.close()
            wait_until(
                lambda: site.value("select count(*) from cdc_embed.documents_embedding") > 4,
                "some batches are committed",
            )
            service.kill()
        committed = site.value("select count(*) from cdc_embed.documents_embedding")
        assert committed < 2013, "killed in the middle"
        wait_until(
            lambda: embedding_server.counts()["in_flight"] == 0, "the killed process's requests end"
        )
        time_of_kill = embedding_server.counts()["by_text"]
        embedding_server.reset()
        with site.service() as service:
            service.settle(120)
            assert service.stop() == 0
        stored = site.value("select count(distinct id) from cdc_embed.documents_embedding")
        assert stored == 2013
    again = embedding_server.counts()["by_text"]
    assert len(again) == 2013 - committed, "embedded again only what was not committed"
    assert max(again.values()) == 1
    assert set(time_of_kill) | set(again) >= {f"small\n\ns {n}" for n in range(1, 13)}


def test_clean_stop_confirms_all_and_restart_embeds_nothing(
    site: Site, embedding_server: EmbeddingServer
) -> None:
    site.cli("teardown", "--yes")
    site.configure(embedder=embedding_server.configuration)
    site.cli("setup")
    with site.service() as service:
        site.sql("insert into documents select i, 't', 'text ' || i from generate_series(1,200) i")
        service.settle()
        assert service.stop() == 0
    assert confirmed(site) >= LSN.parse(site.checkpoint()["end_lsn"])
    embedding_server.reset()
    with site.service() as service:
        service.settle()
        assert embedding_server.texts() == 0
        assert site.drift() == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_kill_around_the_commit_embeds_nothing_stored_twice(
    site: Site, embedding_server: EmbeddingServer, when: str
) -> None:
    site.cli("teardown", "--yes")
    site.configure(embedder=embedding_server.configuration)
    site.cli("setup")
    embedding_server.reset()
    with site.service(process=True) as service:
        if when == "before":
            lock = site.connect()
            with lock.cursor() as cursor:
                cursor.execute("lock table cdc_embed.documents_embedding in share mode")
            site.sql("insert into documents values (1, 't', 'text')")
            wait_until(lambda: embedding_server.texts() == 1, "embedded")
            service.kill()
            lock.rollback()
            lock.close()
        else:
            site.sql("insert into documents values (1, 't', 'text')")
            wait_until(
                lambda: site.value("select count(*) from cdc_embed.documents_embedding"), "stored"
            )
            service.kill()
    embedding_server.reset()
    with site.service() as service:
        service.settle()
        assert site.drift() == []
    assert embedding_server.texts() == (1 if when == "before" else 0)


def test_lost_connections_lose_nothing_and_repeat_no_done_work(
    site: Site, embedding_server: EmbeddingServer
) -> None:
    """The walsender is ended twice a second while rows change; every batch in flight survives."""
    site.cli("teardown", "--yes")
    site.configure(embedder=embedding_server.configuration)
    site.cli("setup")
    embedding_server.reset()
    with watched(site), site.service() as service:
        for number in range(1, 41):
            site.sql("insert into documents values (%s, 't', %s)", number, f"text {number}")
            if number % 4 == 0:
                site.sql(
                    "select pg_terminate_backend(active_pid) from pg_replication_slots "
                    "where slot_name = %s and active_pid is not null",
                    site.name,
                )
            let_pass(0.1)
        service.settle(60)
        assert site.drift() == []
        assert max(embedding_server.counts()["by_text"].values()) == 1
        assert service.metric("cdc_embed_reconnects_total") > 0
        assert service.stop() == 0


def test_source_restart_is_survived(servers: Servers, tmp_path: Path) -> None:
    with servers.own(18) as server:
        site = Site(server, "restarted", tmp_path)
        site.sql(DOCUMENTS)
        site.configure()
        site.cli("setup")
        with site.service() as service:
            for mode in ("fast", "immediate"):
                site.sql("insert into documents values (%s, 't', %s)", len(mode), mode)
                site.close()
                server.restart(mode)
                service.wait_for("streaming", 60)
            site.sql("insert into documents values (1, 't', 'after')")
            service.settle()
            assert site.drift() == []
            assert service.stop() == 0
        site.close()


def check_too_late(stream: Stream, check: Callable[[Stream], None] = Stream.check_sentinel) -> None:
    """See the sentinel's end only when nothing can be forwarded any more."""
    if not stream._guard.forwards:
        check(stream)


@pytest.mark.parametrize("warning", ["in time", "late"])
def test_idle_restart_of_the_source_is_no_history_gap(
    warning: str, servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopping server asks the reading cursor for a reply: it must not confirm what is new.

    The sentinel warns of it on another connection, which can be read too late, and before the
    anchor has come.
    """
    if warning == "late":
        monkeypatch.setattr(Stream, "check_sentinel", check_too_late)
        monkeypatch.setattr(SlotCatalogue, "anchor", lambda _: None)
    with servers.own(18) as server:
        site = Site(server, "idle", tmp_path)
        site.sql(DOCUMENTS)
        site.configure()
        site.cli("setup")
        site.sql("create table other (x int)")
        with site.service() as service:
            for _ in range(3):
                site.sql("insert into other select generate_series(1, 100)")
                site.close()
                server.restart("fast")
                service.wait_for("streaming", 60)
            service.settle()
            assert service.stop() == 0
        with site.service() as service:
            service.settle()
            assert service.stop() == 0
        site.close()


def test_a_stop_of_the_source_at_once_confirms_nothing_new(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even if the warning is late, nothing is recorded in time, and the service remembers
    nothing, as after a kill: the driver has nothing to answer with."""
    monkeypatch.setattr(Stream, "check_sentinel", check_too_late)
    monkeypatch.setattr(Confirmation, "record", lambda *_, **__: None)
    monkeypatch.setattr(Instance, "has_lost_nothing", lambda *_: False)
    with servers.own(18) as server:
        site = Site(server, "idle", tmp_path)
        site.sql(DOCUMENTS)
        site.configure()
        site.cli("setup")
        site.sql("create table other (x int)")
        for _ in range(3):
            site.sql("insert into other select generate_series(1, 100)")
            site.close()
            with site.service() as service:
                server.restart("fast")
                service.wait_for("streaming", 60)
                assert service.stop() == 0
        site.close()


def test_second_instance_takes_over_and_the_first_cannot_write(
    site: Site, embedding_server: EmbeddingServer
) -> None:
    """The leader is paused; its slot is taken; when it wakes up its writes are fenced off."""
    site.cli("teardown", "--yes")
    site.configure(embedder=embedding_server.configuration)
    site.cli("setup")
    with site.service(process=True) as first, site.service(wait=False, process=True) as second:
        second.wait_for("standby, the slot is in use")
        site.sql("insert into documents values (1, 't', 'text 1')")
        first.settle()
        epoch = site.checkpoint()["epoch"]
        first.process.send_signal(signal.SIGSTOP)
        try:
            site.sql(
                "select pg_terminate_backend(active_pid) from pg_replication_slots "
                "where slot_name = %s",
                site.name,
            )
            second.wait_for("streaming")
            taken = site.checkpoint()["epoch"]
            assert taken > epoch
            site.sql("update documents set body = 'text 2'")
            second.settle()
        finally:
            first.process.send_signal(signal.SIGCONT)
        first.wait_for("standby, the slot is in use")
        site.sql("update documents set body = 'text 3'")
        second.settle()
        assert site.drift() == []
        assert site.checkpoint()["epoch"] == taken
        assert (first.stop(), second.stop()) == (0, 0)


def test_stop_ends_in_time_even_when_the_target_waits_for_ever(site: Site) -> None:
    site.configure(more='[limits]\ndrain_timeout = "1s"\n')
    with site.service(process=True) as service:
        lock = site.connect()
        with lock.cursor() as cursor:
            cursor.execute("lock table cdc_embed.documents_embedding in access exclusive mode")
        site.sql("insert into documents values (1, 't', 'text')")
        waiting = "select count(*) from pg_locks where not granted"
        wait_until(lambda: site.value(waiting), "the service waits for the lock")
        assert service.stop() == 0
        lock.rollback()
        lock.close()
    with site.service() as service:
        service.settle()
        assert site.drift() == []


def test_separate_target_database(make_site: Callable[..., Site]) -> None:
    target = make_site(16)
    source = make_site(18, target=target)
    source.sql(DOCUMENTS)
    source.configure()
    source.cli("setup")
    assert source.value("select to_regnamespace('cdc_embed') is null")
    with source.service() as service:
        source.sql(
            "insert into documents select i, 't', 'text ' || i from generate_series(1,100) i"
        )
        source.sql("update documents set id = id + 1000 where id <= 50")
        source.sql("delete from documents where id between 60 and 70")
        service.settle()
        assert source.drift() == []
        assert service.stop() == 0
    source.cli("teardown", "--yes")
    assert target.value("select to_regnamespace('cdc_embed') is null")
