"""Grants and comments of the application on our objects, whatever ``setup`` makes anew."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from threading import Thread

import pytest

from tests.cases import cases
from tests.own_process import COMMAND
from tests.site import Site, wait_until

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


@pytest.mark.parametrize(
    "change", cases(CHANGES, "a column less", "another model", "a key of another type")
)
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
    assert "cannot put back what depends on them: view public.theirs" in refused
    assert "drop view public.theirs, run: cdc-embed setup, and create it again" in refused
    assert site.sql(RIGHTS, role, role) == before
    assert len(site.sql("select * from theirs")) == 5
    site.sql("drop view theirs")
    site.cli(*command.split())
    site.sql("create view theirs as select text from cdc_embed.letters_search")


GIVEN = {
    "a view's options": (
        "alter view cdc_embed.letters_search set (security_barrier = true)",
        "select reloptions::text from pg_class where oid = 'cdc_embed.letters_search'::regclass",
    ),
    "a rule of the view": (
        "create rule quiet as on insert to cdc_embed.letters_search do instead nothing",
        "select pg_get_ruledef(oid) from pg_rewrite where rulename = 'quiet'",
    ),
    "a default of the view": (
        "alter view cdc_embed.letters_search alter text set default 'none'",
        "select pg_get_expr(adbin, adrelid) from pg_attrdef "
        "where adrelid = 'cdc_embed.letters_search'::regclass",
    ),
    "a trigger of the view": (
        "create trigger instead instead of insert on cdc_embed.letters_search "
        "for each row execute function public.stop()",
        "select pg_get_triggerdef(oid) from pg_trigger where tgname = 'instead'",
    ),
    "a disabled trigger": (
        "create trigger stop before insert on cdc_embed.letters_embedding "
        "for each row execute function public.stop(); "
        "alter table cdc_embed.letters_embedding disable trigger stop; "
        "comment on trigger stop on cdc_embed.letters_embedding is 'off'",
        "select tgenabled::text, obj_description(oid, 'pg_trigger') "
        "from pg_trigger where tgname = 'stop'",
    ),
    "a trigger for replicas": (
        "create trigger replica before insert on cdc_embed.letters_embedding "
        "for each row execute function public.stop(); "
        "alter table cdc_embed.letters_embedding enable replica trigger replica",
        "select tgenabled::text from pg_trigger where tgname = 'replica'",
    ),
    "a disabled rule": (
        "create rule hushed as on delete to cdc_embed.letters_embedding do also nothing; "
        "alter table cdc_embed.letters_embedding disable rule hushed",
        "select ev_enabled::text from pg_rewrite where rulename = 'hushed'",
    ),
    "storage parameters": (
        "alter table cdc_embed.letters_embedding set "
        "(autovacuum_vacuum_scale_factor = 0.02, toast.autovacuum_enabled = false)",
        "select c.reloptions::text, t.reloptions::text from pg_class c "
        "join pg_class t on t.oid = c.reltoastrelid "
        "where c.oid = 'cdc_embed.letters_embedding'::regclass",
    ),
    "storage of a column": (
        "alter table cdc_embed.letters_embedding alter embedding set storage plain, "
        "alter chunk_text set compression pglz, alter chunk set statistics 77, "
        "alter document_hash set (n_distinct = -0.5), alter chunk_text set not null",
        "select attname::text, attstorage::text, attcompression::text, attstattarget, "
        "attoptions::text, attnotnull from pg_attribute "
        "where attrelid = 'cdc_embed.letters_embedding'::regclass and attname in "
        "('embedding', 'chunk_text', 'chunk', 'document_hash') order by 1",
    ),
    "statistics": (
        "create statistics public.both on chunk, chunk_row from cdc_embed.letters_embedding; "
        "alter statistics public.both set statistics 55; comment on statistics public.both is 's'",
        "select stxrelid::regclass::text, stxstattarget, obj_description(oid, 'pg_statistic_ext') "
        "from pg_statistic_ext where stxname = 'both'",
    ),
    "an index": (
        "create unique index mine on cdc_embed.letters_embedding (chunk_row desc, embedded_at) "
        "where chunk_row > 5; comment on index cdc_embed.mine is 'i'",
        "select indexdef, obj_description('cdc_embed.mine'::regclass, 'pg_class') "
        "from pg_indexes where indexname = 'mine'",
    ),
    "a publication": (
        "create publication theirs for table cdc_embed.letters_embedding (chunk, chunk_row) "
        "where (chunk > 3); "
        "alter table cdc_embed.letters_embedding replica identity full",
        "select p.attnames::text, p.rowfilter, c.relreplident::text "
        "from pg_publication_tables p join pg_class c on c.relname = p.tablename "
        "where p.pubname = 'theirs'",
    ),
    "policies": (
        "alter table cdc_embed.letters_embedding enable row level security; "
        "alter table cdc_embed.letters_embedding force row level security; "
        "create policy everybody on cdc_embed.letters_embedding using (chunk >= 0); "
        "comment on policy everybody on cdc_embed.letters_embedding is 'p'",
        "select pg_get_expr(p.polqual, p.polrelid), c.relrowsecurity, c.relforcerowsecurity, "
        "obj_description(p.oid, 'pg_policy') "
        "from pg_policy p join pg_class c on c.oid = p.polrelid where polname = 'everybody'",
    ),
}


@pytest.mark.parametrize(
    "change", ["a column more", "a column less", "another key", "another model"]
)
def test_what_the_application_gave_our_relations_stays(
    reader: tuple[Site, str], change: str
) -> None:
    site, _ = reader
    site.sql("create function stop() returns trigger language plpgsql as 'begin return new; end'")
    for give, _ in GIVEN.values():
        site.sql(give)
    before = {given: site.sql(question) for given, (_, question) in GIVEN.items()}
    assert all(before.values())
    statement, metadata, embedder, command = CHANGES[change]
    if statement:
        site.sql(statement)
    configure(site, metadata, embedder)
    site.cli(*command.split())
    assert {given: site.sql(question) for given, (_, question) in GIVEN.items()} == before
    assert "nothing to do" in site.cli("setup").stderr


def test_a_table_of_vectors_made_anew_is_stored_as_it_was(reader: tuple[Site, str]) -> None:
    site, _ = reader
    site.sql("set allow_in_place_tablespaces = on")
    space = f"space_{site.name}"
    site.sql(f"create tablespace {space} location ''")
    try:
        site.sql(f"alter table cdc_embed.letters_embedding set tablespace {space}")
        site.sql("alter table letters alter id type bigint")
        site.cli("setup")
        stored = (
            "select t.spcname::text from pg_class c "
            "join pg_tablespace t on t.oid = c.reltablespace where c.relname = 'letters_embedding'"
        )
        assert site.sql(stored) == [(space,)]
    finally:
        site.sql("alter table cdc_embed.letters_embedding set tablespace pg_default")
        site.sql(f"drop tablespace {space}")


IN_THE_WAY = {
    "function public.f()": "create function f() returns bigint begin atomic "
    "select count(*) from cdc_embed.letters_search where kind > 'a'; end",
    "function public.g(cdc_embed.letters_search)": "create function g(cdc_embed.letters_search) "
    "returns int language sql as 'select 1'",
    "policy p on table public.other": "create table other (id int); "
    "create policy p on other using (id in (select chunk from cdc_embed.letters_search))",
    "materialized view public.m": "create materialized view m as "
    "select kind from cdc_embed.letters_search",
    "rule r on table public.other": "create table other (id int); create rule r as "
    "on delete to other do also select count(*) from cdc_embed.letters_search",
    "column last of table public.other": "create table other (last cdc_embed.letters_search)",
    "column stars of table cdc_embed.letters_embedding": "alter table cdc_embed.letters_embedding "
    "add stars int",
    "constraint short on table cdc_embed.letters_embedding": "alter table "
    "cdc_embed.letters_embedding add constraint short check (length(chunk_text) < 9000)",
    "constraint other_id_part_fkey on table public.other": "create table other (id int, part int, "
    "foreign key (id, part) references cdc_embed.letters_embedding)",
    "inheritance from public.parent": "create table parent (chunk int not null); "
    "alter table cdc_embed.letters_embedding inherit parent",
    "index cdc_embed.by_id": "create index by_id on cdc_embed.letters_embedding (id, chunk)",
    "statistics object cdc_embed.pairs": "create statistics cdc_embed.pairs on id, chunk "
    "from cdc_embed.letters_embedding",
    "policy mine on table cdc_embed.letters_embedding": "create policy mine on "
    "cdc_embed.letters_embedding using (id > 0)",
    "function public.h()": "create function h() returns boolean begin atomic "
    "select cdc_embed.visible_letters(1); end",
}


@pytest.mark.parametrize(
    "what",
    cases(
        IN_THE_WAY,
        "function public.f()",
        "policy p on table public.other",
        "index cdc_embed.by_id",
        "constraint other_id_part_fkey on table public.other",
    ),
)
def test_what_cannot_be_put_back_is_named_before_the_copy(
    reader: tuple[Site, str], what: str
) -> None:
    site, _ = reader
    site.sql(IN_THE_WAY[what])
    site.sql("alter table letters drop constraint letters_pkey, add primary key (code)")
    configure(site, "")
    for command in (["setup", "--dry-run"], ["setup"]):
        refused = site.cli(*command, expect=4)
        assert f"cannot put back what depends on them: {what}\n" in refused.stderr
        assert f"drop {what}, run: cdc-embed setup, and create it again" in refused.stderr
        assert "copy" not in refused.stdout + refused.stderr
    assert site.value("select to_regclass('cdc_embed.letters_embedding_shadow') is null")
    assert site.value("select count(*) from cdc_embed.letters_embedding") == 5


@pytest.mark.parametrize("what", ["policy", "index", "function"])
def test_what_depends_on_a_column_that_goes_is_named(reader: tuple[Site, str], what: str) -> None:
    site, _ = reader
    site.sql(
        {
            "policy": "create policy thing on cdc_embed.letters_embedding using (kind > 'a')",
            "index": "create index thing on cdc_embed.letters_embedding (chunk, kind)",
            "function": "create function thing() returns bigint begin atomic "
            "select count(kind) from cdc_embed.letters_embedding; end",
        }[what]
    )
    configure(site, "")
    refused = site.cli("setup", "--dry-run", expect=4).stderr
    assert f"depends on them: {what} " in refused
    assert "thing" in refused
    assert "cannot drop column" not in site.cli("setup", expect=4).stderr


TYPED = {
    "create policy mine on cdc_embed.letters_embedding using (id > 2)": "policy mine",
    "alter table cdc_embed.letters_embedding alter id set default 7": "default 7",
    "create index mine on cdc_embed.letters_embedding ((id + 1))": "id + 1",
}
TAKEN_AWAY = (
    "drop policy mine on cdc_embed.letters_embedding",
    "alter table cdc_embed.letters_embedding alter id drop default",
    "drop index cdc_embed.mine",
)


def test_what_does_not_fit_another_key_is_named_before_copying(reader: tuple[Site, str]) -> None:
    site, _ = reader
    site.sql("alter table letters alter id type uuid using gen_random_uuid()")
    for (given, named), taken in zip(TYPED.items(), TAKEN_AWAY, strict=True):
        site.sql(given)
        refused = site.cli("setup", expect=4).stderr
        assert "table public.letters: something of yours does not fit" in refused
        assert named in refused
        assert "index the vectors" not in refused
        site.sql(taken)
    assert site.value("select to_regclass('cdc_embed.letters_embedding_shadow') is null")
    assert site.value("select count(*) from cdc_embed.letters_embedding") == 5


LOCKED_SECONDS = 0.5 + 0.4
"""The wait of a statement of setup for a lock, and the time of a search on a busy machine."""


def test_setup_never_makes_searches_wait_for_a_lock_it_waits_for(
    reader: tuple[Site, str],
) -> None:
    site, _ = reader
    site.sql("alter table letters alter id type bigint")
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
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            began = time.monotonic()
            site.sql("select count(*) from cdc_embed.letters_search")
            longest = max(longest, time.monotonic() - began)
        assert longest < LOCKED_SECONDS
        assert setup.poll() is None
    finally:
        holder.close()
        told = setup.communicate(timeout=30)[1]
    assert setup.returncode == 0
    assert "by its key of now" in told
    assert (
        site.value("select pg_typeof(id)::text from cdc_embed.letters_search limit 1") == "bigint"
    )


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
        wait_until(lambda: service.times("reconciled") == 2, "done")
    for place in range(2):
        assert site.sql(f"select id from cdc_embed.found{place}") == [(place,)]
    assert "nothing to do" in site.cli("setup").stderr
