"""Rows that are there already are embedded: each text once, beside everything that is written."""

import json
import threading
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

import pytest

from cdc_embed.config.sections import EmbedderConfig
from cdc_embed.embed.http import HttpEmbedder
from tests.site import DOCUMENTS, EmbeddingServer, RunningService, Site, wait_until

STORED = "select count(distinct id) from cdc_embed.documents_embedding"
STORED_ROW = "select from cdc_embed.documents_embedding where id = %(new)s"
HNSW = """
select i.indisvalid from pg_index i
join pg_class c on c.oid = i.indexrelid join pg_am a on a.oid = c.relam and a.amname = 'hnsw'
where i.indrelid = 'cdc_embed.documents_embedding'::regclass
"""
TWO_TABLES = """
[[tables]]
name = "documents"
text = ["title", "body"]
[[tables]]
name = "notes"
text = ["title", "body"]
"""
MANUAL = '[backfill]\nstart = "manual"\n'


def fill(site: Site, rows: int, table: str = "documents") -> None:
    """A table with rows that no change log carries."""
    site.sql(DOCUMENTS.replace("documents", table))
    site.sql(
        f"insert into {table} select i, '{table}', 'text ' || i from generate_series(1, %s) i", rows
    )


def states(site: Site) -> dict[str, str]:
    tables = json.loads(site.cli("status", "--json").stdout)["tables"]
    return {table["name"]: table["backfill_state"] for table in tables}


def backfill(site: Site, *arguments: str) -> list[dict[str, Any]]:
    found = json.loads(site.cli("backfill", "--json", *arguments).stdout)
    tables: list[dict[str, Any]] = found["tables"]
    return tables


def embedded(service: RunningService) -> int:
    return int(service.metric("cdc_embed_embed_texts_total", source="model"))


def test_rows_from_before_setup_are_embedded_by_run_alone(make_site: Callable[..., Site]) -> None:
    site = make_site()
    fill(site, 2000)
    site.configure()
    site.cli("setup")
    assert site.sql(HNSW) == [], "an index is made of what is there, not filled row by row"
    with site.service() as service:
        assert service.logged("reconciled")["rows"] == 2000
        service.logged("indexed")
        assert site.sql(HNSW) == [(True,)]
        assert site.drift() == []
        assert embedded(service) == 2000
        assert states(site) == {"public.documents": "done"}
        assert service.stop() == 0
    with site.service() as service:
        service.settle()
        assert service.stop() == 0
    assert not any(entry["event"] in {"table is compared", "indexed"} for entry in service.log)


def test_manual_backfill_awaits_the_command_and_the_leader_acts(
    make_site: Callable[..., Site],
) -> None:
    site = make_site()
    fill(site, 500)
    fill(site, 300, "notes")
    site.configure(tables=TWO_TABLES, more=MANUAL)
    site.cli("setup")
    with site.service() as service:
        service.logged("backfill waits")
        site.sql("insert into documents values (1001, 'new', 'row')")
        service.settle()
        assert site.sql("select id from cdc_embed.documents_embedding") == [(1001,)]
        assert embedded(service) == 1
        assert set(states(site).values()) == {"waiting"}
        epoch = site.checkpoint()["epoch"]

        (documents,) = backfill(site, "--table", "documents")
        assert documents.keys() == {"name", "state", "done", "estimate"}
        assert (documents["name"], documents["state"]) == ("public.documents", "done")
        assert documents["done"] == 501
        assert site.drift() == []
        assert site.value("select count(*) from cdc_embed.notes_embedding") == 0
        assert states(site) == {"public.documents": "done", "public.notes": "waiting"}

        databases = backfill(site)
        assert {table["name"]: table["done"] for table in databases} == {
            "public.documents": 501,
            "public.notes": 300,
        }
        assert site.drift("notes") == []
        assert embedded(service) == 801
        backfill(site)
        assert embedded(service) == 801, "what is fresh is not embedded again"
        assert site.checkpoint()["epoch"] == epoch, "the command asked the leader"
        assert service.stop() == 0


def test_backfill_without_a_leader_does_it_itself(
    make_site: Callable[..., Site], embedding_server: EmbeddingServer
) -> None:
    site = make_site()
    fill(site, 500)
    site.configure(embedder=embedding_server.configuration, more=MANUAL)
    site.cli("setup")
    embedding_server.reset()
    (table,) = backfill(site)
    assert (table["state"], table["done"]) == ("done", 500)
    assert site.drift() == []
    assert embedding_server.texts() == 500
    backfill(site)
    assert embedding_server.texts() == 500
    site.wait_for_free_slot()


def test_unknown_table_is_refused_by_name(make_site: Callable[..., Site]) -> None:
    site = make_site()
    fill(site, 1)
    site.configure()
    site.cli("setup")
    done = site.cli("backfill", "--table", "elsewhere", expect=4)
    assert "public.elsewhere" in done.stderr


def test_paid_embedder_waits_for_yes_and_embeds_each_text_once(
    make_site: Callable[..., Site], embedding_server: EmbeddingServer
) -> None:
    url = f"http://127.1:{embedding_server.port}/v1/embeddings"  # a name that looks far away
    embedder = HttpEmbedder(EmbedderConfig(kind="http", url=url, model="test"))
    assert embedder.describe().paid
    embedder.close()
    site = make_site()
    fill(site, 400)
    site.configure(
        embedder=f'kind = "http"\nmodel = "test"\nurl = "{url}"',
        more="[backfill]\nmax_tokens_unasked = 100\n",
    )
    site.cli("setup")
    embedding_server.reset()
    with site.service() as service:
        reason = service.logged("backfill waits")["reason"]
        assert "tokens" in reason
        assert "cdc-embed backfill --yes" in reason
        site.sql("insert into documents values (1001, 'new', 'row')")
        service.settle()
        assert list(embedding_server.counts()["by_text"]) == ["new\n\nrow"]
        assert states(site) == {"public.documents": "waiting"}

        refused = site.cli("backfill", expect=4)
        assert "tokens" in refused.stderr
        assert "--yes" in refused.stderr
        refused = site.cli("verify", "--repair", expect=4)
        assert "public.documents is not backfilled yet" in refused.stderr
        assert embedding_server.texts() == 1

        (table,) = backfill(site, "--yes")
        assert (table["state"], table["done"], table["estimate"]) == ("done", 401, 401)
        assert site.drift() == []
        assert service.stop() == 0
    by_text = embedding_server.counts()["by_text"]
    assert len(by_text) == 401
    assert set(by_text.values()) == {1}

    # what was missed would have been embedded: nobody has to be asked for it
    site.sql("alter publication cdc_embed drop table documents")
    site.sql("insert into documents values (1002, 'missed', 'row')")
    assert "compare every row of public.documents" in site.cli("setup").stderr
    embedding_server.reset()
    with site.service() as service:
        service.wait_for("reconciled")
        assert site.drift() == []
        site.sql(
            "insert into cdc_embed.embedding_table (table_name, embedding_table, space) "
            "select 'public.another_services', 'theirs', space from cdc_embed.embedding_table"
        )
        site.sql(
            "insert into cdc_embed.reconcile (table_name, space, metadata, state) "
            "select 'public.another_services', space, '{}', 'waiting' from cdc_embed.reconcile"
        )
        site.cli("verify", "--repair")
    assert embedding_server.counts()["by_text"] == {"missed\n\nrow": 1}


def test_killed_backfill_goes_on_and_repeats_at_most_one_slice(
    make_site: Callable[..., Site],
) -> None:
    """One slice is embedded at a time and none before the last one is committed.

    So what a kill makes worthless is at most the texts of one slice: 1,000 rows.
    """
    rows, slice_rows = 5000, 1000
    with EmbeddingServer("--dimensions", "16") as server:
        site = make_site()
        fill(site, rows)
        site.configure(embedder=server.configuration)
        site.cli("setup")
        server.reset()
        server.faults(hang=1)  # for each slice
        with site.service(process=True) as service:
            wait_until(lambda: site.value(STORED) >= 1000, "a part is stored")
            service.kill()
        assert site.value(STORED) < rows, "killed in the middle"
        server.faults()
        wait_until(lambda: server.counts()["in_flight"] == 0, "the killed process's requests end")
        with site.service() as service:
            service.logged("reconciled", seconds=60)
            assert site.drift() == []
            assert site.verify()["drift"] == 0
            assert service.stop() == 0
        assert rows <= server.texts() <= rows + slice_rows


def test_stopped_backfill_goes_on_and_embeds_nothing_twice(
    make_site: Callable[..., Site],
) -> None:
    rows = 5000
    with EmbeddingServer("--dimensions", "16") as server:
        site = make_site()
        fill(site, rows)
        site.configure(embedder=server.configuration)
        site.cli("setup")
        server.reset()
        server.faults(hang=1.5)  # for each slice of 1,000 rows
        with site.service() as service:
            wait_until(lambda: site.value(STORED) > 0, "a part is stored")
            assert service.stop() == 0
        assert site.value(STORED) < rows, "stopped in the middle"
        server.faults()
        with site.service() as service:
            service.logged("reconciled", seconds=60)
            assert site.drift() == []
            assert service.stop() == 0
        assert server.texts() == rows


def test_lost_connections_do_not_make_a_backfill_embed_twice(
    make_site: Callable[..., Site], embedding_server: EmbeddingServer
) -> None:
    """Every session on the database is ended twice; what is embedded is committed."""
    site = make_site()
    fill(site, 1200)
    site.configure(
        embedder=embedding_server.configuration, more="[backfill]\nrows_per_second = 500\n"
    )
    site.cli("setup")
    embedding_server.reset()
    with site.service() as service:
        for stored in (1, 500):
            wait_until(partial(site.value, f"select ({STORED}) >= {stored}"), "a part is stored")
            site.sql(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and pid <> pg_backend_pid()"
            )
        service.logged("reconciled")
        assert service.metric("cdc_embed_reconnects_total") > 0
        assert site.drift() == []
        assert service.stop() == 0
    assert embedding_server.texts() == 1200


def change_everything(site: Site, rows: int, ended: threading.Event) -> None:
    """Every kind of change, all over the key's range, until told to stop."""
    connection = site.connect()
    connection.autocommit = True
    turn = 0
    with connection.cursor() as cursor:
        while not ended.wait(0.01):
            turn += 1
            row = {"id": turn * 7919 % rows + 1, "new": 10 * rows + turn, "turn": turn}
            for statement in (
                "insert into documents values (%(new)s, 'inserted', 'new ' || %(turn)s)",
                "update documents set body = 'changed ' || %(turn)s where id = %(id)s",
                "delete from documents where id = %(id)s + 1",
                "update documents set id = -%(turn)s where id = %(id)s + 2",
                "update documents set body = null, title = ' ' where id = %(id)s + 3",
                "insert into notes values (%(new)s, 'note', 'note ' || %(turn)s)",
            ):
                cursor.execute(statement, row)
            if turn % 100 == 0:  # each begins the table's comparison anew
                cursor.execute("truncate notes")
            if turn % 20 == 0:
                # a load that the service keeps up with, however busy the machine is
                while not ended.wait(0.01):
                    cursor.execute(f"select exists ({STORED_ROW})", row)
                    if cursor.fetchone() == (True,):
                        break
    connection.close()


def test_backfill_beside_a_writing_application_ends_equal(
    make_site: Callable[..., Site],
) -> None:
    rows = 4000
    site = make_site()
    fill(site, rows)
    fill(site, rows // 4, "notes")
    site.configure(tables=TWO_TABLES, more="[backfill]\nrows_per_second = 1500\n")
    site.cli("setup")
    ended = threading.Event()
    writer = threading.Thread(target=change_everything, args=(site, rows, ended))
    with site.service() as service:
        writer.start()
        try:
            reconciled = wait_until(
                lambda: [e for e in service.log if e["event"] == "reconciled"][1:],
                "both tables",
                90,
            )
        finally:
            ended.set()
            writer.join()
        assert len(reconciled) == 1
        service.settle()
        assert site.drift() == []
        assert site.drift("notes") == []
        assert site.verify()["drift"] == 0
        assert service.stop() == 0


def test_new_row_is_searchable_long_before_a_long_backfill_ends(
    make_site: Callable[..., Site],
) -> None:
    rows = 20_000
    with EmbeddingServer("--delay", "0.5", "--dimensions", "16") as server:
        site = make_site()
        fill(site, rows)
        site.configure(embedder=server.configuration + "\nconcurrency = 1\nmax_batch = 64")
        site.cli("setup")
        with site.service() as service:
            wait_until(lambda: site.value(STORED) > 0, "the backfill is under way")
            for number in range(rows + 1, rows + 4):
                site.sql("insert into documents values (%s, 'new', 'row %s')", number, number)
                began = time.monotonic()
                wait_until(partial(site.value, f"{STORED} where id = {number}"), "it is stored")
                assert time.monotonic() - began < 10, "the backfill lasts for minutes"
            assert site.value(STORED) < rows / 2
            assert service.status()["oldest_pending_age_seconds"] < 10


def test_rows_per_second_is_kept_and_the_index_comes_last(
    make_site: Callable[..., Site],
) -> None:
    site = make_site()
    fill(site, 300)
    site.configure(more="[backfill]\nrows_per_second = 50\n")
    site.cli("setup")
    with site.service() as service:
        wait_until(lambda: site.value(STORED) > 0, "the first rows are stored")
        assert site.value(STORED) <= 200
        assert site.sql(HNSW) == [], "no index while the backfill runs"
        began, ended = (
            datetime.fromisoformat(service.logged(event)["timestamp"])
            for event in ("table is compared", "reconciled")
        )
        assert 4.5 <= (ended - began).total_seconds() < 20
        assert site.drift() == []
        service.logged("indexed")
        assert site.sql(HNSW) == [(True,)]


@pytest.mark.parametrize("rows", [0, 6])
def test_rows_without_text_are_checked_and_have_no_document(
    make_site: Callable[..., Site], rows: int
) -> None:
    site = make_site()
    fill(site, rows)
    site.sql("update documents set title = null, body = null where id = 1")
    site.sql("update documents set title = '', body = E' \\n\\t' where id = 2")
    site.sql("update documents set title = null where id = 3")
    site.configure()
    site.cli("setup")
    with site.service() as service:
        assert service.logged("reconciled")["rows"] == rows
        assert states(site) == {"public.documents": "done"}
        assert site.drift() == []
        assert site.value(STORED) == max(0, rows - 2)
        found = site.verify()
        assert found["drift"] == 0
        (table,) = found["tables"]
        assert (table["checked"], table["fresh"]) == (rows, rows)
        assert service.stop() == 0
