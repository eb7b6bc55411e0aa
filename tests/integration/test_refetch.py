"""Rows read again from the source, when the log did not carry their text.

A transaction can be decoded before a SELECT sees it, so a read waits until it does
(CONTRIBUTING.md, T3). A snapshot from before a rewrite or TRUNCATE shows an empty table, so such a
read does not count (CONTRIBUTING.md, T7).
"""

import random
import string
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cdc_embed.change.action import Row
from cdc_embed.change.document import Table, TableColumn
from cdc_embed.change.snapshot import widen
from cdc_embed.postgres.session import Session
from cdc_embed.postgres.side import SOURCE
from cdc_embed.rotation import Login
from cdc_embed.source.rows import RowReader
from tests.builders import table
from tests.hanging import hanging_commit
from tests.servers import Servers
from tests.site import DOCUMENTS, Site, wait_until


def test_text_is_not_read_before_its_commit_is_visible(
    servers: Servers, make_site: Callable[..., Site], tmp_path: Path
) -> None:
    """The commit waits for a standby that does not exist; its change is in the log already.

    Without the visibility check the old row is read, found equal to what is stored, and skipped.
    """
    target = make_site(16)
    with servers.own(18) as server:
        site = Site(server, "texts", tmp_path, target)
        site.sql(DOCUMENTS)
        site.sql("alter table documents alter body set storage external")
        body = "".join(random.Random(3).choices(string.ascii_letters, k=6000))
        site.configure()
        site.cli("setup")
        with site.service() as service:
            site.sql("insert into documents values (1, 'old title', %s)", body)
            service.settle()
            with hanging_commit(site, "update documents set title = 'new title'"):
                waited = wait_until(
                    lambda: service.status()["waiting"].get("source"), "the read waits"
                )
                assert "committed but not visible yet" in waited
                assert site.value("select title from documents") == "old title"
                assert service.get("/livez") == "ok\n"
            service.settle()
            assert site.value("select title from documents") == "new title"
            assert site.drift() == []
            assert service.stop() == 0
        site.close()
        target.close()


def documents(site: Site, key: TableColumn, *text_columns: str) -> Table:
    oid = site.value("select 'documents'::regclass::oid::bigint")
    return table("documents", oid=oid, key=(key,), text=text_columns)


REWRITES = {
    "rewrite": ["alter table documents add column stamp uuid default gen_random_uuid()"],
    "truncate": [
        "create temporary table kept as select * from documents",
        "truncate documents",
        "insert into documents select * from kept",
    ],
}


@pytest.mark.parametrize("how", list(REWRITES))
def test_rows_are_read_again_if_the_table_is_rewritten_meanwhile(
    make_site: Callable[..., Site], version: int, how: str
) -> None:
    """The row is there before and after, but not for a snapshot from before: it would be "gone"."""
    site = make_site(version)
    site.sql(DOCUMENTS)
    site.sql("insert into documents values (1, 'title', 'body')")
    table = documents(site, TableColumn("id", "bigint"), "title", "body")
    session = Session(SOURCE, Login(site.dsn), "the reader")
    rows = RowReader(session, threading.Event())
    other = site.connect()
    with other.cursor() as cursor, ThreadPoolExecutor(1) as executor:
        for statement in REWRITES[how]:
            cursor.execute(statement)
        reading = executor.submit(rows.read, table, {("1",): 3})
        blocked = (
            "select count(*) from pg_stat_activity "
            "where application_name = 'the reader' and wait_event_type = 'Lock'"
        )
        wait_until(lambda: site.value(blocked), "the read waits for the lock")
        other.commit()
        row = reading.result(30)["1",]
        assert row is not None
        assert row.texts == ("title", "body")
    other.close()
    session.close()


@pytest.mark.parametrize(
    ("xid", "xmax", "wide"),
    [
        (5, 10, 5),
        (12, 10, 12),
        (0xFFFFFFF0, 0x1_0000_0010, 0xFFFFFFF0),
        (5, 0x1_0000_0010, 0x1_0000_0005),
        (3, 0xFFFFFFFF, 0x1_0000_0003),
        (0x80000001, 0x3_0000_0000, 0x2_8000_0001),
    ],
)
def test_transaction_ids_are_widened_by_signed_distance(xid: int, xmax: int, wide: int) -> None:
    assert widen(xid, xmax) == wide


ANOTHER = Row(("another",))


def test_key_that_is_no_value_of_its_type_any_more_has_no_row(
    make_site: Callable[..., Site], version: int
) -> None:
    """The log says it as it was; what is read by it must not end the service, at every start."""
    site = make_site(version)
    site.sql("create type mood as enum ('calm', 'glad')")
    site.sql("create table documents (id mood primary key, title text, body text)")
    site.sql("alter table documents alter body set storage external")
    body = "".join(random.Random(5).choices(string.ascii_letters, k=6000))
    site.configure()
    site.cli("setup")
    with site.service() as service:
        site.sql(
            "insert into documents values ('calm', 'one', %s), ('glad', 'two', %s)", body, body
        )
        service.settle()
        assert service.stop() == 0
    site.sql("update documents set title = 'another'")
    site.sql("alter type mood rename value 'calm' to 'quiet'")
    table = documents(site, TableColumn("id", "text", "public.mood"), "title")
    session = Session(SOURCE, Login(site.dsn), "the reader")
    rows = RowReader(session, threading.Event())
    read = rows.read(table, {("calm",): 3, ("glad",): 3})
    read |= rows.read(table, {("glad",): 3})  # a refusal divides what is read at once
    assert read == {("calm",): None, ("glad",): ANOTHER}
    found = rows.scan(table, ("calm",), 10)  # a scan that stood there begins anew
    assert found is not None
    assert found.rows == {("quiet",): ANOTHER, ("glad",): ANOTHER}
    session.close()
    with site.service() as service:
        service.settle()
        wait_until(lambda: site.drift() == [], "compared, because its rows have another key")
        assert site.value("select count(*) from cdc_embed.dead_letter") == 0
        assert service.stop() == 0
