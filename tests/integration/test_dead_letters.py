"""Documents that cannot be embedded: found among the good ones, kept, and cleared by their rows."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.preparations import preparations
from tests.site import DOCUMENTS, EmbeddingServer, RunningService, Site, columns, wait_until

MOST_IN_A_ROW = 25
"""After more refusals without a success the log tells how to look for another cause."""


def ready(site: Site, server: EmbeddingServer, embedder: str = "", metadata: str = "") -> Site:
    """A site whose texts are embedded whole by the server, and whose long ones are TOASTed."""
    site.sql(DOCUMENTS)
    site.sql("alter table documents alter body set storage external")
    site.configure(
        embedder=f"{server.configuration}\n{embedder}",
        tables='[[tables]]\nname = "documents"\ntext = ["title", "body"]\n'
        f"metadata = [{metadata}]\nchunk = {{ max_tokens = 100000 }}\n",
    )
    site.cli("setup")
    server.reset()
    return site


@pytest.fixture
def picky(make_site: Callable[..., Site], embedding_server: EmbeddingServer) -> Site:
    """A site whose model refuses texts with "bad" in them."""
    site = ready(make_site(18), embedding_server)
    embedding_server.faults(refuse=["bad"])
    return site


@contextmanager
def without_a_call(service: RunningService, server: EmbeddingServer) -> Iterator[None]:
    """Fail unless the changes meanwhile are reflected without a call of the model."""
    before = server.counts()
    yield
    service.settle()
    after = server.counts()
    asked = Counter(after["by_text"]) - Counter(before["by_text"])
    assert (after["requests"], asked) == (before["requests"], Counter())


def letters(site: Site) -> list[int]:
    """Keys of the dead letters."""
    found = columns(site.sql("select (key ->> 'id')::int from cdc_embed.dead_letter order by 1"))
    assert len(set(found)) == len(found)
    return found


def stored(site: Site) -> list[int]:
    return columns(site.sql("select id from cdc_embed.documents_embedding order by id"))


@pytest.mark.parametrize("fault", ["refuse", "nan"])
def test_bisection_finds_one_bad_text_and_spares_the_others(
    make_site: Callable[..., Site], embedding_server: EmbeddingServer, fault: str
) -> None:
    """256 texts tried one by one would be 256 calls."""
    site = ready(make_site(18), embedding_server, "concurrency = 1\nmax_batch = 256")
    embedding_server.faults(**{fault: ["poison"]})
    with site.service() as service:
        site.sql(
            "insert into documents select i, 't', 'text ' || i || "
            "case i when 77 then ' poison' else '' end from generate_series(1, 256) i"
        )
        service.settle()
        assert letters(site) == [77]
        assert stored(site) == [i for i in range(1, 257) if i != 77]
        assert embedding_server.counts()["requests"] < 60
        assert site.drift() == ["missing 77"]
        row = site.sql("select table_name, reason, error, attempts from cdc_embed.dead_letter")
        assert row[0][:2] == ("public.documents", "refused")
        assert row[0][2].startswith("the model refuses the text:")
        assert row[0][3] == 1
        assert service.metric("cdc_embed_dead_letters_total", reason="refused") == 1
        assert "embed" not in service.status()["waiting"]


def test_its_row_clears_a_letter_and_equal_text_is_not_retried(
    picky: Site, embedding_server: EmbeddingServer
) -> None:
    site, server = picky, embedding_server
    with site.service() as service:
        site.sql("insert into documents select i, 't', 'bad ' || i from generate_series(1, 5) i")
        site.sql("insert into documents values (6, 't', 'good')")
        service.settle()
        assert letters(site) == [1, 2, 3, 4, 5]
        with without_a_call(service, server):
            site.sql("update documents set views = views + 1")
            site.sql("update documents set body = body")
        assert letters(site) == [1, 2, 3, 4, 5]
        site.sql("update documents set body = 'good now' where id = 1")
        site.sql("delete from documents where id = 2")
        site.sql("update documents set title = null, body = ' ' where id = 3")
        site.sql("update documents set body = 'bad as ever' where id = 4")
        service.settle()
        assert letters(site) == [4, 5]
        assert stored(site) == [1, 6]
        assert service.stop() == 0
    with site.service() as service:
        with without_a_call(service, server):
            site.sql("update documents set views = views + 1")
        assert letters(site) == [4, 5]
        site.transaction("truncate documents", "insert into documents values (5, 't', 'good')")
        service.settle()
        assert letters(site) == []
        assert site.drift() == []


def test_a_document_that_becomes_bad_loses_its_old_vector(picky: Site) -> None:
    with picky.service() as service:
        picky.sql("insert into documents values (1, 't', 'good')")
        service.settle()
        assert stored(picky) == [1]
        picky.sql("update documents set body = 'bad' where id = 1")
        service.settle()
        assert (stored(picky), letters(picky)) == ([], [1])


def test_backfill_finds_former_bad_rows_and_they_are_no_drift(
    make_site: Callable[..., Site], embedding_server: EmbeddingServer
) -> None:
    site, server = make_site(18), embedding_server
    site.sql(DOCUMENTS)
    site.sql(
        "insert into documents select i, 't', case when i % 100 = 7 then 'bad ' else '' end || i "
        "from generate_series(1, 600) i"
    )
    site.configure(embedder=server.configuration)
    site.cli("setup")
    server.faults(refuse=["bad"])
    with site.service() as service:
        done = "select state from cdc_embed.reconcile"
        wait_until(lambda: columns(site.sql(done)) == ["done"], "the backfill ends")
        bad = list(range(7, 600, 100))
        assert letters(site) == bad
        assert site.drift() == sorted(f"missing {key}" for key in bad)
        (table,) = site.verify()["tables"]
        assert (table["checked"], table["fresh"], table["dead_letters"]) == (600, 594, 6)
        server.faults()
        with without_a_call(service, server):
            site.cli("backfill")
            site.cli("verify", "--repair")
        assert letters(site) == bad, "only a change or a retry tries them again"


def test_a_long_document_with_one_bad_piece_has_no_vector_at_all(
    make_site: Callable[..., Site], embedding_server: EmbeddingServer
) -> None:
    site, server = make_site(18), embedding_server
    site.sql(DOCUMENTS)
    site.configure(
        embedder=server.configuration,
        tables='[[tables]]\nname = "documents"\ntext = ["title", "body"]\n'
        "chunk = { max_tokens = 30 }\n",
    )
    site.cli("setup")
    server.faults(refuse=["bad"])
    paragraphs = [f"Paragraph {n} " + f"has its own words {n} " * 4 for n in range(8)]
    chunks = "select count(*) from cdc_embed.documents_embedding where id = 1"
    with site.service() as service:
        site.sql("insert into documents values (1, 't', %s)", "\n\n".join(paragraphs))
        service.settle()
        assert site.value(chunks) > 5
        paragraphs[5] += "bad"
        site.sql("update documents set body = %s", "\n\n".join(paragraphs))
        service.settle()
        assert (site.value(chunks), letters(site)) == (0, [1])
        paragraphs[5] = paragraphs[5].removesuffix("bad")
        site.sql("update documents set body = %s", "\n\n".join(paragraphs))
        service.settle()
        assert letters(site) == []
        assert site.cli("verify").returncode == 0


def test_letters_move_with_their_keys_and_ask_the_model_nothing(
    picky: Site, embedding_server: EmbeddingServer
) -> None:
    """They are copied with their keys, and not tried again."""
    site, server = picky, embedding_server
    many = 2 * MOST_IN_A_ROW
    with site.service() as service:
        service.wait_for("reconciled")  # from here on nothing is tried but what changes
        for start in range(0, many, MOST_IN_A_ROW):
            site.sql(
                "insert into documents select i, 't', 'bad ' || repeat(i || ' ', i * 100) "
                "from generate_series(%s, %s) i",
                start + 1,
                start + MOST_IN_A_ROW,
            )
            site.sql("insert into documents values (%s, 't', 'good ' || %s)", 1000 + start, start)
            service.settle()
        assert letters(site) == list(range(1, many + 1))
        error = columns(site.sql("select distinct error from cdc_embed.dead_letter"))
        with without_a_call(service, server):
            site.sql("update documents set id = id + 100 where id <= %s", many)
        assert letters(site) == [100 + number for number in range(1, many + 1)]
        assert columns(site.sql("select distinct error from cdc_embed.dead_letter")) == error
        with without_a_call(service, server):
            site.sql("update documents set id = -id")
        assert stored(site) == [-1000 - MOST_IN_A_ROW, -1000]
        server.faults()
        site.sql("update documents set id = -id, title = 'new'")
        service.settle()
        assert letters(site) == []
        assert site.drift() == []


def test_many_letters_in_a_row_end_nothing_and_are_told_once(
    make_site: Callable[..., Site], embedding_server: EmbeddingServer
) -> None:
    """The known-good text is taken, so they are letters; another table goes on beside them."""
    site = make_site(18)
    site.sql(DOCUMENTS)
    site.sql("create table other (id bigint primary key, body text)")
    tables = (
        '[[tables]]\nname = "documents"\ntext = ["title", "body"]\n'
        '[[tables]]\nname = "other"\ntext = ["body"]\n'
    )
    site.configure(tables=tables, embedder=embedding_server.configuration)
    site.cli("setup")
    embedding_server.faults(refuse=["bad"])
    bad = range(1, MOST_IN_A_ROW + 6)
    insert = "insert into documents select i, 't', 'bad ' || i from generate_series(%s, %s) i"
    with site.service() as service:
        service.wait_for("reconciled")
        service.wait_for("reconciled")
        site.sql(insert, bad[0], bad[-1])
        wait_until(lambda: letters(site) == list(bad), "each one is a letter", 30)
        site.sql("insert into other values (1, 'good')")
        service.settle()
        assert site.value("select count(*) from cdc_embed.other_embedding") == 1
        told = [each for each in service.log if each["event"] == "many texts refused in a row"]
        assert len(told) == 1
        assert "cdc-embed doctor" in told[0]["hint"]
        assert service.alive
        embedding_server.faults()
        site.cli("dlq", "retry", "--all")
        assert site.drift() == []


# -- what the database refuses ---------------------------------------------------------------------

REFUSE = {
    "23514": "alter table cdc_embed.documents_embedding add constraint low check (views < 100)",
    "22003": """
        create function too_high() returns trigger language plpgsql as $$ begin
          if new.views >= 100 then raise 'too high' using errcode = '22003'; end if;
          return new;
        end $$;
        create trigger high before insert or update on cdc_embed.documents_embedding
        for each row execute function too_high()""",
}


@pytest.mark.parametrize("refuse", REFUSE.values(), ids=REFUSE.keys())
def test_a_refused_metadata_value_is_a_letter_until_it_changes(
    make_site: Callable[..., Site], embedding_server: EmbeddingServer, refuse: str
) -> None:
    """A letter that forgot which metadata was refused would hide the row from its next change."""
    site, server = ready(make_site(18), embedding_server, metadata='"views"'), embedding_server
    site.sql(refuse)
    big = "select string_agg(md5(i::text), '') from generate_series(1, 200) i"
    with site.service() as service:
        site.sql("insert into documents select i, 't', 'x' || i, i from generate_series(1, 40) i")
        service.settle()
        site.transaction(
            "update documents set views = 100 + id where id in (7, 8)",
            "insert into documents select i, 't', 'x' || i, 3 * i from generate_series(41, 50) i",
            f"insert into documents values (60, 't', ({big}), 100)",
            "update documents set body = 'new text' where id = 1",
        )
        service.settle()
        refused = [7, 8, *range(41, 51), 60]
        refused = [key for key in refused if site.value(VIEWS, key) >= 100]
        assert letters(site) == refused
        left_out = "select id from cdc_embed.documents_search where chunk = 0 and views is null"
        assert sorted(columns(site.sql(left_out))) == refused, "the text has its vectors"
        assert set(stored(site)) == {*range(1, 51), 60}
        assert set(columns(site.sql("select reason from cdc_embed.dead_letter"))) == {"metadata"}
        with without_a_call(service, server):
            site.sql("update documents set body = body where id in (7, 60)")
        assert letters(site) == refused
        site.sql("update documents set views = id where id >= 7")
        site.sql("update documents set views = 200 where id = 9")
        service.settle()
        assert letters(site) == [9]
        site.sql("update documents set views = 9 where id = 9")
        service.settle()
        assert letters(site) == []
        assert site.drift() == []
        assert site.cli("verify").returncode == 0


def test_one_refused_row_among_thousands_is_found_by_halves(
    make_site: Callable[..., Site], embedding_server: EmbeddingServer
) -> None:
    site = ready(make_site(18), embedding_server, metadata='"views"')
    site.sql(REFUSE["23514"])
    rehearsals = "select xact_rollback from pg_stat_database where datname = current_database()"
    with site.service() as service:
        before = site.value(rehearsals)
        site.sql(
            "insert into documents select i, 't', 'x' || i, i / 3000 * 100 "
            "from generate_series(1, 3000) i"
        )
        service.settle()
        assert letters(site) == [3000]
        assert site.sql("select id from cdc_embed.documents_embedding where views is null") == [
            (3000,)
        ]
        assert site.value("select count(*) from cdc_embed.documents_embedding") == 3000
        assert service.stop() == 0
    site.wait_for_last_session()
    assert 0 < site.value(rehearsals) - before < 200


VIEWS = "select views from documents where id = %s"


def test_a_row_kept_during_its_refusal_is_not_taken_for_stored(
    make_site: Callable[..., Site], embedding_server: EmbeddingServer
) -> None:
    """The batch on top of the refused one has the same text and finds nothing to do. Taken for
    stored, the next change that leaves the text out would embed what is refused once more."""
    site, server = ready(make_site(18), embedding_server, metadata='"views"'), embedding_server
    site.sql(REFUSE["23514"])
    big = "select string_agg(md5(i::text), '') from generate_series(1, 200) i"
    other: Any = site.connect()
    with preparations() as prepared, site.service() as service:
        service.wait_for("reconciled")
        with other.cursor() as cursor:
            cursor.execute("lock table cdc_embed.documents_embedding in share mode")
            site.sql(f"insert into documents values (1, 't', ({big}), 100)")
            writes = "select count(*) from pg_locks where not granted and mode = 'RowExclusiveLock'"
            wait_until(lambda: site.value(writes), "the row is written")
            before = len(prepared)
            site.sql("update documents set body = body || ''")  # the log has it whole
            # a later one is looked up, and proves nothing
            wait_until(lambda: len(prepared) > before, "it is prepared upon the other")
        other.rollback()
        service.settle()
        assert letters(site) == [1]
        with without_a_call(service, server):
            site.sql("update documents set title = title")
        assert letters(site) == [1]
    other.close()


def test_a_row_mended_while_its_refusal_is_written_is_not_lost(
    make_site: Callable[..., Site], embedding_server: EmbeddingServer
) -> None:
    """The batch with the mended metadata is prepared on top of one whose row the database refuses
    only then: an annotation that finds no document must not pass for done."""
    site = ready(make_site(18), embedding_server, metadata='"views"')
    site.sql(REFUSE["23514"])
    other: Any = site.connect()
    with site.service() as service:
        for round_ in range(5):
            site.sql("insert into documents values (%s, 't', 'text', 1)", round_)
            service.settle()
            with other.cursor() as cursor:
                cursor.execute("lock table cdc_embed.documents_embedding in share mode")
                site.sql("update documents set views = 100 where id = %s", round_)
                site.sql("update documents set views = 2 where id = %s", round_)
            other.rollback()
            service.settle()
            assert letters(site) == []
            assert site.drift() == []
    other.close()
