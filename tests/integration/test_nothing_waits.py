"""Nothing but a text waits for an embedder: neither what is behind it nor who reads rows."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial

import pytest

from tests.embedder_site import ALWAYS, insert, letters, ready, stored, wait_for_trouble
from tests.invariant import recorded
from tests.own_process import COMMAND
from tests.preparations import preparations
from tests.quiet import let_pass, watch_for
from tests.site import EmbeddingServer, RunningService, Site, columns, wait_until

WITH_VIEWS = '[[tables]]\nname = "documents"\ntext = ["title", "body"]\nmetadata = ["views"]\n'
OTHER = '[[tables]]\nname = "other"\ntext = ["body"]\n'
LITTLE = '[limits]\nmemory = "1MB"\n[index]\nkind = "none"\n'
AWAY = {"fail_next": ALWAYS, "status": 503}
SECONDS = 25.0
"""Seconds after which nothing but a text may still wait."""


def gone(site: Site, key: int, table: str = "documents") -> Callable[[], bool]:
    found = f"select 1 from cdc_embed.{table}_embedding where id = %s"
    return lambda: not site.sql(found, key)


def load(site: Site, first: int, count: int) -> None:
    """New rows of 3 kB each: 1,000 of them are three times what the memory takes."""
    site.sql(
        "insert into documents select i, 't', repeat(md5(i::text), 100) "
        "from generate_series(%s, %s) i",
        first,
        first + count - 1,
    )


@contextmanager
def outage(site: Site, server: EmbeddingServer, *, rows: int = 5) -> Iterator[RunningService]:
    """Some rows are stored; then the embedder is away, and one new row waits for it."""
    with site.service() as service:
        service.wait_for("reconciled")
        insert(site, 1, rows)
        service.settle()
        server.faults(**AWAY)
        insert(site, 100, 1)
        wait_for_trouble(service)
        yield service


def configured(site: Site, server: EmbeddingServer, tables: str, embedder: str = "") -> Site:
    site.configure(
        embedder=f'{server.configuration}\ntimeout = "1s"\n{embedder}',
        tables=tables,
        more='[index]\nkind = "none"\n',
    )
    site.cli("setup")
    return site


# -- what is behind a text ------------------------------------------------------------------------


def test_a_delete_behind_a_full_memory_does_not_wait(
    make_site: Callable[..., Site], embedding_server: EmbeddingServer
) -> None:
    """Nobody knows what waits in the log: new rows are deferred, so that it is read on."""
    site = ready(make_site(18), embedding_server, more=LITTLE)
    with outage(site, embedding_server) as service:
        load(site, 1000, 1000)
        site.sql("delete from documents where id = 1")
        end = insert(site, 200, 1)
        wait_until(gone(site, 1), "the row is gone", SECONDS)
        wait_until(lambda: recorded(site) >= end or site.deferred(), "rows are deferred")
        assert service.metric("cdc_embed_pending_bytes") < 1_300_000
        embedding_server.faults()
        service.settle(120)
        assert letters(site) == 0
        distinct = "select count(distinct id) from cdc_embed.documents_embedding"
        assert site.value(distinct) == 1006


def test_a_bulk_load_waits_in_the_log_for_a_slow_embedder(
    make_site: Callable[..., Site], embedding_server: EmbeddingServer
) -> None:
    """It takes texts, 64 in 1.5 s: that is back pressure, and no outage."""
    site = ready(make_site(18), embedding_server, "max_batch = 16", more=LITTLE)
    site.config_path.write_text(site.config_path.read_text().replace('"1s"', '"30s"'))
    with site.service() as service:
        service.wait_for("reconciled")
        insert(site, 1, 1)
        service.settle()
        embedding_server.faults(hang=1.5)
        load(site, 1000, 1200)
        full = "cdc_embed_backpressure_active"
        wait_until(lambda: service.metric(full) == 1, "memory is full")
        watch_for(12, lambda: site.deferred() == [], "no row is deferred", every=0.5)
        assert service.metric("cdc_embed_backpressure_seconds_total") > 5
        assert 1 < stored(site) < 1201


def test_metadata_and_skips_do_not_wait_for_an_absent_embedder(
    make_site: Callable[..., Site], embedding_server: EmbeddingServer
) -> None:
    site = configured(ready(make_site(18), embedding_server), embedding_server, WITH_VIEWS)
    views = "select views from cdc_embed.documents_embedding where id = 1"
    with outage(site, embedding_server):
        site.sql("update documents set views = 7 where id = 1")
        wait_until(lambda: site.value(views) == 7, "the metadata is stored", SECONDS)
        insert(site, 101, 1)
        site.sql("update documents set body = body where id = 2")
        site.sql("update documents set title = null, body = null where id = 3")
        end = insert(site, 102, 1)
        site.sql("update documents set body = body where id = 4")
        wait_until(lambda: recorded(site) >= end, "the position moves on", SECONDS)
        assert gone(site, 3)(), "a row without a text has no vector"
        assert site.deferred() == [100, 101, 102]


def test_a_lost_connection_is_made_again_in_an_outage(
    make_site: Callable[..., Site], embedding_server: EmbeddingServer
) -> None:
    """The new row in flight is deferred: nobody knows what waits in the log behind it."""
    site = ready(make_site(18), embedding_server)
    walsender = "select active_pid from pg_replication_slots where slot_name = %s"
    with outage(site, embedding_server) as service:
        lost = site.value(walsender, site.name)
        site.sql("select pg_terminate_backend(%s)", lost)
        wait_until(lambda: site.value(walsender, site.name) not in (lost, None), "again", SECONDS)
        site.sql("delete from documents where id = 1")
        wait_until(gone(site, 1), "the row is gone", SECONDS)
        assert site.deferred() == [100]
        embedding_server.faults()
        service.settle(60)
        assert letters(site) == 0


@pytest.mark.parametrize("refuse", ["break_at", "refuse", "nan", "slow"])
def test_one_tables_text_holds_up_no_other_table(
    make_site: Callable[..., Site], embedding_server: EmbeddingServer, refuse: str
) -> None:
    """One call at a time: each row of the other table is fresh within seconds all the same."""
    site = make_site(18)
    site.sql("create table other (id bigint primary key, body text)")
    ready(site, embedding_server)
    configured(site, embedding_server, WITH_VIEWS + OTHER, "concurrency = 1")
    with site.service() as service:
        service.wait_for("reconciled")
        insert(site, 1, 1)
        site.sql("insert into other values (0, 'first')")
        service.settle()
        embedding_server.faults(**{refuse: ["poison"]}, slow_seconds=60.0)
        site.sql("insert into documents select i, 'poison', 'x' || i from generate_series(5, 9) i")
        for number in range(1, 6):
            site.sql("insert into other values (%s, 'text ' || %s)", number, number)
            fresh = f"select 1 from cdc_embed.other_embedding where id = {number}"
            wait_until(partial(site.sql, fresh), f"row {number} is fresh", 12)
            let_pass(1)
        embedding_server.faults()
        service.settle(60)


# -- who reads rows -------------------------------------------------------------------------------


@pytest.fixture
def site(make_site: Callable[..., Site], embedding_server: EmbeddingServer) -> Site:
    return configured(ready(make_site(18), embedding_server), embedding_server, WITH_VIEWS)


def ends_in_time(site: Site, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a command beside the service; fail if it waits for the embedder."""
    began = time.monotonic()
    ended = site.cli(*arguments)
    assert time.monotonic() - began < SECONDS, ended
    return ended


def test_verify_does_not_wait_for_the_embedder(
    site: Site, embedding_server: EmbeddingServer
) -> None:
    with outage(site, embedding_server):
        assert '"pending": 1' in ends_in_time(site, "verify", "--json").stdout
        assert site.deferred() == [100]


def test_orphans_go_while_the_embedder_is_away(
    site: Site, embedding_server: EmbeddingServer
) -> None:
    """A vector whose row was deleted while nothing ran; a comparison finds it."""
    with outage(site, embedding_server):
        site.sql(
            "insert into cdc_embed.documents_embedding select (jsonb_populate_record(e, "
            "'{\"id\": 77}')).* from cdc_embed.documents_embedding e where id = 1"
        )
        ends_in_time(site, "backfill")
        assert gone(site, 77)()


def test_a_letter_that_needs_no_text_is_retried_in_an_outage(
    site: Site, embedding_server: EmbeddingServer
) -> None:
    """The database refused a value of metadata, and takes it now; the vectors are there."""
    name = "alter table cdc_embed.documents_embedding"
    site.sql(f"{name} add constraint low check (views < 100)")
    insert(site, 1, 5)
    site.sql("update documents set views = 100 where id = 3")
    with outage(site, embedding_server, rows=0):
        assert letters(site) == 1
        site.sql(f"{name} drop constraint low")
        ends_in_time(site, "dlq", "retry", "--table", "public.documents")
        assert letters(site) == 0
        assert site.value("select views from cdc_embed.documents_embedding where id = 3") == 100


def test_a_backfill_in_an_outage_does_not_hold_up_a_retry(
    site: Site, embedding_server: EmbeddingServer
) -> None:
    """Rows that wait for the embedder are handed back: their reader has more to do."""
    name = "alter table cdc_embed.documents_embedding"
    site.sql(f"{name} add constraint low check (views < 100)")
    insert(site, 1, 5)
    site.sql("update documents set views = 100 where id = 3")
    with site.service() as service:
        service.wait_for("reconciled")
        service.settle()
        site.sql("delete from cdc_embed.documents_embedding where id = 5")
        embedding_server.faults(**AWAY)
        site.sql(f"{name} drop constraint low")
        filling = subprocess.Popen(
            [*COMMAND, "-c", str(site.config_path), "backfill"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **site.environment},
        )
        wait_for_trouble(service)
        ends_in_time(site, "dlq", "retry", "--table", "public.documents")
        assert letters(site) == 0
        assert filling.poll() is None
        embedding_server.faults()
        assert filling.wait(60) == 0


# -- a batch that is prepared again ---------------------------------------------------------------


def has_read(service: RunningService, op: str, changes: int) -> bool:
    return service.metric("cdc_embed_changes_received_total", op=op) == changes


def test_deletes_behind_a_batch_prepared_again_do_not_wait(
    site: Site, embedding_server: EmbeddingServer
) -> None:
    """Its text was stored, until somebody else took it away; the embedder is away."""
    with preparations() as prepared, site.service() as service:
        service.wait_for("reconciled")
        insert(site, 1, 4)
        service.settle()
        end = insert(site, 5, 1)
        site.sql("update documents set body = body where id = 4")  # recorded, so end is, too
        wait_until(lambda: recorded(site) >= end, "reading on waits for nothing")
        embedding_server.faults(**AWAY)
        with closing(site.connect()) as other, other.cursor() as cursor:
            cursor.execute("lock table cdc_embed.checkpoint in access exclusive mode")
            before = len(prepared)
            site.sql("insert into documents select 50, title, body from documents where id = 1")
            wait_until(partial(has_read, service, "insert", 6), "the row is read")
            site.sql("delete from documents where id = 2")
            wait_until(partial(has_read, service, "delete", 1), "the delete is read")
            wait_until(lambda: len(prepared) >= before + 2, "both batches are planned")
            cursor.execute("delete from cdc_embed.documents_embedding where id = 1")
            other.commit()
        again = "batch is prepared again"
        wait_until(lambda: service.times(again), again)
        wait_until(gone(site, 2), "the row is gone", SECONDS)
        ids = "select id from cdc_embed.documents_embedding order by 1"
        assert columns(site.sql(ids)) == [3, 4, 5]
        assert site.deferred() == [50]
