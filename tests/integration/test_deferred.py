"""Rows whose texts wait for the embedder, while everything else of their batches is written."""

from collections.abc import Callable
from typing import Any

import pytest

from cdc_embed.service.tolerance import Tolerance
from tests.embedder_site import ALWAYS, insert, letters, ready
from tests.invariant import recorded
from tests.site import EmbeddingServer, RunningService, Site, wait_until

TWO = '[[tables]]\nname = "other"\ntext = ["body"]\n'


@pytest.fixture
def site(make_site: Callable[..., Site], embedding_server: EmbeddingServer) -> Site:
    return ready(make_site(18), embedding_server)


def keys(site: Site) -> list[int]:
    return [key for (key,) in site.sql("select id from cdc_embed.documents_embedding order by id")]


def text_of(site: Site, key: int) -> Any:
    """The text whose vectors the row has now."""
    stored = "select chunk_text from cdc_embed.documents_embedding where id = %s"
    found = site.sql(stored, key)
    return found[0][0] if found else None


def wait_for_deferred(site: Site, *rows: int) -> None:
    wait_until(lambda: site.deferred() == list(rows), f"{rows} are deferred", 30)


def facts(service: RunningService) -> Any:
    return service.status()["tables"][0]


def test_a_text_the_service_fails_at_stops_no_other(
    site: Site, embedding_server: EmbeddingServer
) -> None:
    """260 rows, their deletes and another table go on; after a while the one is a letter."""
    site.sql("create table other (id bigint primary key, body text)")
    embedder = f'{embedding_server.configuration}\ntimeout = "1s"\n'
    documents = '[[tables]]\nname = "documents"\ntext = ["title", "body"]\n'
    site.configure(tables=documents + TWO, embedder=embedder)
    site.cli("setup")
    with site.service(tolerance=Tolerance(failing_text=6.0)) as service:
        service.wait_for("reconciled")
        embedding_server.faults(break_at=["poison"])
        insert(site, 1, 130)
        site.sql("insert into documents values (500, 't', 'poison')")
        insert(site, 131, 130)
        site.sql("insert into other values (1, 'text')")
        site.sql("delete from documents where id <= 10")
        wait_until(lambda: keys(site) == list(range(11, 261)), "all others are embedded", 15)
        other = "select count(*) from cdc_embed.other_embedding"
        wait_until(lambda: site.value(other) == 1, "the other table goes on")
        wait_for_deferred(site, 500)
        wait_until(lambda: facts(service)["deferred"] == 1, "status counts it", 15)
        assert service.metric("cdc_embed_deferred_documents", table="public.documents") == 1
        waiting = service.status()["waiting"]["deferred"]
        assert waiting.startswith("1 rows wait for the embedder: ")
        assert "unsupported value: NaN" in waiting
        assert service.status()["oldest_pending_age_seconds"] > 0.5
        wait_until(lambda: letters(site) == 1, "it is a letter", 40)
        assert site.value("select reason from cdc_embed.dead_letter") == "server_error"
        assert site.deferred() == []
        assert site.value("select count(*) from cdc_embed.documents_embedding where id = 500") == 0
        embedding_server.faults()
        wait_until(lambda: service.status()["oldest_pending_age_seconds"] == 0, "nothing waits", 15)
        site.cli("dlq", "retry", "--table", "public.documents")
        assert site.drift() == []


@pytest.mark.parametrize(("fault", "reason"), [("drop_at", "server_error"), ("forbid", "refused")])
def test_what_speaks_of_one_text_is_that_rows_letter(
    site: Site, embedding_server: EmbeddingServer, fault: str, reason: str
) -> None:
    """A connection that ends with one text, a firewall: all others are embedded."""
    with site.service(tolerance=Tolerance(failing_text=6.0)) as service:
        service.wait_for("reconciled")
        embedding_server.faults(**{fault: ["poison"]})
        insert(site, 1, 3)
        site.sql("insert into documents values (500, 't', 'poison')")
        insert(site, 4, 30)
        wait_until(lambda: keys(site) == list(range(1, 34)), "all others are embedded", 15)
        wait_until(lambda: letters(site) == 1, "it is a letter", 40)
        assert site.value("select reason from cdc_embed.dead_letter") == reason
        assert site.deferred() == []
        assert service.alive


def test_a_slow_text_is_deferred_and_embedded_once(
    make_site: Callable[..., Site], embedding_server: EmbeddingServer
) -> None:
    site = ready(make_site(18), embedding_server)
    site.config_path.write_text(site.config_path.read_text().replace('"1s"', '"30s"'))
    with site.service() as service:
        service.wait_for("reconciled")
        embedding_server.faults(slow=["slow"], slow_seconds=9.0)
        site.sql("insert into documents values (1, 't', 'slow')")
        wait_until(lambda: embedding_server.counts()["in_flight"], "it is in a call of its own")
        insert(site, 2, 20)
        wait_for_deferred(site, 1)
        wait_until(lambda: keys(site) == list(range(2, 22)), "no other waits", 1)
        service.settle(30)
        assert site.drift() == []
        assert embedding_server.counts()["by_text"]["t\n\nslow"] == 1


def outage_with_deletes(site: Site, server: EmbeddingServer, service: RunningService) -> None:
    """Rows 1 to 5 are stored; 1 is updated and 9 inserted in an outage, in which 2 is deleted."""
    service.wait_for("reconciled")
    insert(site, 1, 5)
    service.settle()
    server.faults(fail_next=ALWAYS, status=503)
    site.sql("update documents set body = 'new' where id = 1")
    site.sql("insert into documents values (9, 't', 'nine')")
    site.sql("delete from documents where id = 2")
    wait_for_deferred(site, 1, 9)


def test_deletes_do_not_wait_for_an_embedder_that_is_away(
    site: Site, embedding_server: EmbeddingServer
) -> None:
    with site.service() as service:
        outage_with_deletes(site, embedding_server, service)
        wait_until(lambda: keys(site) == [1, 3, 4, 5], "the row is gone", 8)
        assert text_of(site, 1) == "t\n\ntext 1", "the former vectors stay"
        end = insert(site, 20, 1)
        site.sql("delete from documents where id = 3")
        wait_until(lambda: recorded(site) >= end, "the position moves on", 8)
        verified = site.verify()
        table = verified["tables"][0]
        assert (verified["drift"], table["pending"]) == (0, 3)
        assert table["checked"] == 5 == table["fresh"] + table["pending"]
        embedding_server.faults()
        service.settle(60)
        assert site.drift() == []
        assert letters(site) == 0


def test_a_delete_that_may_not_be_read_yet_does_not_wait(
    site: Site, embedding_server: EmbeddingServer
) -> None:
    """The first change of a table since the start: the frame before it has no position, so the log
    is read on only when all before it is recorded."""
    site.sql("create table other (id bigint primary key, body text)")
    site.sql("insert into other values (1, 'text')")
    site.config_path.write_text(site.config_path.read_text() + TWO)
    site.cli("setup")
    with site.service() as service:
        service.wait_for("indexed")
        service.wait_for("indexed")
        embedding_server.faults(fail_next=ALWAYS, status=503)
        insert(site, 1, 1)
        site.sql("delete from other where id = 1")
        others = "select count(*) from cdc_embed.other_embedding"
        wait_until(lambda: site.value(others) == 0, "the row is gone", 15)
        assert site.deferred() == [1]


def test_what_was_deferred_is_embedded_after_a_kill(
    site: Site, embedding_server: EmbeddingServer
) -> None:
    with site.service(process=True) as service:
        outage_with_deletes(site, embedding_server, service)
        service.kill()
    site.wait_for_free_slot()
    assert site.deferred() == [1, 9]
    embedding_server.faults()
    with site.service() as service:
        service.settle(30)
        assert site.drift() == []


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ("update documents set body = 'text 3' where id = 1", [9]),
        ("delete from documents where id = 1", [9]),
        ("update documents set id = 7 where id = 1", [7, 9]),
        ("truncate documents", []),
    ],
)
def test_a_later_change_clears_a_deferred_row(
    site: Site, embedding_server: EmbeddingServer, change: str, left: list[int]
) -> None:
    """A text that is stored needs no embedding; a row that moves is deferred at its new key."""
    with site.service() as service:
        outage_with_deletes(site, embedding_server, service)
        site.sql(change)
        wait_for_deferred(site, *left)
        embedding_server.faults()
        service.settle(30)
        assert site.drift() == []


def test_a_deferred_row_proves_nothing_to_a_later_change(
    site: Site, embedding_server: EmbeddingServer
) -> None:
    """The text is out of line, so a change of another column does not carry it."""
    site.sql("alter table documents alter body set storage external")
    long = "left (repeat(md5(%s), 200), 5000)"
    with site.service() as service:
        service.wait_for("reconciled")
        site.sql(f"insert into documents values (1, 't', {long}), (3, 't', 'x')", "one")
        service.settle()
        embedding_server.faults(fail_next=ALWAYS, status=503)
        site.sql(f"update documents set body = {long} where id = 1", "two")
        site.sql("delete from documents where id = 3")
        wait_for_deferred(site, 1)
        site.sql("update documents set views = 1 where id = 1")
        site.sql("update documents set id = 2 where id = 1")
        wait_for_deferred(site, 2)
        embedding_server.faults()
        service.settle(30)
        assert site.verify()["drift"] == 0
        chunk = "select chunk_text from cdc_embed.documents_embedding where id = 2 and chunk = 1"
        assert site.value("select md5('two')") in site.value(chunk)


def test_a_backfill_goes_on_without_a_text_that_fails(
    site: Site, embedding_server: EmbeddingServer
) -> None:
    insert(site, 1, 300)
    site.sql("insert into documents values (500, 't', 'poison')")
    embedding_server.faults(break_at=["poison"])
    with site.service() as service:
        service.wait_for("reconciled")
        wait_until(lambda: keys(site) == list(range(1, 301)), "all others are embedded")
        wait_for_deferred(site, 500)
        wait_until(lambda: facts(service)["backfill_state"] == "done", "it is done")


def stopped_with_deferred_rows(site: Site, server: EmbeddingServer) -> None:
    """Rows 1 and 9 are deferred, and no service runs; the embedder is back."""
    with site.service() as service:
        outage_with_deletes(site, server, service)
        assert service.stop() == 0
    site.wait_for_free_slot()
    server.faults()


def test_a_deferred_row_follows_its_renamed_key(
    site: Site, embedding_server: EmbeddingServer
) -> None:
    stopped_with_deferred_rows(site, embedding_server)
    site.sql("alter table documents rename id to number")
    site.cli("setup")
    assert site.value("select array_agg(key ->> 'number' order by 1) from cdc_embed.deferred")
    with site.service() as service:
        service.settle()
        verified = site.verify()
        assert (verified["drift"], verified["tables"][0]["pending"]) == (0, 0)
        assert letters(site) == 0


def test_a_deferred_row_is_embedded_under_its_retyped_key(
    site: Site, embedding_server: EmbeddingServer
) -> None:
    stopped_with_deferred_rows(site, embedding_server)
    site.sql("alter table documents alter id type text")
    site.cli("setup")
    with site.service() as service:
        service.wait_for("reconciled")
        service.settle()
        assert site.verify()["drift"] == 0
        assert site.value("select count(*) from cdc_embed.deferred") == 0


def test_deferred_rows_survive_a_lost_slot_and_a_rebuild(
    site: Site, embedding_server: EmbeddingServer
) -> None:
    stopped_with_deferred_rows(site, embedding_server)
    site.sql("update cdc_embed.deferred set xid = 1 << 30")  # of a server that was replaced
    site.sql("select pg_drop_replication_slot(%s)", site.name)
    site.cli("setup", "--rebuild")
    with site.service() as service:
        service.wait_for("reconciled")
        service.settle()
        assert site.drift() == []


def test_deferred_rows_of_a_table_that_is_back_are_embedded(
    site: Site, embedding_server: EmbeddingServer
) -> None:
    """It leaves the publication while its rows wait, and comes back."""
    with site.service() as service:
        outage_with_deletes(site, embedding_server, service)
        site.sql("alter publication cdc_embed drop table documents")
        wait_until(lambda: facts(service)["problem"], "it is paused", 15)
        embedding_server.faults()
        site.sql("alter publication cdc_embed add table documents")
        wait_until(lambda: not facts(service)["problem"], "it is back", 15)
        service.settle()
        wait_until(lambda: site.drift() == [], "every row is as the source is")


def test_a_table_that_is_configured_no_more_has_no_deferred_rows(
    site: Site, embedding_server: EmbeddingServer
) -> None:
    stopped_with_deferred_rows(site, embedding_server)
    configured = site.config_path.read_text()
    site.sql("create table other (id bigint primary key, body text)")
    embedder = f'{embedding_server.configuration}\ntimeout = "1s"\n'
    site.configure(tables=TWO, embedder=embedder)
    site.cli("setup")
    with site.service() as service:
        service.wait_for("reconciled")
        wait_until(lambda: site.deferred() == [], "nothing waits of a table that nobody follows")
        assert service.stop() == 0
    site.wait_for_free_slot()
    site.config_path.write_text(configured)
    site.cli("setup")
    with site.service() as service:
        service.wait_for("reconciled")
        service.settle()
        assert site.drift() == []


def test_a_standby_embeds_what_the_leader_deferred(
    site: Site, embedding_server: EmbeddingServer
) -> None:
    with site.service(process=True) as leader, site.service(wait=False) as standby:
        outage_with_deletes(site, embedding_server, leader)
        embedding_server.faults()
        leader.kill()
        standby.settle(60)
        assert site.drift() == []
