"""Partitions that come, go and are changed: each leaf has a shape of its own."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from threading import Event, Thread

import pytest

from cdc_embed.service.tolerance import Intervals, Tolerance
from tests.cases import cases
from tests.oracle import Documents
from tests.site import RunningService, Site, wait_until

EVENTS = Documents(name="events", key=("id", "day"))
SCHEMA = """
create table events (id bigint, day int, title text, body text, primary key (day, id))
  partition by range (day);
create table low partition of events for values from (0) to (10);
create table high partition of events for values from (10) to (20) partition by list (day);
create table high_10 partition of high for values in (10);
create table high_11 partition of high for values in (11);
create table other (like events including all);
"""
ROWS = "insert into {} select n, {}, 'title', 'text ' || n from generate_series(1, {}) n"
ATTACH_LOW = "alter table events attach partition low for values from (0) to (10)"
EVERY_ROW = "table or its publication was altered, every row is compared"


@pytest.fixture
def site(make_site: Callable[..., Site], version: int) -> Site:
    site = make_site(version)
    site.sql(SCHEMA)
    site.sql(ROWS.format("events", "n % 10", 90))
    site.sql(ROWS.format("events", "10 + n % 2", 60))
    configure(site)
    site.cli("setup")
    return site


def configure(site: Site, *backfill: str) -> None:
    more = "\n".join(["[backfill]", *backfill, ""])
    tables = '[[tables]]\nname = "events"\ntext = ["title", "body"]\n'
    site.configure(tables=tables, more=more)


def compared(service: RunningService) -> float:
    """Rows that were compared so far, and keys that were found without a row."""
    return service.metric("cdc_embed_reconcile_rows_total")


def settle(site: Site, service: RunningService, what: str) -> None:
    """Until the watch has seen what was done, and every comparison that follows has ended."""
    service.wait_for(what)
    done = "select bool_and(state = 'done') from cdc_embed.reconcile"
    wait_until(lambda: site.value(done), "the comparison ends")
    service.settle()


@contextmanager
def followed(site: Site) -> Iterator[RunningService]:
    with site.service() as service:
        settle(site, service, "indexed")
        yield service
        assert EVENTS.drift(site) == []
        site.cli("verify")
        assert service.stop() == 0


def test_changed_leaf_is_compared_alone(site: Site) -> None:
    """Detached, written to and attached again; emptied; rewritten; at any level."""
    with followed(site) as service:
        for statements, rows in (
            (["alter table events detach partition low", "update low set title = 'x' where id = 3",
              "delete from low where id = 4", ATTACH_LOW], 89 + 1),
            (["truncate high_10"], 30),
            (["alter table high_11 set unlogged", "alter table high_11 set logged"], 30),
            (["alter table events detach partition high", "update high set title = 'y'",
              "alter table events attach partition high for values from (10) to (20)"], 30),
        ):  # fmt: skip
            before = compared(service)
            site.transaction(*statements)
            settle(site, service, "partitions were changed")
            assert compared(service) - before == rows, statements
            assert EVENTS.drift(site) == []


def test_leaf_that_comes_with_rows_is_compared_alone(site: Site) -> None:
    site.sql(ROWS.format("other", "30", 40))
    with followed(site) as service:
        before = compared(service)
        site.sql("alter table events attach partition other for values from (30) to (40)")
        settle(site, service, "partition is compared")
        assert compared(service) - before == 40
        assert EVENTS.drift(site) == []


NEWS = {
    "dropped": ("drop table low", 90),
    "detached": ("alter table events detach partition low", 90),
    "emptied": ("truncate low", 90),
    "attached": ("alter table events attach partition other for values from (30) to (40)", 40),
}


@pytest.mark.parametrize("name", cases(NEWS, "dropped", "attached"))
def test_rows_of_a_partition_that_nobody_looked_at_are_pending(site: Site, name: str) -> None:
    """They are drift only if they stay."""
    statement, rows = NEWS[name]
    site.sql(ROWS.format("other", "30", 40))
    with followed(site) as service:
        assert service.stop() == 0
    seldom = Intervals(catalogue=600, requests=0.1, rounds=0.1)
    with site.service(tolerance=Tolerance(intervals=seldom)) as service:
        service.settle()
        site.sql(statement)
        (found,) = site.verify()["tables"]
        assert (found["pending"], found["problem"]) == (rows, "")
        assert service.stop() == 0
    with site.service() as service:
        settle(site, service, "reconciled")
        (found,) = site.verify()["tables"]
        assert (found["pending"], found["problem"]) == (0, "")
        site.sql("update cdc_embed.events_embedding set id = id + 1000 where id = 11 and day = 11")
        (found,) = site.verify("--repair", expect=None)["tables"]
        assert (found["missing"], found["orphan"], found["repaired"]) == (1, 1, 2)
        assert service.stop() == 0


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize(
    "goes",
    cases(
        ["drop table passing", "alter table events detach partition passing", "truncate passing"],
        "drop table passing",
        "truncate passing",
    ),
)
def test_leaf_between_two_looks_leaves_nothing_behind(site: Site, goes: str, running: bool) -> None:
    """Made, filled and gone before anybody looked: the log has its rows, and not their end."""
    passing = "create table passing partition of events for values from (40) to (50)"

    def pass_by() -> None:
        for statement in (passing, ROWS.format("events", "45", 7), goes):
            site.sql(statement)

    if running:
        with followed(site) as service:
            before = compared(service)
            pass_by()
            settle(site, service, "partitions were changed")
            assert compared(service) - before == 7
    else:
        with followed(site):
            pass
        pass_by()
        with site.service() as service:
            settle(site, service, "partitions were changed")
            assert EVENTS.drift(site) == []


def test_leaf_changed_while_it_is_compared_is_compared_again(site: Site) -> None:
    with followed(site):
        pass
    configure(site, "rows_per_second = 20")
    change = ("alter table events detach partition low", "update low set title = {}", ATTACH_LOW)
    site.transaction(*(statement.format("'missed'") for statement in change))
    with site.service() as service:
        service.logged("partitions were changed")
        fresh = "select count(*) from cdc_embed.events_embedding where chunk_text like 'missed%'"
        wait_until(lambda: site.value(fresh), "the first rows are compared")
        site.transaction(*(statement.format("'once more'") for statement in change))
        service.logged("partition is compared", times=2)
        service.settle()
        assert EVENTS.drift(site) == []
        assert service.stop() == 0


@pytest.mark.parametrize("goes", ["drop table low", "alter table events detach partition low"])
def test_keys_of_a_leaf_that_went_are_deleted(site: Site, goes: str) -> None:
    with followed(site) as service:
        before = compared(service)
        site.sql(goes)
        settle(site, service, "partitions were changed")
        assert compared(service) - before == 90
        assert EVENTS.drift(site) == []


def test_keys_of_a_leaf_that_was_emptied_elsewhere_are_deleted(site: Site) -> None:
    """Detached, its rows moved away, vacuumed: it looks as if it had never had a row."""
    with followed(site):
        pass
    site.sql("alter table events detach partition low")
    site.sql("with gone as (delete from low returning *) insert into other select * from gone")
    wait_until(
        lambda: site.sql("vacuum low") or not site.value("select pg_relation_size('low')"),
        "its file is empty",
    )
    with site.service() as service:
        settle(site, service, "partitions were changed")
        assert EVENTS.drift(site) == []
        assert service.stop() == 0


def test_new_empty_leaf_costs_nothing(site: Site) -> None:
    noted = "select count(*) from cdc_embed.reconcile, jsonb_object_keys(leaves)"
    with followed(site) as service:
        before = compared(service)
        site.sql("create table new partition of events for values from (50) to (60)")
        wait_until(lambda: site.value(noted) == 4, "it is taken into account")
        assert site.value("select state from cdc_embed.reconcile") == "done"
        site.sql(ROWS.format("events", "50", 5))
        service.settle()
        assert compared(service) == before


def test_leaf_changed_while_no_service_ran_is_compared_alone(site: Site) -> None:
    with followed(site):
        pass
    site.transaction(
        "alter table events detach partition low", "update low set title = 'missed'", ATTACH_LOW
    )
    with site.service() as service:
        settle(site, service, "partition is compared")
        assert compared(service) == 90
        assert EVENTS.drift(site) == []
        assert service.stop() == 0


@contextmanager
def partitions_that_come_and_go(site: Site) -> Iterator[None]:
    """Five times a second one is made and gets a row, and one goes that was made a second ago."""
    stop = Event()

    def come_and_go() -> None:
        connection = site.connect()
        connection.autocommit = True
        with closing(connection), connection.cursor() as cursor:
            for number in itertools.count(100):
                if stop.wait(0.2):
                    return
                bounds = f"for values from ({number}) to ({number + 1})"
                cursor.execute(f"create table p{number} partition of events {bounds}")
                cursor.execute(f"insert into events values (1, {number}, 'title', 'text')")
                if number >= 105:
                    old = f"p{number - 5}"
                    detach = f"alter table events detach partition {old}"
                    cursor.execute(detach if number % 2 else f"drop table {old}")

    thread = Thread(target=come_and_go)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_partitions_that_come_and_go_do_not_delay_a_backfill(site: Site) -> None:
    configure(site, "rows_per_second = 500")
    site.sql("insert into low select n, 3, 'title', 'low' from generate_series(100, 2600) n")
    with site.service() as service:
        with partitions_that_come_and_go(site):
            service.logged("indexed", seconds=60)
        settled = (
            "select bool_and(state = 'done' and not orphans and changed_leaves = '{}') "
            "from cdc_embed.reconcile"
        )
        wait_until(lambda: site.value(settled) and not EVENTS.drift(site), "it ends")
        assert not [entry for entry in service.log if entry["event"] == EVERY_ROW]
        began = [entry["stage"] for entry in service.log if entry["event"] == "table is compared"]
        assert began.count("rows") == 1
        site.cli("verify")
        assert service.stop() == 0
