"""Changes that the log of a partitioned table omits; tables that wal2json cannot follow."""

import random
import string
from collections.abc import Callable

from tests.oracle import Documents
from tests.site import Site, wait_until
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


def test_repair_mends_partitions_that_come_go_or_are_emptied(published: Site) -> None:
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


def test_identity_of_a_table_says_nothing_of_its_partitions(published: Site) -> None:
    """FULL is the table's alone: an old row is announced as whole, and holds the key alone.

    Taken for whole, it makes NULL of the text that an update of the key leaves out.
    """
    site = published
    follow(site)
    site.sql("alter table january alter body set storage external")
    site.sql("alter table events replica identity full")
    site.sql("alter table march replica identity full")
    body = "".join(random.Random(7).choices(string.ascii_letters, k=6000))
    site.sql("update events set body = %s where id in (1, 2)", body)
    site.cli("setup")
    with site.service() as service:
        service.wait_for("reconciled")
        site.sql("update events set title = 'other', id = id + 10 where id = 1")
        site.sql("update events set id = id + 10 where id = 2")
        site.sql("delete from events where id = 0")
        service.settle()
        assert EVENTS.drift(site) == []
        assert service.stop() == 0


def test_partition_that_is_not_told_by_its_key_is_refused(published: Site) -> None:
    site = published
    follow(site)
    site.sql("alter table january replica identity nothing")
    site.sql("alter table february alter title set not null")
    site.sql("create unique index titles on february (id, title)")
    refused = site.cli("setup", expect=4).stderr
    assert "the replica identity of its partition public.january is nothing" in refused
    site.sql("alter table january replica identity default")
    site.cli("setup")
    with site.service() as service:
        service.wait_for("reconciled")
        site.sql("alter table february replica identity using index titles")
        site.sql("update events set day = day + 2 where id = 0 and day = '2024-02-01'")
        paused = service.logged("table is paused")
        assert "alter table public.february replica identity default" in paused["problem"]
        site.sql("alter table february replica identity default")
        service.logged("table is delivered again, every row is compared")
        wait_until(lambda: EVENTS.drift(site) == [], "compared")
        assert service.stop() == 0


def test_brief_unseen_identity_of_a_partition_means_a_comparison(
    published: Site,
) -> None:
    """The key of a row changed, its identity did not: the log has no old row, and says nothing."""
    site = published
    follow(site)
    site.sql("alter table february alter title set not null")
    site.sql("create unique index titles on february (id, title)")
    site.cli("setup")
    with site.service() as service:
        service.wait_for("reconciled")
        assert service.stop() == 0
    site.sql("alter table february replica identity using index titles")
    site.sql("update events set day = day + 2 where id = 0 and day = '2024-02-01'")
    site.sql("alter table february replica identity default")
    with site.service() as service:
        service.wait_for("reconciled")
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
