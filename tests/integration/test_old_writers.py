"""Writers that are gone in the middle of a batch: their transactions must not hold up the next one.

The server waits inside COPY for a client that says nothing any more: no statement's time limit, no
idle transaction's, and no look at the connection ends that, for hours where a host vanished.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2

from tests.site import Site, columns, wait_until


@contextmanager
def stranded_writer(site: Site) -> Iterator[None]:
    """A transaction under the writer's name that has row 1 and waits in COPY for its client."""
    connection = psycopg2.connect(site.dsn, application_name=f"cdc_embed writer {site.name}")
    unread, unwritten = os.pipe()

    def copy() -> None:
        with connection.cursor() as cursor, os.fdopen(unread, "rb") as nothing:
            cursor.execute("create temporary table stage (id bigint) on commit drop")
            cursor.execute("delete from cdc_embed.documents_embedding where id = 1")
            try:
                cursor.copy_expert("copy stage from stdin", nothing)
            except psycopg2.Error:
                return

    thread = threading.Thread(target=copy)
    thread.start()
    waiting = "select 1 from pg_stat_activity where query like 'copy stage%%' and state = 'active'"
    try:
        wait_until(lambda: site.sql(waiting), "it waits inside COPY")
        yield
    finally:
        os.close(unwritten)
        thread.join()
        connection.close()


def test_writer_that_was_cut_off_does_not_delay_the_next_leader(site: Site) -> None:
    with site.service() as service:
        site.sql("insert into documents values (1, 'one', 'first')")
        service.settle()
        assert service.stop() == 0
    site.sql("update documents set body = 'second'")
    with stranded_writer(site), site.service() as service:
        service.settle()
        assert site.drift() == []
        assert service.stop() == 0


def test_writer_that_was_cut_off_does_not_delay_its_own_process(site: Site) -> None:
    """Its connection is lost, and the server has not heard of it."""
    mine = (
        "select pid from pg_stat_activity where application_name = %s and wait_event_type = 'Lock'"
    )
    with site.service() as service:
        site.sql("insert into documents values (1, 'one', 'first')")
        service.settle()
        with stranded_writer(site):
            site.sql("update documents set body = 'second'")
            held = wait_until(
                lambda: columns(site.sql(mine, f"cdc_embed writer {site.name}")), "it waits"
            )
            site.sql("select pg_terminate_backend(%s)", held[0])
            service.settle()
            assert site.drift() == []
        assert service.stop() == 0


def test_writer_of_another_service_is_left_alone(site: Site) -> None:
    """Its slot has the same name on another source; its tables are in another schema."""
    site.sql("create schema other; create table other.rows (id bigint)")
    other = psycopg2.connect(site.dsn, application_name=f"cdc_embed writer {site.name}")
    with other.cursor() as cursor:
        cursor.execute("insert into other.rows values (1)")
        with site.service() as service:
            site.sql("insert into documents values (1, 'one', 'first')")
            service.settle()
            assert service.stop() == 0
        cursor.execute("select count(*) from other.rows")
        assert cursor.fetchone() == (1,)
    other.close()
