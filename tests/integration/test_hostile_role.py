"""A role that may create in ``public``: nothing that it makes is run as the service's role."""

import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, Final

import pytest

from cdc_embed.postgres.session import Session
from cdc_embed.postgres.side import SOURCE
from cdc_embed.rotation import Login
from cdc_embed.source.slot import SlotCatalogue
from cdc_embed.sql import folder
from tests.site import Site

TYPES: Final = (
    *("text", "bigint", "integer", "smallint", "boolean", "name", "oid", '"char"', "text[]"),
    *("bytea", "pg_lsn", "timestamptz", "jsonb", "regclass", "xid", "numeric", "varchar"),
)
"""Types of what our statements give to functions and operators."""
OPERATORS: Final = ("=", "<>", "<", ">", "<=", ">=", "||", "~", "@>", "<@", "+", "-", "*")
NEW_TYPES: Final = ("text", "int8", "int4", "bool", "bytea", "jsonb", "oid", "regclass", "pg_lsn")
PROFILES: Final = """
create table profiles (
  tenant bigint, slug varchar(40), title text, body text, views numeric(10, 2), born date,
  primary key (tenant, slug))
"""


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Iterator[Site]:
    site = make_site(18)
    site.sql(PROFILES)
    role = f"intruder_{site.name}"
    site.sql(f"create role {role}")
    site.sql(f"grant create on schema public to {role}")
    site.configure(
        tables='[[tables]]\nname = "profiles"\ntext = ["title", "body"]\n'
        'metadata = ["views", "born"]\nchunk = { max_tokens = 64 }\nstore_text = false\n',
    )
    yield site
    made = "select proname::text, oid::regprocedure::text from pg_proc where proowner = %s::regrole"
    for _, functions in itertools.groupby(sorted(site.sql(made, role)), key=lambda row: row[0]):
        names = ", ".join(name for _, name in functions)  # all at once would be too many locks
        site.sql(f"drop function {names} cascade")
    site.sql(f"drop owned by {role} cascade")
    site.sql(f"drop role {role}")


def called_functions() -> set[str]:
    """The names that our statements call, and some that only composed ones have."""
    texts = [path.read_text() for path in folder().rglob("*.sql")]
    return {name for text in texts for name in re.findall(r"\b([a-z_]+)\(", text)} | {
        *("format", "substr", "array_to_string", "octet_length", "unnest", "jsonb_build_object"),
    }


def intrude(site: Site) -> None:
    """Make functions, operators, types and tables of every name we use, with a warning in them."""
    with closing(site.connect()) as connection, connection, connection.cursor() as cursor:
        cursor.execute(f"set role intruder_{site.name}")
        cursor.execute("set search_path = pg_catalog")
        cursor.execute("set check_function_bodies = off")
        names = sorted(called_functions())
        cursor.execute("select distinct proname from pg_proc where proname = any (%s)", (names,))
        signatures = [*itertools.product(TYPES), *itertools.product(TYPES, TYPES)]
        for (name,) in cursor.fetchall():
            wide = [("text", *two) for two in itertools.product(TYPES[:8], TYPES[:8])]
            more = wide if name in {"format", "substr", "jsonb_build_object"} else []
            make_functions(cursor, site, name, [*signatures, *more])
        pairs = list(itertools.product(TYPES, TYPES))
        make_functions(cursor, site, "of_operator", pairs)
        statements = [
            f"create operator public.{operator} "
            f"(leftarg = {left}, rightarg = {right}, function = public.of_operator)"
            for operator in OPERATORS
            for left, right in pairs
        ]
        statements += [f"create type public.{name} as (hostile text)" for name in NEW_TYPES]
        statements += [
            f"create table public.{name} (hostile text)"
            for name in ("pg_class", "pg_index", "pg_attribute", "pg_roles", "pg_stat_activity")
        ]
        cursor.execute(";".join(statements))


def make_functions(cursor: Any, site: Site, name: str, signatures: list[Any]) -> None:
    body = (
        f"begin raise warning 'caught {name} in {site.name} as %', current_user; return null; end"
    )
    cursor.execute(
        ";".join(
            f"create function public.{name}({', '.join(types)}) returns boolean "
            f"language plpgsql as $$ {body} $$"
            for types in signatures
        )
    )


def test_nothing_of_a_role_that_may_create_in_public_is_run(site: Site) -> None:
    intrude(site)
    site.sql("set search_path = pg_catalog, pg_temp")  # the test's own statements are not caught
    site.sql(
        "insert into public.profiles select i % 3, 'p' || i, 'title ' || i, repeat('word ', 9), i, "
        "'2024-01-01' from generate_series(1, 1100) i"
    )
    site.cli("doctor", expect=None)
    site.cli("setup", "--dry-run")
    site.cli("setup")
    with site.service() as service:
        service.logged("indexed")
        site.sql("update public.profiles set title = 'new' where slug = 'p7'")
        site.sql("update public.profiles set views = 8 where slug = 'p8'")
        site.sql("update public.profiles set slug = 'moved' where slug = 'p9'")
        site.sql("delete from public.profiles where slug = 'p10'")
        service.settle()
        with closing(site.connect()) as reader, reader.cursor() as cursor:  # an application's
            cursor.execute("select text from cdc_embed.profiles_search")
            assert "new" in [text[:3] for (text,) in cursor]
        site.verify("--repair", "--sample", "5")
        site.cli("search", "new", "--where", "tenant=1", "--json")
        site.cli("status", "--json")
        site.cli("doctor")
        site.sql("truncate public.profiles")
        service.settle()
    site.cli("dlq", "list")
    site.cli("setup")
    site.cli("teardown", "--yes")
    said = site.server.log_text().splitlines()
    assert [line for line in said if "caught" in line and f"in {site.name} as" in line] == []


def test_a_readers_own_types_and_casts_show_him_no_other_tenant(
    make_site: Callable[..., Site],
) -> None:
    """Else every key would be that of a row that he can see."""
    site = make_site(18)
    role = f"reader_{site.name}"
    site.transaction(
        f"create role {role}",
        "create table notes (id uuid primary key, tenant text, body text)",
        f"insert into notes select gen_random_uuid(), t, t from unnest(array['{role}', 'other']) t",
        "alter table notes enable row level security",
        "create policy own on notes using (tenant = current_user)",
        f"grant select on notes to {role}",
    )
    site.configure(tables='[[tables]]\nname = "notes"\ntext = ["body"]\n')
    site.cli("setup")
    with site.service() as service:
        service.logged("indexed")
    site.sql(f"grant usage on schema cdc_embed to {role}")
    site.sql(f"grant select on cdc_embed.notes_search, cdc_embed.notes_embedding to {role}")
    seen = "select text from cdc_embed.notes_search"
    with closing(site.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(f"set role {role}")
        cursor.execute(seen)
        assert cursor.fetchall() == [(role,)]
        cursor.execute("select id::text from notes")
        (mine,) = cursor.fetchone()
        cursor.execute(
            "create type pg_temp.uuid as (id pg_catalog.uuid);"
            "create function pg_temp.out_of(pg_catalog.uuid) returns pg_temp.uuid language sql "
            "as 'select row($1)::pg_temp.uuid';"
            "create function pg_temp.into(pg_temp.uuid) returns pg_catalog.uuid language sql "
            f"as $$ select pg_catalog.uuid '{mine}' $$;"
            "create cast (pg_catalog.uuid as pg_temp.uuid) with function "
            "pg_temp.out_of(pg_catalog.uuid);"
            "create cast (pg_temp.uuid as pg_catalog.uuid) with function pg_temp.into(pg_temp.uuid)"
            " as implicit"
        )
        cursor.execute(seen)
        assert cursor.fetchall() == [(role,)]
    site.sql(f"drop owned by {role} cascade")
    site.sql(f"drop role {role}")


def test_temporary_tables_hide_no_catalogue(site: Site) -> None:
    session = Session(SOURCE, Login(site.dsn), "cdc_embed test")
    with closing(session):
        with session.transaction() as cursor:
            cursor.execute("create temporary table pg_replication_slots (slot_name text)")
            cursor.execute("create temporary table pg_roles (rolname text)")
        assert SlotCatalogue(session, "none").slot() is None
        assert SlotCatalogue(session, "none").server().user == "postgres"


def test_every_name_in_the_sql_has_a_schema_or_is_postgresqls(site: Site) -> None:
    texts = {path: path.read_text() for path in folder().rglob("*.sql")}
    statements = {path: re.sub(r"--.*|'[^']*'|\{\w+\}", "?", text) for path, text in texts.items()}
    functions = {
        n for text in statements.values() for n in re.findall(r"(?<!\?\.)\b([a-z]\w*)\(", text)
    }
    functions -= {
        "coalesce",
        "greatest",
        "nullif",
        "extract",
        "position",
        "trim",
        "array",
        "schema",
        "operator",
    }
    own = "select proname from pg_proc where pronamespace = 'pg_catalog'::regnamespace"
    assert functions - {name for (name,) in site.sql(own)} == set()
    types = {
        name for text in statements.values() for name in re.findall(r"::([a-z]\w*)\b(?!\.)", text)
    }
    known = "select format_type(oid, null), typname from pg_type where oid < 16384"
    assert types - {"int", "float"} - {name for names in site.sql(known) for name in names} == set()
    relation = r"\b(?:from|join|update|into|references)\s+(?!lateral\b)([a-z]\w*)\b(?![(.])"
    for path, text in statements.items():
        for statement in text.split("\n\n"):
            made_here = set(
                re.findall(r"\b(\w+)(?: \([^()]*\))? as (?:materialized )?\(", statement)
            ) | {"base"}
            words = {"select", "set", "stdin", "cascade"}
            found = set(re.findall(relation, statement)) - made_here - words
            assert {name for name in found if not name.startswith("pg_")} == set(), path
