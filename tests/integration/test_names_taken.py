"""Objects of the application that have the names of ours, in a schema that both use."""

from collections.abc import Callable

import pytest

from tests.site import DOCUMENTS, Site, wait_until

TAKEN = (
    ("table app.documents_embedding", "(x int)"),
    ("view app.documents_search", "as select title from documents"),
    ("table app.documents_embedding_pkey", "(x int)"),
    ("table app.documents_embedding_hnsw", "(x int)"),
    ("function app.visible_documents(bigint)", "returns bool return true"),
)
TAKEN_OTHERWISE = (
    ("view app.documents_embedding", "as select 1"),
    ("table app.documents_search", "(chunk int)"),
)
TAKEN_FROM_ALL = (
    ("table app.migration", "(id int)"),
    ("table app.request", "(id int)"),
    ("sequence app.deferred", ""),
)


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """A source with two tables, and a target schema that the application has."""
    site = make_site(18)
    site.transaction(
        DOCUMENTS,
        "create table notes (id bigint primary key, body text)",
        "insert into documents values (1, 'a title', 'a text')",
        "insert into notes values (1, 'a note')",
        "create schema app",
    )
    tables = '[[tables]]\nname = "{}"\ntext = ["body"]\n'
    both = tables.format("documents") + tables.format("notes")
    site.configure(tables=both, more=f'[target]\ndsn = "{site.dsn}"\nschema = "app"\n')
    return site


@pytest.mark.parametrize("taken", [TAKEN, TAKEN_OTHERWISE])
def test_nothing_of_the_application_is_taken_for_ours(
    site: Site, taken: tuple[tuple[str, str], ...]
) -> None:
    """The other table is set up and followed; what the application has stays as it is."""
    for what, rest in taken:
        site.sql(f"create {what} {rest}")
    doctor, setup = site.cli("doctor", expect=4).stdout, site.cli("setup", expect=4).stderr
    again = site.cli("doctor", expect=4).stdout
    with site.service() as service:
        service.settle()
        wait_until(lambda: site.value("select count(*) from app.notes_embedding"), "followed")
        shown = {each["name"]: each["problem"] for each in service.status()["tables"]}
        assert service.stop() == 0
    assert shown["public.notes"] is None
    assert "exists, and is not ours" in shown["public.documents"]
    for what, _ in taken:
        for said in (doctor, setup, again):
            assert f"{what} exists, and is not ours" in said
        site.sql(f"drop {what}")
    assert "set another embedding_table or search_view" in setup
    assert "target: store vectors of public.notes" in setup
    assert "target: store vectors of public.documents" not in setup
    assert "target: store vectors of public.documents" in site.cli("setup").stderr


def test_no_table_of_ours_is_made_in_anothers_place(site: Site) -> None:
    for what, rest in TAKEN_FROM_ALL:
        site.sql(f"create {what} {rest}")
    doctor, setup = site.cli("doctor", expect=4).stdout, site.cli("setup", expect=4).stderr
    for what, _ in TAKEN_FROM_ALL:
        for said in (doctor, setup):
            assert f"{what} exists, and is not ours" in said
        site.sql(f"drop {what}")
    assert "set another target.schema" in setup
    site.cli("setup")
    site.cli("doctor")


IN_OUR_PLACE = {
    "a table of all": ("drop table app.request", "table app.request (id int)"),
    "a table of vectors": (
        "drop table app.documents_embedding cascade",
        "table app.documents_embedding (id int)",
    ),
    "a search view": (
        "drop view app.documents_search",
        "view app.documents_search as select 1 as id",
    ),
}


@pytest.mark.parametrize("name", IN_OUR_PLACE)
def test_what_took_the_place_of_ours_is_named_and_stays(site: Site, name: str) -> None:
    """``teardown`` drops what is ours, an overloaded function of the application is not."""
    gone, theirs = IN_OUR_PLACE[name]
    site.cli("setup")
    site.sql("create function app.visible_documents(text) returns bool return true")
    site.sql(gone)
    site.sql(f"create {theirs}")
    what = " ".join(theirs.split()[:2])
    for command in ("doctor", "setup"):
        done = site.cli(command, expect=4)
        assert f"{what} exists, and is not ours" in done.stdout + done.stderr
    torn = site.cli("teardown", "--yes").stderr
    assert (
        f"schema app stays, it has other objects: function app.visible_documents(text), {what}"
        in torn
    )
    left = "select table_name from information_schema.tables where table_schema = 'app'"
    assert site.sql(left) == [(what.partition(".")[2],)]
    assert site.sql("select app.visible_documents('')") == [(True,)]


MADE_BY_HAND = (
    "id bigint, chunk int, document_hash bytea, chunk_text text, model text, embedding real[], "
    "primary key (id, chunk)",
    "id bigint primary key, chunk int, document_hash text, model text, embedding real[]",
    "id bigint, chunk int, chunk_hash text, model text, embedding real[]",
    "id bigint, chunk int, chunk_hash bytea, document_hash bytea, space int, model text, "
    "chunk_text text, primary key (id, chunk)",
)


@pytest.mark.parametrize("columns", MADE_BY_HAND)
@pytest.mark.parametrize("before", [True, False])
def test_vectors_of_the_application_are_never_ours(site: Site, columns: str, before: bool) -> None:
    """A table of vectors made by hand keeps its rows, and nobody advises to drop it."""
    if not before:
        site.cli("setup")
        site.sql("drop table app.documents_embedding cascade")
    site.sql(f"create table app.documents_embedding ({columns})")
    site.sql("insert into app.documents_embedding (id, chunk, model) values (1, 0, 'ada')")
    shape = """select attname, atttypid from pg_attribute
        where attrelid = 'app.documents_embedding'::regclass"""
    had = site.sql(shape)
    for command in (["doctor"], ["setup", "--dry-run"], ["setup"], ["setup", "--rebuild"]):
        done = site.cli(*command, expect=4)
        said = done.stdout + done.stderr
        assert "table app.documents_embedding exists, and is not ours" in said
        assert 'drop table "app"' not in said
    site.cli("teardown", "--yes")
    assert site.sql(shape) == had
    assert site.sql("select model from app.documents_embedding") == [("ada",)]


SHADOWS = ("(id bigint)", "(like app.documents_embedding)", "as table app.documents_embedding")


@pytest.mark.parametrize("theirs", SHADOWS)
def test_a_shadow_of_the_application_is_not_dropped(site: Site, theirs: str) -> None:
    site.cli("setup")
    site.sql("alter table documents alter id type numeric")
    site.sql(f"create table app.documents_embedding_shadow {theirs}")
    for command in (["setup", "--dry-run"], ["setup"]):
        done = site.cli(*command, expect=4)
        assert "table app.documents_embedding_shadow exists, and is not ours" in (
            done.stdout + done.stderr
        )
    assert site.value("select to_regclass('app.documents_embedding_shadow') is not null")
    site.sql("alter table app.documents_embedding_shadow rename to theirs")
    site.cli("setup")
    site.cli("doctor")


def test_our_functions_are_dropped_by_their_arguments(site: Site) -> None:
    """Functions of the application that have the names of ours stay, and ours goes."""
    file = site.config_path.read_text().replace(f'dsn = "{site.dsn}"\nschema', "schema")
    site.config_path.write_text(file.replace("[[tables]]", "[[tables]]\nstore_text = false"))
    site.cli("setup")
    for kind in ("int", "text"):
        site.sql(f"create function app.text_documents({kind}) returns int return 1")
    functions = (
        "select oid::regprocedure::text from pg_proc where proname ~ '_documents' order by 1"
    )
    theirs = [("app.text_documents(integer)",), ("app.text_documents(text)",)]
    visible = ("app.visible_documents(bigint)",)
    assert site.sql(functions) == sorted([*theirs, visible, ("app.text_documents(bigint)",)])
    site.config_path.write_text(file)
    site.cli("setup")
    assert site.sql(functions) == [*theirs, visible]
    site.sql("create function app.text_documents(bigint) returns int return 1")
    for command in ("doctor", "setup"):
        done = site.cli(command, expect=4)
        said = "function app.text_documents(bigint) exists, and is not ours"
        assert said in done.stdout + done.stderr
    site.cli("teardown", "--yes")
    assert site.sql(functions) == sorted([*theirs, ("app.text_documents(bigint)",)])


MOVES = {
    "renamed": (
        "alter table app.documents_embedding rename to x",
        "app.x",
        "alter table app.x rename to documents_embedding",
    ),
    "moved": (
        "alter table app.documents_embedding set schema public",
        "public.documents_embedding",
        "alter table public.documents_embedding set schema app",
    ),
    "moved and renamed": (
        "alter table app.documents_embedding set schema public; "
        "alter table public.documents_embedding rename to x",
        "public.x",
        "alter table public.x set schema app; alter table app.x rename to documents_embedding",
    ),
}


@pytest.mark.parametrize("name", MOVES)
@pytest.mark.parametrize("view", ["", "drop view app.documents_search"])
def test_our_renamed_table_is_named_with_the_way_back(site: Site, view: str, name: str) -> None:
    moved, now, back = MOVES[name]
    site.cli("setup")
    site.sql(moved)
    if view:
        site.sql(view)
    said = f"the table of vectors app.documents_embedding was renamed to {now}"
    for command in (["doctor"], ["setup", "--dry-run"], ["setup"], ["teardown", "--yes"]):
        done = site.cli(*command, expect=4)
        for each in (said, back):
            assert each in done.stdout + done.stderr
        assert "is not ours" not in done.stdout + done.stderr
    with site.service() as service:
        wait_until(lambda: site.value("select count(*) from app.notes_embedding"), "followed")
        shown = {each["name"]: each["problem"] for each in service.status()["tables"]}
        assert service.stop() == 0
    assert said in shown["public.documents"]
    site.sql(back)
    site.cli("setup")
    site.cli("doctor")
