"""Keys of types whose operators are not PostgreSQL's own, in a schema that no search path names."""

from collections.abc import Callable
from typing import Any, Final

import pytest

from tests.cases import cases
from tests.site import Site
from tests.sources import make_source

MANY: Final = 1200
"""More keys than one slice has, so that a slice begins after a key."""

CASELESS: Final = """
create schema extensions;
create type extensions.ci as (word text);
create function extensions.ci_cmp(a extensions.ci, b extensions.ci) returns integer
  language sql immutable as $$ select bttextcmp(lower((a).word), lower((b).word)) $$;
do $do$
declare op text; name text;
begin
  foreach op in array array['<', '<=', '=', '>=', '>'] loop
    name := 'ci_' || array_position(array['<', '<=', '=', '>=', '>'], op);
    execute format('create function extensions.%s(a extensions.ci, b extensions.ci) returns boolean
      language sql immutable as $$ select extensions.ci_cmp(a, b) %s 0 $$', name, op);
    execute format('create operator extensions.%s (
      leftarg = extensions.ci, rightarg = extensions.ci, function = extensions.%s)', op, name);
  end loop;
end $do$;
create operator class extensions.ci_ops default for type extensions.ci using btree as
  operator 1 extensions.<, operator 2 extensions.<=, operator 3 extensions.=,
  operator 4 extensions.>=, operator 5 extensions.>, function 1 extensions.ci_cmp
"""
"""A type without case, as ``citext``, on a server that brings no such extension."""


def extension(name: str) -> str:
    return f"create schema extensions; create extension {name} schema extensions"


MIXED: Final = "(array['aB', 'Ab', 'b', 'B', 'Z', 'zz'])[1 + i % 6]"
"""Words that text and a caseless type order differently."""

DOTTED: Final = "'r' || i % 7 || '.Z' || i || '.b'"


class Case:
    """A key: how its type is made, its columns, the values of row ``i``, whether in partitions."""

    def __init__(
        self,
        kind: tuple[str, int],
        make: str,
        columns: str,
        values: str,
        *,
        partitioned: bool = False,
    ) -> None:
        self.kind = kind
        self.make = make
        self.columns = columns
        self.values = values
        self.partitioned = partitioned

    @property
    def names(self) -> list[str]:
        return [column.split()[0] for column in self.columns.split(", ")]


CASES: Final = {
    "caseless": Case(
        ("pgoutput", 18), CASELESS, "slug extensions.ci", f"row({MIXED} || i)::extensions.ci"
    ),
    "caseless-composite": Case(
        ("pgoutput", 18),
        CASELESS,
        "tenant integer, slug extensions.ci",
        f"i % 3, row({MIXED} || i)::extensions.ci",
    ),
    "citext": Case(
        ("pgoutput", 15), extension("citext"), "slug extensions.citext", f"{MIXED} || i"
    ),
    "citext-wal2json": Case(
        ("wal2json", 15), extension("citext"), "slug extensions.citext", f"{MIXED} || i"
    ),
    "citext-composite": Case(
        ("pgoutput", 15),
        extension("citext"),
        "tenant integer, slug extensions.citext",
        f"i % 3, {MIXED} || i",
    ),
    "citext-partitions": Case(
        ("pgoutput", 15),
        extension("citext"),
        "slug extensions.citext, tenant integer",
        f"{MIXED} || i, i % 3",
        partitioned=True,
    ),
    "domain-of-citext": Case(
        ("pgoutput", 15),
        extension("citext") + "; create domain extensions.slug as extensions.citext",
        "slug extensions.slug",
        f"{MIXED} || i",
    ),
    "ltree": Case(
        ("pgoutput", 15),
        extension("ltree"),
        "path extensions.ltree",
        f"({DOTTED})::extensions.ltree",
    ),
    "hstore": Case(
        ("pgoutput", 15),
        extension("hstore"),
        "attributes extensions.hstore",
        f"('k=>' || {MIXED} || i)::extensions.hstore",
    ),
    "isn": Case(
        ("pgoutput", 15),
        extension("isn"),
        "number extensions.ean13",
        "extensions.ean13(lpad(i::text, 12, '0') || "
        "(10 - (select sum(substr(lpad(i::text, 12, '0'), n, 1)::int * (1 + 2 * ((n + 1) % 2)))"
        " from generate_series(1, 12) n) % 10) % 10)",
    ),
    "enum": Case(
        ("pgoutput", 18),
        "create schema own; create type own.kind as enum ('z', 'b', 'A')",
        "kind own.kind, i integer",
        "((array['z', 'b', 'A'])[1 + i % 3])::own.kind, i",
    ),
    "range": Case(
        ("pgoutput", 18),
        'create schema own; create type own.span as range (subtype = text, collation = "C")',
        "span own.span",
        f"own.span({MIXED} || i, null)",
    ),
    "record": Case(
        ("pgoutput", 18),
        "create schema own; create type own.pair as (a integer, b text)",
        "pair own.pair",
        f"row(i % 3, {MIXED} || i)::own.pair",
    ),
    "domain-of-char": Case(
        ("pgoutput", 18),
        "create schema own; create domain own.code as character(8) check (value <> 'x')",
        "code own.code",
        f"{MIXED} || i",
    ),
    "no-case-collation": Case(
        ("pgoutput", 15),
        "create schema own; create collation own.ci (provider = icu, "
        "locale = 'und-u-ks-level2', deterministic = false)",
        "word text collate own.ci",
        f"{MIXED} || i",
    ),
    "varchar-and-date": Case(
        ("pgoutput", 18),
        "select",
        "word varchar(20), day date",
        f"{MIXED} || i % 50, '2024-01-01'::date + i",
    ),
}


@pytest.fixture(
    params=cases(CASES, "caseless", "citext-wal2json", "ltree", "enum", "no-case-collation")
)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[str(request.param)]


@pytest.fixture
def words(make_site: Callable[..., Site], case: Case) -> Site:
    site = make_source(make_site, case.kind)
    site.transaction(case.make)
    site.sql(
        f"create table words ({case.columns}, body text, primary key ({', '.join(case.names)}))"
        + (" partition by list (tenant)" if case.partitioned else "")
    )
    for tenant in range(3 if case.partitioned else 0):
        site.sql(f"create table words_{tenant} partition of words for values in ({tenant})")
    fill(site, case, 1, MANY)
    site.configure(tables='[[tables]]\nname = "words"\ntext = ["body"]\n')
    site.cli("setup")
    return site


def fill(site: Site, case: Case, first: int, last: int) -> None:
    rows = f"generate_series({first}, {last}) i"
    site.sql(f"insert into words select {case.values}, 'body ' || i from {rows}")


def keys_of(site: Site, table: str, names: list[str]) -> list[tuple[Any, ...]]:
    texts = ", ".join(f"format('%s', {name})" for name in names)
    return sorted(site.sql(f"select {texts} from {table}"))


def test_every_key_of_any_type_is_stored_followed_and_verified(words: Site, case: Case) -> None:
    where = words.target or words
    with words.service() as service:
        service.logged("indexed")
        fill(words, case, MANY + 1, MANY + 20)
        words.sql("update words set body = 'new ' || body where body like '%7'")
        words.sql("delete from words where body like '%9'")
        service.settle()
        stored = keys_of(where, "cdc_embed.words_embedding", case.names)
        assert stored == keys_of(words, "words", case.names)
        found = words.verify()["tables"][0]
        assert (found["fresh"], found["checked"]) == (len(stored), len(stored))


@pytest.mark.parametrize(
    "case",
    cases(["caseless", "no-case-collation", "citext"], "caseless", "no-case-collation"),
    indirect=True,
)
def test_a_key_that_differs_only_in_case_is_drift(words: Site, case: Case) -> None:
    """The source takes both for one key, the table of vectors does not."""
    where = words.target or words
    with words.service() as service:
        service.logged("indexed")
        (column,) = case.names
        one = f"{column} = (select min({column}) from cdc_embed.words_embedding)"
        changed = f"case when {column} = upper({column}) then lower({column}) else upper({column})"
        where.sql(f"update cdc_embed.words_embedding set {column} = {changed} end where {one}")
        found = words.verify("--repair")["tables"][0]
        assert (found["missing"], found["orphan"], found["repaired"]) == (1, 1, 2)
        stored = keys_of(where, "cdc_embed.words_embedding", case.names)
        assert stored == keys_of(words, "words", case.names)
