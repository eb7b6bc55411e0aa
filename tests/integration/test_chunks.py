"""Long documents: chunks that fit the model, few of them embedded anew, whatever is edited."""

import random
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from cdc_embed.change.chunk import Chunker
from tests.cases import cases
from tests.oracle import Documents
from tests.site import EmbeddingServer, RunningService, Site

WINDOW = 200
TABLE = f'[[tables]]\nname = "documents"\ntext = ["body"]\nchunk = {{ max_tokens = {WINDOW} }}\n'


def tokens(texts: Sequence[str]) -> list[int]:
    """The guess for a service whose tokenizer is not known."""
    return [-(-len(text.encode()) // 3) for text in texts]


def paragraphs(rng: random.Random, count: int) -> list[str]:
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 9))) for _ in range(400)]
    return [" ".join(rng.choices(words, k=rng.randint(8, 30))) + "." for _ in range(count)]


def stored(site: Site, key: int) -> list[tuple[str, int, int, bytes]]:
    rows = site.sql(
        "select chunk_text, start_offset, end_offset, chunk_hash "
        "from cdc_embed.documents_embedding where id = %s order by chunk",
        key,
    )
    assert Documents(name="documents", text=("body",), chunked=True).drift(site) == []
    return [(chunk, start, end, bytes(digest)) for chunk, start, end, digest in rows]


def fresh(site: Site, key: int) -> list[tuple[str, int, int, bytes]]:
    text = site.value("select body from documents where id = %s", key)
    return [(c.text, c.start, c.end, c.hash) for c in Chunker(tokens, WINDOW).split(text)]


def test_an_edit_of_one_paragraph_embeds_four_chunks_at_most(site: Site) -> None:
    """Counted by the embedding service; the stored chunks are always those of the text as it is."""
    rng = random.Random(11)
    pieces = paragraphs(rng, 130)
    with EmbeddingServer() as embedding:
        site.cli("teardown", "--yes")
        site.configure(embedder=embedding.configuration, tables=TABLE)
        site.cli("setup")
        with site.service() as service:
            site.sql("insert into documents (id, body) values (1, %s)", "\n\n".join(pieces))
            service.settle()
            assert 30 <= len(stored(site, 1)) <= 50
            assert stored(site, 1) == fresh(site, 1)
            for place in (0, 65, -1):
                for edit in ("insert", "lengthen", "shorten", "delete"):
                    edited = list(pieces)
                    at = place if place >= 0 else len(pieces) - 1
                    if edit == "insert":
                        edited.insert(at + (place < 0), paragraphs(rng, 1)[0])
                    elif edit == "lengthen":
                        edited[at] += " And a few words more than there were before."
                    elif edit == "shorten":
                        edited[at] = edited[at][: len(edited[at]) // 2]
                    else:
                        del edited[at]
                    pieces = edited
                    embedding.reset()
                    site.sql("update documents set body = %s", "\n\n".join(pieces))
                    service.settle()
                    assert embedding.texts() <= 4, (place, edit)
                    assert stored(site, 1) == fresh(site, 1)
            assert max(tokens(list(embedding.counts()["by_text"]))) <= WINDOW
            assert site.value("select count(*) from cdc_embed.dead_letter") == 0


def written(site: Site) -> tuple[int, int, int, int]:
    """Rows inserted, deleted, updated, and updated without an entry in an index."""
    site.wait_for_last_session()
    found: tuple[int, int, int, int] = site.sql(
        "select n_tup_ins, n_tup_del, n_tup_upd, n_tup_hot_upd from pg_stat_user_tables "
        "where relid = 'cdc_embed.documents_embedding'::regclass"
    )[0]
    return found


@pytest.mark.parametrize("edit", cases(["change", "insert", "delete", "move"], "change", "insert"))
def test_an_edit_writes_few_rows_and_index_entries(site: Site, edit: str) -> None:
    rng = random.Random(7)
    pieces = paragraphs(rng, 130)
    site.cli("teardown", "--yes")
    site.configure(tables=TABLE.replace(str(WINDOW), "70"))
    site.cli("setup")
    site.sql("alter table cdc_embed.documents_embedding set (autovacuum_enabled = false)")
    with site.service() as service:
        service.wait_for("indexed")
        site.sql("insert into documents (id, body) values (1, %s)", "\n\n".join(pieces))
        service.settle()
        assert service.stop() == 0
    chunks = len(stored(site, 1))
    assert 35 <= chunks <= 60
    before = written(site)
    if edit == "change":
        pieces[3] = paragraphs(rng, 1)[0]
    elif edit == "insert":
        pieces[:0] = paragraphs(rng, 4)
    elif edit == "delete":
        del pieces[1:6]
    else:
        pieces = pieces[:2] + pieces[30:34] + pieces[2:30] + pieces[34:]
    with site.service() as service:
        site.sql("update documents set body = %s", "\n\n".join(pieces))
        service.settle()
        assert service.stop() == 0
    added, deleted, updated, hot = (b - a for a, b in zip(before, written(site), strict=True))
    assert added + deleted <= (24 if edit == "move" else 12)
    assert added + updated == len(stored(site, 1))
    assert hot == updated >= chunks - 12


def memory(service: RunningService) -> int:
    """The most bytes that the process ever had in memory."""
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert match is not None
    return int(match.group(1)) << 10


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("documents", "limit"), [(4, "16MB"), pytest.param(8, "32MB", marks=pytest.mark.long)]
)
def test_documents_of_five_megabytes_keep_the_memory_limit(
    site: Site, documents: int, limit: str
) -> None:
    rng = random.Random(5)
    site.cli("teardown", "--yes")
    site.configure(
        embedder='kind = "hash"\ndimensions = 32',
        tables='[[tables]]\nname = "documents"\ntext = ["body"]\nchunk = { max_tokens = 256 }\n',
        more=f'[limits]\nmemory = "{limit}"\n[index]\nkind = "none"\n',
    )
    site.cli("setup")
    with site.service(process=True) as service:
        site.sql("insert into documents (id, body) values (0, 'small')")
        service.settle()
        before = memory(service)
        for key in range(1, documents + 1):
            body = "\n\n".join(paragraphs(rng, 800) * 56)
            assert len(body) > 5_000_000
            site.sql("insert into documents (id, body) values (%s, %s)", key, body)
        service.settle(120)
        assert memory(service) - before < 300 << 20
        assert site.value("select count(distinct id) from cdc_embed.documents_embedding") == (
            documents + 1
        )
        longest = site.value(
            "select max(array_length(regexp_split_to_array(chunk_text, '\\s+'), 1)) "
            "from cdc_embed.documents_embedding"
        )
        assert longest <= 256
        assert service.stop() == 0
