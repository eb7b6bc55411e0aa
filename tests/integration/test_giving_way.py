"""No statement of the application waits for a long read of its table: the read gives way.

A statement here takes as long as that of a huge table, because the server sleeps after its rows.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import psycopg2
import pytest

from cdc_embed.service.tolerance import Tolerance
from cdc_embed.sql import queries
from tests.in_process import QUICK
from tests.site import EmbeddingServer, RunningService, Site, wait_until

ALTER = "alter table documents alter views set default 1"
SLEEPING = """
select count(*) from pg_stat_activity
where datname = current_database() and wait_event = 'PgSleep'
"""


@contextmanager
def slow(file: str, name: str) -> Iterator[None]:
    """One of our statements takes ten seconds for each row; of counts, that of all rows."""
    statements = queries(file)
    seconds = (
        "case $${condition}$$ when 'true' then 10 else 0 end" if name == "count_rows" else "10"
    )
    slowed = (
        f"select s.* from ({statements[name]} offset 0) s where pg_sleep({seconds}) is not null"
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(statements, name, slowed)
        yield


def migrate_while_read(site: Site, statement: str = ALTER) -> None:
    """A migration with a ``lock_timeout``, while our statement is sure to hold its lock."""
    wait_until(lambda: site.value(SLEEPING), "our statement holds its lock")
    with closing(site.connect()) as migration:
        migration.autocommit = True
        with migration.cursor() as cursor:
            cursor.execute("set lock_timeout = '3s'")
            cursor.execute(statement)


@contextmanager
def verifying(site: Site) -> Iterator[list[Any]]:
    """``verify`` beside the test; its answer at the end."""
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(site.verify(expect=None)))
    thread.start()
    yield answers
    thread.join(60)


def fill(site: Site) -> None:
    site.sql("insert into documents values (1, 'title', repeat('body ', 2000))")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("source/tables", "count_rows"),
        ("target/reconcile", "count_shown"),
        pytest.param("source/tables", "scan_rows", marks=pytest.mark.long),
        pytest.param("source/tables", "present_keys", marks=pytest.mark.long),
    ],
)
def test_an_alter_table_does_not_wait_for_verify(site: Site, file: str, name: str) -> None:
    fill(site)
    with site.service() as service:
        service.logged("reconciled")
        with verifying(site) as answers, slow(file, name):
            migrate_while_read(site)
        (table,) = answers[0]["tables"]
        assert (table["problem"], table["checked"], table["fresh"]) == ("", 1, 1)
        assert service.stop() == 0


@pytest.mark.long
def test_an_index_made_concurrently_does_not_wait_for_verify(site: Site) -> None:
    """It waits for every snapshot that is older than its own."""
    fill(site)
    with site.service() as service:
        service.logged("reconciled")
        with verifying(site) as answers, slow("source/tables", "count_rows"):
            migrate_while_read(site, "create index concurrently on documents (title)")
        assert answers[0]["tables"][0]["fresh"] == 1
        assert service.stop() == 0


def test_verify_says_that_ddl_kept_it_from_counting(site: Site) -> None:
    fill(site)
    once_more = Tolerance(intervals=replace(QUICK, counts=(0.01,)))
    with site.service(tolerance=once_more) as service:
        service.logged("reconciled")
        with slow("source/tables", "count_rows"), verifying(site) as answers:
            while not answers:
                with closing(site.connect()) as migration, migration, migration.cursor() as cursor:
                    cursor.execute(ALTER)
        (table,) = answers[0]["tables"]
        assert table["name"] == "public.documents"
        assert "could not be counted" in table["problem"]
        assert (table["checked"], table["fresh"]) == (0, 0)
        assert service.stop() == 0


def test_an_alter_table_does_not_wait_for_a_row_read_again(site: Site) -> None:
    fill(site)
    with site.service() as service:
        service.logged("reconciled")
        with slow("source/tables", "read_rows"):
            site.sql("update documents set title = 'other'")  # the log does not carry the body
            migrate_while_read(site)
        service.settle()
        assert site.drift() == []
        assert service.stop() == 0


@pytest.mark.parametrize("name", ["text_size", pytest.param("scan_rows", marks=pytest.mark.long)])
def test_an_alter_table_does_not_wait_for_a_backfill(
    make_site: Callable[..., Site], embedding_server: EmbeddingServer, name: str
) -> None:
    """The rows of a paid service are measured before they are read."""
    site = make_site(18)
    site.sql("create table documents (id int primary key, title text, body text, views int)")
    site.sql("insert into documents values (1, 'title', 'text')")
    site.configure(embedder=embedding_server.configuration)
    site.cli("setup")
    with slow("source/tables", name):
        service = RunningService(site)
        try:
            migrate_while_read(site)
        except psycopg2.Error:
            service.end()
            raise
    service.logged("reconciled")
    assert site.drift() == []
    assert service.stop() == 0


def test_an_alter_table_does_not_wait_for_a_search(site: Site) -> None:
    fill(site)
    with site.service() as service:
        service.logged("reconciled")
        assert service.stop() == 0
    with slow("target/store", "nearest"), ThreadPoolExecutor() as pool:
        migrated = pool.submit(migrate_while_read, site)
        said = site.cli("search", "a title", expect=75).stderr
        assert migrated.result() is None
    assert "a statement of another session (such as ALTER TABLE) waited for it" in said
    assert "title" in site.cli("search", "a title").stdout
