"""The key of a followed table changes: noticed, the table paused alone, its vectors kept."""

import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import pytest

from tests.cases import cases
from tests.oracle import Documents
from tests.site import RunningService, Site, wait_until

NOTES = "create table notes (id bigint primary key, title text, body text)"
CONFIG = """
[[tables]]
name = "letters"
text = ["body"]
[[tables]]
name = "notes"
text = ["title", "body"]
"""


def follow(site: Site, *statements: str, tables: str = CONFIG) -> None:
    for statement in (*statements, NOTES):
        site.sql(statement)
    site.sql("insert into notes values (1, 'first', 'note')")
    site.configure(tables=tables, source='publish = "rows"')
    site.cli("setup")


OTHER = (
    "select c.oid, r.run, r.started_at from pg_class c, cdc_embed.reconcile r "
    "where c.relname = 'notes_embedding' and r.table_name = 'public.notes'"
)


def done(service: RunningService) -> bool:
    tables = service.status()["tables"]
    states = [(entry["backfill_state"], entry["problem"]) for entry in tables]
    return bool(states) and all(state == ("done", None) for state in states)


def texts(service: RunningService) -> float:
    return service.metric("cdc_embed_embed_texts_total", source="model")


@contextmanager
def working(site: Site, *statements: str) -> Iterator[list[Exception]]:
    """The application, which goes on all the time; what it was refused."""
    errors: list[Exception] = []
    ended = threading.Event()

    def work() -> None:
        connection = site.connect()
        connection.autocommit = True
        with connection.cursor() as cursor:
            while not ended.wait(0.05):
                for statement in statements:
                    try:
                        cursor.execute(statement)
                    except psycopg2.Error as exc:
                        errors.append(exc)
        connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield errors
    finally:
        ended.set()
        thread.join()


README = (Path(__file__).parents[2] / "README.md").read_text()
RECIPES = {
    name: statements
    for block in re.findall(r"```sql\n(-- a column more\n.*?)```", README, re.DOTALL)
    for name, statements in re.findall(
        r"^-- ([^,:\n]+)[^\n]*\n(.*?)(?=^-- |\Z)", block, re.M | re.S
    )
}


class Migration:
    """A migration of the key, and what the application does before, meanwhile and after."""

    def __init__(
        self, table: str, rows: str, change: Sequence[str], work: Sequence[str], key: Sequence[str]
    ) -> None:
        self.table = table
        self.rows = rows
        self.change = change
        self.work = work
        self.key = key


ROWS = (
    "insert into letters (tenant, id, body) "
    "select i % 3, i, 'letter ' || i from generate_series(1, 20) i"
)
WORK = (
    "update letters set body = body where id = 2",
    "insert into notes select max(id) + 1, 'n', 'note ' || max(id) from notes",
    "delete from letters where id = 1000000",
)

MIGRATIONS = {
    "a column more": Migration(
        "create table letters (tenant int, id int, rev int not null default 1, body text, "
        "primary key (tenant, id))",
        ROWS,
        [
            RECIPES["a column more"],
            "insert into letters select tenant, id, 2, 'second ' || id from letters where id < 4",
        ],
        WORK,
        ("tenant", "id", "rev"),
    ),
    "another column": Migration(
        "create table letters (tenant int, id int primary key, code text not null unique "
        "default gen_random_uuid()::text, body text)",
        ROWS,
        [RECIPES["another column"]],
        WORK,
        ("code",),
    ),
    "the former one dropped": Migration(
        "create table letters (tenant int, id int primary key, "
        "code bigint generated always as identity, body text)",
        ROWS,
        [
            RECIPES["another column"],
            "alter table letters drop column id",
        ],
        ("update letters set body = body where tenant = 2", WORK[1]),
        ("code",),
    ),
    "int to bigint by a swap": Migration(
        "create table letters (tenant int, id int primary key, body text)",
        ROWS,
        [
            RECIPES["int to bigint by a swap"],
            "insert into letters (id, body) values (5000000000, 'beyond')",
        ],
        WORK,
        ("id",),
    ),
    "another name": Migration(
        "create table letters (tenant int, id int primary key, body text)",
        ROWS,
        [RECIPES["another name"]],
        ("update letters set body = body where tenant = 2", WORK[1]),
        ("letter_id",),
    ),
    "a longer varchar": Migration(
        "create table letters (tenant int, id int, code varchar(4) primary key, body text)",
        ROWS.replace("id, body", "code, body"),
        [
            RECIPES["a longer varchar"],
            "insert into letters values (1, 1, '12345678', 'one'), (1, 1, '12345679', 'two')",
            "insert into letters values (1, 1, '1234', 'three')",
        ],
        ("update letters set body = body where code = '2'", WORK[1]),
        ("code",),
    ),
    "varchar to text": Migration(
        "create table letters (tenant int, id varchar(4) primary key, body text)",
        ROWS,
        [
            "alter table letters alter id type text",
            "insert into letters values (1, '12345678', 'one'), (1, '1234', 'three')",
        ],
        ("update letters set body = body where id = '2'", WORK[1]),
        ("id",),
    ),
    "int to bigint": Migration(
        "create table letters (tenant int, id int primary key, body text)",
        ROWS,
        [
            RECIPES["int to bigint"],
            "insert into letters values (1, 5000000000, 'beyond')",
        ],
        WORK,
        ("id",),
    ),
    "int to uuid": Migration(
        "create table letters (tenant int, id int primary key, body text)",
        ROWS,
        [
            "alter table letters alter id type uuid using (lpad(to_hex(id), 32, '0'))::uuid",
        ],
        ("update letters set body = body where tenant = 2", WORK[1]),
        ("id",),
    ),
    "partitioned": Migration(
        "create table letters (tenant int, id int, rev int not null default 1, body text, "
        "primary key (tenant, id)) partition by hash (tenant); "
        "create table letters_0 partition of letters for values with (modulus 2, remainder 0); "
        "create table letters_1 partition of letters for values with (modulus 2, remainder 1)",
        ROWS,
        [
            RECIPES["a column more"],
            "insert into letters select tenant, id, 2, 'second ' || id from letters where id < 4",
        ],
        WORK,
        ("tenant", "id", "rev"),
    ),
}
NEEDS_NO_SETUP = {"a longer varchar"}


@pytest.mark.parametrize(
    "name", cases(MIGRATIONS, "a column more", "a longer varchar", "int to uuid", "partitioned")
)
def test_a_changed_key_pauses_its_table_and_keeps_its_vectors(
    make_site: Callable[..., Site], name: str
) -> None:
    site, migration = make_site(18), MIGRATIONS[name]
    follow(site, migration.table)
    site.sql(migration.rows)
    letters = Documents(name="letters", key=migration.key, text=("body",))
    with site.service() as service, working(site, *migration.work[1:]) as errors:
        wait_until(lambda: done(service), "backfill")
        service.settle()
        for statement in migration.change:
            site.sql(statement)
        before = len(errors)
        if name not in NEEDS_NO_SETUP:
            wait_until(lambda: "run: cdc-embed setup" in service.readiness()[1], "noticed", 10)
            assert "public.letters" in service.readiness()[1]
            doctor = json.loads(site.cli("doctor", "--json", expect=4).stdout)["checks"]
            assert [c["id"] for c in doctor if not c["ok"] and c["severity"] == "error"] == [
                "stored_key"
            ]
            assert "public.letters has (" in site.cli("verify", expect=1).stderr
            site.cli("setup")
        wait_until(lambda: done(service) and not letters.drift(site), "taken up again", 30)
        for statement in migration.work[:1]:
            site.sql(statement)
        service.settle()
        assert letters.drift(site) == []
        assert site.value("select count(*) from cdc_embed.dead_letter") == 0
        embedded = texts(service)
        assert site.verify()["drift"] == 0
        assert service.alive
        assert errors[:before] == errors
        assert service.stop() == 0
    assert embedded <= 20 + 3 + site.value("select count(*) from notes")


def test_service_without_changes_is_told_of_the_new_key(make_site: Callable[..., Site]) -> None:
    site = make_site(18)
    table = "create table letters (tenant int, id int, body text, primary key (tenant, id))"
    follow(site, table, tables=CONFIG.partition('[[tables]]\nname = "notes"')[0])
    site.sql("insert into letters values (1, 1, 'text')")
    with site.service() as service:
        wait_until(lambda: done(service), "backfill")
        site.sql("alter table letters drop constraint letters_pkey, add primary key (id)")
        wait_until(lambda: "run: cdc-embed setup" in service.readiness()[1], "noticed", 10)
        site.cli("setup")
        wait_until(lambda: service.readiness()[1] == "ok\n", "told", 15)
        assert service.stop() == 0


@pytest.mark.parametrize(
    "terms",
    cases(
        ["another target", "setup at once", "full identity", "stopped"],
        "another target",
        "stopped",
    ),
)
def test_a_key_changes_whatever_else_is_so(make_site: Callable[..., Site], terms: str) -> None:
    """Nothing is embedded again: on two servers, before the service knows, or without it."""
    site = make_site(18, target=make_site(18) if terms == "another target" else None)
    follow(site, MIGRATIONS["a column more"].table)
    site.sql(ROWS)
    if terms == "full identity":
        site.sql("alter table letters replica identity full")
        site.cli("setup")
    letters = Documents(name="letters", key=("tenant", "id", "rev"), text=("body",))
    work = [*WORK, "insert into letters select 9, max(id) + 1, 1, 'new ' || max(id) from letters"]
    with site.service() as service:
        wait_until(lambda: done(service), "backfill")
        service.settle()
        if terms == "stopped":
            assert service.stop() == 0
        with working(site, *work) as errors:
            site.sql(RECIPES["a column more"])
            site.sql("insert into letters select tenant, id, 2, body from letters where id < 4")
            if terms not in ("stopped", "setup at once"):
                wait_until(lambda: "run: cdc-embed setup" in service.readiness()[1], "noticed", 10)
            epoch = site.checkpoint()["epoch"]
            other = (site.target or site).sql(OTHER)
            site.cli("setup", *(["--rebuild"] if terms == "full identity" else []))
            assert site.checkpoint()["epoch"] > epoch, "an older writer is fenced"
            if terms != "stopped":
                wait_until(lambda: done(service), "taken up again", 30)
        assert errors == []
        if terms != "stopped":
            service.settle()
            wait_until(lambda: letters.drift(site) == [], "compared", 20)
            assert (site.target or site).sql(OTHER) == other, "the other table is not redone"
            once = "select count(distinct body) + (select count(*) from notes) from letters"
            assert texts(service) <= site.value(once) + 3
            assert service.stop() == 0
    if terms == "stopped":
        with site.service() as service:
            wait_until(lambda: done(service) and not letters.drift(site), "compared", 30)
            new = "select count(*) + (select count(*) from notes) from letters where tenant = 9"
            assert texts(service) <= site.value(new) + 3
    refused = (site.target or site).value("select count(*) from cdc_embed.dead_letter")
    assert refused == 0


def test_a_column_that_leaves_the_key_may_be_null(
    make_site: Callable[..., Site],
) -> None:
    site = make_site(18)
    table = "create table letters (tenant int, id int, body text, primary key (tenant, id))"
    follow(site, table)
    site.sql("insert into letters values (1, 1, 'text')")
    site.sql(
        "alter table letters drop constraint letters_pkey, add primary key (id), "
        "alter tenant drop not null"
    )
    site.sql("insert into letters values (null, 2, 'of nobody')")
    site.configure(tables=CONFIG.replace('["body"]\n', '["body"]\nmetadata = ["tenant"]\n', 1))
    site.cli("setup")
    letters = Documents(name="letters", text=("body",), metadata=("tenant",))
    with site.service() as service:
        wait_until(lambda: done(service), "backfill")
        assert letters.drift(site) == []
        assert service.stop() == 0
