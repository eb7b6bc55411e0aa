"""What is not in the log of a partitioned table, and the tables that wal2json cannot follow."""

from collections.abc import Callable

from tests.oracle import Documents
from tests.site import Site
from tests.sources import make_source

EVENTS = Documents(name="events", key=("id", "day"))
SCHEMA = """
create table events (id integer, day date, title text, body text, primary key (id, day))
  partition by range (day);
create table january partition of events for values from ('2024-01-01') to ('2024-02-01');
create table february partition of events for values from ('2024-02-01') to ('2024-03-01');
create table march partition of events for values from ('2024-03-01') to ('2024-04-01');
create table april (like events including all)
"""
ROWS = """
insert into {} select i, date '2024-{:02}-01' + i, 'title', 'text ' || i
from generate_series(0, {}) i
"""


def follow(site: Site) -> None:
    site.sql(SCHEMA)
    for month, (name, last) in enumerate({"january": 4, "february": 3, "march": 2}.items(), 1):
        site.sql(ROWS.format(name, month, last))
    site.sql(ROWS.format("april", 4, 1))
    site.configure(tables='[[tables]]\nname = "events"\ntext = ["title", "body"]\n')


def test_partitions_that_come_go_or_are_emptied_are_mended_by_a_repair(published: Site) -> None:
    """No service runs meanwhile: one that does compares such a table by itself."""
    site = published
    follow(site)
    site.cli("setup")
    site.cli("backfill")
    assert EVENTS.drift(site) == []
    site.sql("truncate january")
    site.sql("alter table events detach partition february")
    site.sql("drop table march")
    site.sql(
        "alter table events attach partition april for values from ('2024-04-01') to (maxvalue)"
    )
    assert len(EVENTS.drift(site)) == 5 + 4 + 3 + 2
    site.cli("verify", "--repair")
    site.cli("verify")
    assert EVENTS.drift(site) == []
    assert site.value("select count(*) from events") == 2
    with site.service() as service:
        site.sql("update events set title = 'other', day = day + 1 where id = 0")
        site.sql("update february set title = 'not followed any more'")
        service.settle()
        assert EVENTS.drift(site) == []
        assert service.stop() == 0


def test_a_partitioned_table_is_refused_with_wal2json(make_site: Callable[..., Site]) -> None:
    """It names the partition of a row, and knows nothing of the table."""
    site = make_source(make_site, ("wal2json", 15))
    follow(site)
    refused = site.cli("setup", expect=4).stderr
    assert "public.events" in refused
    assert "pgoutput" in refused
    assert (
        site.value("select count(*) from pg_replication_slots where slot_name = %s", site.name) == 0
    )
