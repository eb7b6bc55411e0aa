"""``cdc-embed search`` and the views that applications search: what they find, and what they hide.

Distances are computed here once more from the public rule of the hash embedder.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from cdc_embed.demo.postgres import EmbeddedPostgres
from tests.oracle import hash_vector
from tests.site import Site, columns, table_entry

SIZE = 32
HASH = f'kind = "hash"\ndimensions = {SIZE}'
BOTH = 'text = ["title", "body"]'
NEAR = "near piece"
ROWS = 3000
UUID = "6f1e3d1c-0000-4000-8000-000000000001"
PLAIN = "create table documents (id bigint primary key, title text, body text)"


def fill(site: Site, tables: str, *, more: str = "", indexed: bool = False) -> None:
    """Set up, embed every row, and leave the service stopped."""
    site.configure(tables=tables, embedder=HASH, more=more)
    site.cli("setup")
    with site.service() as service:
        service.logged("reconciled", tables.count("[[tables]]"))
        if indexed:
            service.logged("indexed")
        assert service.stop() == 0


def search(site: Site, text: str, *options: str) -> list[dict[str, Any]]:
    hits: list[dict[str, Any]] = json.loads(site.cli("search", text, "--json", *options).stdout)
    return hits


@pytest.fixture(scope="module")
def library(
    servers: Callable[[int], EmbeddedPostgres], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """3,000 short documents, one of 50 equal pieces, and some notes: embedded and indexed.

    For tests that change nothing.
    """
    folder = tmp_path_factory.mktemp("search")  # one a time, as a worker can come back to this
    site = Site(servers(18), f"{folder.name}_{os.getpid()}", folder)
    site.sql(
        "create table documents "
        "(id bigint primary key, title text, body text, tenant int, lang text)"
    )
    site.sql(
        "insert into documents select i, 'title', 'text' || i, i % 1000, "
        f"case when i % 2 = 0 then 'en' else 'de' end from generate_series(1, {ROWS}) i"
    )
    pieces = "\n\n".join([NEAR] * 50)
    site.sql("insert into documents values (0, null, %s, 5, 'en')", pieces)
    site.sql("create table notes (part int, name text, body text, primary key (part, name))")
    site.sql("insert into notes values (1, 'a', 'first note'), (1, 'b', 'second note')")
    tables = table_entry(more='metadata = ["tenant", "lang"]\nchunk = { max_tokens = 2 }')
    fill(site, tables + table_entry("notes", 'text = ["body"]'), indexed=True)
    site.sql("analyze")
    yield site
    site.sql("select pg_drop_replication_slot(%s)", site.name)
    site.close()


def expected(text: str, **where: int) -> list[tuple[int, float]]:
    """(id, cosine distance) of the library's short documents, nearest first."""
    found = [
        (i, float(1 - hash_vector(f"title\n\ntext{i}", SIZE) @ hash_vector(text, SIZE)))
        for i in range(1, ROWS + 1)
        if all({"tenant": i % 1000}[name] == value for name, value in where.items())
    ]
    return sorted(found, key=lambda one: one[1])


# --- the command -------------------------------------------------------------------------------


def test_hits_keep_the_contract_and_the_nearest_comes_first(library: Site) -> None:
    hits = search(library, "title\n\ntext7", "-k", "3")
    assert len(hits) == 3
    assert all(set(hit) == {"table", "key", "chunk", "distance", "text"} for hit in hits)
    assert hits[0] == {
        "table": "public.documents",
        "key": {"id": 7},
        "chunk": 0,
        "distance": pytest.approx(0, abs=1e-6),
        "text": "title\n\ntext7",
    }
    (note,) = search(library, "second note", "-k", "1")
    assert (note["table"], note["key"]) == ("public.notes", {"part": 1, "name": "b"})


def test_distances_ascend_and_are_those_of_the_vectors(library: Site) -> None:
    """The index is approximate: what it finds must be right, and nearly all of the nearest."""
    hits = search(library, "a question", "-k", "50", "--table", "documents")
    found = {hit["key"]["id"]: hit["distance"] for hit in hits}
    wanted = dict(expected("a question"))
    wanted[0] = float(1 - hash_vector(NEAR, SIZE) @ hash_vector("a question", SIZE))
    assert list(found.values()) == sorted(found.values())
    assert found == pytest.approx({key: wanted[key] for key in found}, abs=1e-5)
    nearest = sorted(wanted, key=lambda key: wanted[key])[:50]
    assert len(found) == 50
    assert len(set(nearest) & set(found)) >= 40


def test_a_document_of_many_near_chunks_takes_one_place_of_k(library: Site) -> None:
    hits = search(library, NEAR, "-k", "10", "--table", "public.documents")
    keys = [hit["key"]["id"] for hit in hits]
    assert len(keys) == len(set(keys)) == 10
    assert keys[0] == 0
    assert hits[0]["text"] == NEAR
    assert library.value("select count(*) from cdc_embed.documents_search where id = 0") == 50


def test_filters_combine_and_few_matches_far_away_are_found(library: Site) -> None:
    wanted = expected("a question", tenant=7)
    hits = search(library, "a question", "-k", "3", "--table", "documents", "--where", "tenant=7")
    found = [(hit["key"]["id"], hit["distance"]) for hit in hits]
    assert [key for key, _ in found] == [key for key, _ in wanted]
    assert dict(found) == pytest.approx(dict(wanted), abs=1e-5)
    two = ("--table", "documents", "--where", "tenant=7", "--where", "lang=de")
    assert [hit["key"]["id"] % 2 for hit in search(library, "a question", *two)] == [1, 1, 1]
    none = ("--table", "documents", "--where", "tenant=7", "--where", "lang=en")
    assert search(library, "a question", *none) == []
    one = ("--table", "documents", "--where", "id=8")
    assert [hit["key"]["id"] for hit in search(library, "a question", *one)] == [8]


def test_a_filter_that_the_index_gives_up_on_is_answered_exactly(library: Site) -> None:
    wanted = expected("a question", tenant=999)
    library.sql(f'alter database "{library.name}" set hnsw.max_scan_tuples = 1')
    try:
        options = ("--table", "documents", "--where", "tenant=999", "-k", "3")
        hits = search(library, "a question", *options)
    finally:
        library.sql(f'alter database "{library.name}" reset hnsw.max_scan_tuples')
    assert [hit["key"]["id"] for hit in hits] == [key for key, _ in wanted]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--where", "colour=red"), "colour"),
        (("--where", "tenant=7"), "notes"),
        (("--where", "tenant"), "column=value"),
        (("--table", "documents", "--where", "tenant=seven"), "type integer"),
        (("--table", "elsewhere"), "elsewhere"),
        (("--table", "a.b.c"), "a.b.c"),
        (("-k", "0"), "-k"),
    ],
    ids=["unknown column", "not of every table", "no value", "no number", "table", "name", "k"],
)
def test_a_question_that_cannot_be_meant_is_a_usage_error(
    library: Site, options: tuple[str, ...], word: str
) -> None:
    done = library.cli("search", "anything", *options, expect=2)
    assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("kind", "distance"),
    [
        ("vector", "l2"),
        ("halfvec", "inner_product"),
        pytest.param("vector", "inner_product", marks=pytest.mark.long),
        pytest.param("halfvec", "l2", marks=pytest.mark.long),
    ],
)
def test_every_distance_and_type_is_computed_as_configured(
    make_site: Callable[..., Site], distance: str, kind: str
) -> None:
    site = make_site(18)
    site.sql(PLAIN)
    site.sql("insert into documents select i, 'title', 'text' || i from generate_series(1, 40) i")
    index = f'[index]\ntype = "{kind}"\ndistance = "{distance}"\n'
    fill(site, table_entry(), more=index, indexed=True)
    query = hash_vector("q", SIZE)
    stored = {i: hash_vector(f"title\n\ntext{i}", SIZE) for i in range(1, 41)}
    wanted = {
        i: float(np.linalg.norm(vector - query) if distance == "l2" else -(vector @ query))
        for i, vector in stored.items()
    }
    hits = search(site, "q", "-k", "40")
    assert len(hits) == 40
    distances = [hit["distance"] for hit in hits]
    assert distances == sorted(distances)
    found = {hit["key"]["id"]: hit["distance"] for hit in hits}
    assert found == pytest.approx(wanted, abs=2e-3 if kind == "halfvec" else 1e-5)
    assert search(site, "title\n\ntext9", "-k", "1")[0]["key"] == {"id": 9}


def test_search_before_setup_or_in_another_space_says_the_fix(
    make_site: Callable[..., Site],
) -> None:
    site = make_site(18)
    site.sql(PLAIN)
    site.configure(tables=table_entry(), embedder=HASH)
    assert "cdc-embed setup" in site.cli("search", "q", expect=4).stderr
    site.cli("setup")
    assert search(site, "q") == []
    site.configure(tables=table_entry(), embedder='kind = "hash"\ndimensions = 64')
    assert "run: cdc-embed setup\n" in site.cli("search", "q", expect=4).stderr, "nothing is lost"
    site.configure(tables=table_entry(), embedder=HASH)
    site.sql("insert into documents (id, title, body) values (1, 'one', 'text')")
    site.cli("backfill")
    site.configure(tables=table_entry(), embedder='kind = "hash"\ndimensions = 64')
    assert "cdc-embed setup --rebuild" in site.cli("search", "q", expect=4).stderr
    site.configure(tables=table_entry(text='text = ["title"]'), embedder=HASH)
    assert "cdc-embed setup --rebuild" in site.cli("search", "q", expect=4).stderr


def test_a_configured_table_that_is_missing_is_no_empty_answer(
    make_site: Callable[..., Site],
) -> None:
    site = make_site(18)
    site.sql(PLAIN)
    site.configure(tables=table_entry(), embedder=HASH)
    site.cli("setup")
    site.sql("alter table documents rename to elsewhere")
    assert "there is no such table" in site.cli("search", "q", expect=4).stderr


def test_a_key_of_an_own_type_is_its_text(make_site: Callable[..., Site]) -> None:
    site = make_site(18)
    site.sql("create type mood as enum ('glad', 'sad')")
    site.sql("create table moods (mood mood primary key, body text)")
    site.sql("insert into moods values ('glad', 'a smile'), ('sad', 'a tear')")
    fill(site, table_entry("moods", 'text = ["body"]'))
    assert [hit["key"] for hit in search(site, "a tear")] == [{"mood": "sad"}, {"mood": "glad"}]
    glad = search(site, "a tear", "--where", "mood=glad")
    assert [hit["key"] for hit in glad] == [{"mood": "glad"}]


ODD_NAME = 'public."we""ird; drop"'


@pytest.fixture
def odd(make_site: Callable[..., Site]) -> Site:
    """One row with a key of uuid, text and number in a table whose names need quotes."""
    site = make_site(18)
    site.sql(
        'create table "we""ird; drop" ("Key A" uuid, "key-b" text, n smallint, "Te""xt" text, '
        '"Me ta" text, primary key ("Key A", "key-b", n))'
    )
    row = (UUID, 'it\'s % "k"', 3, "odd text", "m\"'")
    site.sql('insert into "we""ird; drop" values (%s, %s, %s, %s, %s)', *row)
    fill(
        site,
        f"[[tables]]\nname = '{ODD_NAME}'\ntext = ['Te\"xt']\nmetadata = ['Me ta']\n"
        "store_text = false\nembedding_table = 'weird_embedding'\n",
    )
    return site


def test_search_finds_and_filters_by_composite_and_quoted_keys(odd: Site) -> None:
    (hit,) = search(odd, "odd text")
    assert hit["key"] == {"Key A": UUID, "key-b": 'it\'s % "k"', "n": 3}
    assert hit["text"] == "odd text"
    assert hit["distance"] == pytest.approx(0, abs=1e-6)
    keys = ("--where", f"Key A={UUID}", "--where", "n=3", "--where", 'key-b=it\'s % "k"')
    assert len(search(odd, "odd text", *keys, "--where", "Me ta=m\"'")) == 1
    assert search(odd, "odd text", "--where", "key-b=another") == []


def test_a_table_is_named_with_the_quotes_of_its_configuration(odd: Site) -> None:
    assert len(search(odd, "odd text", "--table", ODD_NAME)) == 1


# --- the text ----------------------------------------------------------------------------------

TEXTS: list[tuple[str | None, str | None]] = [
    ("title", "body"),
    ("title", None),
    (None, "body"),
    ("", "empty title"),
    (" \t\r\n\v\f", "blank title"),
    ("\u200b", "a title of zero width"),
    ("  kept  ", "\n leading and trailing \n\n"),
    ("\U0001f600 e\u0301 \u05e2\u05d1", "quotes ' \" \\ and %s {title}"),
    ("long " * 3, "\n\n".join(f"paragraph number {n} \U0001f600" for n in range(20))),
]
BLANKS: list[tuple[str | None, str | None]] = [
    ("\u00a0\u2003\u3000", "a title of spaces beyond ASCII"),
    ("\x1c\x1d\x1e\x1f\x85", "a title of separators"),
    ("a title", "\u00a0\u2003\u3000"),
]


def assert_the_view_makes_the_stored_texts(site: Site, tables: Callable[[str], str]) -> None:
    """Fail unless SQL makes the stored texts of the source's rows."""
    fill(site, tables("store_text = true"))
    pieces = "select id, chunk, {} from cdc_embed.documents_{} order by id, chunk"
    stored = site.sql(pieces.format("chunk_text", "embedding"))
    assert site.sql(pieces.format("text", "search")) == stored
    site.configure(tables=tables("store_text = false"), embedder=HASH)
    site.cli("setup")
    definition = site.value("select pg_get_viewdef('cdc_embed.documents_search'::regclass)")
    assert "substr" in definition
    assert site.sql(pieces.format("text", "search")) == stored


@pytest.mark.parametrize("rows", [TEXTS, BLANKS], ids=["texts", "blank beyond ASCII"])
def test_the_view_gives_the_text_of_columns_as_it_was_prepared(
    make_site: Callable[..., Site], rows: list[tuple[str | None, str | None]]
) -> None:
    site = make_site(18)
    site.sql(PLAIN)
    for number, row in enumerate(rows):
        site.sql("insert into documents values (%s, %s, %s)", number, *row)

    def tables(more: str) -> str:
        return table_entry(more=f"chunk = {{ max_tokens = 12 }}\n{more}")

    assert_the_view_makes_the_stored_texts(site, tables)


@pytest.mark.parametrize(
    "types",
    [
        "{price}|{day}|{tags}|{share}",
        "{active}|",
        "{code}|",
    ],
    ids=["as cast", "boolean", "padded"],
)
def test_the_view_gives_the_text_of_a_template_as_prepared(
    make_site: Callable[..., Site], types: str
) -> None:
    site = make_site(18)
    site.sql(PLAIN)
    site.sql(
        "alter table documents add active boolean, add code char(6), add price numeric(8, 2), "
        "add day date, add tags text[], add share double precision"
    )
    for number, row in enumerate([*TEXTS, *BLANKS]):
        site.sql("insert into documents (id, title, body) values (%s, %s, %s)", number, *row)
    site.sql(
        "update documents set active = id % 2 = 0, code = 'ab', price = id + 0.5, "
        "day = '2024-02-29', tags = array['a b', 'c'], share = 1 / 3.0 where id % 3 > 0"
    )
    template = f"{{{{{{title}}}}}} 100% 'it''s' \\n %s|{{body}}|{types}|{{title}}"

    def tables(more: str) -> str:
        return table_entry(text=f"template = {json.dumps(template)}", more=more)

    assert_the_view_makes_the_stored_texts(site, tables)


def test_text_that_is_not_stored_comes_from_the_source(
    make_site: Callable[..., Site],
) -> None:
    site = make_site(18)
    site.sql(PLAIN)
    site.sql("insert into documents values (1, 'one', 'first'), (2, 'two', null)")
    fill(site, table_entry(more="store_text = false"))
    assert columns(site.sql("select chunk_text from cdc_embed.documents_embedding")) == [None] * 2
    assert [hit["text"] for hit in search(site, "two")][:1] == ["two"]
    assert site.sql("select id, text from cdc_embed.documents_search order by id") == [
        (1, "one\n\nfirst"),
        (2, "two"),
    ]


def test_text_that_is_not_stored_is_null_in_a_separate_target(
    make_site: Callable[..., Site],
) -> None:
    target = make_site(18)
    site = make_site(18, target)
    site.sql(PLAIN)
    site.sql("insert into documents values (1, 'one', 'first'), (2, 'two', null)")
    fill(site, table_entry(more="store_text = false"))
    hits = search(site, "two")
    assert [(hit["key"], hit["text"]) for hit in hits][:1] == [({"id": 2}, None)]
    assert len(hits) == 2
    assert target.sql("select id, text from cdc_embed.documents_search order by id") == [
        (1, None),
        (2, None),
    ]


# --- the view ----------------------------------------------------------------------------------


def test_the_view_has_all_columns_and_the_rights_of_its_reader(
    library: Site,
) -> None:
    names = (
        "select attname::text, format_type(atttypid, atttypmod) from pg_attribute "
        "where attrelid = 'cdc_embed.{}'::regclass and attnum > 0 order by attnum"
    )
    assert library.sql(names.format("documents_search")) == [
        ("id", "bigint"),
        ("chunk", "integer"),
        ("embedding", f"vector({SIZE})"),
        ("text", "text"),
        ("lang", "text"),
        ("tenant", "integer"),
        ("embedded_at", "timestamp with time zone"),
    ]
    assert columns(library.sql(names.format("notes_search"))) == [
        *("part", "name", "chunk", "embedding", "text", "embedded_at"),
    ]
    options = "select reloptions from pg_class where oid = 'cdc_embed.documents_search'::regclass"
    assert library.value(options) == ["security_invoker=true"]


def test_the_view_shows_a_role_only_rows_it_may_see_in_source(
    make_site: Callable[..., Site],
) -> None:
    site = make_site(18)
    site.sql("create table documents (id bigint primary key, title text, body text, tenant int)")
    site.sql("insert into documents select i, 't', 'text' || i, i % 2 from generate_series(1, 6) i")
    site.sql("alter table documents enable row level security")
    site.sql("create policy own on documents using (tenant = 1)")
    fill(site, table_entry(more='metadata = ["tenant"]'))
    seen = "select id from cdc_embed.documents_search order by embedding <=> %s::vector"
    vector = str(hash_vector("t\n\ntext2", SIZE).tolist())
    assert columns(site.sql(seen, vector))[0] == 2
    reader = f"{site.name}_reader"
    site.sql(f"create role {reader}")
    try:
        site.sql(f"grant usage on schema cdc_embed to {reader}")
        for name in ("cdc_embed.documents_search", "cdc_embed.documents_embedding", "documents"):
            site.sql(f"grant select on {name} to {reader}")
        with closing(site.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(f"set role {reader}")
            cursor.execute(seen, (vector,))
            assert sorted(columns(cursor.fetchall())) == [1, 3, 5]
    finally:
        site.sql(f"drop owned by {reader}")
        site.sql(f"drop role {reader}")


def test_a_deleted_row_is_not_found_even_before_it_is_followed(
    make_site: Callable[..., Site],
) -> None:
    site = make_site(18)
    site.sql(PLAIN)
    site.sql("insert into documents values (1, 'one', null), (2, 'two', null)")
    fill(site, table_entry())
    site.sql("delete from documents where id = 1")
    assert columns(site.sql("select id from cdc_embed.documents_search")) == [2]
    assert [hit["key"]["id"] for hit in search(site, "one")] == [2]
    assert site.value("select count(*) from cdc_embed.documents_embedding") == 2


def test_a_query_on_the_view_is_served_by_the_index(
    make_site: Callable[..., Site], version: int
) -> None:
    site = make_site(version)
    site.sql("create table documents (id bigint primary key, title text, body text, tenant int)")
    site.sql(
        "insert into documents select i, 'title', 'text' || i, i % 3 "
        f"from generate_series(1, {ROWS}) i"
    )
    fill(site, table_entry(more='metadata = ["tenant"]'), indexed=True)
    site.sql("analyze")
    vector = str(hash_vector("a question", SIZE).tolist())
    with closing(site.connect()) as connection, connection.cursor() as cursor:
        for mode in ("force_custom_plan", "force_generic_plan"):
            cursor.execute(f"set plan_cache_mode = {mode}")
            for filtered in ("", "where tenant = 1 "):
                cursor.execute("set hnsw.iterative_scan = strict_order")
                cursor.execute(
                    "prepare nearest (vector) as select id, text from cdc_embed.documents_search "
                    f"{filtered}order by embedding <=> $1 limit 10"
                )
                cursor.execute("explain execute nearest (%s)", (vector,))
                plan = "\n".join(columns(cursor.fetchall()))
                assert "using documents_embedding_hnsw" in plan, f"{mode} {filtered}\n{plan}"
                cursor.execute("execute nearest (%s)", (vector,))
                assert len(cursor.fetchall()) == 10
                cursor.execute("deallocate nearest")
