"""A statement names a table, and another one can have the name for a while.

Membership is by oid: the log goes on with the table that is followed, under whatever name. So each
read proves in its own transaction that the table it read is that one. Otherwise the rows of the
other one are stored, and those of the right one are missed or taken for gone.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from threading import Event
from typing import Any

import pytest

from cdc_embed.change.document import Table
from cdc_embed.errors import SourceUnavailableError
from cdc_embed.postgres.session import Session
from cdc_embed.postgres.side import SOURCE
from cdc_embed.rotation import Login
from cdc_embed.service.tolerance import USUAL, Tolerance
from cdc_embed.source.rows import RowReader
from tests.builders import table
from tests.in_process import QUICK
from tests.quiet import watch_for
from tests.site import DOCUMENTS, Site, wait_until

RENAMED = (
    "alter table app.documents rename to hidden; alter table app.foreign_rows rename to documents",
    "alter table app.documents rename to foreign_rows; alter table app.hidden rename to documents",
)
MOVED = (
    "alter table app.documents set schema away; alter table app.foreign_rows rename to documents",
    "alter table app.documents rename to foreign_rows; alter table away.documents set schema app",
)
SCHEMAS = (
    "alter schema app rename to away; alter schema other rename to app",
    "alter schema app rename to other; alter schema away rename to app",
)
PARTITIONED = """
create table app.documents (id bigint primary key, title text, body text) partition by range (id);
create table app.low partition of app.documents for values from (0) to (50);
create table app.high partition of app.documents for values from (50) to (maxvalue)
"""
READS: dict[str, Callable[[RowReader, Table], Any]] = {
    "scan": lambda rows, table: rows.scan(table, None, 1000),
    "keys": lambda rows, table: rows.scan_keys(table, [("1",), ("70",)]),
    "missing": lambda rows, table: rows.scan_missing(table, [("1",), ("70",)]),
    "read": lambda rows, table: rows.read(table, {("1",): 3}),
    "count": lambda rows, table: rows.count(table),
    "size": lambda rows, table: rows.text_size(table),
}


@pytest.mark.parametrize("how", [RENAMED, SCHEMAS], ids=["renamed", "schemas"])
@pytest.mark.parametrize("partitioned", [False, True])
@pytest.mark.parametrize("foreign", ["filled", "empty"])
def test_no_read_takes_another_table_for_the_followed_one(
    make_site: Callable[..., Site], how: tuple[str, str], partitioned: bool, foreign: str
) -> None:
    site = make_site()
    site.sql("create schema app")
    site.sql(PARTITIONED if partitioned else DOCUMENTS.replace("documents", "app.documents"))
    site.sql(
        "insert into app.documents (id, title) select n, 'ours' from generate_series(1, 100) n"
    )
    site.sql("create schema other")
    name = "app.foreign_rows" if how is RENAMED else "other.documents"
    site.sql(f"create table {name} (id bigint primary key, title text, body text)")
    if foreign == "filled":
        site.sql(f"insert into {name} select n, 'foreign' from generate_series(1, 200) n")
    oid = site.value("select 'app.documents'::regclass::oid::bigint")
    followed = replace(table("documents", oid=oid), schema="app")
    session = Session(SOURCE, Login(site.dsn), "the reader")
    rows = RowReader(session, Event())
    before = {read: READS[read](rows, followed) for read in READS}
    site.sql(how[0])
    for read in READS.values():
        with pytest.raises(SourceUnavailableError, match="name of another table"):
            read(rows, followed)
    site.sql(how[1])
    for name in ("missing", "read", "count", "size"):
        again, then = READS[name](rows, followed), before[name]
        assert getattr(again, "rows", again) == getattr(then, "rows", then)
    session.close()


@pytest.mark.parametrize(
    ("how", "noticed"),
    [
        pytest.param(RENAMED, True, id="renamed-noticed"),
        pytest.param(SCHEMAS, False, id="schemas"),
        pytest.param(RENAMED, False, id="renamed", marks=pytest.mark.long),
        pytest.param(MOVED, True, id="moved-noticed", marks=pytest.mark.long),
        pytest.param(MOVED, False, id="moved", marks=pytest.mark.long),
        pytest.param(SCHEMAS, True, id="schemas-noticed", marks=pytest.mark.long),
    ],
)
def test_a_swap_while_rows_are_read_stores_nothing_foreign(
    make_site: Callable[..., Site], how: tuple[str, str], noticed: bool
) -> None:
    """The names are swapped for a second, twice, while the table is compared slowly."""
    seldom = Tolerance(intervals=replace(QUICK, catalogue=600.0))
    site = make_site()
    site.sql("create schema app")
    site.sql("create schema away" if how is MOVED else "create schema other")
    site.sql("create table public.another (id bigint primary key, title text, body text)")
    site.sql(DOCUMENTS.replace("documents", "app.documents"))
    name = "other.documents" if how is SCHEMAS else "app.foreign_rows"
    site.sql(DOCUMENTS.replace("documents", name))
    for rows, text, count in (("app.documents", "ours", 150), (name, "foreign", 300)):
        site.sql(
            f"insert into {rows} select n, %s, 'row' from generate_series(1, %s) n", text, count
        )
    tables = [f'[[tables]]\nname = "{t}"\ntext = ["title"]\n' for t in ("app.documents", "another")]
    site.configure(tables="".join(tables), more="[backfill]\nrows_per_second = 30\n")
    site.cli("setup")
    stored = "select count(*) from cdc_embed.app_documents_embedding"
    foreign = f"{stored} where chunk_text <> 'ours'"

    def more_than(rows: int) -> bool:
        return bool(site.value(stored) > rows)

    with site.service(tolerance=USUAL if noticed else seldom) as service:
        for part in (20, 60):
            wait_until(partial(more_than, part), "some rows are compared")
            site.transaction(how[0])
            watch_for(1, lambda: site.value(foreign) == 0, "no foreign row is stored")
            site.transaction(how[1])
        wait_until(lambda: site.value(stored) == 150, "every row is compared", 60)
        service.settle()
        assert site.value(foreign) == 0
        assert service.stop() == 0
