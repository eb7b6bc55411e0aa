"""Targets that fail: statements that raise what they are told to, and a watch over the slot.

``fail`` makes statements fail in the target itself; ``watched`` holds the slot against what the
target has recorded, all the time, also while the target is away.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2

from cdc_embed.lsn import LSN, ZERO
from tests.site import Site


def fail(
    site: Site, state: str, times: int = 1, *, on: str = "insert on cdc_embed.documents_embedding"
) -> None:
    """The next ``times`` statements of a kind raise this SQLSTATE; those that follow do not.

    A sequence counts them: it is not rolled back with the statement that fails.
    """
    mend(site)
    site.sql("create sequence faults minvalue 0 start 0")
    site.sql(
        "create function fault() returns trigger language plpgsql as $$ begin "
        f"if nextval('public.faults') < {times} then "
        f"raise exception 'told to fail' using errcode = '{state}'; end if; "
        "return null; end $$"
    )
    site.sql(f"create trigger fault before {on} for each statement execute function fault()")


def mend(site: Site) -> None:
    """No statement fails any more."""
    site.sql("drop function if exists fault cascade")
    site.sql("drop sequence if exists faults")


def faults_met(site: Site) -> int:
    """How often a statement of the kind that ``fail`` names was tried."""
    called, count = site.sql("select is_called, last_value from faults")[0]
    return int(count) + 1 if called else 0


def confirmed(site: Site) -> LSN:
    """Where a site's slot stands."""
    statement = "select confirmed_flush_lsn::text from pg_replication_slots where slot_name = %s"
    return LSN.parse(site.value(statement, site.name))


def recorded(site: Site) -> LSN:
    """What a site's checkpoint says."""
    checkpoint = site.checkpoint()
    return max(LSN.parse(checkpoint["end_lsn"]), LSN.parse(checkpoint["confirmed_lsn"]))


@contextmanager
def watched(site: Site) -> Iterator[list[tuple[LSN, LSN]]]:
    """Hold a site's slot against its committed checkpoint; yields violations, (slot, checkpoint).

    While the target cannot be asked, the slot's positions are kept, and held against what the
    target says first when it can.
    """
    violations: list[tuple[LSN, LSN]] = []
    done = threading.Event()
    thread = threading.Thread(target=_watch, args=(site, violations, done), daemon=True)
    thread.start()
    try:
        yield violations
    finally:
        done.set()
        thread.join(30)
        assert not thread.is_alive(), "the watch could not look any more"


def _watch(site: Site, violations: list[tuple[LSN, LSN]], done: threading.Event) -> None:
    source, target = site.connect(), None
    source.autocommit = True
    highest, samples = ZERO, 0
    while not done.is_set() or not samples:
        # the slot first: what is recorded later cannot make it look ahead
        highest = max(highest, _lsn(source, _CONFIRMED, site.name))
        try:
            if target is None:
                target = psycopg2.connect((site.target or site).dsn, connect_timeout=2)
                target.autocommit = True
            stands = _lsn(target, _RECORDED, site.name)
        except psycopg2.Error:
            target = None
        else:
            if highest > stands:
                violations.append((highest, stands))
            highest, samples = ZERO, samples + 1
        time.sleep(0.005)
    source.close()
    if target is not None:
        target.close()


_CONFIRMED = "select confirmed_flush_lsn::text from pg_replication_slots where slot_name = %s"
_RECORDED = (
    "select greatest(end_lsn, confirmed_lsn)::text from cdc_embed.checkpoint where slot = %s"
)


def _lsn(connection: Any, statement: str, slot: str) -> LSN:
    with connection.cursor() as cursor:
        cursor.execute(statement, (slot,))
        return LSN.parse(cursor.fetchone()[0])
