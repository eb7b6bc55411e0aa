"""Grants and comments of the application on our objects, whatever ``setup`` makes anew."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from threading import Thread

import pytest

from tests.own_process import COMMAND
from tests.site import Site, columns, wait_until

TABLE = (
    "create table letters (tenant int, id int primary key, code text not null unique "
    "default gen_random_uuid()::text, body text, kind varchar(4), place text)"
)
CONFIG = """
[[tables]]
name = "letters"
text = ["body"]
metadata = [{metadata}]
"""
RIGHTS = """
select c.relname::text, coalesce(a.attname::text, ''), g.privilege_type, g.is_grantable
from pg_class c
left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
cross join lateral aclexplode(case when a.attname is null then c.relacl else a.attacl end) g
where c.relnamespace = 'cdc_embed'::regnamespace and g.grantee = %s::regrole
union all
select c.relname::text, '', g.privilege_type, g.is_grantable
from pg_class c, aclexplode(c.relacl) g
where c.relnamespace = 'cdc_embed'::regnamespace and g.grantee = %s::regrole
order by 1, 2, 3
"""


@pytest.fixture
def reader(make_site: Callable[..., Site]) -> Iterator[tuple[Site, str]]:
    """A followed table, and a role that may search it."""
    site = make_site(18)
    site.sql(TABLE)
    site.sql(
        "insert into letters (tenant, id, body) select 1, i, 'l ' || i from generate_series(1, 5) i"
    )
    configure(site)
    site.cli("setup")
    with site.service() as service:
        service.wait_for("reconciled")
        service.settle()
    role = f"reader_{site.name}"
    site.sql(f"create role {role}")
    site.sql(f"grant usage on schema cdc_embed to {role}")
    site.sql(f"grant select on letters to {role}")
    site.sql(f"grant select on cdc_embed.letters_search to {role} with grant option")
    site.sql(f"grant select on cdc_embed.letters_embedding to {role}")
    site.sql(f"grant update (chunk_text) on cdc_embed.letters_embedding to {role}")
    site.sql("comment on view cdc_embed.letters_search is 'ours'")
    site.sql("comment on column cdc_embed.letters_search.text is 'the text'")
    site.sql("comment on table cdc_embed.letters_embedding is 'the vectors'")
    yield site, role
    site.sql(f"drop owned by {role}")
    site.sql(f"drop role {role}")


def configure(site: Site, metadata: str = '"kind"', embedder: str = 'kind = "hash"') -> None:
    site.configure(
        tables=CONFIG.format(metadata=metadata), source='publish = "rows"', embedder=embedder
    )


CHANGES = {
    "a column more": ("", '"kind", "place"', 'kind = "hash"', "setup"),
    "a column less": ("", "", 'kind = "hash"', "setup"),
    "another column": ("", '"place"', 'kind = "hash"', "setup"),
    "another type": (
        "alter table letters alter kind type int using 1",
        '"kind"',
        'kind = "hash"',
        "setup",
    ),
    "another model": ("", '"kind"', 'kind = "hash"\ndimensions = 64', "setup --rebuild"),
    "another key": (
        "alter table letters drop constraint letters_pkey, add primary key (code)",
        '"kind"',
        'kind = "hash"',
        "setup",
    ),
    "a renamed key": (
        "alter table letters rename id to number",
        '"kind"',
        'kind = "hash"',
        "setup",
    ),
    "a key of another type": (
        "alter table letters alter id type bigint",
        '"kind"',
        'kind = "hash"',
        "setup",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_grants_comments_and_searches_survive_every_change(
    reader: tuple[Site, str], change: str
) -> None:
    site, role = reader
    before = site.sql(RIGHTS, role, role)
    assert len(before) == 3
    statement, metadata, embedder, command = CHANGES[change]
    if statement:
        site.sql(statement)
    configure(site, metadata, embedder)
    failed: list[Exception] = []
    ended = False

    def search() -> None:
        with closing(site.connect()) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            cursor.execute(f"set role {role}")
            while not ended:
                try:
                    cursor.execute("select text from cdc_embed.letters_search limit 1")
                except Exception as exc:  # noqa: BLE001  any of them is a failure
                    failed.append(exc)

    searching = Thread(target=search)
    searching.start()
    try:
        site.cli(*command.split())
    finally:
        ended = True
        searching.join()
    assert failed == []
    assert site.sql(RIGHTS, role, role) == before
    described = "select obj_description(%s::regclass, 'pg_class')"
    assert site.value(described, "cdc_embed.letters_search") == "ours"
    assert site.value(described, "cdc_embed.letters_embedding") == "the vectors"
    text = (
        "select col_description(attrelid, attnum) from pg_attribute "
        "where attrelid = 'cdc_embed.letters_search'::regclass and attname = 'text'"
    )
    assert site.value(text) == "the text"
    assert "nothing to do" in site.cli("setup").stderr


@pytest.mark.parametrize("change", ["a column more", "a renamed key"])
def test_a_view_of_the_application_over_ours_stays(reader: tuple[Site, str], change: str) -> None:
    site, _ = reader
    site.sql("create view theirs as select id, text from cdc_embed.letters_search")
    statement, metadata, embedder, _ = CHANGES[change]
    if statement:
        site.sql(statement)
    configure(site, metadata, embedder)
    site.cli("setup")
    assert len(site.sql("select * from theirs")) == 5


@pytest.mark.parametrize("change", ["a column less", "another key", "another model"])
def test_a_view_of_the_application_in_the_way_is_named(
    reader: tuple[Site, str], change: str
) -> None:
    site, role = reader
    site.sql("create view theirs as select text from cdc_embed.letters_search")
    statement, metadata, embedder, command = CHANGES[change]
    if statement:
        site.sql(statement)
    configure(site, metadata, embedder)
    before = site.sql(RIGHTS, role, role)
    refused = site.cli(*command.split(), expect=4).stderr
    assert "theirs reads it" in refused
    assert "drop public.theirs, run: cdc-embed setup, and create it again" in refused
    assert site.sql(RIGHTS, role, role) == before
    assert len(site.sql("select * from theirs")) == 5
    site.sql("drop view theirs")
    site.cli(*command.split())
    site.sql("create view theirs as select text from cdc_embed.letters_search")


def test_setup_never_makes_searches_wait_for_a_lock_it_waits_for(
    reader: tuple[Site, str],
) -> None:
    site, _ = reader
    configure(site, '"kind", "place"')
    holder = site.connect()
    with holder.cursor() as cursor:
        cursor.execute("select count(*) from cdc_embed.letters_search")
    setup = subprocess.Popen(
        [*COMMAND, "-c", str(site.config_path), "setup"], stderr=subprocess.PIPE, text=True
    )
    assert setup.stderr is not None
    try:
        while "waits for" not in (line := setup.stderr.readline()):
            assert setup.poll() is None
        assert "PID" in line
        longest = 0.0
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline:
            began = time.monotonic()
            site.sql("select count(*) from cdc_embed.letters_search")
            longest = max(longest, time.monotonic() - began)
        assert longest < 2
        assert setup.poll() is None
    finally:
        holder.close()
        setup.communicate(timeout=30)
    assert setup.returncode == 0
    found = "select attname from pg_attribute where attrelid = 'cdc_embed.letters_search'::regclass"
    assert "place" in columns(site.sql(found))


def test_a_renamed_search_view_keeps_its_grants(reader: tuple[Site, str]) -> None:
    site, role = reader
    before = {row[1:] for row in site.sql(RIGHTS, role, role)}
    site.configure(tables=CONFIG.format(metadata='"kind"') + 'search_view = "found"\n')
    site.cli("setup")
    assert {row[1:] for row in site.sql(RIGHTS, role, role)} == before
    assert site.value("select to_regclass('cdc_embed.letters_search') is null")
    assert len(site.sql("select * from cdc_embed.found")) == 5
    found = site.cli("search", "l 3", "--table", "letters", "-k", "1", "--json")
    assert '"id": 3' in found.stdout
    assert "nothing to do" in site.cli("setup").stderr
    site.cli("doctor")
    site.cli("teardown", "--yes")
    assert site.value("select to_regnamespace('cdc_embed') is null")


def test_tables_whose_long_names_begin_alike_are_told_apart(make_site: Callable[..., Site]) -> None:
    site = make_site(18)
    names = ["n" * 62 + "1", "n" * 62 + "2"]
    sections = ""
    for place, name in enumerate(names):
        site.sql(f"create table {name} (id int primary key, body text)")
        site.sql(f"insert into {name} values ({place}, 'text {place}')")
        sections += f'[[tables]]\nname = "{name}"\ntext = ["body"]\n'
        sections += f'embedding_table = "v{place}"\nsearch_view = "found{place}"\n'
    site.configure(tables=sections, source='publish = "rows"')
    site.cli("setup")
    with site.service() as service:
        wait_until(lambda: len([e for e in service.log if e["event"] == "reconciled"]) == 2, "done")
    for place in range(2):
        assert site.sql(f"select id from cdc_embed.found{place}") == [(place,)]
    assert "nothing to do" in site.cli("setup").stderr
