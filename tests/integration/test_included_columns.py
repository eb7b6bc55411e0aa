"""A key is the columns by which its index tells rows apart, without those that it only includes.

With ``include (title)`` an index carries more columns. Taken for a part of the key, rows without a
title had none, and an update of the title was taken for another identity.
"""

from collections.abc import Callable

import pytest

from tests.cases import cases
from tests.oracle import Documents
from tests.site import Site
from tests.sources import SOURCES, make_source

ITEMS = Documents(name="items", key=("tenant", "id"))
DECLARED = """
create table items (
  id int, tenant int, title text, body text, primary key (tenant, id) include (title)
)
"""
USING_INDEX = """
create table items (id int not null, tenant int not null, title text, body text);
create unique index items_key on items (tenant, id) include (title);
alter table items add primary key using index items_key
"""
IDENTITY = f"{USING_INDEX}; alter table items replica identity using index items_key"
ANOTHER = """
create table items (id int, tenant int, title text, body text, primary key (tenant, id));
create unique index another on items (tenant, id) include (title);
alter table items replica identity using index another
"""
SCHEMAS = {
    "declared": DECLARED,
    "using index": USING_INDEX,
    "the key as identity": IDENTITY,
    "another index as identity": ANOTHER,
}
ONLY_AN_INDEX = """
create table items (id int not null, tenant int not null, title text, body text);
create unique index sole on items (tenant, id) include (title);
alter table items replica identity using index sole
"""
ANOTHER_KEY = """
create table items (id int not null, tenant int not null, row int generated always as identity,
                    title text, body text, primary key (row) deferrable);
create unique index another on items (tenant, id) include (title);
alter table items replica identity using index another
"""
IDENTITIES = {"no primary key": ONLY_AN_INDEX, "another primary key": ANOTHER_KEY}
CHANGES = [
    "insert into items (tenant, id, title, body) values (2, 1, null, 'new'), (2, 2, 'two', null)",
    "update items set title = 'first' where (tenant, id) = (1, 1)",
    "update items set title = null, id = 30 where (tenant, id) = (1, 3)",
    "update items set id = 40 where (tenant, id) = (1, 4)",
    "delete from items where (tenant, id) = (1, 5)",
]
TABLE = '[[tables]]\nname = "items"\ntext = ["title", "body"]\n'


def follow(site: Site) -> None:
    """Six rows, of which each second has no title; then changes of each kind."""
    site.sql(
        "insert into items (tenant, id, title, body) "
        "select 1, n, case when n %% 2 = 0 then 'title ' || n end, 'body ' || n "
        "from generate_series(1, %s) n",
        6,
    )
    site.configure(tables=TABLE)
    site.cli("setup")
    with site.service() as service:
        service.wait_for("reconciled")
        assert ITEMS.drift(site) == []
        for statement in CHANGES:
            site.sql(statement)
        service.settle()
        assert ITEMS.drift(site) == []
        assert service.stop() == 0


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("schema", cases(SCHEMAS, "declared", "another index as identity"))
def test_an_included_column_is_no_part_of_the_key(
    make_site: Callable[..., Site], kind: tuple[str, int], schema: str
) -> None:
    site = make_source(make_site, kind)
    site.sql(SCHEMAS[schema])
    follow(site)


@pytest.mark.parametrize("schema", IDENTITIES)
def test_the_index_of_the_replica_identity_is_the_key(
    make_site: Callable[..., Site], version: int, schema: str
) -> None:
    site = make_site(version)
    site.sql(IDENTITIES[schema])
    follow(site)
    assert site.verify()["drift"] == 0


def test_a_key_that_wal2json_does_not_tell_is_refused(make_site: Callable[..., Site]) -> None:
    site = make_source(make_site, ("wal2json", 15))
    site.sql(ONLY_AN_INDEX)
    site.configure(tables=TABLE)
    assert 'source.plugin = "pgoutput"' in site.cli("setup", expect=4).stderr


def test_an_included_column_is_no_part_of_a_partitions_key(
    make_site: Callable[..., Site],
) -> None:
    site = make_site()
    site.sql(
        "create table items (id int, tenant int, title text, body text, "
        "primary key (tenant, id) include (title)) partition by list (tenant)"
    )
    site.sql("create table first partition of items for values in (1)")
    site.sql("create table second partition of items for values in (2)")
    site.sql("create unique index another on first (tenant, id) include (body)")
    site.sql("alter table first replica identity using index another")
    site.sql("alter table second replica identity using index second_pkey")
    follow(site)
