"""Row level security of the source holds for its vectors, and is never taken for missing rows."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest

from cdc_embed.postgres.session import Session
from cdc_embed.target.shadow import Shadow
from tests.cases import cases
from tests.oracle import Documents
from tests.site import Site, columns, wait_until

TABLE = "create table letters (tenant int not null, id int primary key, body text)"
NOTES = "create table notes (id bigint primary key, title text, body text)"
CONFIG = """
[[tables]]
name = "letters"
text = ["body"]
metadata = ["tenant"]
[[tables]]
name = "notes"
text = ["title", "body"]
"""
LETTERS = Documents(name="letters", text=("body",), metadata=("tenant",))
GRANTS = (
    "grant usage on schema cdc_embed to {role}",
    "grant select on cdc_embed.letters_search, cdc_embed.letters_embedding to {role}",
    "grant select ({key}) on public.letters to {role}",
)


def secure(site: Site) -> None:
    for statement in (TABLE, NOTES):
        site.sql(statement)
    site.sql("insert into letters select i % 2, i, 'letter ' || i from generate_series(1, 20) i")
    site.sql("alter table letters enable row level security")
    site.sql("create extension vector with schema public")
    site.sql("alter default privileges revoke execute on functions from public")
    site.sql(
        "create policy own on letters using "
        "(tenant = nullif(current_setting('app.tenant', true), '')::int)"
    )
    site.configure(tables=CONFIG, source='publish = "rows"')
    site.cli("setup")


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    site = make_site(18)
    secure(site)
    return site


@pytest.fixture
def reader(site: Site) -> Iterator[str]:
    """A role that owns nothing, with the grants that README names."""
    role = f"reader_{site.name}"
    site.sql(f"create role {role}")
    for grant in GRANTS:
        site.sql(grant.format(role=role, key="id"))
    yield role
    site.sql(f"drop owned by {role}")
    site.sql(f"drop role {role}")


def seen(site: Site, role: str, tenant: int | str, statement: str) -> list[Any]:
    with closing(site.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(f"set role {role}")
        cursor.execute(f"set app.tenant = '{tenant}'")
        cursor.execute(statement)
        return columns(cursor.fetchall())


def backfill(site: Site) -> None:
    with site.service() as service:
        wait_until(lambda: LETTERS.drift(site) == [], "embedded")
        service.settle()


@pytest.mark.parametrize("relation", ["letters_search", "letters_embedding"])
def test_a_reader_sees_the_vectors_of_its_own_tenant_only(
    site: Site, reader: str, relation: str
) -> None:
    backfill(site)
    everything = f"select (id, tenant, embedding)::text from cdc_embed.{relation}"
    assert len(seen(site, reader, 1, everything)) == 10
    assert set(seen(site, reader, 0, f"select tenant from cdc_embed.{relation}")) == {0}
    assert seen(site, reader, 2, everything) == seen(site, reader, "", everything) == []
    nearest = "select id from cdc_embed.letters_search order by embedding operator(public.<=>) "
    nearest += "(select embedding from cdc_embed.letters_embedding limit 1) limit 20"
    assert len(seen(site, reader, 1, nearest)) == 10
    with site.service() as service:
        site.sql("insert into letters values (1, 21, 'one more')")
        site.sql("update letters set tenant = 0 where id = 1")
        service.settle()
    assert len(seen(site, reader, 1, everything)) == 10
    assert len(seen(site, reader, 0, everything)) == 11
    assert site.verify()["drift"] == 0


MOVES = (
    "alter table letters add other int; update letters set other = 21 - id;"
    "alter table letters drop constraint letters_pkey; alter table letters rename id to former;"
    "alter table letters rename other to id; alter table letters add primary key (id)"
)
CHANGES = {
    "another type": ("alter table letters alter id type bigint", "id"),
    "another name": ("alter table letters rename id to number", "number"),
    "another key": (
        "alter table letters drop constraint letters_pkey, add primary key (id, tenant);"
        "insert into letters values (1, 2, 'one more of this number')",
        "id, tenant",
    ),
    "another column of its name": (MOVES, "id"),
    "another table of its name": (
        "alter table letters rename to former; create table letters (like former including all);"
        "insert into letters select tenant, 21 - id, body from former;"
        "alter table letters enable row level security; create policy own on letters using "
        "(tenant = nullif(current_setting('app.tenant', true), '')::int)",
        "id",
    ),
    "no metadata": ("select", "id"),
}


@pytest.mark.parametrize(
    "change",
    cases(CHANGES, "another key", "another column of its name", "another table of its name"),
)
def test_no_change_of_the_table_opens_its_vectors(site: Site, reader: str, change: str) -> None:
    backfill(site)
    statement, key = CHANGES[change]
    everything = "select chunk_text from cdc_embed.letters_embedding"
    site.sql(statement)
    site.sql(f"grant select ({key}) on public.letters to {reader}")
    own = set(columns(site.sql("select body from letters where tenant = 1")))
    try:
        assert set(seen(site, reader, 1, everything)) <= own
    except psycopg2.Error as exc:
        assert "visible_letters" in str(exc)  # noqa: PT017  it may fail, and must not show more
    if change in ("no metadata", "another key"):
        tables = CONFIG.replace('metadata = ["tenant"]\n', "")
        site.configure(tables=tables, source='publish = "rows"')
    assert "cdc-embed setup" in site.cli("doctor", expect=4).stdout
    site.cli("setup")
    shown = seen(site, reader, 1, everything)
    assert len(shown) == 10
    assert set(shown) <= own
    assert seen(site, reader, 2, everything) == []
    site.cli("doctor")
    assert "nothing to do" in site.cli("setup").stderr


def test_a_shadow_shows_no_vector_before_its_policies_do(
    site: Site, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Default privileges open each new table of the schema, this one before it has policies."""
    backfill(site)
    site.sql(f"alter default privileges in schema cdc_embed grant select on tables to {reader}")
    site.sql("alter table letters alter id type bigint")
    filled = "select count(*) from cdc_embed.letters_embedding_shadow"
    fill, shown = Shadow.fill, list[Any]()

    def fill_and_look(shadow: Shadow, session: Session, slices: Any) -> None:
        fill(shadow, session, slices)
        shown.extend([site.value(filled), *seen(site, reader, 1, filled)])

    monkeypatch.setattr(Shadow, "fill", fill_and_look)
    site.cli("setup")
    assert shown == [20, 0]
    assert len(seen(site, reader, 1, "select id from cdc_embed.letters_embedding")) == 10


@pytest.mark.parametrize("secured", [True, False])
def test_a_key_under_a_policy_is_retyped_in_place(
    make_site: Callable[..., Site], secured: bool
) -> None:
    """From varchar to text nothing is copied, and our own policies must not refuse it."""
    site = make_site(18)
    site.sql("create table letters (id varchar(8) primary key, tenant int, body text)")
    site.sql("insert into letters select i, i % 2, 'letter ' || i from generate_series(1, 5) i")
    site.sql("alter table letters enable row level security")
    site.configure(tables=CONFIG.partition('[[tables]]\nname = "notes"')[0])
    site.cli("setup")
    backfill(site)
    site.sql("alter table letters alter id type text")
    if not secured:
        site.sql("alter table letters disable row level security")
    site.cli("setup")
    state = (
        "select relrowsecurity, (select count(*) from pg_policy p where p.polrelid = c.oid) "
        "from pg_class c where oid = 'cdc_embed.letters_embedding'::regclass"
    )
    assert site.sql(state) == [(True, 2) if secured else (False, 0)]
    backfill(site)
    assert "nothing to do" in site.cli("setup").stderr
    assert site.verify()["drift"] == 0


def test_row_security_that_comes_later_is_said_and_made(make_site: Callable[..., Site]) -> None:
    site = make_site(18)
    site.sql(TABLE)
    site.sql(NOTES)
    site.configure(tables=CONFIG, source='publish = "rows"')
    site.cli("setup")
    site.sql("alter table letters enable row level security")
    found = json.loads(site.cli("doctor", "--json", expect=4).stdout)["checks"]
    assert [check["id"] for check in found if not check["ok"]][-1] == "row_security"
    site.cli("setup")
    site.cli("doctor")
    secured = (
        "select relrowsecurity from pg_class where oid = 'cdc_embed.letters_embedding'::regclass"
    )
    assert site.value(secured)
    site.sql("alter table letters disable row level security")
    site.cli("setup")
    assert not site.value(secured)
    assert site.sql("select 1 from pg_policy where polname like 'cdc_embed%'") == []


def test_with_a_target_of_its_own_no_reader_sees_a_vector(make_site: Callable[..., Site]) -> None:
    site = make_site(18, target=make_site(18))
    secure(site)
    target = site.target
    assert target is not None
    backfill(site)
    role = f"reader_{site.name}"
    target.sql(f"create role {role}")
    try:
        for grant in GRANTS[:2]:
            target.sql(grant.format(role=role))
        assert seen(target, role, 1, "select id from cdc_embed.letters_search") == []
        assert target.value("select count(*) from cdc_embed.letters_search") == 20
    finally:
        target.sql(f"drop owned by {role}")
        target.sql(f"drop role {role}")
    found = json.loads(site.cli("doctor", "--json").stdout)["checks"]
    said = next(check["message"] for check in found if check["id"] == "row_security")
    assert "on another server" in said


@pytest.fixture
def owned(make_site: Callable[..., Site]) -> Iterator[Site]:
    """A service whose role owns what it needs, and can do no more."""
    site = make_site(18)
    role = f"owner_{site.name}"
    site.sql("create extension vector with schema public")
    site.sql(f"create role {role} login replication")
    site.sql(f"grant create on database {site.name} to {role}")
    site.sql(f"grant execute on function pg_control_system() to {role}")
    for statement in (TABLE, NOTES):
        site.sql(statement)
    for name in ("letters", "notes"):
        site.sql(f"alter table {name} owner to {role}")
    site.configure(tables=CONFIG, source='publish = "rows"')
    config = site.config_path.read_text()
    dsn = site.server.dsn(site.name, role)
    site.config_path.write_text(config.replace(f'dsn = "{site.dsn}"', f'dsn = "{dsn}"', 1))
    site.cli("setup")
    yield site
    site.sql(f"drop owned by {role} cascade")
    site.sql(f"drop role {role}")


def test_row_security_of_no_use_pauses_its_table_alone(owned: Site) -> None:
    site = owned
    site.sql("insert into letters select i % 2, i, 'letter ' || i from generate_series(1, 20) i")
    with site.service() as service:
        wait_until(lambda: LETTERS.drift(site) == [], "embedded")
        site.sql("alter table letters enable row level security, force row level security")
        wait_until(lambda: "row-level security applies" in service.readiness()[1], "noticed", 10)
        assert "public.letters" in service.readiness()[1]
        assert "no force row level security" in service.readiness()[1]
        site.sql("insert into notes values (1, 'a', 'note')")
        site.sql("insert into letters values (1, 100, 'more')")
        service.settle()
        assert site.drift("notes") == []
        assert "row-level security applies" in site.cli("setup", expect=4).stderr
        site.sql("alter table letters no force row level security")
        wait_until(lambda: "none of their vectors" in service.readiness()[1], "still paused", 20)
        site.cli("setup")
        wait_until(lambda: service.readiness()[1] == "ok\n", "followed again", 20)
        wait_until(lambda: LETTERS.drift(site) == [], "compared")
        site.sql("delete from letters where id = 100")
        site.sql(MOVES)
        wait_until(lambda: "for another table or key" in service.readiness()[1], "noticed", 10)
        site.cli("setup")
        wait_until(lambda: service.readiness()[1] == "ok\n", "followed again", 20)
        wait_until(lambda: LETTERS.drift(site) == [], "compared")
        assert service.stop() == 0


OPENS = {
    "alter table cdc_embed.letters_embedding disable row level security": "vectors have no more",
    "drop policy cdc_embed_readers on cdc_embed.letters_embedding": "vectors have no more",
    "alter policy cdc_embed_readers on cdc_embed.letters_embedding using (true)": "policy cdc",
    "create or replace function cdc_embed.visible_letters(int) returns boolean return true": (
        "function visible_letters is not as setup made it"
    ),
}


@pytest.mark.parametrize("statement", OPENS)
def test_vectors_that_other_hands_open_are_named(owned: Site, statement: str) -> None:
    owned.sql("alter table letters enable row level security")
    owned.cli("setup")
    with owned.service() as service:
        wait_until(lambda: service.readiness()[1] == "ok\n", "ready")
        owned.sql(statement)
        wait_until(lambda: OPENS[statement] in service.readiness()[1], "noticed", 12)
        owned.cli("doctor", expect=4)
        owned.cli("setup")
        owned.cli("doctor")
        wait_until(lambda: service.readiness()[1] == "ok\n", "followed again", 20)
        assert service.stop() == 0


def test_doctor_warns_of_a_policy_that_shows_more(owned: Site) -> None:
    owned.sql("alter table letters enable row level security")
    owned.cli("setup")
    owned.sql('create policy "Mine" on cdc_embed.letters_embedding for select using (true)')
    said = owned.cli("doctor").stdout
    assert 'policy "Mine" of yours shows its vectors to more readers' in said
    assert 'drop policy "Mine" on cdc_embed.letters_embedding;' in said


def test_doctor_names_the_owner_that_setup_and_the_index_need(owned: Site) -> None:
    site = owned
    site.sql("alter table cdc_embed.letters_embedding owner to postgres")
    found = json.loads(site.cli("doctor", "--json", expect=4).stdout)["checks"]
    assert any(check["fix"].startswith("grant select, insert, update, delete") for check in found)
    (check,) = [check for check in found if check["id"] == "owner" and not check["ok"]]
    assert "cdc_embed.letters_embedding is owned by postgres" in check["message"]
    assert check["fix"].startswith("grant postgres to ")
