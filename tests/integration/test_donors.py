"""Vectors that a batch takes from stored rows which the batch before it deletes."""

from collections.abc import Callable

import pytest

from tests.site import EmbeddingServer, Site

SLOWLY = """
create function slowly() returns trigger language plpgsql as
  $$ begin perform pg_sleep({seconds}); return null; end $$;
create trigger slowly after insert or delete on cdc_embed.documents_embedding
  for each statement execute function slowly()
"""


@pytest.mark.parametrize(
    ("documents", "seconds"), [(30, 0.1), pytest.param(100, 0.3, marks=pytest.mark.long)]
)
def test_a_text_moved_by_delete_and_insert_costs_no_reconnect(
    make_site: Callable[..., Site],
    embedding_server: EmbeddingServer,
    documents: int,
    seconds: float,
) -> None:
    """Adjacent batches delete the donor and need it: each text is embedded at most once more."""
    site = make_site(18)
    site.sql("create table documents (id bigint primary key, title text, body text)")
    site.configure(embedder=embedding_server.configuration)
    site.cli("setup")
    site.sql(SLOWLY.format(seconds=seconds))
    rows = f"generate_series(1, {documents}) i"
    site.sql(f"insert into documents select i, 'title', 'text ' || i from {rows}")
    with site.service() as service:
        service.wait_for("reconciled")
        service.settle()
        embedding_server.reset()
        for number in range(1, documents + 1):
            site.sql("delete from documents where id = %s", number)
            again = "insert into documents values (%s, 'title', 'text ' || %s)"
            site.sql(again, number + 1000, number)
        service.settle(120)
        assert service.metric("cdc_embed_reconnects_total") == 0
        assert max(embedding_server.counts()["by_text"].values(), default=0) <= 1
        assert site.verify()["drift"] == 0
