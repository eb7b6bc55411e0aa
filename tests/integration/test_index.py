"""The HNSW index: built whatever happens to a build, named while missing, rebuilt on demand."""

import json
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

from tests.own_process import COMMAND
from tests.site import PATIENCE, RunningService, Site, wait_until

NAME = "documents_embedding_hnsw"
INDEXES = (
    "select c.relname::text, i.indisvalid, c.oid::bigint from pg_index i "
    "join pg_class c on c.oid = i.indexrelid join pg_am a on a.oid = c.relam and a.amname = 'hnsw' "
    "where i.indrelid = 'cdc_embed.documents_embedding'::regclass order by 1"
)
WRITER = (
    "select pg_terminate_backend(pid) from pg_stat_activity "
    "where datname = current_database() and application_name = ''"
    " and state = 'idle in transaction'"
)
METADATA = '[[tables]]\nname = "documents"\ntext = ["title", "body"]\nmetadata = ["views"]\n'
BUILDS = "select pid from pg_stat_progress_create_index where datname = current_database()"


def refuse_index(site: Site, state: str, when: str = "true") -> None:
    """Have CREATE INDEX fail with an SQLSTATE while a condition holds."""
    site.sql(
        "create function refuse() returns event_trigger language plpgsql as $$ begin "
        f"if {when} then raise 'made to fail' using errcode = '{state}'; end if; end $$"
    )
    site.sql(
        "create event trigger refuse on ddl_command_start when tag in ('CREATE INDEX') "
        "execute function refuse()"
    )


def fill(site: Site, rows: int) -> None:
    numbers = f"generate_series(1, {rows}) n"
    site.sql(f"insert into documents (id, body) select n, 'text ' || n from {numbers}")


@contextmanager
def held_build(site: Site) -> Iterator[RunningService]:
    """A service whose build waits, because a transaction writes into the table of vectors."""
    fill(site, 20)
    with site.service() as service:
        service.wait_for("indexed")
        service.settle()
        assert service.stop() == 0
    site.sql(f"drop index cdc_embed.{NAME}")
    with closing(site.connect()) as writer, writer.cursor() as cursor:
        cursor.execute("update cdc_embed.documents_embedding set chunk_text = chunk_text")
        with site.service() as service:
            wait_until(lambda: site.sql(BUILDS), "the build has begun")
            yield service


def index_status(site: Site) -> dict[str, Any]:
    (table,) = json.loads(site.cli("status", "--json").stdout)["tables"]
    found: dict[str, Any] = table["index"]
    return found


def doctor_says(site: Site) -> dict[str, Any]:
    checks = json.loads(site.cli("doctor", "--json").stdout)["checks"]
    (found,) = [check for check in checks if check["id"] == "index"]
    return dict(found)


def test_no_shared_memory_means_a_build_without_workers(site: Site) -> None:
    refuse_index(site, "53100", "current_setting('max_parallel_maintenance_workers') <> '0'")
    with site.service() as service:
        assert "made to fail" in service.wait_for("waiting")["problem"]
        service.wait_for("indexed")
        assert service.stop() == 0
    assert [row[:2] for row in site.sql(INDEXES)] == [(NAME, True)]


def test_setup_indexes_a_table_of_another_key_without_workers(site: Site) -> None:
    site.sql("insert into documents (id, title, body) values (1, 'one', 'text')")
    with site.service() as service:
        service.wait_for("indexed")
        assert service.stop() == 0
    refuse_index(
        site,
        "53100",
        "current_setting('max_parallel_maintenance_workers') <> '0' "
        "and current_query() like '%using hnsw%'",
    )
    site.sql("alter table documents drop constraint documents_pkey, add primary key (id, title)")
    assert "index the vectors of public.documents" in site.cli("setup").stderr
    assert [row[:2] for row in site.sql(INDEXES)] == [(NAME, True)]


def found_index(service: RunningService) -> dict[str, Any]:
    found: dict[str, Any] = service.status()["tables"][0]["index"] or {"problem": None}
    return found


def test_missing_index_is_named_with_its_reason(site: Site) -> None:
    assert index_status(site) == {
        "state": "missing",
        "rewritten_ratio": None,
        "problem": "it is made after the backfill",
    }
    refuse_index(site, "42501")
    with site.service() as service:
        wait_until(lambda: "made to fail" in str(found_index(service)["problem"]), "it is told")
        assert found_index(service)["state"] == "missing"
        assert service.stop() == 0
    assert index_status(site)["problem"] == "the service makes it"
    check = doctor_says(site)
    assert (check["ok"], check["severity"]) == (False, "warning")
    assert "public.documents: index missing" in check["message"]
    assert "cdc-embed index rebuild --table public.documents" in check["fix"]
    site.sql("drop event trigger refuse")
    with site.service() as service:
        service.wait_for("indexed")
        assert service.stop() == 0
    assert index_status(site)["state"] == "ready"
    assert doctor_says(site)["ok"]


def test_broken_build_is_dropped_and_made_again(site: Site) -> None:
    with held_build(site) as service:
        assert service.stop() == 0
        site.sql(BUILDS.replace("pid", "pg_terminate_backend(pid)"))
        wait_until(lambda: not site.sql(BUILDS), "the build has ended")
    assert [row[:2] for row in site.sql(INDEXES)] == [(f"{NAME}_new", False)]
    assert index_status(site)["state"] == "invalid"
    assert "broken off" in doctor_says(site)["message"]
    with site.service() as service:
        service.wait_for("indexed")
        assert service.stop() == 0
    assert [row[:2] for row in site.sql(INDEXES)] == [(NAME, True)]


def test_stop_leaves_a_long_build_to_the_server(site: Site) -> None:
    with held_build(site) as service:
        assert index_status(site)["state"] == "building"
        assert service.stop() == 0
        (pid,) = site.sql(BUILDS)
        with site.service() as next_service:
            assert f"PID {pid[0]}" in next_service.wait_for("waiting")["problem"]
            assert next_service.stop() == 0
        assert site.sql(BUILDS) == [pid]
    wait_until(lambda: not site.sql(BUILDS), "the server has built it")
    ((name, valid, oid),) = site.sql(INDEXES)
    assert (name, valid) == (f"{NAME}_new", True)
    with site.service() as service:
        service.wait_for("indexed")
        assert service.stop() == 0
    assert site.sql(INDEXES) == [(NAME, True, oid)], "it was not built twice"


def test_setup_and_teardown_end_a_build_first(site: Site) -> None:
    with held_build(site) as service:
        assert service.stop() == 0
        site.wait_for_free_slot()
        site.configure(tables=METADATA)
        assert "end the build of the index" in site.cli("setup", "--dry-run").stdout
        (pid,) = site.sql(BUILDS)
        with ThreadPoolExecutor(1) as beside:
            teardown = beside.submit(site.cli, "teardown", "--yes")
            wait_until(lambda: not site.sql(BUILDS), "the build is ended")
            site.sql(WRITER)
            assert "end the build of the index" in teardown.result().stderr
    assert not site.sql("select from pg_stat_activity where pid = %s", pid[0])


def test_index_of_the_application_is_left_alone(site: Site) -> None:
    """Also one that is being built, or whose build was broken off."""
    fill(site, 20)
    with site.service() as service:
        service.wait_for("indexed")
        assert service.stop() == 0
    own = "create index concurrently own on cdc_embed.documents_embedding using hnsw "
    own += "(embedding public.vector_l2_ops)"
    with closing(site.connect()) as writer, writer.cursor() as cursor:
        cursor.execute("update cdc_embed.documents_embedding set chunk_text = chunk_text")
        with ThreadPoolExecutor(1) as beside, closing(site.connect()) as other:
            other.autocommit = True
            building = beside.submit(other.cursor().execute, own)
            wait_until(lambda: site.sql(BUILDS), "the build has begun")
            assert index_status(site)["state"] == "ready"
            site.configure(tables=METADATA)
            assert "end the build" not in site.cli("setup", "--dry-run").stdout
            site.configure()
            writer.rollback()
            building.result()
    site.sql("update pg_index set indisvalid = false where indexrelid = 'cdc_embed.own'::regclass")
    site.sql(f"drop index cdc_embed.{NAME}")
    assert index_status(site)["state"] == "missing"
    with site.service() as service:
        service.wait_for("indexed")
        assert service.stop() == 0
    assert [row[:2] for row in site.sql(INDEXES)] == [(NAME, True), ("own", False)]


def test_notice_of_pgvector_is_logged(site: Site) -> None:
    site.sql(f"alter database \"{site.name}\" set maintenance_work_mem = '1MB'")
    fill(site, 900)
    with site.service() as service:
        assert "maintenance_work_mem" in service.wait_for("index notice")["notice"]
        assert service.stop() == 0


def test_index_is_rebuilt_while_the_service_runs_or_not(site: Site) -> None:
    fill(site, 20)
    with site.service() as service:
        service.wait_for("indexed")
        first = site.sql(INDEXES)
        site.sql("update documents set body = 'other ' || id where id <= 10")
        service.settle()
        wait_until(lambda: index_status(site)["rewritten_ratio"] == 0.5, "half is rewritten")
        done = site.cli("index", "rebuild", "--table", "documents", "--json")
        assert json.loads(done.stdout) == {
            "tables": [{"name": "public.documents", "state": "ready"}]
        }
        second = site.sql(INDEXES)
        assert [row[:2] for row in second] == [(NAME, True)] == [row[:2] for row in first]
        assert second != first
        assert index_status(site)["rewritten_ratio"] == 0
        site.sql("insert into documents values (99, 'new', 'row')")
        service.settle()
        assert site.drift() == []
        assert service.stop() == 0
    site.cli("index", "rebuild")
    assert site.sql(INDEXES) not in (first, second)
    assert [row[:2] for row in site.sql(INDEXES)] == [(NAME, True)]
    assert (
        "not in the configuration" in site.cli("index", "rebuild", "--table", "x", expect=4).stderr
    )


def test_rebuild_beside_another_build_says_who_builds(site: Site) -> None:
    with held_build(site):
        said = site.cli("index", "rebuild", expect=75).stderr
        assert "builds the index of documents_embedding" in said


def test_interrupted_rebuild_is_left_to_the_server(site: Site) -> None:
    fill(site, 20)
    with site.service() as service:
        service.wait_for("indexed")
        assert service.stop() == 0
    first = site.sql(INDEXES)
    with closing(site.connect()) as writer, writer.cursor() as cursor:
        cursor.execute("update cdc_embed.documents_embedding set chunk_text = chunk_text")
        rebuild = subprocess.Popen(
            [*COMMAND, "-c", str(site.config_path), "index", "rebuild"],
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        wait_until(lambda: site.sql(BUILDS), "the build has begun")
        rebuild.send_signal(signal.SIGINT)
        _, said = rebuild.communicate(timeout=PATIENCE)
        assert (rebuild.returncode, "goes on with the build" in said) == (130, True)
        assert site.sql(BUILDS)
    wait_until(lambda: not site.sql(BUILDS), "the server has built it")
    assert [row[:2] for row in site.sql(INDEXES)] == [(NAME, True), (f"{NAME}_new", True)]
    second = site.sql(INDEXES)[1]
    site.cli("index", "rebuild")
    assert site.sql(INDEXES) == [(NAME, True, second[2])] != first


def test_searches_keep_their_index_until_the_new_one_is_ready(site: Site) -> None:
    """With other options, too: the former index serves while the configured one is built."""
    site.sql("insert into documents (id, body) values (1, 'text')")
    with site.service() as service:
        service.wait_for("indexed")
        assert service.stop() == 0
    site.configure(more="[index]\nm = 8\n")
    assert index_status(site)["state"] == "outdated"
    with closing(site.connect()) as writer, writer.cursor() as cursor:
        cursor.execute("update cdc_embed.documents_embedding set chunk_text = chunk_text")
        with site.service() as service:
            wait_until(lambda: site.sql(BUILDS), "the build has begun")
            assert (NAME, True) in [row[:2] for row in site.sql(INDEXES)]
            writer.rollback()
            service.wait_for("indexed")
            assert service.stop() == 0
    assert index_status(site)["state"] == "ready"
