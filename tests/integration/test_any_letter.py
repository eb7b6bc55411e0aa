"""A dead letter that is hard to store: one row never stops the others."""

import json
from collections.abc import Callable, Sequence

import pytest

from cdc_embed.embed.base import ModelCard, Vectors
from cdc_embed.embed.hash import HashEmbedder
from cdc_embed.errors import TextRefusedError
from cdc_embed.service import load_config, running
from cdc_embed.target.letters import LONGEST_ERROR, storable
from tests.integration.test_inputs import in_encoding
from tests.site import Site, wait_until

NOTES = "create table notes (id text primary key, body text)"
TABLES = '[[tables]]\nname = "notes"\ntext = ["body"]\n'
LONG_KEY = "select string_agg(md5(i::text), '') from generate_series(1, 85) i"
"""So long that it fits into an index row, but not with our column beside it; it does not shrink."""
WORDS = "\u2192 50 \u20ac, a NUL: \0, half a pair: \ud800"


class Picky:
    """A model that refuses a text in words that no database takes as they are."""

    def __init__(self) -> None:
        self._hash = HashEmbedder(dimensions=8)

    def describe(self) -> ModelCard:
        return self._hash.describe()

    def embed(self, texts: Sequence[str]) -> Vectors:
        if any("bad" in text for text in texts):
            raise TextRefusedError(problem=WORDS)
        return self._hash.embed(texts)

    def embed_query(self, text: str) -> Vectors:
        return self._hash.embed_query(text)

    def close(self) -> None:
        pass


def test_a_key_longer_than_an_index_row_stops_no_other(make_site: Callable[..., Site]) -> None:
    site = make_site(18)
    site.sql(NOTES)
    site.configure(tables=TABLES)
    site.cli("setup")
    site.sql(f"insert into notes select left(({LONG_KEY}), 2690), 'cannot be stored'")
    with site.service() as service:
        site.sql("insert into notes values ('short', 'can be stored')")
        stored = "select id from cdc_embed.notes_embedding"
        wait_until(lambda: site.sql(stored) == [("short",)], "the other row is stored")
        service.settle()
        site.sql("update notes set body = 'still not' where id <> 'short'")
        service.settle()
        (letter,) = json.loads(site.cli("dlq", "list", "--json").stdout)
        assert len(letter["key"]["id"]) == 2690
        assert letter["reason"] == "database"
        assert site.value("select count(*) from cdc_embed.dead_letter") == 1
        site.sql("delete from notes where id <> 'short'")
        service.settle()
        assert site.value("select count(*) from cdc_embed.dead_letter") == 0
        assert service.stop() == 0


@pytest.mark.parametrize("encoding", ["UTF8", "LATIN1"])
def test_an_error_that_the_target_lacks_letters_for_is_stored(
    make_site: Callable[..., Site], encoding: str
) -> None:
    target = make_site(18)
    in_encoding(target, encoding)
    site = make_site(18, target=target)
    site.sql("create table notes (id int primary key, body text)")
    site.configure(tables=TABLES, embedder='kind = "hash"\ndimensions = 8')
    site.cli("setup")
    site.sql("insert into notes values (1, 'good'), (2, 'bad'), (3, 'good, too')")
    with (
        running(load_config(site.config_path), embedder=Picky()) as service,
        service.background(),
    ):
        stored = "select id from cdc_embed.notes_embedding order by id"
        wait_until(lambda: target.sql(stored) == [(1,), (3,)], "the other rows are stored")
        error = target.value("select error from cdc_embed.dead_letter")
    assert "half a pair: \\ud800" in error
    assert "a NUL: \\x00" in error
    assert ("\u2192 50 \u20ac" if encoding == "UTF8" else "\\u2192 50 \\u20ac") in error


def test_a_long_error_is_cut() -> None:
    assert len(storable("\u2192" * LONGEST_ERROR, "LATIN1")) == LONGEST_ERROR
