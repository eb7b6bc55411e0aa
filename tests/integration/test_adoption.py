"""A publication that ``setup`` did not make: used as it is, changed only on demand."""

from collections.abc import Callable

import pytest

from tests.site import DOCUMENTS, Site, wait_until

TABLES = '[[tables]]\nname = "{}"\ntext = ["title", "body"]\n'
SHARED = 'publication = "shared"'
STATE = """
select p.pubname, p.xmin::text, p.puballtables, obj_description(p.oid, 'pg_publication'),
       array(select r.prrelid::regclass::text || coalesce(r.prattrs::text, '')
             from pg_publication_rel r where r.prpubid = p.oid order by 1),
       array(select pnnspid from pg_publication_namespace where pnpubid = p.oid)
from pg_publication p order by 1
"""


@pytest.fixture
def shared(make_site: Callable[..., Site]) -> Site:
    """A database with a publication of somebody else, and a table that it does not carry."""
    site = make_site(18)
    site.sql(DOCUMENTS)
    for table in ("orders", "items"):
        site.sql(f"create table {table} (id bigint primary key, title text, body text)")
    site.sql("create publication shared for table orders, items")
    site.configure(source=SHARED)
    return site


def follows(site: Site, table: str = "documents") -> None:
    with site.service() as service:
        site.sql(f"insert into {table} values (1, 'a', 'text')")
        service.settle()
        assert site.drift(table) == []


def test_publication_of_others_is_not_changed_unasked(shared: Site) -> None:
    before = shared.sql(STATE)
    add = 'alter publication "shared" add table only "public"."documents";'
    for command in (["setup"], ["setup", "--dry-run"], ["setup", "--rebuild"]):
        said = shared.cli(*command, expect=4).stderr
        assert add in said
        assert "--adopt-publication" in said
    assert add in shared.cli("doctor", expect=4).stderr + shared.cli("doctor", expect=4).stdout
    assert shared.sql(STATE) == before
    assert shared.value("select to_regnamespace('cdc_embed') is null")
    shared.sql(add)
    shared.cli("setup")
    assert "nothing to do" in shared.cli("setup", "--dry-run").stdout
    follows(shared)
    before = shared.sql(STATE)
    shared.cli("teardown", "--yes")
    assert shared.sql(STATE) == before, "it was added by somebody else"


def test_adopted_publication_loses_what_was_added_alone(shared: Site) -> None:
    before = shared.sql(STATE)
    shared.configure(source=SHARED, tables=TABLES.format("documents") + TABLES.format("orders"))
    assert "add table" in shared.cli("setup", "--adopt-publication", "--dry-run").stdout
    assert shared.sql(STATE) == before
    shared.cli("setup", "--adopt-publication")
    assert shared.sql(STATE)[0][4] == ["documents", "items", "orders"]
    assert "nothing to do" in shared.cli("setup").stderr
    follows(shared)
    follows(shared, "orders")
    shared.cli("teardown", "--yes")
    assert shared.sql(STATE) == before


def test_table_less_is_taken_out_of_an_adopted_publication(shared: Site) -> None:
    shared.configure(source=SHARED, tables=TABLES.format("documents") + TABLES.format("orders"))
    shared.cli("setup", "--adopt-publication")
    shared.configure(source=SHARED, tables=TABLES.format("orders"))
    shared.cli("setup")
    assert shared.sql(STATE)[0][4] == ["items", "orders"]
    assert "nothing to do" in shared.cli("setup").stderr
    shared.configure(source=SHARED, tables=TABLES.format("items"))
    shared.cli("setup")
    assert shared.sql(STATE)[0][4] == ["items", "orders"], "orders was there before"


@pytest.mark.parametrize("form", ["all tables", "tables in schema public", "table documents"])
def test_publication_that_carries_the_tables_whole_is_used(
    make_site: Callable[..., Site], form: str
) -> None:
    site = make_site(18)
    site.sql(DOCUMENTS)
    site.sql(f"create publication shared for {form}")
    site.configure(source=SHARED)
    before = site.sql(STATE)
    site.cli("setup")
    assert "nothing to do" in site.cli("setup", "--adopt-publication").stderr
    follows(site)
    site.cli("doctor")
    site.cli("teardown", "--yes")
    assert site.sql(STATE) == before


@pytest.mark.parametrize(
    ("publication", "fix"),
    [
        ("for table documents where (id > 10)", 'drop table only "public"."documents";'),
        ("for table documents (id, title)", 'add table only "public"."documents";'),
        (
            "for table documents with (publish = 'insert, update')",
            "set (publish = 'insert, update, delete, truncate');",
        ),
    ],
)
def test_partial_publication_of_others_is_refused_with_the_sql(
    make_site: Callable[..., Site], publication: str, fix: str
) -> None:
    site = make_site(18)
    site.sql(DOCUMENTS)
    site.sql(f"create publication shared {publication}")
    site.configure(source=SHARED)
    before = site.sql(STATE)
    for options in ([], ["--adopt-publication"]):
        said = site.cli("setup", *options, expect=4).stderr
        assert 'alter publication "shared"' in said
        assert fix in said
    assert site.sql(STATE) == before
    for statement in said.partition("next:")[2].strip().split(";"):
        if statement.strip():
            site.sql(statement)
    site.cli("setup")
    follows(site)


def test_partitions_published_by_others_are_refused_with_the_sql(
    make_site: Callable[..., Site],
) -> None:
    site = make_site(18)
    site.sql(
        "create table documents (id bigint primary key, title text, body text) "
        "partition by range (id)"
    )
    site.sql("create table low partition of documents for values from (0) to (1000)")
    site.sql("create publication shared for all tables")
    site.configure(source=SHARED)
    mends = 'alter publication "shared" set (publish_via_partition_root = true)'
    assert mends in site.cli("setup", expect=4).stderr
    site.sql(mends)
    site.cli("setup")
    with site.service() as service:
        site.sql("alter publication shared set (publish_via_partition_root = false)")
        paused = service.logged("table is paused")
        assert "publish_via_partition_root is false" in paused["problem"]
        assert service.stop() == 0
    assert mends in site.cli("run", expect=4).stderr


def test_generated_columns_withheld_by_others_are_refused(make_site: Callable[..., Site]) -> None:
    """To add the table would make its UPDATE and DELETE fail."""
    site = make_site(18)
    site.sql(DOCUMENTS)
    site.sql("alter table documents add slug text generated always as (title) stored")
    site.sql("alter table documents replica identity full")
    site.sql("create publication shared")
    site.configure(source=SHARED)
    mends = 'alter publication "shared" set (publish_generated_columns = stored)'
    assert mends in site.cli("setup", "--adopt-publication", expect=4).stderr
    site.sql(mends)
    site.cli("setup", "--adopt-publication")
    site.sql("insert into documents values (1, 'a', 'text')")
    site.sql("update documents set body = 'other'")


def test_two_slots_do_not_take_one_publication_from_each_other(
    make_site: Callable[..., Site],
) -> None:
    """Both have its default name; the second setup would take the first one's tables out."""
    site = make_site(18)
    site.sql(DOCUMENTS)
    site.sql("create table notes (id bigint primary key, title text, body text)")
    site.configure()
    site.cli("setup")
    before = site.sql(STATE)
    first = site.config_path.read_text()
    other = first.replace(f'slot = "{site.name}"', f'slot = "{site.name}_other"')
    other = other.replace('name = "documents"', 'name = "notes"') + '[target]\nschema = "others"\n'
    site.config_path.write_text(other)
    said = site.cli("setup", expect=4).stderr
    assert "was not made by setup for this slot" in said
    assert site.sql(STATE) == before
    site.config_path.write_text(other.replace("[source]", '[source]\npublication = "others"'))
    site.cli("setup")
    site.cli("teardown", "--yes")
    assert site.sql(STATE) == before
    # once the slot is gone, its publication belongs to whoever comes
    site.config_path.write_text(first)
    site.sql("select pg_drop_replication_slot(%s)", site.name)
    site.config_path.write_text(other)
    site.cli("setup")
    assert site.sql(STATE)[0][4] == ["notes"]
    site.cli("teardown", "--yes")
    assert site.sql(STATE) == []


def test_publication_of_an_older_version_is_ours(make_site: Callable[..., Site]) -> None:
    """Its mark does not tell the slot, and it lists columns."""
    site = make_site(18)
    site.sql(DOCUMENTS)
    site.configure(source='publish = "columns"')
    site.cli("setup")
    site.sql("comment on publication cdc_embed is 'made by cdc_embed'")
    site.configure()
    assert site.sql(STATE)[0][4] != ["documents"]
    site.cli("setup")
    assert site.sql(STATE)[0][4] == ["documents"]
    assert site.sql(STATE)[0][3] == f"made by cdc_embed for slot {site.name}"
    assert "nothing to do" in site.cli("setup").stderr
    with site.service() as service:
        wait_until(lambda: service.status()["state"] == "streaming", "streaming")
        assert service.stop() == 0
    site.cli("teardown", "--yes")
    assert site.sql(STATE) == []
