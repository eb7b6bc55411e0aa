"""One of our own tables that the application drops: named, made again, and every row compared."""

import pytest

from cdc_embed.target.schema import SERVICE_TABLES
from tests.cases import cases
from tests.site import Site, wait_until

STORED = "select id, chunk_text from cdc_embed.documents_embedding order by id"
TABLES = [name for name in SERVICE_TABLES if name not in {"checkpoint", "space"}]
FORM = """
select c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
       pg_get_expr(d.adbin, d.adrelid)
from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
left join pg_attrdef d on (d.adrelid, d.adnum) = (c.oid, a.attnum)
where c.relnamespace = 'cdc_embed'::regnamespace and c.relkind = 'r'
union all
select c.relname, k.conname, pg_get_constraintdef(k.oid), true, '', null
from pg_constraint k join pg_class c on c.oid = k.conrelid
where c.relnamespace = 'cdc_embed'::regnamespace and k.contype <> 'n' and k.conname <> %s
union all
select c.relname, i.relname, pg_get_indexdef(i.oid), true, '', null
from pg_index n join pg_class i on i.oid = n.indexrelid join pg_class c on c.oid = n.indrelid
where c.relnamespace = 'cdc_embed'::regnamespace
union all
select c.relname, '', obj_description(c.oid, 'pg_class'), true, '', null
from pg_class c where c.relnamespace = 'cdc_embed'::regnamespace and c.relkind = 'r'
order by 1, 2, 3
"""


@pytest.fixture
def filled(site: Site) -> Site:
    """Three rows with their vectors, the service stopped."""
    site.sql("insert into documents select i, 't', 'text ' || i from generate_series(1, 3) i")
    run(site)
    return site


def run(site: Site) -> None:
    with site.service() as service:
        service.wait_for("reconciled")
        service.settle()
        assert service.stop() == 0


def follow(site: Site) -> None:
    """Changes that were missed meanwhile are found, and nothing is left to do."""
    with site.service() as service:
        service.settle()
        wait_until(lambda: site.drift() == [], "every row is right")
        assert service.stop() == 0
    assert site.verify()["drift"] == 0
    assert "nothing to do" in site.cli("setup").stderr


@pytest.mark.parametrize("name", cases(TABLES, "deferred", "embedding_table"))
def test_a_lost_table_of_ours_is_named_and_made_again(filled: Site, name: str) -> None:
    form = filled.sql(FORM, "")
    before = filled.sql("select id, embedded_at from cdc_embed.documents_embedding order by id")
    filled.sql(f"drop table cdc_embed.{name} cascade")
    filled.sql("update documents set body = 'missed' where id = 2")
    for command in ("doctor", "run --no-wait"):
        told = str(filled.cli(*command.split(), expect=4))
        assert f"cdc_embed.{name} does not exist any more" in told, command
        assert "run: cdc-embed setup" in told, command
    for command in ("verify", "status", "dlq list", "search x", "backfill"):
        done = filled.cli(*command.split(), expect=None)
        assert done.returncode in {0, 4}, command
        assert done.returncode == 0 or "cdc-embed setup" in done.stderr, (command, done.stderr)
    shown = filled.cli("setup", "--dry-run").stdout
    assert f"cdc_embed.{name} again" in shown
    filled.cli("doctor", expect=4)
    said = filled.cli("setup").stderr
    assert f"cdc_embed.{name} again" in said
    assert filled.sql(FORM, "") == form
    follow(filled)
    after = filled.sql("select id, embedded_at from cdc_embed.documents_embedding order by id")
    assert [row for row in after if row in before] == [before[0], before[2]], "nothing else"


def test_the_script_for_a_lost_table_makes_it(filled: Site) -> None:
    filled.sql("drop table cdc_embed.reconcile")
    filled.transaction(filled.cli("setup", "--sql").stdout)
    filled.cli("setup")
    follow(filled)


@pytest.mark.parametrize(
    "statement", ["drop table cdc_embed.checkpoint", "delete from cdc_embed.checkpoint"]
)
def test_a_lost_position_is_a_gap_and_none_is_made_up(filled: Site, statement: str) -> None:
    """The slot can have been moved, or made anew, by whoever did this."""
    filled.sql(statement)
    filled.sql("update documents set body = 'skipped' where id = 2")
    filled.sql("select pg_replication_slot_advance(%s, pg_current_wal_lsn())", filled.name)
    filled.cli("setup", expect=5)
    for command in ("setup", "doctor", "run --no-wait"):
        told = str(filled.cli(*command.split(), expect=5))
        assert "its recorded position is gone" in told, command
        assert "cdc-embed setup --rebuild" in told, command
    filled.cli("setup", "--rebuild")
    follow(filled)
    assert (2, "t\n\nskipped") in filled.sql(STORED)


def test_without_the_spaces_every_text_is_embedded_on_demand(filled: Site) -> None:
    """Nobody knows which model made the vectors; their numbers must not come to mean another."""
    filled.sql("drop table cdc_embed.space cascade")
    filled.sql("create table cdc_embed.mine (chunk_hash text, space integer)")
    filled.sql("insert into cdc_embed.mine values ('mine', 2147483647)")
    filled.sql(
        "update cdc_embed.documents_embedding set embedding = embedding - embedding - embedding"
    )
    for command in ("setup", "doctor", "run --no-wait", "setup --dry-run"):
        told = str(filled.cli(*command.split(), expect=4))
        assert "it is not known which model" in told, command
        assert "cdc-embed setup --rebuild" in told, command
    filled.cli("setup", "--rebuild")
    follow(filled)
    assert filled.verify("--sample", "3")["tables"][0]["sampled"] == 3
    assert filled.sql(STORED) == [(i, f"t\n\ntext {i}") for i in (1, 2, 3)]


@pytest.mark.parametrize("left", [("checkpoint", "space"), ()])
def test_all_our_tables_but_the_vectors_are_made_again(filled: Site, left: tuple[str]) -> None:
    gone = [name for name in SERVICE_TABLES if name not in left]
    form = filled.sql(FORM, "")
    filled.sql("drop table " + ", ".join(f"cdc_embed.{name}" for name in gone) + " cascade")
    if "space" in gone:
        assert "not known which model" in filled.cli("setup", expect=4).stderr
    filled.cli("setup", *(["--rebuild"] if "space" in gone else []))
    follow(filled)
    now = [
        (*row[:2], str(row[2]).removesuffix(" NOT VALID"), *row[3:]) for row in filled.sql(FORM, "")
    ]
    assert now == [(*row[:2], str(row[2]), *row[3:]) for row in form]


def test_one_table_that_is_left_is_known_to_be_ours(filled: Site) -> None:
    gone = [name for name in SERVICE_TABLES if name != "dead_letter"]
    listed = ", ".join(f"cdc_embed.{name}" for name in [*gone, "documents_embedding"])
    filled.sql(f"drop table {listed} cascade")
    filled.cli("setup")  # without vectors there is no question which model made them
    follow(filled)


@pytest.mark.parametrize(
    "statement",
    ["drop view cdc_embed.documents_search", "drop function cdc_embed.visible_documents cascade"],
)
def test_a_lost_search_view_is_made_again(filled: Site, statement: str) -> None:
    filled.sql(statement)
    told = filled.cli("search", "text", expect=None)
    assert told.returncode == 0 or "cdc-embed setup" in told.stderr
    filled.cli("setup")
    assert filled.value("select count(*) from cdc_embed.documents_search") == 3
    assert "nothing to do" in filled.cli("setup").stderr


@pytest.mark.parametrize("name", cases([*TABLES, "space"], "reconcile", "space"))
def test_a_running_service_waits_for_the_lost_table(filled: Site, name: str) -> None:
    with filled.service() as service:
        service.settle()
        filled.sql(f"drop table cdc_embed.{name} cascade")
        filled.sql("insert into documents values (4, 't', 'text 4')")
        if name in {"migration", "request", "dead_letter"}:
            filled.sql("truncate documents")  # whatever it needs it for
            filled.sql("insert into documents values (4, 't', 'text 4')")
        rebuild = ["--rebuild"] if name == "space" else []
        if name != "migration":
            wait_until(lambda: "setup" in service.unready(), "it waits", 30)
        filled.cli("setup", *rebuild)
        wait_until(lambda: (4, "t\n\ntext 4") in filled.sql(STORED), "it is followed again", 30)
        wait_until(lambda: not service.unready(), "it is ready", 30)
        assert service.alive
        assert service.stop() == 0


MOVED = {
    "alter table cdc_embed.{} rename to x": "alter table cdc_embed.x rename to {};",
    "alter table cdc_embed.{} set schema public": "alter table public.{} set schema cdc_embed;",
}


@pytest.mark.parametrize("name", cases(["checkpoint", "space", "deferred", "dead_letter"], "space"))
@pytest.mark.parametrize("statement", MOVED)
def test_a_moved_table_of_ours_is_named_with_the_way_back(
    filled: Site, statement: str, name: str
) -> None:
    filled.sql(statement.format(name))
    back = MOVED[statement].format(name)
    for command in ("doctor", "setup --rebuild", "run"):
        told = filled.cli(*command.split(), expect=4)
        assert f"cdc_embed.{name} was renamed to" in told.stdout + told.stderr
        assert back in told.stdout + told.stderr
    filled.sql(back)
    assert "nothing to do" in filled.cli("setup").stderr
