"""The HNSW index: built whatever happens to a build, named while missing, rebuilt on demand."""

import json
import resource
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.own_process import COMMAND
from tests.quiet import watch_for
from tests.servers import Servers
from tests.site import PATIENCE, RunningService, Site, wait_until

NAME = "documents_embedding_hnsw"
SERIALLY = "index is built without parallel workers"
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
def held_build(site: Site, *, process: bool = False) -> Iterator[RunningService]:
    """A service whose build waits, because a transaction writes into the table of vectors."""
    fill(site, 20)
    with site.service() as service:
        service.wait_for("indexed")
        service.settle()
        assert service.stop() == 0
    site.sql(f"drop index cdc_embed.{NAME}")
    with closing(site.connect()) as writer, writer.cursor() as cursor:
        cursor.execute("update cdc_embed.documents_embedding set chunk_text = chunk_text")
        with site.service(process=process) as service:
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


@pytest.fixture
def cramped(servers: Servers, tmp_path: Path) -> Iterator[Site]:
    """A server that lacks the shared memory for the parallel workers of a build.

    Its files can have 17 MB, a segment of the log; the workers' segment has the 64 MB of
    maintenance_work_mem.
    """
    settings = {"min_parallel_table_scan_size": "0", "max_parallel_maintenance_workers": "2"}
    server = servers.own(18, {**settings, "fsync": "off"})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (17 << 20, before[1]))
    try:
        server.start()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with server:
        site = Site(server, "cramped", tmp_path)
        site.sql("create table documents (id bigint primary key, title text, body text)")
        site.configure()
        site.cli("setup")
        fill(site, 900)
        yield site
        site.close()


def test_an_index_is_built_without_memory_for_workers(cramped: Site) -> None:
    with cramped.service() as service:
        said = service.wait_for(SERIALLY)
        assert "could not resize shared memory segment" in said["problem"]
        service.wait_for("indexed")
        assert service.stop() == 0
    assert [row[:2] for row in cramped.sql(INDEXES)] == [(NAME, True)]
    assert doctor_says(cramped)["ok"]


def test_an_index_is_rebuilt_without_memory_for_workers(cramped: Site) -> None:
    with cramped.service() as service:
        service.wait_for("indexed")
        assert service.stop() == 0
    first = cramped.sql(INDEXES)
    said = cramped.cli("index", "rebuild").stderr
    assert "could not resize shared memory segment" in said
    assert cramped.sql(INDEXES) != first
    assert [row[:2] for row in cramped.sql(INDEXES)] == [(NAME, True)]


def test_no_shared_memory_means_a_build_without_workers(site: Site) -> None:
    refuse_index(site, "53100", "current_setting('max_parallel_maintenance_workers') <> '0'")
    with site.service() as service:
        assert "made to fail" in service.wait_for(SERIALLY)["problem"]
        service.wait_for("indexed")
        assert service.stop() == 0
    assert [row[:2] for row in site.sql(INDEXES)] == [(NAME, True)]


def test_setup_indexes_a_table_of_another_key_without_workers(cramped: Site) -> None:
    with cramped.service() as service:
        service.wait_for("indexed")
        assert service.stop() == 0
    cramped.sql("alter table documents drop constraint documents_pkey, add primary key (id, body)")
    lacks = cramped.server.log_text().count("could not resize shared memory segment")
    assert "index the vectors of public.documents" in cramped.cli("setup").stderr
    said = cramped.server.log_text().count("could not resize shared memory segment")
    assert said > lacks, "there is no memory for workers"
    assert [row[:2] for row in cramped.sql(INDEXES)] == [(NAME, True)]


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
    with held_build(site, process=True) as service:
        assert index_status(site)["state"] == "building"
        assert service.stop() == 0
        (pid,) = site.sql(BUILDS)
        watch_for(2.5, lambda: site.sql(BUILDS) == [pid], "the server goes on")  # others end in 1 s
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


@pytest.mark.parametrize("taken_by", ["run", "index rebuild"])
def test_a_finished_index_is_named_and_taken_after_a_kill(site: Site, taken_by: str) -> None:
    with held_build(site, process=True) as service:
        service.kill()
    wait_until(lambda: not site.sql(BUILDS), "the server has built it")
    ((name, valid, oid),) = site.sql(INDEXES)
    assert (name, valid) == (f"{NAME}_new", True)
    found = index_status(site)
    assert (found["state"], f"{NAME}_new is complete" in found["problem"]) == ("unswapped", True)
    check = doctor_says(site)
    assert (check["ok"], "index unswapped" in check["message"]) == (False, True)
    assert "cdc-embed index rebuild --table public.documents" in check["fix"]
    if taken_by == "run":
        with site.service() as next_service:
            next_service.wait_for("indexed")
            assert next_service.stop() == 0
    else:
        site.wait_for_free_slot()
        site.cli("index", "rebuild")
    assert site.sql(INDEXES) == [(NAME, True, oid)], "it was not built twice"
    assert (index_status(site)["state"], doctor_says(site)["ok"]) == ("ready", True)


def test_a_finished_index_whose_swap_is_refused_is_taken(site: Site) -> None:
    """Beside the index that searches use, and while the service goes on."""
    fill(site, 20)
    with site.service() as service:
        service.wait_for("indexed")
        with closing(site.connect()) as other, other.cursor() as cursor:
            cursor.execute(f"comment on index cdc_embed.{NAME} is 'locked'")
            said = site.cli("index", "rebuild", expect=75).stderr
            assert f"{NAME}_new" in said, said
            assert index_status(site)["state"] == "unswapped"
            assert "index unswapped" in doctor_says(site)["message"]
            wait_until(lambda: found_index(service)["state"] == "unswapped", "it is told")
        (new,) = [row for row in site.sql(INDEXES) if row[0] == f"{NAME}_new"]
        site.cli("index", "rebuild")
        assert site.sql(INDEXES) == [(NAME, True, new[2])]
        assert service.stop() == 0


@pytest.mark.parametrize("left", ["new", "old"])
def test_an_index_that_is_in_the_way_is_named_and_dropped(site: Site, left: str) -> None:
    """A broken build beside a good index, or the former index after the swap: writes pay for it."""
    fill(site, 20)
    with site.service() as service:
        service.wait_for("indexed")
        assert service.stop() == 0
    index = f"{NAME}_{left}"
    site.sql(
        f"create index {index} on cdc_embed.documents_embedding using hnsw "
        "(embedding public.vector_cosine_ops)"
    )
    if left == "new":
        invalid = "update pg_index set indisvalid = false where indexrelid = %s::regclass"
        site.sql(invalid, f"cdc_embed.{index}")
    found = index_status(site)
    assert (found["state"], index in str(found["problem"])) == ("ready", True)
    check = doctor_says(site)
    assert (check["ok"], index in check["message"]) == (False, True)
    with site.service() as service:
        wait_until(lambda: len(site.sql(INDEXES)) == 1, "it is dropped")
        assert service.stop() == 0
    assert doctor_says(site)["ok"]


def sessions(site: Site) -> list[str]:
    """The services' sessions, by what they are for."""
    names = site.sql(
        "select application_name from pg_stat_activity where datname = current_database() "
        "and application_name like 'cdc_embed%'"
    )
    return sorted(
        name.removeprefix("cdc_embed").replace(site.name, "").strip() for (name,) in names
    )


def test_rows_are_read_beside_a_build_with_seven_connections(site: Site) -> None:
    """Whatever a service does, it has one connection more than at rest; changes go on."""
    with held_build(site) as service:
        site.sql("insert into documents values (99, 'new', 'row')")
        service.settle()
        site.sql("insert into cdc_embed.request (slot, kind) values (%s, 'verify')", site.name)
        wait_until(lambda: {"index", "rows"} <= set(sessions(site)), "rows are read meanwhile")
        wait_until(lambda: len(sessions(site)) == 7, f"seven: {sessions(site)}", 3)
        assert {"index", "rows"} <= set(sessions(site)), sessions(site)
        site.sql(WRITER)
        service.wait_for("indexed")
        done = "select state from cdc_embed.request"
        wait_until(lambda: site.value(done) == "done", "rows are compared")
        site.sql("insert into documents values (100, 'another', 'row')")
        service.settle()
        wait_until(lambda: len(sessions(site)) == 6, "six are left", 30)
        assert "reader" in sessions(site)
        assert site.drift() == []
        assert service.stop() == 0


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


@pytest.mark.parametrize("by", ["run", "setup"])
def test_renamed_indexes_get_their_names_back(site: Site, by: str) -> None:
    """None is built beside them."""
    fill(site, 20)
    with site.service() as service:
        service.wait_for("indexed")
        assert service.stop() == 0
    every = (
        "select c.oid::bigint, c.relname::text "
        "from pg_class c join pg_index i on i.indexrelid = c.oid "
        "where i.indrelid = 'cdc_embed.documents_embedding'::regclass order by 1"
    )
    before = site.sql(every)
    for kind in ("hnsw", "hash"):
        site.sql(f"alter index cdc_embed.documents_embedding_{kind} rename to my_{kind}")
    assert "it was renamed to my_hnsw" in site.cli("doctor").stdout
    if by == "setup":
        site.cli("setup")
        assert site.sql(every) == before
    with site.service() as service:
        service.settle()
        wait_until(lambda: site.sql(every) == before, "they have their names again")
        assert service.status()["tables"][0]["index"]["state"] == "ready"
        assert service.stop() == 0
    assert site.sql(every) == before
