"""Columns copied beside the vectors: equal to the source's whatever the log leaves out of them."""

import random
import string
from collections.abc import Callable, Iterator

import pytest

from tests.oracle import Documents
from tests.site import EmbeddingServer, Site, wait_until

SMALL = {
    "amount": "numeric(12,3)",
    "code": "character(8)",
    "day": "date",
    "extra": "jsonb",
    "hue": "colour",
    "label": "text",
    "live": "boolean",
    "raw": "bytea",
    "ref": "uuid",
    "score": "double precision",
    "seen": "timestamp with time zone",
    "span": "interval",
    "tags": "text[]",
    "views": "integer",
}
BIG = {"far": "text", "many": "double precision[]", "wide": "text"}
"""Stored out of line: an update of another column leaves them out of the log."""
TYPES = {**SMALL, **BIG}
ROWS = Documents(name="documents", text=("body",), metadata=tuple(TYPES), chunked=True)

ROW = {
    "amount": "12.340",
    "code": "ab  ",
    "day": "2026-03-04",
    "extra": '{"a": [1, null, "x"]}',
    "hue": "red",
    "label": "  blanks kept \t",
    "live": "true",
    "raw": "\\x00ff5c",
    "ref": "9b2f3a52-6c4e-4f60-9f4e-6a8c1d6f5b11",
    "score": "0.1000000000000000055",
    "seen": "2026-01-01 12:00:00.123456+02",
    "span": "-1 days +02:03:00",
    "tags": '{one,"two, three",NULL}',
    "views": "7",
}


def big(seed: int) -> str:
    return "".join(random.Random(seed).choices(string.ascii_letters + " ", k=6000))


def floats(seed: int) -> str:
    choice = random.Random(seed)
    return "{" + ",".join(repr(choice.random()) for _ in range(400)) + "}"


HOSTILE = {
    "datestyle": "SQL, DMY",
    "intervalstyle": "sql_standard",
    "extra_float_digits": "-3",
    "timezone": "Asia/Tokyo",
    "bytea_output": "escape",
    "quote_all_identifiers": "on",
    "array_nulls": "off",
}
"""The settings of a database that must not change the values on their way."""


def create(site: Site, more: str = "") -> None:
    """The source table, not set up yet, in a database of unusual settings."""
    for setting, value in HOSTILE.items():
        site.sql(f"alter database {site.name} set {setting} = '{value}'")
    site.sql("create type colour as enum ('red', 'green')")
    listed = ", ".join(f"{name} {kind}" for name, kind in TYPES.items())
    site.sql(f"create table documents (id bigint primary key, title text, body text, {listed})")
    for name in ("body", *BIG):
        site.sql(f"alter table documents alter {name} set storage external")
    if more:
        site.sql(more)


def configure(
    site: Site, *, embedder: str = 'kind = "hash"', text: str = '"body"', max_tokens: int = 100000
) -> None:
    names = ", ".join(f'"{name}"' for name in TYPES)
    site.configure(
        embedder=embedder,
        tables=f'[[tables]]\nname = "documents"\ntext = [{text}]\nmetadata = [{names}]\n'
        f"chunk = {{ max_tokens = {max_tokens} }}\n",
    )
    site.cli("setup")


def insert(site: Site, *ids: int, body: str | None = None, **values: str | None) -> None:
    """Rows with every metadata column filled; ``values`` replace some."""
    for number in ids:
        row: dict[str, str | None] = {
            "far": big(1000 + number),
            "wide": big(2000 + number),
            "many": floats(number),
        }
        row |= {**ROW, **values}
        names = ", ".join(("id", "title", "body", *row))
        marks = ", ".join(["%s"] * (3 + len(row)))
        text = body if body is not None else f"text {number}"
        site.sql(
            f"insert into documents ({names}) values ({marks})", number, "t", text, *row.values()
        )


@pytest.fixture
def embedder() -> Iterator[EmbeddingServer]:
    with EmbeddingServer() as server:
        yield server


def test_values_keep_their_types_and_follow_every_change(
    make_site: Callable[..., Site], version: int, embedder: EmbeddingServer
) -> None:
    site = make_site(version)
    create(site)
    configure(site, embedder=embedder.configuration)
    stored = dict(
        site.sql(
            "select attname::text, format_type(atttypid, atttypmod) from pg_attribute "
            "where attrelid = 'cdc_embed.documents_embedding'::regclass and attnum > 0"
        )
    )
    without_length = {"hue": "text", "code": "bpchar", "amount": "numeric"}
    assert {name: stored[name] for name in TYPES} == {**TYPES, **without_length}
    with site.service() as service:
        service.wait_for("reconciled")  # from here on what is stored is known from the log
        insert(site, 1, 2, 3)
        insert(site, 4, **dict.fromkeys(TYPES))
        insert(site, 5, seen="infinity", code="", label="", extra="null", tags="{}", score="NaN")
        insert(site, 6, seen="-infinity", amount="0.001", live="f", code="abcdefgh", raw="")
        service.settle()
        assert ROWS.drift(site) == []
        embedder.reset()
        for name, value in ROW.items():
            site.sql(f"update documents set {name} = null where id = 1")
            site.sql(f"update documents set {name} = %s where id = 4", value)
        service.settle()
        assert ROWS.drift(site) == []
        site.sql("update documents set far = 'short', wide = null where id = 2")
        site.sql("update documents set far = %s where id = 4", big(9))
        site.sql("update documents set code = 'ab' where id in (3, 6)")
        site.sql("update documents set label = '' where label is null")
        service.settle()
        assert ROWS.drift(site) == []
        assert embedder.texts() == 0
        site.sql("update documents set body = 'new ' || id, views = views + 1, hue = 'green'")
        site.sql("update documents set body = '  ', views = 0 where id = 3")
        service.settle()
        assert ROWS.drift(site) == []
        assert embedder.texts() in {5, 6}, "the text that was blank at once may be left out"
        site.sql("update documents set body = 'again' where id = 3")
        service.settle()
        assert ROWS.drift(site) == []
        site.cli("verify")  # what is read of them is what the log says of them


def test_values_that_the_log_leaves_out_are_kept(
    make_site: Callable[..., Site], version: int, embedder: EmbeddingServer
) -> None:
    """Out of line: kept when the text, the key or another column changes, and over a restart."""
    site = make_site(version)
    create(site)
    configure(site, embedder=embedder.configuration)
    with site.service() as service:
        service.wait_for("reconciled")  # else the next one compares, which reads ahead of the log
        insert(site, 1, 2, 3, 4)
        insert(site, 5, body=big(5))
        service.settle()
        assert service.stop() == 0
    with site.service() as service:  # what is stored is known from the target alone
        embedder.reset()
        site.sql("update documents set views = views + 1 where id in (1, 5)")
        site.sql("update documents set id = 12 where id = 2")
        site.sql("update documents set id = 15 where id = 5")
        service.settle()
        assert ROWS.drift(site) == []
        assert embedder.texts() == 0
        site.sql("update documents set body = 'changed' where id = 3")
        site.sql("update documents set id = 14, body = 'changed too', label = 'l' where id = 4")
        service.settle()
        assert ROWS.drift(site) == []
        assert embedder.texts() == 2
        site.sql("update documents set far = 'now short' where id = 12")
        site.sql("update documents set id = 16, views = null where id = 15")
        site.sql("update documents set body = body || ' and more' where id <> 16")
        service.settle()
        assert ROWS.drift(site) == []


def test_values_of_backfilled_rows_are_read_again(
    make_site: Callable[..., Site], version: int, embedder: EmbeddingServer
) -> None:
    """A row read from the table proves nothing of a value that the log calls unchanged."""
    site = make_site(version)
    create(site)
    insert(site, 1, 2, 3, 4, 6)
    insert(site, 5, body=big(5))
    configure(site, embedder=embedder.configuration)
    with site.service() as service:
        service.wait_for("reconciled")
        assert ROWS.drift(site) == []
        assert site.value("select count(commit_lsn) from cdc_embed.documents_embedding") == 0
        embedder.reset()
        site.sql("update documents set views = views + 1 where id in (1, 5)")
        site.sql("update documents set id = 12, hue = 'green' where id = 2")
        site.sql("update documents set far = 'short', wide = 'short too' where id = 6")
        service.settle()
        assert ROWS.drift(site) == []
        assert embedder.texts() == 0
        site.sql("update documents set body = 'changed', extra = '[]' where id = 3")
        site.sql("update documents set id = 14, body = 'changed too' where id = 4")
        service.settle()
        assert ROWS.drift(site) == []
        assert embedder.texts() == 2
        site.sql("update documents set views = views + 1")
        service.settle()
        assert ROWS.drift(site) == []
        assert embedder.texts() == 2
        site.cli("verify")


def test_values_follow_their_row_through_swaps_and_transactions(
    make_site: Callable[..., Site], version: int
) -> None:
    site = make_site(version)
    create(site)
    configure(site)
    with site.service() as service:
        insert(site, *range(1, 9), body="all of one text")
        insert(site, 11, 12, body=big(3))
        site.sql("update documents set views = id")
        service.settle()
        assert ROWS.drift(site) == []
        site.sql("update documents set id = -id")
        service.settle()
        assert ROWS.drift(site) == []
        site.sql("update documents set id = 10 * id, label = 'l' || id where id % 2 = 0")
        service.settle()
        assert ROWS.drift(site) == []
        site.transaction(
            "update documents set id = 100 where id = -3",
            "update documents set id = -3, views = 55 where id = -5",
            "update documents set id = -5 where id = 100",
        )
        service.settle()
        assert ROWS.drift(site) == []
        site.transaction(
            "create temporary table kept on commit drop as select * from documents where id = -7",
            "delete from documents where id = -7",
            "insert into documents select * from kept",
            "update documents set hue = 'green', far = 'f' where id = -7",
            "update documents set label = 'once more' where id = -7",
        )
        service.settle()
        assert ROWS.drift(site) == []
        site.transaction(
            "create temporary table kept on commit drop as select * from documents",
            "update documents set label = 'lost'",
            "truncate documents",
            "insert into documents select * from kept where id % 3 = 0",
            "update documents set views = 99",
        )
        service.settle()
        assert ROWS.drift(site) == []
        assert site.value("select count(*) from cdc_embed.documents_embedding") > 0


def test_table_with_full_identity_keeps_its_metadata(site_18: Site) -> None:
    site = site_18
    create(site, "alter table documents replica identity full")
    configure(site)
    with site.service() as service:
        insert(site, 1, 2, 3)
        insert(site, 4, body=big(4))
        service.settle()
        written = service.metric("cdc_embed_rows_written_total")
        site.sql("update documents set title = 'of no interest'")
        service.settle()
        assert service.metric("cdc_embed_rows_written_total") == written
        site.sql("update documents set views = 8 where id in (1, 4)")
        site.sql("update documents set id = 12, hue = 'green' where id = 2")
        site.sql("update documents set body = 'new' where id = 3")
        site.sql("update documents set id = -id")
        service.settle()
        assert ROWS.drift(site) == []


@pytest.fixture
def site_18(make_site: Callable[..., Site]) -> Site:
    return make_site(18)


def test_column_can_be_text_and_metadata(site_18: Site) -> None:
    site = site_18
    site.sql("create table documents (id bigint primary key, title text, body text)")
    site.sql("alter table documents alter body set storage external")
    site.configure(
        tables='[[tables]]\nname = "documents"\ntext = ["title", "body"]\n'
        'metadata = ["body", "title"]\n'
    )
    site.cli("setup")
    copied = Documents(name="documents", metadata=("body", "title"))
    with site.service() as service:
        site.sql(
            "insert into documents values (1, 'a', 'b'), (2, null, %s), (3, 'c', null)", big(1)
        )
        service.settle()
        assert copied.drift(site) == []
        site.sql("update documents set title = 'new'")
        site.sql("update documents set id = 20, title = 'newer' where id = 2")
        site.sql("update documents set title = null, body = 'x' where id = 3")
        service.settle()
        assert copied.drift(site) == []


def test_every_chunk_of_a_document_carries_its_metadata(site_18: Site) -> None:
    site = site_18
    create(site)
    configure(site, max_tokens=10)
    words = " ".join(f"word{n}" for n in range(60))
    with site.service() as service:
        insert(site, 1, 2, 3, body=words)
        service.settle()
        site.sql("update documents set views = 8, label = null where id = 1")
        site.sql("update documents set id = 12, hue = 'green' where id = 2")
        site.sql("update documents set body = body || ' more of it', views = 9 where id = 3")
        service.settle()
        assert site.value("select min(n) from (select count(*) n from "
                          "cdc_embed.documents_embedding group by id) counts") > 3  # fmt: skip
        assert ROWS.drift(site) == []


def hot_updates(site: Site) -> tuple[int, int]:
    """(updates of the vector table, those of them that made no index entry)."""
    return site.sql(
        "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables "
        "where relid = 'cdc_embed.documents_embedding'::regclass"
    )[0]


def index_use(site: Site) -> tuple[int, int]:
    """(bytes of the HNSW index, its blocks touched so far): an entry made touches hundreds."""
    return site.sql(
        "select pg_relation_size(indexrelid), idx_blks_read + idx_blks_hit "
        "from pg_statio_user_indexes where indexrelname = 'documents_embedding_hnsw'"
    )[0]


def test_changed_metadata_alone_touches_no_vector_and_no_index(
    make_site: Callable[..., Site], version: int, embedder: EmbeddingServer
) -> None:
    """A service that ends has reported its sessions' statistics."""
    site = make_site(version)
    create(site)
    configure(site, embedder=embedder.configuration)
    with site.service() as service:
        service.wait_for("indexed")
        site.sql("alter table cdc_embed.documents_embedding set (autovacuum_enabled = false)")
        site.sql(
            "insert into documents (id, body, views) "
            "select i, 'text number ' || i, 0 from generate_series(1, 500) i"
        )
        service.settle()
        assert service.stop() == 0
    site.wait_for_last_session()
    before, (size, blocks) = hot_updates(site), index_use(site)
    embedder.reset()
    with site.service() as service:
        site.sql("update documents set views = 1")
        service.settle()
        assert service.stop() == 0
    site.wait_for_last_session()
    assert embedder.texts() == 0
    assert ROWS.drift(site) == []
    updated, hot = (now - then for now, then in zip(hot_updates(site), before, strict=True))
    assert updated == 500, "each row once"
    assert hot >= 0.7 * updated
    assert index_use(site)[0] == size
    assert index_use(site)[1] - blocks <= (updated - hot) * blocks / 500


def test_kill_and_replay_leave_metadata_equal(
    make_site: Callable[..., Site], version: int, embedder: EmbeddingServer
) -> None:
    site = make_site(version)
    create(site)
    configure(site, embedder=embedder.configuration, max_tokens=20)

    def churn(seed: int) -> None:
        choice = random.Random(seed)
        for _ in range(40):
            number = choice.randint(1, 40)
            statement = choice.choice(
                [
                    "update documents set views = coalesce(views, 0) + 1 where id % 3 = 0",
                    f"update documents set label = null, far = '{seed}' where id = {number}",
                    f"update documents set body = body || ' w{seed}' where id = {number}",
                    f"update documents set id = -id, hue = 'green' where abs(id) % 7 = {seed % 7}",
                    f"delete from documents where id = {number}",
                    f"update documents set wide = repeat('{seed}x', 4000) where id = {number}",
                ]
            )
            site.sql(statement)

    with site.service(process=True) as service:
        insert(site, *range(1, 31))
        insert(site, 31, body=" ".join(f"word{n}" for n in range(100)))
        churn(1)
        wait_until(
            lambda: site.value("select count(*) from cdc_embed.documents_embedding"), "a batch"
        )
        churn(2)
        service.kill()
    churn(3)
    with site.service(process=True) as service:
        churn(4)
        service.kill()
    with site.service(process=True) as service:
        churn(5)
        service.settle()
        assert ROWS.drift(site) == []
        service.kill()
    with site.service() as service:  # replays what the slot had not heard of
        embedder.reset()
        service.settle()
        assert ROWS.drift(site) == []
        assert embedder.texts() == 0
        assert service.stop() == 0
