"""The watch that other tests trust, on a real slot: it sees what it is there for."""

import pytest

from tests.invariant import FEWEST, Watch, confirmed, recorded, watched
from tests.site import Site, wait_until

SESSIONS = "pid <> pg_backend_pid() and datname = current_database()"


def watch_while(site: Site, *statements: str) -> None:
    """Watch before and after the statements; what was wrong before is no answer to them."""
    with watched(site) as watch:
        wait_until_watched(watch)
        if watch.violations:
            raise RuntimeError(watch.violations)
        for statement in statements:
            site.sql(statement)
        wait_until_watched(watch)


def wait_until_watched(watch: Watch) -> None:
    seen = watch.samples
    wait_until(lambda: watch.samples > seen + FEWEST or watch.failures, "it watches")


def test_watch_sees_a_slot_that_is_moved_beyond_its_checkpoint(site: Site) -> None:
    write = "insert into documents values (1, 'a', 'text')"
    move = f"select pg_replication_slot_advance('{site.name}', pg_current_wal_lsn())"
    with pytest.raises(AssertionError, match="Violation"):
        watch_while(site, write, move)
    assert confirmed(site) > recorded(site)


def test_watch_sees_a_checkpoint_that_goes_back(site: Site) -> None:
    back = "update cdc_embed.checkpoint set end_lsn = '0/0', confirmed_lsn = '0/1'"
    with pytest.raises(AssertionError, match="Violation"):
        watch_while(site, back)


def test_watch_goes_on_when_its_sessions_are_ended(site: Site) -> None:
    end = f"select pg_terminate_backend(pid) from pg_stat_activity where {SESSIONS}"
    watch_while(site, end)


def test_watch_fails_when_the_slot_is_gone(site: Site) -> None:
    drop = f"select pg_drop_replication_slot('{site.name}')"
    with pytest.raises(AssertionError, match="nothing found"):
        watch_while(site, drop)
