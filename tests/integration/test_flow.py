"""From a commit in the source to a vector in the target, through a real service."""

import random
import string

import pytest

from tests.site import EmbeddingServer, Site, columns, wait_until


def big(seed: int) -> str:
    """A text that PostgreSQL stores out of line: an update of another column leaves it out."""
    return "".join(random.Random(seed).choices(string.ascii_letters + " ", k=6000))


@pytest.fixture
def counted(each_site: Site, embedding_server: EmbeddingServer) -> tuple[Site, EmbeddingServer]:
    """A site whose texts are counted outside of it."""
    each_site.cli("teardown", "--yes")
    each_site.configure(
        embedder=embedding_server.configuration,
        tables='[[tables]]\nname = "documents"\ntext = ["title", "body"]\n'
        "chunk = { max_tokens = 100000 }\n",
    )
    each_site.cli("setup")
    embedding_server.reset()
    return each_site, embedding_server


def test_rows_are_embedded_changed_and_deleted(each_site: Site) -> None:
    site = each_site
    with site.service() as service:
        site.sql("insert into documents select i, 't' || i, 'b' || i from generate_series(1,100) i")
        service.settle()
        assert site.drift() == []
        site.sql("update documents set body = 'new ' || id where id <= 10")
        site.sql("delete from documents where id > 90")
        site.sql("update documents set title = null, body = '  ' where id = 50")
        service.settle()
        assert site.drift() == []
        stored = columns(site.sql("select id from cdc_embed.documents_embedding order by id"))
        assert stored == [i for i in range(1, 91) if i != 50]


def test_only_text_that_changed_is_embedded(counted: tuple[Site, EmbeddingServer]) -> None:
    site, server = counted
    with site.service() as service:
        site.sql("insert into documents select i, 't', 'text ' || i from generate_series(1,1000) i")
        service.settle()
        assert server.texts() == 1000
        server.reset()
        written = service.metric("cdc_embed_rows_written_total")
        for _ in range(10):
            site.sql("update documents set views = views + 1")
        service.settle()
        assert server.texts() == 0, "10,000 updates of another column"
        site.sql("update documents set body = body")
        service.settle()
        assert server.texts() == 0, "1,000 updates to the same text"
        assert site.drift() == []
        assert service.metric("cdc_embed_rows_written_total") == written, "and nothing is written"


def test_hot_row_is_embedded_a_few_times(counted: tuple[Site, EmbeddingServer]) -> None:
    site, server = counted
    with site.service() as service:
        site.sql("insert into documents values (1, 't', 'first')")
        service.settle()
        server.reset()
        received = service.metric("cdc_embed_changes_received_total")
        server.faults(hang=20.0)
        site.sql("update documents set body = 'version 0' where id = 1")
        wait_until(lambda: server.counts()["in_flight"], "the first is being embedded")
        for number in range(1, 20):
            site.sql("update documents set body = %s where id = 1", f"version {number}")
        wait_until(
            lambda: service.metric("cdc_embed_changes_received_total") == received + 20,
            "the others are read meanwhile",
        )
        server.faults()  # ends the wait
        service.settle()
        assert 1 <= server.texts() <= 3
        assert site.drift() == []


def test_equal_texts_are_embedded_once(counted: tuple[Site, EmbeddingServer]) -> None:
    site, server = counted
    with site.service() as service:
        site.sql("insert into documents values (1, 't', 'same'), (2, 't', 'same')")
        service.settle()
        assert server.texts() == 1
        site.sql("insert into documents values (3, 't', 'same')")
        service.settle()
        assert server.texts() == 1
        assert site.drift() == []


def test_key_changes_move_vectors(counted: tuple[Site, EmbeddingServer]) -> None:
    site, server = counted
    with site.service() as service:
        service.wait_for("reconciled")  # from here on what is stored is known from the log
        site.sql("insert into documents values (1, 'one', %s), (2, 'two', 'short')", big(1))
        site.sql("insert into documents values (3, 'three', %s)", big(3))
        service.settle()
        server.reset()
        site.sql("update documents set id = 10 where id = 1")
        service.settle()
        assert site.drift() == []
        site.transaction(
            "update documents set id = -2 where id = 2",
            "update documents set id = 2 where id = 3",
            "update documents set id = 3 where id = -2",
        )
        service.settle()
        assert site.drift() == []
        site.sql("update documents set id = -id")
        service.settle()
        assert site.drift() == []
        assert server.texts() == 0


def test_unchanged_toast_is_no_change_of_the_text(counted: tuple[Site, EmbeddingServer]) -> None:
    site, server = counted
    with site.service() as service:
        service.wait_for("reconciled")
        site.sql("insert into documents values (1, 'one', %s)", big(1))
        service.settle()
        server.reset()
        site.sql("update documents set views = 1")
        service.settle()
        assert server.texts() == 0
        site.sql("update documents set title = 'another title'")
        service.settle()
        assert server.texts() == 1, "the title changed, the body had to be read again"
        assert site.drift() == []


def test_row_from_before_the_slot_is_read_again_when_it_changes(
    counted: tuple[Site, EmbeddingServer],
) -> None:
    """All of its text is unchanged, but unchanged from a version that is not stored."""
    site, server = counted
    site.cli("teardown", "--yes")
    site.configure(
        embedder=server.configuration,
        tables='[[tables]]\nname = "documents"\ntext = ["body"]\nchunk = { max_tokens = 100000 }\n',
        more='[backfill]\nstart = "manual"\n',
    )
    site.sql("insert into documents values (1, null, %s)", big(1))
    site.cli("setup")
    with site.service() as service:
        site.sql("update documents set views = 1")
        service.settle()
        assert site.drift() == []
        server.reset()
        site.sql("update documents set views = 2")
        service.settle()
        assert server.texts() == 0
        assert service.metric("cdc_embed_changes_skipped_total", reason="unchanged") == 1


def test_text_over_the_window_is_stored_in_chunks_without_loss(each_site: Site) -> None:
    site = each_site
    site.cli("teardown", "--yes")
    site.configure(
        tables='[[tables]]\nname = "documents"\ntext = ["title", "body"]\n'
        "chunk = { max_tokens = 10 }\n"
    )
    site.cli("setup")
    words = " ".join(f"word{n}" for n in range(50))
    with site.service() as service:
        site.sql("insert into documents values (1, 'short', 'text'), (2, 'long', %s)", words)
        service.settle()
        chunks = columns(
            site.sql(
                "select chunk_text from cdc_embed.documents_embedding where id = 2 order by chunk"
            )
        )
        assert " ".join(chunks).split() == ["long", *words.split()]
        assert max(len(chunk.split()) for chunk in chunks) <= 10
        site.sql("update documents set body = 'short now' where id = 2")
        service.settle()
        assert site.value("select count(*) from cdc_embed.dead_letter") == 0
        assert site.drift() == []
