"""The whole service with wal2json: Debian's PostgreSQL 15 is followed into another server."""

from collections.abc import Callable
from contextlib import closing

import psycopg2
import pytest

from tests.oracle import Documents
from tests.site import DOCUMENTS, RunningService, Site, columns, wait_until

LONG = "(select string_agg(md5((n * {})::text), '') from generate_series(1, 100) n)"
"""A text that is stored out of line: an update of another column leaves it out of the log."""


def entry(name: str, text: str = '"title", "body"', more: str = "") -> str:
    return f"[[tables]]\nname = '{name}'\ntext = [{text}]\n{more}\n"


def follow(site: Site, *tables: str) -> None:
    site.configure(source='plugin = "wal2json"', tables="".join(tables or (entry("documents"),)))


@pytest.fixture
def source(make_site: Callable[..., Site]) -> Site:
    """A database with the table, nothing set up; the vectors go to another server."""
    site = make_site(15, target=make_site(18))
    site.sql(DOCUMENTS)
    site.sql("alter table documents alter body set storage external")
    follow(site)
    return site


def compared(service: RunningService, tables: int = 1) -> None:
    """Wait until every table was compared."""

    def done() -> bool:
        found = service.status()["tables"]
        return [table["backfill_state"] for table in found] == ["done"] * tables

    wait_until(done, "compared")


def test_tables_are_followed_by_name_and_only_the_slot_is_made(
    source: Site,
) -> None:
    source.sql("alter table documents add huge numeric")
    source.sql("insert into documents values (1, 'from before', 'the slot', 0, 1e400)")
    for shown in ("--dry-run", "--sql"):
        script = source.cli("setup", shown).stdout
        assert "for table" not in script
        assert f"pg_create_logical_replication_slot('{source.name}', 'wal2json')" in script
    source.cli("setup")
    assert source.value("select count(*) from pg_publication") == 0
    with source.service() as service:
        compared(service)
        rows = f"select n, 't', {LONG.format('n')}, n from generate_series(2, 50) n"
        source.sql(f"insert into documents {rows}")
        source.sql("update documents set views = views + 1, huge = 1e400")
        source.sql("update documents set title = 'new' where id % 2 = 0")
        source.sql("update documents set id = -id where id < 10")
        source.transaction(
            "delete from documents where id = 20",
            "insert into documents values (20, 'again', 'short')",
            "delete from documents where id > 45",
        )
        service.settle()
        assert source.drift() == []
        assert source.verify()["drift"] == 0
        assert service.stop() == 0
    with source.service() as service:
        source.transaction("truncate documents", "insert into documents values (7, 'after', 'it')")
        service.settle()
        assert source.drift() == []
        assert source.verify()["drift"] == 0
        assert service.stop() == 0
    source.cli("teardown", "--yes")
    slots = "select count(*) from pg_replication_slots where database = current_database()"
    assert source.value(slots) == 0


def test_values_that_are_not_finite_are_stored_as_they_are(source: Site) -> None:
    """wal2json writes null for them: they are read from the source, as is every null."""
    source.sql("drop table documents")
    source.sql(
        "create table documents (id bigint primary key, title text, body text,"
        " n numeric, f float8, r real, i int)"
    )
    follow(source, entry("documents", more='metadata = ["n", "f", "r", "i"]'))
    source.cli("setup")
    values = ("'NaN'", "null", "1.50", "'Infinity'", "'-Infinity'", "-0.0", "null", "'NaN'")
    with source.service() as service:
        compared(service)
        for number, value in enumerate(values):
            row = ", ".join([value] * 3)
            source.sql(f"insert into documents values ({number}, 't', 'text', {row}, null)")
        for value in values:
            source.sql(f"update documents set n = {value} where id % 2 = 0")
            source.sql(f"update documents set f = {value}, r = null where id % 3 = 0")
        service.settle()
        assert metadata(source) == metadata(source.target or source)
        source.sql("update documents set id = id + 100, body = 'moved ' || id where id > 4")
        source.sql("update documents set id = -id where id <= 4")
        source.sql("update documents set r = n where id < 0")
        service.settle()
        assert metadata(source) == metadata(source.target or source)
        assert source.verify()["drift"] == 0


def metadata(site: Site) -> list[tuple[str, ...]]:
    name = "documents" if site.target else "cdc_embed.documents_embedding"
    return site.sql(f"select id, n::text, f::text, r::text, i::text from {name} order by id")


def test_a_database_of_another_encoding_is_followed(source: Site) -> None:
    source.close()
    admin = psycopg2.connect(source.server.dsn())
    admin.autocommit = True
    with admin.cursor() as cursor:
        cursor.execute(f"drop database {source.name}")
        create = f"create database {source.name} template template0 locale 'C'"
        cursor.execute(f"{create} encoding 'LATIN1'")
    admin.close()
    source.sql('create table "Beiträge" (id int primary key, title text, body text, "größe" text)')
    follow(source, entry('"Beiträge"', more='metadata = ["größe"]'))
    source.cli("setup")
    with source.service() as service:
        every = "".join(map(chr, [*range(1, 128), *range(160, 256)]))
        source.sql("insert into \"Beiträge\" values (1, 'é', %s, 'ÿ')", every)
        source.sql("select pg_logical_emit_message(true, 'other', '\\xe9'::bytea)")
        source.sql("insert into \"Beiträge\" select n, 'ü', n, 'ß' from generate_series(2, 5) n")
        service.settle()
        assert Documents(name="Beiträge").drift(source) == []
        stored = (source.target or source).sql(
            'select "größe" from cdc_embed."Beiträge_embedding" order by id'
        )
        assert columns(stored) == ["ÿ", *"ßßßß"]
        assert source.verify()["drift"] == 0


# -- what is refused ------------------------------------------------------------------------------


def test_a_partitioned_table_is_refused_at_setup(source: Site) -> None:
    source.sql("create table parts (id int primary key, title text) partition by range (id)")
    source.sql("create table part partition of parts for values from (0) to (100)")
    follow(source, entry("parts", '"title"'))
    done = source.cli("setup", expect=4)
    assert "wal2json cannot follow public.parts, which is partitioned" in done.stderr
    assert 'source.plugin = "pgoutput"' in done.stderr
    target = source.target or source
    assert target.value("select to_regnamespace('cdc_embed') is null"), "nothing was made"


def test_another_plugin_than_the_slots_is_refused_with_the_fix(
    source: Site,
) -> None:
    source.cli("setup")
    with source.service() as service:
        source.sql("insert into documents values (1, 't', 'one')")
        service.settle()
        assert service.stop() == 0
    source.configure()
    for command in ("setup", "run"):
        told = source.cli(command, expect=4).stderr
        assert f"slot {source.name} is logical with plugin wal2json, not pgoutput" in told
        assert "choose another source.slot, or correct source.plugin" in told


# -- while it runs --------------------------------------------------------------------------------


def test_a_table_without_identity_pauses_and_is_compared_later(
    source: Site,
) -> None:
    """wal2json leaves its updates and deletes out, and the application notices nothing."""
    source.cli("setup")
    with source.service() as service:
        source.sql("insert into documents values (1, 't', 'one'), (2, 't', 'two')")
        service.settle()
        source.sql("alter table documents replica identity nothing")
        source.sql("update documents set body = 'missed' where id = 1")
        source.sql("delete from documents where id = 2")
        paused = service.logged("table is paused")
        assert "its replica identity is nothing" in paused["problem"]
        assert "cdc-embed setup" in paused["hint"]
        assert service.stop() == 0
    assert "its replica identity is nothing" in source.cli("run", expect=4).stderr
    source.sql("alter table documents replica identity default")
    source.cli("setup")
    with source.service() as service:
        compared(service)
        assert source.drift() == []
        source.sql("update documents set body = 'followed again'")
        service.settle()
        assert source.drift() == []


def test_a_renamed_table_is_followed_by_new_name_and_compared(source: Site) -> None:
    source.cli("setup")
    with source.service() as service:
        source.sql("insert into documents values (1, 't', 'one'), (2, 't', 'two')")
        service.settle()
        assert service.stop() == 0
    source.sql("update documents set body = 'under the old name' where id = 1")
    source.sql("alter table documents rename to papers")
    source.sql("update papers set body = 'under the new name' where id = 2")
    assert "there is no such table" in source.cli("run", expect=4).stderr
    follow(source, entry("papers"))
    assert "compare every row of public.papers" in source.cli("setup").stderr
    with source.service() as service:
        compared(service)
        source.sql("insert into papers values (3, 't', 'three')")
        service.settle()
        assert source.drift("papers") == []
        assert source.verify()["drift"] == 0


# -- a position inside a transaction --------------------------------------------------------------

GATE = """
create function gate() returns trigger language plpgsql as $$ begin
  if old.ordinal >= 100 and new.commit_lsn = old.commit_lsn and new.ordinal > old.ordinal then
    perform pg_advisory_xact_lock(7);
  end if;
  return new;
end $$;
create trigger gate before update on cdc_embed.checkpoint for each row execute function gate();
"""
WAITING = "select pid from pg_locks where locktype = 'advisory' and not granted"
BOTH = (entry("documents"), entry("notes"))


def kill_inside(site: Site, service: RunningService, statement: str) -> None:
    """Kill the service once a part of the statement's transaction is recorded."""
    target = site.target or site
    target.sql(GATE)
    with closing(target.connect()) as holder:
        with holder.cursor() as cursor:
            cursor.execute("select pg_advisory_lock(7)")
        site.sql(statement)
        wait_until(lambda: target.sql(WAITING), "the next part of the transaction")
        service.kill()
        target.sql(f"select pg_terminate_backend(pid) from ({WAITING}) w")
    assert site.checkpoint()["ordinal"] >= 100
    target.sql("drop function gate cascade")


@pytest.mark.parametrize("change", [pytest.param("remove", marks=pytest.mark.long), "add"])
def test_a_position_in_a_transaction_counts_changes_of_any_table(source: Site, change: str) -> None:
    """A table that is configured no more still counts; beside a new one, all is compared.

    If it did not count, as many changes of the others would be taken for recorded.
    """
    source.sql("create table notes (id bigint primary key, title text, body text)")
    before, after = (BOTH, BOTH[:1]) if change == "remove" else (BOTH[:1], BOTH)
    follow(source, *before)
    source.cli("setup")
    rows = f"select n, null, {LONG.format('n')} from generate_series(1, 300) n"
    source.sql(f"insert into documents {rows}")
    with source.service(process=True) as service:
        compared(service, len(before))
        kill_inside(
            source,
            service,
            "do $$ begin for n in reverse 300..1 loop"
            " insert into notes values (n, 'note', 'of ' || n);"
            " update documents set id = id + 1, title = n where id = n; end loop; end $$",
        )
    follow(source, *after)
    again = "compare every row of public.documents" in source.cli("setup").stderr
    assert again == (change == "add")
    with source.service() as service:
        compared(service, len(after))
        service.settle()
        assert source.drift() == []
        assert len(after) == 1 or source.drift("notes") == []
        assert source.verify()["drift"] == 0
