"""The library's door: the service inside another program, with listeners and typed errors."""

import logging
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from threading import Event, Thread

import psycopg2
import pytest
from structlog.testing import capture_logs

from cdc_embed.errors import HistoryGapError, PreflightError, SourceUnavailableError
from cdc_embed.lsn import LSN
from cdc_embed.service import (
    Committed,
    Config,
    Listener,
    Phase,
    Service,
    Tolerance,
    load_config,
    running,
)
from cdc_embed.service.tolerance import USUAL
from tests.invariant import confirmed
from tests.mutations.mutation import ROOT
from tests.site import PATIENCE, EmbeddingServer, Site, wait_until


def config_of(site: Site) -> Config:
    return load_config(site.config_path)


@contextmanager
def run_in_background(
    site: Site, *told: Listener, tolerance: Tolerance = USUAL
) -> Iterator[Service]:
    with (
        running(config_of(site), listeners=told, tolerance=tolerance) as service,
        service.background(),
    ):
        wait_until(lambda: service.phase is Phase.STREAMING, "it leads")
        # a row that is written before this can be told as one that was read
        wait_until(lambda: compared(site), "the first comparison ends")
        yield service


def compared(site: Site) -> bool:
    states = site.sql("select state from cdc_embed.reconcile")
    return [state for (state,) in states] == ["done"]


def is_durable(service: Service, end: LSN) -> bool:
    return service.positions.durable >= end


def settle(site: Site, service: Service) -> None:
    """Until everything that is committed now is reflected, and the listeners were told."""
    end = LSN.parse(site.value("select pg_current_wal_lsn()::text"))
    wait_until(partial(is_durable, service, end), "it is durable")
    wait_until(lambda: service.told, "the listeners are told")


def count(service: Service, name: str) -> float:
    return service.registry.get_sample_value(f"cdc_embed_{name}_total") or 0.0


# -- listeners ---------------------------------------------------------------------------------


def test_listeners_hear_of_every_kind_of_commit_in_order(site: Site) -> None:
    heard: list[Committed] = []
    with run_in_background(site, heard.extend) as service:
        for statement in (
            "insert into documents values (1, 'one', 'text')",
            "update documents set views = 1",
            "update documents set title = 'two'",
            "update documents set id = 2",
            "delete from documents",
            "truncate documents",
        ):
            site.sql(statement)
            settle(site, service)
    assert [(row.op, row.key) for row in heard] == [
        ("write", {"id": 1}),
        ("write", {"id": 1}),
        ("delete", {"id": 1}),
        ("write", {"id": 2}),
        ("delete", {"id": 2}),
        ("truncate", {}),
    ]
    assert {row.table for row in heard} == {"public.documents"}
    places = [row.commit_lsn for row in heard]
    assert None not in places
    assert places == sorted(places, key=lambda lsn: lsn or 0)
    for row in heard:
        assert row.seconds is not None
        assert row.committed_at is not None
        assert 0 <= row.seconds < PATIENCE
        assert row.committed_at.tzinfo is not None


BIG = "select string_agg(md5(i::text), '') from generate_series(1, 200) i"


def test_a_listener_is_told_each_kind_that_readme_lists(
    site: Site, embedding_server: EmbeddingServer
) -> None:
    site.cli("teardown", "--yes")
    site.configure(
        embedder=embedding_server.configuration,
        tables='[[tables]]\nname = "documents"\ntext = ["body"]\nmetadata = ["views"]\n'
        "chunk = { max_tokens = 100000 }\n",
    )
    site.cli("setup")
    embedding_server.faults(refuse=["wrong"])
    heard: list[Committed] = []
    with run_in_background(site, heard.extend) as service:
        for statement in (
            f"insert into documents values (1, 'one', ({BIG}))",
            "update documents set views = 1",
            "update documents set id = 2",  # the log does not carry the text
            "update documents set body = body || 'wrong'",
            "delete from documents",
            "truncate documents",
        ):
            site.sql(statement)
            settle(site, service)
    told = [(row.op, row.key.get("id")) for row in heard]
    assert told == [
        ("write", 1),
        ("metadata", 1),
        ("delete", 1),
        ("move", 2),
        ("dead_letter", 2),
        ("delete", 2),
        ("truncate", None),
    ]
    listed = re.search(r"`op` \(([^)]*)\)", (ROOT / "README.md").read_text())
    assert listed
    assert {op for op, _ in told} == set(re.findall("`([a-z_]+)`", listed[1]))


def test_a_listener_reads_the_committed_row_in_another_session(site: Site) -> None:
    """It is called after the commit, each time in the same thread."""
    found: list[list[tuple[int]]] = []
    threads: list[int] = []

    def read(rows: Sequence[Committed]) -> None:
        threads.append(threading.get_ident())
        with closing(site.connect()) as other, other.cursor() as cursor:
            keys = [row.key["id"] for row in rows]
            cursor.execute(
                "select id from cdc_embed.documents_embedding where id = any(%s)", [keys]
            )
            found.append(cursor.fetchall())

    with run_in_background(site, read) as service:
        for key in (1, 2, 3):
            site.sql("insert into documents values (%s, 'title', 'text')", key)
            settle(site, service)
    assert found == [[(1,)], [(2,)], [(3,)]]
    assert len(threads) == 3
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()


def test_rows_that_were_read_are_told_without_a_place_in_the_log(site: Site) -> None:
    site.cli("teardown", "--yes")
    site.sql("insert into documents select i, 'title', 'text ' || i from generate_series(1, 3) i")
    site.cli("setup")
    heard: list[Committed] = []
    with run_in_background(site, heard.extend):
        wait_until(lambda: len(heard) == 3, "all are told")
    assert sorted(row.key["id"] for row in heard) == [1, 2, 3]
    assert {(row.op, row.commit_lsn, row.committed_at, row.seconds) for row in heard} == {
        ("write", None, None, None)
    }


def test_a_listener_that_raises_stops_no_other_and_no_service(site: Site) -> None:
    heard: list[Committed] = []
    threads = set()

    def fail(_: Sequence[Committed]) -> None:
        threads.add(threading.current_thread().name)
        raise ValueError("its own mistake")

    with capture_logs() as logs, run_in_background(site, fail, heard.extend) as service:
        for key in (1, 2):
            site.sql("insert into documents values (%s, 'title', 'text')", key)
            settle(site, service)
        assert count(service, "listener_errors") == 2
    assert [row.key for row in heard] == [{"id": 1}, {"id": 2}]
    assert [entry["log_level"] for entry in logs if entry["event"] == "listener failed"] == [
        "error",
        "error",
    ]
    assert threads == {"listeners"}
    assert site.drift() == []


def test_a_slow_listener_delays_no_vector_and_drops_the_latest(site: Site) -> None:
    heard: list[Committed] = []
    go_on = Event()

    def wait(rows: Sequence[Committed]) -> None:
        go_on.wait(PATIENCE)
        heard.extend(rows)

    with run_in_background(site, wait, tolerance=Tolerance(waiting_rows=2)) as service:
        for key in (1, 2, 3):
            site.sql("insert into documents values (%s, 'title', 'text')", key)
            end = LSN.parse(site.value("select pg_current_wal_lsn()::text"))
            wait_until(partial(is_durable, service, end), "it is durable")
        assert site.drift() == []
        assert count(service, "listener_rows_dropped") == 1
        assert "too slow" in service.status()["waiting"]["listeners"]
        go_on.set()
        settle(site, service)
        assert "listeners" not in service.status()["waiting"]
    assert [row.key for row in heard] == [{"id": 1}, {"id": 2}]


# -- starting and stopping ---------------------------------------------------------------------


def test_a_stop_commits_what_is_in_flight_and_leaves_no_thread(site: Site) -> None:
    heard: list[Committed] = []
    before = set(threading.enumerate())
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    root = list(logging.getLogger().handlers), logging.getLogger().level
    with running(config_of(site), listeners=[heard.extend], serve=True) as service:

        def stop_when_told() -> None:
            wait_until(lambda: heard, "a row is told")
            service.stop()

        stopper = Thread(target=stop_when_told)
        stopper.start()
        site.sql("insert into documents select i, 'title', 'text' from generate_series(1, 100) i")
        service.run()
        assert service.phase is Phase.STOPPED
        assert len(heard) == 100
        stopper.join()
    wait_until(lambda: set(threading.enumerate()) <= before, "no thread is left")
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    assert (list(logging.getLogger().handlers), logging.getLogger().level) == root
    assert site.drift() == []
    assert confirmed(site) == LSN.parse(site.checkpoint()["confirmed_lsn"])


def test_two_services_in_one_process_share_nothing(make_site: Callable[..., Site]) -> None:
    sites = [make_site(18), make_site(18)]
    heard: list[list[Committed]] = [[], []]
    for each in sites:
        each.sql("create table documents (id bigint primary key, title text, body text)")
        each.configure()
        each.cli("setup")
    with (
        run_in_background(sites[0], heard[0].extend) as first,
        run_in_background(sites[1], heard[1].extend) as second,
    ):
        sites[0].sql("insert into documents values (1, 'one', 'text')")
        settle(sites[0], first)
        settle(sites[1], second)
        assert (len(heard[0]), len(heard[1])) == (1, 0)
        counted = ("cdc_embed_embed_texts_total", {"source": "model"})
        assert first.registry.get_sample_value(*counted) == 1
        assert second.registry.get_sample_value(*counted) == 0


def test_a_standby_is_alive_and_ready(site: Site) -> None:
    """It waits for the slot, for days perhaps: nothing that a restart would mend."""
    with (
        run_in_background(site),
        running(config_of(site), tolerance=Tolerance(dead_loop=3.0)) as standby,
        standby.background(),
    ):
        wait_until(lambda: standby.phase is Phase.STANDBY, "it stands by")
        current = standby._current
        assert current is not None
        began = current.health.telemetry.ticked_at
        wait_until(lambda: current.health.telemetry.ticked_at > began + 3.5, "it waits for long")
        assert standby.problem_alive() is None
        assert standby.problem_ready() is None
        assert "PID" in standby.status()["waiting"]["slot"]


# -- errors and gaps ---------------------------------------------------------------------------


def test_a_failed_precondition_is_raised_before_anything_starts(site: Site) -> None:
    site.sql("alter table documents drop constraint documents_pkey")
    before = set(threading.enumerate())
    with pytest.raises(PreflightError, match="documents"), running(config_of(site)):
        pass
    wait_until(lambda: set(threading.enumerate()) <= before, "no thread is left")


def test_no_error_of_the_driver_gets_out(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("door") / "cdc_embed.toml"
    path.write_text(
        '[source]\ndsn = "postgresql://nobody@127.0.0.1:1/none"\n'
        '[[tables]]\nname = "t"\ntext = ["a"]\n'
    )
    with pytest.raises(SourceUnavailableError) as raised, running(load_config(path)):
        pass
    assert not isinstance(raised.value, psycopg2.Error)
    assert "cdc-embed doctor" in raised.value.hint


def test_the_error_that_ends_a_service_is_raised_to_its_owner(site: Site) -> None:
    def lose_vectors() -> None:
        with run_in_background(site) as service:
            site.sql("update cdc_embed.embedding_table set slot = 'another'")
            assert service.wait(PATIENCE)

    with pytest.raises(PreflightError, match=r"public\.documents") as raised:
        lose_vectors()
    assert "cdc-embed setup" in raised.value.hint


def test_a_lost_slot_is_a_gap_unless_a_rebuild_is_allowed(site: Site) -> None:
    site.sql("select pg_drop_replication_slot(%s)", site.name)
    with pytest.raises(HistoryGapError, match="slot"), running(config_of(site)):
        pass


def test_a_gap_is_repaired_while_the_service_runs(site: Site) -> None:
    """The metrics, the listeners and the model are the same afterwards."""
    site.configure(source='on_history_gap = "rebuild"')
    heard: list[Committed] = []
    with capture_logs() as logs, run_in_background(site, heard.extend) as service:
        registry = service.registry
        site.sql("insert into documents values (1, 'one', 'text')")
        settle(site, service)
        lose_slot(site)
        site.sql("insert into documents values (2, 'two', 'missed')")
        wait_until(lambda: {"id": 2} in [row.key for row in heard], "it is embedded", 60)
        settle(site, service)
        assert service.registry is registry
        assert site.drift() == []
    assert [entry["event"] for entry in logs].count("streaming") == 2
    assert [row.key for row in heard] == [{"id": 1}, {"id": 2}]


def repaired(site: Site) -> bool:
    """The slot is there again, and every row is compared."""
    slots = "select count(*) from pg_replication_slots where slot_name = %s and active"
    return bool(site.value(slots, site.name)) and compared(site)


def test_a_second_gap_soon_after_is_of_no_use_to_repair(site: Site) -> None:
    """A new slot that is lost at once says that something takes it away each time."""
    site.configure(source='on_history_gap = "rebuild"')

    def lose_twice() -> None:
        with run_in_background(site) as service:
            lose_slot(site)
            wait_until(lambda: repaired(site), "the first gap is repaired", 60)
            lose_slot(site)
            assert service.wait(PATIENCE)

    with pytest.raises(HistoryGapError, match="slot"):
        lose_twice()


def test_a_second_gap_long_after_is_repaired_as_the_first(site: Site) -> None:
    site.configure(source='on_history_gap = "rebuild"')
    with run_in_background(site, tolerance=Tolerance(short_lived_slot=0.0)) as service:
        for key in (1, 2):
            lose_slot(site)
            site.sql("insert into documents values (%s, 'title', 'missed')", key)
            wait_until(lambda: site.drift() == [], "the gap is repaired", 60)
            settle(site, service)


def test_a_stop_while_a_gap_is_repaired_ends_the_repair(site: Site) -> None:
    """A new slot waits for every transaction that writes."""
    site.configure(source='on_history_gap = "rebuild"')
    blocker = site.connect()
    with capture_logs() as logs, run_in_background(site) as service:
        with blocker.cursor() as cursor:
            cursor.execute("select pg_current_xact_id()")
        lose_slot(site)
        wait_until(
            lambda: any(entry["event"] == "setup waits" for entry in logs), "the new slot waits"
        )
        assert service.phase is Phase.STARTING
        shown = {"phase": Phase.STARTING.value}
        assert service.registry.get_sample_value("cdc_embed_phase", shown) == 1
        assert service.problem_alive() is None
        service.stop()
        assert service.wait(PATIENCE)
    blocker.close()
    unused = "select count(*) from pg_replication_slots where slot_name = %s and active"
    wait_until(lambda: site.value(unused, site.name) == 0, "the half-made slot is free")


def lose_slot(site: Site) -> None:
    """Drop the slot under the service; its walsender is ended first, and tries to come back."""
    drop = "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = %s"
    site.sql(drop, site.name)

    def dropped() -> bool:
        try:
            site.sql("select pg_drop_replication_slot(%s)", site.name)
        except psycopg2.errors.ObjectInUse:
            site.sql(drop, site.name)
            return False
        return True

    wait_until(dropped, "the slot is dropped")
