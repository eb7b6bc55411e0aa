"""The source compared with the target: what is found, what is mended, and what is left alone.

A read can be older than the log, or show an empty table: T3 and T7 of CONTRIBUTING.md.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import Any

import psycopg2
import pytest

from cdc_embed.change.document import Table
from cdc_embed.postgres.session import Session
from cdc_embed.postgres.side import SOURCE
from cdc_embed.rotation import Login
from cdc_embed.source.rows import RowReader, Scan
from tests.builders import table
from tests.hanging import hanging_commit
from tests.servers import Servers
from tests.site import DOCUMENTS, Site, columns, wait_until

NO_INDEX = '[index]\nkind = "none"\n'
SLOWLY = "[backfill]\nrows_per_second = 30\n"


def fill(site: Site, rows: int) -> None:
    """The table with rows that no change log carries."""
    site.sql(DOCUMENTS)
    site.sql(
        "insert into documents select i, 't', 'text ' || i from generate_series(1, %s) i", rows
    )


def verify_table(site: Site, *arguments: str, expect: int = 0) -> dict[str, Any]:
    """The same, of the only table."""
    (table,) = site.verify(*arguments, expect=expect)["tables"]
    assert isinstance(table, dict)
    return table


@contextmanager
def in_thread(call: Callable[[], Any]) -> Iterator["Queue[Any]"]:
    """Give the queue for the value or error of ``call``, which is joined at the end."""
    answer: Queue[Any] = Queue()

    def run() -> None:
        try:
            answer.put(call())
        except BaseException as exc:  # noqa: BLE001  the test looks at it
            answer.put(exc)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield answer
    finally:
        thread.join(60)


# -- visibility --------------------------------------------------------------------------------


def test_reconcile_puts_no_older_row_over_what_the_log_brought(
    servers: Servers, make_site: Callable[..., Site], tmp_path: Path
) -> None:
    """A commit waits for a standby that does not exist: received and stored, but not visible.

    Without the rule the slice that is read meanwhile holds the old text. The backfill writes it
    over the new one, where it stays for good; ``verify --repair`` calls the new text stale and
    does the same.
    """
    target = make_site(16)
    with servers.own(18) as server:
        site = Site(server, "texts", tmp_path, target)
        fill(site, 200)
        site.configure(more=SLOWLY)
        site.cli("setup")

        def source() -> Any:
            return site.value("select body from documents where id = 200")

        def stored(number: int) -> Any:
            texts = columns(
                target.sql(
                    "select chunk_text from cdc_embed.documents_embedding where id = %s", number
                )
            )
            return texts[0] if texts else None

        with site.service() as service:
            service.logged("table is compared")
            with hanging_commit(site, "update documents set body = 'second' where id = 200"):
                wait_until(lambda: stored(200) == "t\n\nsecond", "the log brought it")
                wait_until(lambda: stored(199), "the rows beside it were reconciled")
                assert source() == "text 200"
                assert stored(200) == "t\n\nsecond"
            service.logged("reconciled")
            service.settle()
            assert stored(200) == "t\n\nsecond"
            assert site.drift() == []

            with in_thread(lambda: verify_table(site, "--repair")) as answer:
                begun = "select count(*) from cdc_embed.request where state = 'running'"
                wait_until(lambda: target.value(begun), "verify is under way")
                with hanging_commit(site, "update documents set body = 'third' where id = 200"):
                    wait_until(lambda: stored(200) == "t\n\nthird", "the log brought it")
                    found = answer.get(timeout=30)
                    assert source() == "second"
                    assert stored(200) == "t\n\nthird"
            assert (found["stale"], found["repaired"], found["pending"]) == (0, 0, 1)
            service.settle()
            assert site.drift() == []
            assert service.stop() == 0
        site.close()


def test_first_slice_waits_for_transactions_that_were_running(
    make_site: Callable[..., Site],
) -> None:
    """And not for those that only read."""
    site = make_site()
    fill(site, 100)
    site.configure()
    site.cli("setup")
    reader = site.connect()
    writer = psycopg2.connect(site.dsn, application_name="nightly load")
    with reader.cursor() as reading, writer.cursor() as writing:
        reading.execute("set transaction isolation level repeatable read")
        reading.execute("select count(*) from documents")
        writing.execute("update documents set body = 'changed' where id = 1")
        with site.service() as service:
            waited = wait_until(lambda: service.status()["waiting"].get("reconcile"), "it waits")
            assert f"PID {writer.info.backend_pid}" in waited
            assert "nightly load" in waited
            assert site.value("select count(*) from cdc_embed.documents_embedding") == 0
            site.sql("insert into documents values (101, 'new', 'row')")
            service.settle()
            assert site.value("select count(*) from cdc_embed.documents_embedding") == 1
            writer.commit()
            service.logged("reconciled")
            assert "reconcile" not in service.status()["waiting"]
            service.settle()
            assert site.drift() == []
            assert service.stop() == 0
    reader.close()
    writer.close()


# -- rewrites ----------------------------------------------------------------------------------


def document_table(site: Site) -> Table:
    return table("documents", oid=site.value("select 'documents'::regclass::oid::bigint"))


REWRITES = {
    "alter": ["alter table documents add column stamp uuid default gen_random_uuid()"],
    "retype": ["alter table documents alter column views type bigint"],
    "truncate": [
        "create temporary table kept as select * from documents",
        "truncate documents",
        "insert into documents select * from kept",
    ],
}


@pytest.mark.parametrize("how", ["scan", "look"])
@pytest.mark.parametrize("rewrite", list(REWRITES))
def test_read_across_a_rewrite_is_not_believed(
    make_site: Callable[..., Site], version: int, rewrite: str, how: str
) -> None:
    """The snapshot is older than the rewrite, and the rows that it would see are gone.

    Without the look at the file nodes such a table is empty: every stored vector an orphan.
    """
    site = make_site(version)
    fill(site, 10)
    table = document_table(site)
    session = Session(SOURCE, Login(site.dsn), "the reader")
    rows = RowReader(session, threading.Event())

    def read() -> Scan | None:
        if how == "scan":
            return rows.scan(table, None, 1000)
        return rows.scan_keys(table, [("1",), ("2",)])

    found = read()
    assert found is not None
    assert all(row is not None for row in found.rows.values())
    other = site.connect()
    with other.cursor() as cursor:
        for statement in REWRITES[rewrite]:
            cursor.execute(statement)
        with in_thread(read) as answer:
            blocked = (
                "select count(*) from pg_stat_activity "
                "where application_name = 'the reader' and wait_event_type = 'Lock'"
            )
            wait_until(lambda: site.value(blocked), "the read waits for the lock")
            other.commit()
            assert answer.get(timeout=30) is None
    other.close()
    again = read()
    assert again is not None
    assert all(row is not None for row in again.rows.values())
    session.close()


@pytest.mark.parametrize("read", ["count", "text_size"])
@pytest.mark.parametrize("rewrite", list(REWRITES))
def test_a_count_across_a_rewrite_is_right(
    make_site: Callable[..., Site], rewrite: str, read: str
) -> None:
    """It waits for the rewrite, whose rows an older snapshot would not see."""
    site = make_site()
    fill(site, 10)
    table = document_table(site)
    session = Session(SOURCE, Login(site.dsn), "the reader")
    rows = RowReader(session, threading.Event())
    other = site.connect()
    with other.cursor() as cursor:
        for statement in REWRITES[rewrite]:
            cursor.execute(statement)
        with in_thread(lambda: getattr(rows, read)(table)) as answer:
            blocked = (
                "select count(*) from pg_stat_activity "
                "where application_name = 'the reader' and wait_event_type = 'Lock'"
            )
            wait_until(lambda: site.value(blocked), "the count waits for the lock")
            other.commit()
            found = answer.get(timeout=30)
    assert found[0] == 10
    other.close()
    session.close()


def test_repair_beside_rewrites_finds_nothing_to_repair(make_site: Callable[..., Site]) -> None:
    site = make_site()
    fill(site, 2000)
    site.configure()
    site.cli("setup")
    ended = threading.Event()

    turns: list[None] = []

    def rewrite() -> None:
        own = site.connect()
        own.autocommit = True
        with own.cursor() as cursor:
            while not ended.wait(0.1):
                cursor.execute("vacuum full documents")
                cursor.execute("cluster documents using documents_pkey")
                cursor.execute(
                    "alter table documents add column stamp uuid default gen_random_uuid()"
                )
                cursor.execute("alter table documents drop column stamp")
                turns.append(None)
        own.close()

    with site.service() as service:
        service.logged("reconciled")
        first = site.sql("select id, embedded_at from cdc_embed.documents_embedding order by id")
        with in_thread(rewrite) as answer:
            try:
                looks = 0
                while looks < 2 or len(turns) < 5:
                    found = site.verify("--repair")
                    (table,) = found["tables"]
                    assert (found["drift"], table["repaired"], table["checked"]) == (0, 0, 2000)
                    looks += 1
                    assert looks < 20, "there are too few rewrites"
            finally:
                ended.set()
            assert answer.get(timeout=30) is None
        last = site.sql("select id, embedded_at from cdc_embed.documents_embedding order by id")
        assert first == last, "no vector was deleted or written again"
        assert service.stop() == 0


# -- orphans -----------------------------------------------------------------------------------


@pytest.mark.parametrize("leader", [True, False])
def test_orphans_are_found_in_any_order_of_the_keys(
    make_site: Callable[..., Site], leader: bool
) -> None:
    """An enum is sorted by its declaration in the source, and as text in the target."""
    target = make_site(16)
    site = make_site(18, target=target)
    labels = [
        "a",
        "B",
        "c",
        "A",
        "b",
        "Ä",
        "ä",
        "ß",
        "SS",
        "-a",
        " a",
        "a ",
        "é",
        "e\u0301",
        "'",
        "",
    ]
    labels += [f"{chr(34 + number * 7 % 90)}{number}" for number in range(2300)]
    gone = ["Aa", "zz", "Ö"]
    names = [label.replace("'", "''") for label in [*labels[:8], *gone, "lost", *labels[8:]]]
    site.sql("create type tag as enum ('" + "', '".join(names) + "')")
    site.sql(
        "create table tags (id tag primary key, title text, body text);"
        "insert into tags select k, 't', 'text ' || k from unnest(enum_range(null::tag)) k"
    )
    site.sql("delete from tags where id::text = any (%s)", [*gone, "lost"])
    site.configure(tables='[[tables]]\nname = "tags"\ntext = ["title", "body"]\n')
    site.cli("setup")
    site.cli("backfill")
    assert site.drift("tags") == []
    stored = "select id, embedded_at from cdc_embed.tags_embedding order by id"
    before = target.sql(stored)
    assert len(before) == len(labels)
    assert columns(before) != labels, "the orders differ"
    target.sql(
        "insert into cdc_embed.tags_embedding (id, chunk, embedding, chunk_text, start_offset, "
        "end_offset, document_hash, chunk_hash, space) "
        "select g, chunk, embedding, chunk_text, start_offset, end_offset, document_hash, "
        "chunk_hash, space from cdc_embed.tags_embedding, unnest(%s) g where id = 'a'",
        gone,
    )
    target.sql(
        "insert into cdc_embed.dead_letter (table_name, key, fingerprint, space, reason, error) "
        "select 'public.tags', '{\"id\": \"lost\"}', '', id, 'refused', 'made up' "
        "from cdc_embed.space"
    )
    with site.service() if leader else no_service():
        found = verify_table(site, "--repair")
        assert (found["orphan"], found["repaired"], found["missing"]) == (4, 4, 0)
        found = verify_table(site)
        assert (found["checked"], found["fresh"]) == (len(labels), len(labels))
    assert target.sql(stored) == before
    assert target.value("select count(*) from cdc_embed.dead_letter") == 0


def test_stored_key_that_the_source_cannot_have_is_an_orphan(
    make_site: Callable[..., Site],
) -> None:
    """An enum's value was renamed: the old one is no value of the type, and no reason to stop."""
    site = make_site()
    site.sql(
        "create type tag as enum ('a', 'b');"
        "create table tags (id tag primary key, title text, body text);"
        "insert into tags values ('a', 't', 'text a'), ('b', 't', 'text b')"
    )
    site.configure(tables='[[tables]]\nname = "tags"\ntext = ["title", "body"]\n')
    site.cli("setup")
    with site.service(process=True) as service:  # at its own pace: it would mend the row as well
        service.logged("reconciled")
        site.sql("alter type tag rename value 'b' to 'c'")
        found = verify_table(site, "--repair")
        assert (found["orphan"], found["missing"], found["repaired"]) == (1, 1, 2)
        assert site.drift("tags") == []
        assert service.stop() == 0


@contextmanager
def no_service() -> Iterator[None]:
    """Nobody reads the slot: the command does the work itself."""
    yield


# -- verify ------------------------------------------------------------------------------------


CONTRACT = {
    *("name", "checked", "fresh", "missing", "stale", "metadata_stale", "orphan", "pending"),
    *("dead_letters", "repaired"),
}
CHUNKED = """
[[tables]]
name = "documents"
text = ["title", "body"]
metadata = ["views"]
chunk = { max_tokens = 10 }
"""


@pytest.fixture
def chunked(make_site: Callable[..., Site]) -> Site:
    """Documents of three chunks, with metadata."""
    site = make_site()
    site.sql(DOCUMENTS)
    site.sql(
        "insert into documents select i, 'title', "
        "(select string_agg('word' || i || repeat(' of it', 4), E'\\n\\n' || n || ' ') "
        "from generate_series(1, 3) n), i "
        "from generate_series(1, 50) i"
    )
    site.configure(tables=CHUNKED)
    site.cli("setup")
    site.cli("backfill")
    chunks = "select distinct count(*) from cdc_embed.documents_embedding group by id"
    assert site.sql(chunks) == [(3,)]
    return site


def spoil(site: Site) -> None:
    """Eight documents that are not as they should be."""
    table = "cdc_embed.documents_embedding"
    site.sql(f"delete from {table} where id = 1")
    site.sql(f"update {table} set document_hash = '' where id = 2")
    site.sql(f"update {table} set views = 99, metadata_hash = '' where id = 3")
    for number, chunk in ((4, 0), (5, 1), (6, 2)):
        site.sql(f"delete from {table} where id = %s and chunk = %s", number, chunk)
    site.sql(f"update {table} set id = 1007 where id = 7")


def spoilt(site: Site) -> set[tuple[Any, ...]]:
    return set(
        site.sql(
            "select id, chunk, chunk_text, views, embedding::text "
            "from cdc_embed.documents_embedding"
        )
    )


@pytest.mark.parametrize("leader", [True, False])
def test_verify_finds_each_kind_of_drift_and_repair_mends_it(chunked: Site, leader: bool) -> None:
    site = chunked
    right = spoilt(site)
    stamps = "select id, chunk, embedded_at from cdc_embed.documents_embedding where id > 7"
    untouched = set(site.sql(stamps))
    with site.service() if leader else no_service():
        fresh = site.verify()
        assert fresh.keys() >= {"tables", "drift"}
        (table,) = fresh["tables"]
        assert table.keys() >= CONTRACT
        assert table["name"] == "public.documents"
        assert (table["checked"], table["fresh"], fresh["drift"]) == (50, 50, 0)
        epoch = site.checkpoint()["epoch"]

        spoil(site)
        kinds = {"missing": 2, "stale": 4, "metadata_stale": 1, "orphan": 1}
        for arguments, code, repaired in (((), 1, 0), (("--repair",), 0, 8)):
            found = site.verify(*arguments, expect=code)
            (table,) = found["tables"]
            assert {kind: table[kind] for kind in kinds} == kinds
            assert (found["drift"], table["checked"], table["fresh"]) == (8, 50, 43)
            assert (table["repaired"], table["pending"]) == (repaired, 0)

        assert site.verify()["drift"] == 0
        if leader:
            assert site.checkpoint()["epoch"] == epoch, "the command asked the leader"
    assert spoilt(site) == right
    assert set(site.sql(stamps)) == untouched, "what was right was left alone"


def test_sample_finds_and_mends_vectors_of_another_text(
    make_site: Callable[..., Site],
) -> None:
    site = make_site()
    fill(site, 50)
    site.configure()
    site.cli("setup")
    with site.service() as service:
        service.logged("reconciled")
        site.sql(
            "update cdc_embed.documents_embedding a set embedding = b.embedding "
            "from cdc_embed.documents_embedding b where (a.id, b.id) in ((3, 4), (4, 3))"
        )
        assert site.drift() == ["wrong vector 3", "wrong vector 4"]
        assert verify_table(site)["stale"] == 0, "fingerprints say nothing of vectors"
        found = verify_table(site, "--sample", "50", expect=1)
        assert (found["stale"], found["fresh"], found["sampled"]) == (2, 48, 50)
        assert verify_table(site, "--repair", "--sample", "50")["repaired"] == 2
        assert site.drift() == []
        assert verify_table(site, "--sample", "50")["stale"] == 0


def test_verify_beside_a_writing_application_reports_no_drift(
    make_site: Callable[..., Site],
) -> None:
    site = make_site()
    fill(site, 2000)
    site.configure()
    site.cli("setup")
    ended = threading.Event()

    def write() -> int:
        turn = 0
        own = site.connect()
        own.autocommit = True
        with own.cursor() as cursor:
            while not ended.wait(0.01):  # a load that one core keeps up with
                turn += 1
                row = {"id": turn * 7919 % 2000 + 1, "turn": turn}
                cursor.execute("insert into documents values (%(turn)s + 9999, 'n', 'x')", row)
                cursor.execute(
                    "update documents set body = 'changed ' || %(turn)s where id = %(id)s", row
                )
                cursor.execute("delete from documents where id = %(id)s + 1", row)
                cursor.execute("update documents set id = -%(turn)s where id = %(id)s + 2", row)
        own.close()
        return turn

    with site.service() as service:
        service.logged("reconciled")
        with in_thread(write) as answer:
            try:
                for arguments in ((), ("--repair", "--sample", "50")):
                    found = site.verify(*arguments)
                    assert found["drift"] == 0, found
            finally:
                ended.set()
            assert answer.get(timeout=30) > 20
        service.settle()
        assert site.drift() == []
        (table,) = site.verify()["tables"]
        assert table["pending"] == 0
        assert table["checked"] == table["fresh"]
        assert service.stop() == 0


# -- keys --------------------------------------------------------------------------------------


def count_stored(site: Site, table: str) -> int:
    """Rows of a table whose own vector is stored, by its whole key."""
    key = (
        "(r.tenant, r.day, r.no) = (e.tenant, e.day, e.no)" if table == "events" else "r.id = e.id"
    )
    return int(
        site.value(
            f"select count(*) from {table} r join cdc_embed.{table}_embedding e on {key} "
            "and e.chunk_text = r.body"
        )
    )


def test_composite_and_uuid_keys_and_partitions_are_backfilled(
    make_site: Callable[..., Site],
) -> None:
    site = make_site()
    site.sql(
        "create table events (tenant text, day date, no integer, body text, "
        "  primary key (tenant, day, no)) partition by range (day);"
        "create table events_1 partition of events for values from (minvalue) to ('2024-02-01');"
        "create table events_2 partition of events for values from ('2024-02-01') to (maxvalue);"
        "insert into events select chr(65 + i % 50), date '2024-01-01' + i % 70, i, 'event ' || i "
        "from generate_series(1, 10000) i;"
        "create table items (id uuid primary key, body text);"
        "insert into items select gen_random_uuid(), 'item ' || i from generate_series(1, 3000) i"
    )
    site.configure(
        tables='[[tables]]\nname = "events"\ntext = ["body"]\n'
        '[[tables]]\nname = "items"\ntext = ["body"]\n',
        more=NO_INDEX,
    )
    site.cli("setup")
    with site.service() as service:
        wait_until(lambda: service.times("reconciled") == 2, "both tables")
        assert count_stored(site, "events") == 10_000
        assert count_stored(site, "items") == 3000
        assert service.metric("cdc_embed_embed_texts_total", source="model") == 13_000
        site.sql("delete from cdc_embed.events_embedding where no % 1000 = 0")
        site.sql(
            "update cdc_embed.items_embedding set id = gen_random_uuid() "
            "where chunk_text = 'item 5'"
        )
        found = site.verify("--repair")
        assert {table["name"]: table["checked"] for table in found["tables"]} == {
            "public.events": 10_000,
            "public.items": 3000,
        }
        assert {table["name"]: table["repaired"] for table in found["tables"]} == {
            "public.events": 10,
            "public.items": 2,
        }
        assert count_stored(site, "events") == 10_000
        assert count_stored(site, "items") == 3000
        assert site.verify()["drift"] == 0
        assert service.stop() == 0


KEYS = {
    "bytea": "'\\x00ff', 'abc'",
    "timestamptz": "'2024-01-01 12:00:00.123456+05', 'infinity'",
    "interval": "'1 year -1 day', '24 hours'",
    "float8": "0.1, 'NaN'",
    "numeric": "1.00, 1e20",
    "char(5)": "'ab', ''",
}
SETTINGS = {
    "bytea_output": "escape",
    "timezone": "Asia/Kolkata",
    "datestyle": "SQL, DMY",
    "intervalstyle": "sql_standard",
    "extra_float_digits": "0",
}


def test_keys_are_the_same_in_every_notation_of_the_source(
    make_site: Callable[..., Site],
) -> None:
    """A key in two forms is a row that is missing and an orphan: vectors come and go."""
    target = make_site(16)
    site = make_site(18, target=target)
    for name, value in SETTINGS.items():
        site.sql(f"alter database \"{site.name}\" set {name} = '{value}'")
    tables = ""
    for number, (kind, values) in enumerate(KEYS.items()):
        site.sql(f"create table k{number} (id {kind} primary key, body text)")
        site.sql(f"insert into k{number} select k, 'text' from unnest(array[{values}]::{kind}[]) k")
        tables += f'[[tables]]\nname = "k{number}"\ntext = ["body"]\n'
    site.configure(tables=tables)
    site.cli("setup")

    def stored() -> dict[str, int]:
        count = "select count(*) from cdc_embed.k{}_embedding"
        return {kind: target.value(count.format(number)) for number, kind in enumerate(KEYS)}

    with site.service() as service:
        wait_until(
            lambda: service.times("reconciled") == len(KEYS),
            "every table",
        )
        assert stored() == dict.fromkeys(KEYS, 2)
        for number in range(len(KEYS)):
            site.sql(f"update k{number} set body = 'another'")
        service.settle()
        assert site.verify()["drift"] == 0
        assert stored() == dict.fromkeys(KEYS, 2)
        assert service.stop() == 0
