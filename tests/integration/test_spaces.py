"""The cost of a changed configuration, and the searches meanwhile: spaces, tables, slots.

The number of embedded texts is counted outside of the service, by the service that embeds them.
"""

import io
import json
from collections.abc import Callable
from contextlib import closing, nullcontext, redirect_stderr, redirect_stdout
from typing import Any

import numpy as np
import psycopg2
import pytest

from cdc_embed.cli.context import Context
from cdc_embed.cli.main import app
from cdc_embed.config.load import load_config
from cdc_embed.embed.base import KnownFacts
from cdc_embed.embed.make import make_embedder
from cdc_embed.errors import CdcEmbedError
from cdc_embed.setup.connections import connections
from cdc_embed.setup.plan import Step, plan_setup, run_setup
from tests.cases import cases
from tests.oracle import hash_vector
from tests.site import (
    DOCUMENTS,
    EmbeddingServer,
    RunningService,
    Site,
    columns,
    table_entry,
    wait_until,
)

REBUILD = "cdc-embed setup --rebuild"
LONG = " ".join(f"word{n}" for n in range(400))


class Library:
    """A site whose texts are embedded by the counting server."""

    def __init__(self, site: Site, server: EmbeddingServer) -> None:
        self.site = site
        self.server = server

    def configure(self, tables: str = "", *, embedder: str = "", more: str = "") -> None:
        self.site.configure(
            tables=tables or table_entry(),
            embedder=f"{self.server.configuration}\n{embedder}",
            more=more,
        )

    def embedded(self, *, compared: int = 1, indexed: bool = False) -> int:
        """Run the service until ``compared`` tables are compared; the texts that it embedded."""
        self.server.reset()
        with self.site.service() as service:
            service.logged("reconciled", compared)
            if indexed:
                service.logged("indexed")
            assert service.stop() == 0
        self.site.wait_for_last_session()
        return self.server.texts()


@pytest.fixture
def library(make_site: Callable[..., Site], embedding_server: EmbeddingServer) -> Library:
    """Three documents with their vectors, the service stopped."""
    site = make_site(18)
    site.sql(DOCUMENTS)
    site.sql(
        "insert into documents values "
        "(1, 'one', 'first'), (2, 'two', 'second'), (3, 'three', 'third')"
    )
    made = Library(site, embedding_server)
    made.configure()
    command(site, "setup")
    assert made.embedded(indexed=True) == 3
    return made


def command(site: Site, *arguments: str, code: int = 0) -> str:
    """Run a command in this process, because there are many; return the printed text.

    ``code`` is the exit code that it would end with.
    """
    printed = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(printed),
        redirect_stderr(printed),
        nullcontext() if code == 0 else pytest.raises(CdcEmbedError) as raised,
    ):
        patch.setattr(Context, "set_up_logs", lambda *_, **__: None)
        app(["-c", str(site.config_path), *arguments], standalone_mode=False)
    if raised is None:
        return printed.getvalue()
    assert raised.value.exit_code == code, raised.value
    return f"{raised.value}\n{raised.value.hint}"


def search(site: Site, text: str, *options: str) -> list[tuple[int, float]]:
    """(id, distance) of what ``cdc-embed search`` finds, nearest first."""
    hits = json.loads(command(site, "search", text, "--json", *options))
    return [(hit["key"]["id"], round(hit["distance"], 5)) for hit in hits]


def ids(site: Site, text: str = "anything", *options: str) -> list[int]:
    """Return all keys that ``cdc-embed search`` finds, in their order."""
    return sorted(key for key, _ in search(site, text, *options))


def view(site: Site, name: str = "documents_search") -> list[tuple[Any, ...]]:
    return site.sql(f"select id, text from cdc_embed.{name} order by id, chunk")


def written(site: Site, *, position: bool = True) -> list[Any]:
    """Everything that a start could have changed; a service that runs moves the position."""
    vectors = columns(site.sql("select embedding_table from cdc_embed.embedding_table order by 1"))
    return [
        *(site.sql(f"select t::text from cdc_embed.{name} t order by 1") for name in vectors),
        *(
            site.sql(f"select t::text from cdc_embed.{name} t order by 1")
            for name in ("space", "embedding_table", "reconcile", "dead_letter")
        ),
        *(_position(site) if position else []),
        site.sql(
            "select relname, relkind, obj_description(oid) from pg_class "
            "where relnamespace = 'cdc_embed'::regnamespace order by 1"
        ),
        site.sql("select * from pg_publication_tables order by tablename"),
    ]


def _position(site: Site) -> list[Any]:
    slot = "select active, confirmed_flush_lsn, restart_lsn from pg_replication_slots "
    return [
        site.sql("select t::text from cdc_embed.checkpoint t"),
        site.sql(f"{slot} where slot_name = %s", site.name),
    ]


def wait(site: Site, true: str) -> None:
    """Until a query says so."""
    wait_until(lambda: site.value(true), true)


def held_back(site: Site, number: int) -> Any:
    """A session that keeps the writer from a document until it is closed.

    By a lock that needs no transaction: the comparison waits for every one that was there before.
    """
    site.sql(
        "create function hold() returns trigger language plpgsql as "
        "$$ begin perform pg_advisory_xact_lock(1); return null; end $$"
    )
    site.sql(
        "create trigger hold after insert or update on cdc_embed.documents_embedding "
        f"for each row when (new.id = {number}) execute function hold()"
    )
    connection = site.connect()
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("select pg_advisory_lock(1)")
    return connection


def refused(site: Site, name: str, *words: str) -> None:
    """The command exits 4 with these words, and nothing is written."""
    site.wait_for_last_session()
    before = written(site)
    if name == "run":
        with site.service(wait=False) as service:
            ended(service, 4, *words)
    else:
        refusal = command(site, name, code=4)
        assert all(word in refusal for word in words), refusal
    assert written(site) == before


def ended(service: RunningService, code: int, *words: str) -> None:
    """The service ends by itself within 30 s with this code and these words."""
    assert service.wait(30) == code, "".join(service.output)
    service.site.wait_for_last_session()
    message = "".join(service.output)
    for word in words:
        assert word in message, message


def paused(service: RunningService, *words: str) -> None:
    """The service goes on; within 30 s ``status`` says with these words why a table is paused."""

    def told() -> bool:
        problems = [table["problem"] or "" for table in service.status()["tables"]]
        return any(all(word in problem for word in words) for problem in problems)

    wait_until(told, f"a table is paused: {words}")
    assert service.stop() == 0


# --- tables ------------------------------------------------------------------------------------


def test_a_new_table_is_refused_until_setup_and_then_filled(library: Library) -> None:
    site = library.site
    site.sql("create table notes (id int primary key, title text, body text)")
    site.sql("insert into notes values (7, 'seven', null), (8, null, null)")
    library.configure(table_entry() + table_entry("notes"))
    refused(site, "run", "public.notes", "cdc-embed setup")
    command(site, "search", "seven", "--table", "notes", code=4)
    command(site, "setup")
    assert search(site, "seven", "--table", "notes") == []
    assert ids(site) == [1, 2, 3]
    assert library.embedded() == 1
    assert search(site, "seven", "-k", "1") == [(7, 0.0)]
    assert ids(site) == [1, 2, 3, 7]
    assert view(site, "notes_search") == [(7, "seven")]
    assert site.drift() == site.drift("notes") == []


@pytest.mark.parametrize("commands", cases(["setup", "run", "setup run"], "run", "setup run"))
def test_a_removed_table_stays_and_is_compared_when_it_is_back(
    library: Library, commands: str
) -> None:
    site = library.site
    site.sql("create table notes (id int primary key, title text, body text)")
    site.sql("insert into notes values (1, 'stays', 'a'), (2, 'changes', 'b'), (3, 'goes', 'c')")
    library.configure(table_entry() + table_entry("notes"))
    command(site, "setup")
    assert library.embedded() == 3
    library.configure(table_entry())
    if "setup" in commands:
        command(site, "setup")
    stored = "select id, chunk_text from cdc_embed.notes_embedding order by id"
    before = site.sql(stored)
    library.server.reset()
    if "run" in commands:
        with site.service() as service:
            site.sql("update notes set body = 'new' where id = 2")
            site.sql("insert into documents values (4, 'four', 'fourth')")
            service.settle()
            assert service.stop() == 0
        assert library.server.texts() == 1, "the document, not the note"
    site.sql("update notes set body = 'new' where id = 2")
    site.sql("delete from notes where id = 3")
    site.sql("insert into notes values (4, 'came', 'd')")
    assert site.sql(stored) == before
    assert (3, "goes\n\nc") not in view(site, "notes_search")
    library.configure(table_entry() + table_entry("notes"))
    if "setup" in commands:
        with site.service() as service:
            paused(service, "is not in the publication")
        command(site, "setup")
    assert library.embedded() == 2, "the one that changed and the one that came"
    assert site.drift("notes") == site.drift() == []
    assert view(site, "notes_search") == [
        (1, "stays\n\na"),
        (2, "changes\n\nnew"),
        (4, "came\n\nd"),
    ]


def test_a_table_renamed_while_stopped_keeps_its_vectors(library: Library) -> None:
    site = library.site
    site.sql("update documents set body = 'before the renaming' where id = 1")
    site.sql("alter table documents rename to papers")
    site.sql("insert into papers values (4, 'four', 'after it')")
    refused(site, "run", "there is no such table")
    library.configure(table_entry("papers"))
    refused(site, "run", "public.papers", "cdc-embed setup")
    command(site, "search", "two", code=4)
    before = site.sql("select * from cdc_embed.documents_embedding order by id")
    command(site, "setup")
    assert site.sql("select * from cdc_embed.papers_embedding order by id") == before
    assert columns(site.sql("select table_name from cdc_embed.embedding_table")) == [
        "public.papers"
    ]
    assert site.value("select to_regclass('cdc_embed.documents_search') is null")
    assert search(site, "two\n\nsecond", "-k", "1") == [(2, 0.0)]
    library.server.reset()
    with site.service() as service:
        service.settle()
        assert site.drift("papers") == []
        assert service.stop() == 0
    assert library.server.texts() == 2, "the row that changed before and the one that came after"
    assert [key for key, _ in view(site, "papers_search")] == [1, 2, 3, 4]
    assert "nothing to do" in command(site, "setup")


@pytest.mark.parametrize("written_to", [False, True], ids=["idle", "written to"])
def test_a_table_renamed_while_running_pauses_with_the_new_name(
    library: Library, written_to: bool
) -> None:
    site = library.site
    library.server.reset()
    with site.service() as service:
        site.sql("alter table documents rename to papers")
        if written_to:
            site.sql("update papers set body = 'renamed' where id = 1")
        paused(service, "public.papers")
    texts = library.server.texts()
    library.configure(table_entry("papers"))
    command(site, "setup")
    library.server.reset()
    with site.service() as service:
        service.settle()
        assert site.drift("papers") == []
        assert service.stop() == 0
    assert texts + library.server.texts() == int(written_to)
    assert ids(site) == [1, 2, 3]


# --- the same model, another text --------------------------------------------------------------


def test_a_new_text_column_costs_only_the_rows_that_have_it(
    make_site: Callable[..., Site], embedding_server: EmbeddingServer
) -> None:
    site = make_site(18)
    site.sql(DOCUMENTS)
    site.sql(
        "insert into documents values (1, 'one', 'first'), (2, 'two', null), (3, 'three', ' '), "
        "(4, null, 'only a body')"
    )
    library = Library(site, embedding_server)
    library.configure(table_entry(text='text = ["title"]'))
    command(site, "setup")
    assert library.embedded() == 3
    library.configure()
    refused(site, "run", "3 rows", "about 2 tokens", REBUILD)
    refused(site, "setup", "3 rows", "about 2 tokens", REBUILD)
    command(site, "search", "one", code=4)
    command(site, "setup", "--rebuild")
    assert search(site, "one", "-k", "1") == [(1, 0.0)]
    assert view(site) == [(1, "one"), (2, "two"), (3, "three")]
    assert library.embedded() == 2, "the row with a body, and the one with nothing else"
    assert search(site, "one\n\nfirst", "-k", "1") == [(1, 0.0)]
    assert search(site, "two", "-k", "1") == [(2, 0.0)]
    assert site.drift() == []


def test_a_new_template_keeps_old_rows_searchable_until_replaced(
    library: Library,
) -> None:
    site = library.site
    library.configure(table_entry(text='template = "{title}: {body}"'))
    refused(site, "run", "3 rows", f"about {len('one first two second three third') // 4}", REBUILD)
    command(site, "search", "one", code=4)
    command(site, "setup", "--rebuild")
    assert search(site, "one\n\nfirst", "-k", "1") == [(1, 0.0)]
    assert ids(site) == [1, 2, 3]
    library.configure(
        table_entry(text='template = "{title}: {body}"'), more="[backfill]\nrows_per_second = 1\n"
    )
    library.server.reset()
    held = held_back(site, 3)
    with site.service() as service:
        wait(site, "select count(*) = 2 from cdc_embed.documents_search where text ~ ': '")
        assert search(site, "one: first", "-k", "1") == [(1, 0.0)]
        assert search(site, "three\n\nthird", "-k", "1") == [(3, 0.0)]
        queries = 2
        held.close()
        service.wait_for("reconciled")
        assert service.stop() == 0
    assert library.server.texts() - queries == 3
    assert view(site) == [(1, "one: first"), (2, "two: second"), (3, "three: third")]
    assert search(site, "three: third", "-k", "1") == [(3, 0.0)]


def test_another_chunk_size_costs_only_documents_cut_otherwise(
    library: Library,
) -> None:
    site = library.site
    site.sql("insert into documents values (4, null, %s)", LONG)
    library.configure(table_entry(more="chunk = { max_tokens = 5000 }"))
    refused(site, "run", "3 rows", REBUILD)
    command(site, "setup", "--rebuild")
    assert library.embedded() == 1, "the new row, in one piece"
    library.configure(table_entry(more="chunk = { max_tokens = 100 }"))
    refused(site, "run", "4 rows", REBUILD)
    command(site, "setup", "--rebuild")
    assert search(site, LONG, "-k", "1") == [(4, 0.0)]
    texts = library.embedded()
    pieces = columns(site.sql("select text from cdc_embed.documents_search where id = 4"))
    assert texts == len(pieces) > 5
    assert search(site, pieces[-1], "-k", "1") == [(4, 0.0)]
    assert columns(site.sql("select count(*) from cdc_embed.documents_search where id < 4")) == [3]


def test_a_renamed_text_column_pauses_its_table_at_no_cost(library: Library) -> None:
    site = library.site
    with site.service() as service:
        site.sql("alter table documents rename body to content")
        site.sql("update documents set views = 1")
        paused(service, "body")
    library.configure(table_entry(text='text = ["title", "content"]'))
    refused(site, "run", "3 rows", REBUILD)
    command(site, "setup", "--rebuild")
    assert search(site, "one\n\nfirst", "-k", "1") == [(1, 0.0)]
    assert library.embedded() == 0
    assert view(site) == [(1, "one\n\nfirst"), (2, "two\n\nsecond"), (3, "three\n\nthird")]
    assert columns(site.sql("select distinct space from cdc_embed.documents_embedding")) == columns(
        site.sql("select space from cdc_embed.embedding_table")
    )


# --- another model -----------------------------------------------------------------------------


def test_another_model_of_the_same_size_drops_the_old_vectors(
    library: Library,
) -> None:
    site = library.site
    before = view(site)
    library.configure(embedder='revision = "2"')
    refused(site, "run", "3 rows", "http:test", "http:test@2", REBUILD)
    command(site, "search", "one", code=4)
    assert view(site) == before
    command(site, "setup", "--rebuild")
    assert search(site, "one\n\nfirst") == []
    assert view(site) == []
    library.configure(embedder='revision = "2"', more="[backfill]\nrows_per_second = 1\n")
    library.server.reset()
    held = held_back(site, 3)
    with site.service() as service:
        wait(site, "select count(*) = 2 from cdc_embed.documents_search")
        assert ids(site) == [1, 2], "only what is embedded anew"
        queries = 1
        held.close()
        service.wait_for("reconciled")
        assert service.stop() == 0
    assert library.server.texts() - queries == 3
    assert ids(site) == [1, 2, 3]
    assert site.drift() == []


@pytest.mark.parametrize(
    ("tables", "embedder"),
    [
        ("", 'kind = "hash"\ndimensions = 100'),
        (table_entry(text='text = ["title"]'), 'kind = "hash"'),
    ],
    ids=["size", "text"],
)
@pytest.mark.parametrize("gone", [False, pytest.param(True, marks=pytest.mark.long)])
def test_another_space_asks_nothing_before_there_are_vectors(
    make_site: Callable[..., Site], tables: str, embedder: str, *, gone: bool
) -> None:
    """There is nothing to lose, so no --rebuild has to be asked for."""
    site = make_site(18)
    site.sql(DOCUMENTS)
    site.configure()
    command(site, "setup")
    if gone:
        site.sql("drop table cdc_embed.documents_embedding cascade")
    site.sql("insert into documents values (1, 'one', 'first')")
    site.configure(tables=tables or None, embedder=embedder)
    said = command(site, "run", "--no-wait", code=4)
    assert "run: cdc-embed setup" in said
    assert "--rebuild" not in said
    command(site, "setup")
    with site.service() as service:
        service.logged("reconciled")
        assert service.stop() == 0
    assert site.verify()["tables"][0]["fresh"] == 1
    site.configure(embedder='kind = "hash"\ndimensions = 99')
    assert REBUILD in command(site, "setup", code=4), "now there is something"


def test_a_model_of_another_size_makes_the_vectors_anew(make_site: Callable[..., Site]) -> None:
    site = make_site(18)
    site.sql(DOCUMENTS)
    site.sql("insert into documents select i, 't', 'text ' || i from generate_series(1, 30) i")
    site.configure(embedder='kind = "hash"')
    command(site, "setup")
    with site.service() as service:
        service.wait_for("reconciled")
        assert service.metric("cdc_embed_embed_texts_total", source="model") == 30
        assert service.stop() == 0
    site.configure(embedder='kind = "hash"\ndimensions = 64')
    refused(site, "run", "30 rows", "dimensions 384", "64", REBUILD)
    command(site, "search", "t", code=4)
    command(site, "setup", "--rebuild")
    assert search(site, "t\n\ntext 7") == []
    with site.service() as service:
        service.logged("reconciled")
        assert service.metric("cdc_embed_embed_texts_total", source="model") == 30
        service.logged("indexed")
        assert service.stop() == 0
    dimensions = "select distinct vector_dims(embedding) from cdc_embed.documents_search"
    assert columns(site.sql(dimensions)) == [64]
    assert search(site, "t\n\ntext 7", "-k", "1") == [(7, 0.0)]
    assert site.drift() == []


@pytest.mark.parametrize("prompt", ["document_prompt", "query_prompt"])
def test_another_prompt_makes_the_vectors_anew(library: Library, prompt: str) -> None:
    site = library.site
    library.configure(embedder=f'{prompt} = "read: "')
    refused(site, "run", "3 rows", "'read: '", REBUILD)
    command(site, "search", "one", code=4)
    command(site, "setup", "--rebuild")
    assert search(site, "one\n\nfirst") == []
    assert view(site) == []
    assert library.embedded() == 3
    asked = "read: " if prompt == "document_prompt" else ""
    assert set(library.server.counts()["by_text"]) == {
        f"{asked}one\n\nfirst",
        f"{asked}two\n\nsecond",
        f"{asked}three\n\nthird",
    }
    library.server.reset()
    assert ids(site, "one") == [1, 2, 3]
    question = "read: one" if prompt == "query_prompt" else "one"
    assert library.server.counts()["by_text"] == {question: 1}
    assert view(site) == [(1, "one\n\nfirst"), (2, "two\n\nsecond"), (3, "three\n\nthird")]


def test_rebuild_is_refused_while_a_service_writes_the_old_space(library: Library) -> None:
    site = library.site
    with site.service() as service:
        for change in ('document_prompt = "read: "', 'revision = "2"'):
            library.configure(embedder=change)
            before = written(site, position=False)
            message = command(site, "setup", "--rebuild", code=75)
            assert "is active for PID" in message
            assert "stop the service" in message
            assert written(site, position=False) == before
        library.configure(table_entry(text='template = "{title}: {body}"'))
        command(site, "setup", "--rebuild", code=75)
        assert service.stop() == 0
    site.wait_for_last_session()
    command(site, "setup", "--rebuild")
    assert library.embedded() == 3


# --- beside the text ---------------------------------------------------------------------------


def test_metadata_columns_come_and_go_without_embedding(library: Library) -> None:
    site = library.site
    site.sql("alter table documents add tenant int, add lang text")
    site.sql("update documents set tenant = id % 2, lang = 'l' || id")
    before = view(site)
    library.configure(table_entry(more='metadata = ["tenant", "lang"]'))
    refused(site, "run", "cdc-embed setup")
    command(site, "setup")
    assert ids(site) == [1, 2, 3]
    assert ids(site, "any", "--where", "tenant=1") == [], "not filled yet"
    assert library.embedded() == 0
    assert ids(site, "any", "--where", "tenant=1") == [1, 3]
    assert site.sql("select id, tenant, lang from cdc_embed.documents_search order by id") == [
        (1, 1, "l1"),
        (2, 0, "l2"),
        (3, 1, "l3"),
    ]
    library.configure(table_entry(more='metadata = ["lang"]'))
    refused(site, "run", "cdc-embed setup")
    command(site, "setup")
    site.cli("search", "any", "--where", "tenant=1", expect=2)
    assert ids(site, "any", "--where", "lang=l2") == [2]
    assert library.embedded() == 0
    library.configure()
    command(site, "setup")
    assert view(site) == before
    with pytest.raises(psycopg2.errors.UndefinedColumn):
        site.sql("select lang from cdc_embed.documents_search")
    assert library.embedded() == 0
    assert view(site) == before
    assert site.drift() == []


def index_of(site: Site) -> list[tuple[Any, ...]]:
    """(operator class, options) of the complete HNSW indexes over the documents."""
    return site.sql(
        "select o.opcname, array(select unnest(c.reloptions) order by 1) from pg_index i "
        "join pg_class c on c.oid = i.indexrelid "
        "join pg_am a on a.oid = c.relam and a.amname = 'hnsw' "
        "join pg_opclass o on o.oid = i.indclass[0] "
        "where i.indrelid = 'cdc_embed.documents_embedding'::regclass and i.indisvalid"
    )


def test_another_distance_makes_the_index_again_and_no_vector(library: Library) -> None:
    site = library.site
    assert index_of(site) == [("vector_cosine_ops", ["ef_construction=64", "m=16"])]
    texts = {1: "one\n\nfirst", 2: "two\n\nsecond", 3: "three\n\nthird"}
    cosine = {
        key: 1 - hash_vector(text, 384) @ hash_vector("q", 384) for key, text in texts.items()
    }
    assert dict(search(site, "q")) == pytest.approx(cosine, abs=1e-4)
    library.configure(more='[index]\ndistance = "l2"\nm = 8\nef_construction = 32\n')
    l2 = {
        key: float(np.linalg.norm(hash_vector(text, 384) - hash_vector("q", 384)))
        for key, text in texts.items()
    }
    order = sorted(l2, key=lambda key: l2[key])
    assert [key for key, _ in search(site, "q")] == order, "exact before there is an index"
    assert "nothing to do" in command(site, "setup")
    library.server.reset()
    with site.service() as service:
        service.wait_for("indexed")
        assert service.stop() == 0
    assert library.server.texts() == 0
    assert index_of(site) == [("vector_l2_ops", ["ef_construction=32", "m=8"])]
    found = search(site, "q")
    assert [key for key, _ in found] == order
    assert dict(found) == pytest.approx(l2, abs=1e-4)


def test_vectors_change_to_halfvec_and_back_without_embedding(library: Library) -> None:
    site = library.site
    kind = (
        "select format_type(atttypid, atttypmod) from pg_attribute where attname = 'embedding' "
        "and attrelid = 'cdc_embed.documents_embedding'::regclass"
    )
    before = search(site, "q")
    for wanted in ("halfvec", "vector"):
        library.configure(more=f'[index]\ntype = "{wanted}"\n')
        refused(site, "run", "cdc-embed setup")
        command(site, "setup")
        assert site.value(kind) == f"{wanted}(384)"
        assert dict(search(site, "q")) == pytest.approx(dict(before), abs=1e-3)
        library.server.reset()
        with site.service() as service:
            service.wait_for("indexed")
            service.settle()
            assert service.stop() == 0
        assert library.server.texts() == 0
        assert index_of(site) == [(f"{wanted}_cosine_ops", ["ef_construction=64", "m=16"])]
        assert dict(search(site, "q")) == pytest.approx(dict(before), abs=1e-3)


# --- setup, slots, teardown --------------------------------------------------------------------


def _change_what_nobody_hears(site: Site) -> None:
    site.sql("insert into documents values (4, 'four', 'fourth')")
    site.sql("update documents set body = 'changed' where id = 1")
    site.sql("delete from documents where id = 3")


def drop_slot(site: Site) -> None:
    site.sql("select pg_drop_replication_slot(%s)", site.name)


def lose_slot(site: Site) -> None:
    drop_slot(site)
    _change_what_nobody_hears(site)


def forge_slot(site: Site) -> None:
    drop_slot(site)
    _change_what_nobody_hears(site)
    site.sql("select pg_create_logical_replication_slot(%s, 'pgoutput')", site.name)


@pytest.mark.parametrize("accident", [lose_slot, forge_slot])
def test_a_lost_slot_is_made_anew_only_on_demand_with_comparison(
    library: Library, accident: Callable[[Site], None]
) -> None:
    site = library.site
    accident(site)
    before, vectors = written(site), written(site, position=False)
    assert REBUILD in command(site, "setup", code=5)
    assert written(site) == before
    assert REBUILD in site.cli("run", expect=5).stderr
    assert written(site, position=False) == vectors
    before = written(site)
    shown = command(site, "setup", "--dry-run", "--rebuild")
    assert "make the replication slot" in shown
    assert written(site) == before
    command(site, "setup", "--rebuild")
    assert ids(site) == [1, 2], "a deleted row is not in the view"
    assert library.embedded() == 2, "the changed row and the new one"
    assert site.drift() == []
    assert ids(site) == [1, 2, 4]
    assert "nothing to do" in command(site, "setup")


@pytest.mark.parametrize("accident", [lose_slot, forge_slot])
def test_a_service_that_may_rebuild_makes_a_lost_slot_anew(
    library: Library, accident: Callable[[Site], None]
) -> None:
    site = library.site
    text = site.config_path.read_text()
    site.config_path.write_text(text.replace("[source]", '[source]\non_history_gap = "rebuild"', 1))
    accident(site)
    library.server.reset()
    with site.service() as service:
        service.wait_for("reconciled")
        service.settle()
        assert library.server.texts() == 2, "the changed row and the new one"
        assert site.drift() == []
        assert service.stop() == 0


@pytest.mark.parametrize("before", ["make the replication slot", "forget the position"])
def test_the_service_repeats_a_rebuild_that_was_interrupted(library: Library, before: str) -> None:
    """Without the recorded position a new slot would look as if nothing were missed."""
    site = library.site
    text = site.config_path.read_text()
    site.config_path.write_text(text.replace("[source]", '[source]\non_history_gap = "rebuild"', 1))
    forge_slot(site)

    def interrupt(step: Step) -> None:
        if step.why.startswith(before):
            raise KeyboardInterrupt

    config = load_config(site.config_path)
    with (
        closing(make_embedder(config.embedder, KnownFacts(dimensions=384))) as embedder,
        connections(config) as databases,
    ):
        plan = plan_setup(databases, embedder.describe(), rebuild=True)
        with pytest.raises(KeyboardInterrupt):
            run_setup(databases, plan, on_step=interrupt, on_wait=lambda _: None)
    with site.service() as service:
        service.wait_for("reconciled")
        service.settle()
        assert site.drift() == []
        assert service.stop() == 0


def test_a_rebuild_drops_no_foreign_slot_and_keeps_the_position(
    library: Library,
) -> None:
    site = library.site
    drop_slot(site)
    with closing(psycopg2.connect(site.server.dsn())) as other, other.cursor() as cursor:
        other.autocommit = True
        cursor.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", (site.name,))
        before = written(site)
        assert "belongs to database" in command(site, "setup", "--rebuild", code=4)
        assert written(site) == before
        cursor.execute("select pg_drop_replication_slot(%s)", (site.name,))


def test_a_lost_slot_and_another_name_at_once_compare_every_row(library: Library) -> None:
    """Whatever the table is called now, its changes were missed."""
    site = library.site
    lose_slot(site)
    site.sql("alter table documents rename to papers")
    library.configure(table_entry("papers"))
    command(site, "setup", "--rebuild")
    assert library.embedded() == 2, "the changed row and the new one"
    assert site.drift("papers") == []


def test_setup_again_and_a_dry_run_of_a_rebuild_change_nothing(library: Library) -> None:
    site = library.site
    before = written(site)
    assert "nothing to do" in command(site, "setup")
    assert "nothing to do" in command(site, "setup", "--rebuild")
    assert written(site) == before
    library.configure(embedder='revision = "2"')
    shown = command(site, "setup", "--dry-run", "--rebuild")
    assert "drop table" in shown
    assert written(site) == before
    script = command(site, "setup", "--sql", "--rebuild")
    assert "drop table" in script
    assert written(site) == before


def test_teardown_leaves_the_database_as_it_was_before_setup(library: Library) -> None:
    site = library.site
    everything = (
        "select relname from pg_class where relnamespace not in "
        "('pg_catalog'::regnamespace, 'information_schema'::regnamespace, 'pg_toast'::regnamespace)"
        "union all select nspname from pg_namespace where nspname !~ '^pg_' "
        "union all select pubname from pg_publication "
        "union all select slot_name from pg_replication_slots where database = current_database() "
        "order by 1"
    )
    site.cli("backfill")
    assert site.value("select count(*) from cdc_embed.request") == 1
    site.cli("teardown", "--yes")
    assert columns(site.sql(everything)) == [
        "documents",
        "documents_pkey",
        "information_schema",
        "public",
    ]
    site.sql("create table cdc_embed_mine (id int)")
    command(site, "setup")
    site.sql("create view cdc_embed.mine as select * from cdc_embed.documents_search")
    site.sql("drop view cdc_embed.mine")
    site.sql("create table cdc_embed.mine (id int)")
    site.cli("teardown", "--yes")
    left = "select relname from pg_class where relnamespace = 'cdc_embed'::regnamespace"
    assert columns(site.sql(left)) == ["mine"]
