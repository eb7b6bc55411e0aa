"""The vectors of a former space: deleted in parts, and only by the writer."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from cdc_embed.postgres.session import Session
from cdc_embed.postgres.side import TARGET
from cdc_embed.rotation import Login
from cdc_embed.target import stored
from cdc_embed.target.stored import StoredDocuments
from tests.builders import table
from tests.site import Site

TABLE = table("documents", text=("body",))
ROWS = 300
FORMER = "select count(*) from cdc_embed.documents_embedding where space <> 1"


@pytest.fixture
def former(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[StoredDocuments]:
    """A table with vectors of two spaces, a few on each page."""
    monkeypatch.setattr(stored, "PAGES", 10)
    site.sql(
        "insert into cdc_embed.space "
        "(model, dimensions, document_prompt, query_prompt, preparation) "
        "select 'former', dimensions, document_prompt, query_prompt, preparation "
        "from cdc_embed.space"
    )
    site.sql(
        "insert into cdc_embed.documents_embedding (id, chunk, embedding, start_offset, "
        "end_offset, document_hash, chunk_hash, space) "
        "select n, 0, array_fill(1, array[384])::public.vector, 0, 1, '', '', space.id "
        "from generate_series(1, %s) n, cdc_embed.space where id = n %% 2 + 1",
        ROWS,
    )
    with closing(Session(TARGET, Login(site.dsn), "test")) as session:
        yield StoredDocuments(session, "cdc_embed", site.name)


def test_vectors_of_former_spaces_go_in_parts(site: Site, former: StoredDocuments) -> None:
    rows = site.value(FORMER)
    parts = former.delete_other_spaces(TABLE, 1, 0)
    first = next(parts)
    assert 0 < first <= 50
    assert site.value(FORMER) == rows - first, "it is committed"
    assert first + sum(parts) == rows
    assert site.value(FORMER) == 0


def test_an_older_writer_deletes_no_former_space(site: Site, former: StoredDocuments) -> None:
    rows = site.value(FORMER)
    site.sql("update cdc_embed.checkpoint set epoch = 7")
    assert sum(former.delete_other_spaces(TABLE, 1, 6)) == 0
    assert site.value(FORMER) == rows
