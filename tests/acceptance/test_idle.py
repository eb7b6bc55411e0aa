"""Log that is not ours is let go, and a database that nobody writes to stays idle.

Other tables advance the log without a message to us: were that not confirmed, the source's disk
would fill. Were it recorded with every keepalive, that record would cause the next keepalive.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdc_embed.flow.confirm import RECORD_STEP
from tests.conftest import ready
from tests.quiet import watch_for
from tests.servers import Servers
from tests.site import RunningService, Site, wait_until

SEGMENT = 16 << 20
TRANSACTION = 8 << 20
RUNNING_TRANSACTIONS = 256
"""Bytes of log that the server itself may write once, within 15 s of the last change: the record of
what runs. It writes no second one while nothing else is written."""
BEHIND = (
    "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), restart_lsn)::bigint, "
    "pg_wal_lsn_diff(pg_current_wal_insert_lsn(), confirmed_flush_lsn)::bigint "
    "from pg_replication_slots where slot_name = %s"
)
UPDATES = "select last_value - 1 from updates"


@pytest.fixture
def site(servers: Servers, tmp_path: Path) -> Iterator[Site]:
    """A server of its own, that does nothing by itself; updates of the checkpoint are counted."""
    with servers.own(18, {"autovacuum": "off", "checkpoint_timeout": "1h"}) as server:
        made = ready(Site(server, "idle", tmp_path))
        made.sql("create table other (body text)")
        made.sql("alter table other alter body set storage plain")
        made.sql("create sequence updates")
        made.sql("select nextval('updates')")
        made.sql(
            "create function count_update() returns trigger language plpgsql as "
            "$$ begin perform nextval('public.updates'); return null; end $$"
        )
        made.sql(
            "create trigger count_update after update on cdc_embed.checkpoint "
            "for each statement execute function count_update()"
        )
        yield made
        made.close()


def position(site: Site) -> int:
    return int(site.value("select (pg_current_wal_insert_lsn() - '0/0')::bigint"))


def write_elsewhere(site: Site, size: int) -> None:
    """At least so many bytes of log that no publication carries."""
    rows = TRANSACTION // 8000
    end = position(site) + size
    while position(site) < end:
        site.sql("insert into other select repeat('x', 7800) from generate_series(1, %s)", rows)
        site.sql("truncate other")


def retained(site: Site) -> int:
    """Bytes of log that the server keeps for the slot."""
    return int(site.sql(BEHIND, site.name)[0][0])


def unconfirmed(site: Site) -> int:
    """Bytes of log that the server was not told of yet."""
    return int(site.sql(BEHIND, site.name)[0][1])


def wait_until_quiet(site: Site, seconds: float) -> None:
    """After a checkpoint the first look at a page may write its hint bits, each page once: until
    the log has not grown for so long."""
    at, since = position(site), time.monotonic()

    def quiet() -> bool:
        nonlocal at, since
        now = position(site)
        if now != at:
            at, since = now, time.monotonic()
        return time.monotonic() - since > seconds

    wait_until(quiet, "the log grows no more", 90)


def start(site: Site, service: RunningService) -> None:
    service.wait_for("reconciled")
    site.sql("insert into documents values (1, 't', 'text')")
    service.settle()


@pytest.mark.parametrize(
    "size", [128 << 20, pytest.param(1 << 30, marks=pytest.mark.long)], ids=["128 MB", "1 GB"]
)
def test_log_of_an_unpublished_table_is_freed_with_few_writes(site: Site, size: int) -> None:
    """Recorded in steps of a megabyte: a row for each keepalive would be log of our own."""
    with site.service() as service:
        start(site, service)
        before, began = site.value(UPDATES), position(site)
        write_elsewhere(site, size)
        written = position(site) - began
        assert written > size
        wait_until(lambda: unconfirmed(site) < RECORD_STEP, "all but a step", 120)
        site.sql("checkpoint")  # it notes its running transactions, behind what is confirmed
        wait_until(lambda: retained(site) < 2 * SEGMENT, "the log is let go", 90)
        updates = site.value(UPDATES) - before
        assert 1 <= updates <= written // RECORD_STEP + 7
        assert service.stop() == 0
    assert retained(site) < 2 * SEGMENT
    assert unconfirmed(site) < RECORD_STEP, "a clean stop confirms what was heard"


@pytest.mark.parametrize("asked", [True, pytest.param(False, marks=pytest.mark.long)])
def test_log_is_freed_though_nothing_else_is_written(site: Site, asked: bool) -> None:
    """The server lets go only up to a note of its running transactions that is confirmed.

    It writes that note within 15 s by itself, or when it is ``asked``.
    """
    with site.service() as service:
        start(site, service)
        write_elsewhere(site, 64 << 20)
        before = site.value(UPDATES)
        if asked:  # once all but the last step is confirmed, so that the note is behind it
            wait_until(lambda: unconfirmed(site) < RECORD_STEP, "all but a step")
            site.sql("select pg_log_standby_snapshot()")
        wait_until(lambda: retained(site) < SEGMENT, "the log is let go", 80)
        assert site.value(UPDATES) - before <= 7, "the last steps, and the rest a few times"
        assert service.stop() == 0


@pytest.mark.parametrize("kind", ["written", "skipped"])
def test_idle_slot_is_less_than_a_step_behind(site: Site, kind: str) -> None:
    """A Commit that comes after its rows' batch, or none of whose rows needs a write."""
    with site.service() as service:
        start(site, service)
        for number in range(20):
            statement = f"insert into documents values ({number + 2}, 't', 'text {number}')"
            site.sql(statement if kind == "written" else "update documents set views = views + 1")
        service.settle()
        wait_until(lambda: unconfirmed(site) < RECORD_STEP, "all but a step")
        assert site.drift() == []
        assert service.stop() == 0


@pytest.mark.parametrize(
    "seconds", [12, pytest.param(60, marks=pytest.mark.long)], ids=["12 s", "60 s"]
)
def test_idle_database_stays_idle(site: Site, seconds: int) -> None:
    """The service looks and reports all the time, and writes nothing."""
    with site.service() as service:
        start(site, service)
        write_elsewhere(site, TRANSACTION)
        wait_until_quiet(site, 20 if seconds > 15 else 6)
        allowed = 0 if seconds > 15 else RUNNING_TRANSACTIONS
        updates, began = site.value(UPDATES), position(site)
        stamp = site.value("select updated_at from cdc_embed.checkpoint")
        ticks = service.metric("cdc_embed_heartbeat_timestamp_seconds", stage="loop")
        watch_for(
            seconds,
            lambda: site.value(UPDATES) == updates and position(site) - began <= allowed,
            "nothing is written",
            every=1,
        )
        assert site.value("select updated_at from cdc_embed.checkpoint") == stamp
        assert service.metric("cdc_embed_heartbeat_timestamp_seconds", stage="loop") > ticks
        assert service.stop() == 0
