"""Rewrites that are not in the log: noticed by the table's files, then compared."""

import subprocess
from collections.abc import Callable

import pytest

from tests.own_process import COMMAND
from tests.quiet import watch_for
from tests.site import EmbeddingServer, Site, wait_until

PARTITIONED = """
create table documents (id bigint, title text, body text, primary key (id)) partition by range (id);
create table low partition of documents for values from (0) to (100);
create table high partition of documents for values from (100) to (200);
create table later (like documents including all);
"""


@pytest.fixture
def parted(make_site: Callable[..., Site], version: int, embedding_server: EmbeddingServer) -> Site:
    """A partitioned table with rows in both partitions, and vectors of a counting server."""
    site = make_site(version)
    site.sql(PARTITIONED)
    site.sql(
        "insert into documents select n, 'title', 'text ' || n from generate_series(90, 110) n"
    )
    site.sql("insert into later select n, 'title', 'later ' || n from generate_series(200, 204) n")
    configure(site, embedding_server)
    site.cli("setup")
    return site


def configure(site: Site, server: EmbeddingServer, *backfill: str) -> None:
    site.configure(
        embedder=server.configuration,
        source='publish = "rows"',
        more="\n".join(["[backfill]", *backfill, ""]),
    )


def test_what_is_not_in_the_log_is_compared_soon(
    parted: Site, embedding_server: EmbeddingServer
) -> None:
    with parted.service() as service:
        wait_until(lambda: embedding_server.texts() >= 21 and not keys(parted), "backfill")
        embedding_server.reset()
        parted.sql("alter table documents attach partition later for values from (200) to (300)")
        wait_until(lambda: not keys(parted), "attached rows", 30)
        assert embedding_server.texts() == 5
        parted.sql("truncate low")
        wait_until(lambda: not keys(parted), "rows of a truncated partition", 30)
        parted.sql("vacuum full high")
        parted.sql("alter table documents detach partition high")
        wait_until(lambda: not keys(parted), "detached rows", 30)
        assert embedding_server.texts() == 5
        assert service.stop() == 0
    parted.sql("alter table documents alter body type text using upper(body)")
    with parted.service() as service:
        wait_until(lambda: embedding_server.texts() == 10, "rewritten while we were away", 30)
        service.settle()
        parted.cli("verify")
        assert service.stop() == 0


def test_partition_written_to_while_detached_is_compared_unasked(
    parted: Site, embedding_server: EmbeddingServer
) -> None:
    """Its files are the same. What was missed would have been embedded: nobody has to be asked."""
    with parted.service() as service:
        service.wait_for("reconciled")
        assert service.stop() == 0
    configure(parted, embedding_server, "max_tokens_unasked = 1")
    with parted.service() as service:
        embedding_server.reset()
        for _ in range(2):
            parted.transaction(
                "alter table documents detach partition low",
                "update low set title = title || '!' where id = 95",
                "alter table documents attach partition low for values from (0) to (100)",
            )
            service.wait_for("reconciled")
            assert parted.drift() == []
        assert embedding_server.texts() == 2
        assert service.stop() == 0


def test_what_the_log_lacks_is_compared_after_the_log_before_it(
    parted: Site, embedding_server: EmbeddingServer
) -> None:
    """Older changes that wait in the log would come after the comparison, and stay."""
    with parted.service() as service:
        service.wait_for("reconciled")
        assert service.stop() == 0
    for number in range(90):
        parted.sql("insert into documents values (%s, 'title', %s)", number, f"new {number}")
    parted.sql("truncate low")
    embedding_server.faults(hang=25)
    with parted.service() as service:
        service.wait_for("partitions were changed")
        watch_for(1, lambda: not service.times("reconciled"), "it waits for the log before it")
        embedding_server.faults(hang=2)
        service.wait_for("reconciled")
        service.settle()
        assert keys(parted) == []
        assert service.stop() == 0


def test_comparison_that_is_outdated_begins_again(
    parted: Site, embedding_server: EmbeddingServer
) -> None:
    """It has passed a row whose change was missed since: its own end must not count."""
    configure(parted, embedding_server, "rows_per_second = 10")
    parted.sql("insert into documents select n, 't', 'text ' || n from generate_series(111, 159) n")
    with parted.service() as service:
        wait_until(lambda: 90 not in missing(parted), "the first row is compared")
        parted.transaction(
            "alter publication cdc_embed drop table documents",
            "update documents set title = 'missed' where id = 90",
            "alter publication cdc_embed add table documents",
        )
        service.wait_for("reconciled", 60)
        assert parted.drift() == []
        assert service.stop() == 0


def test_backfill_under_way_is_answered_if_its_table_waits_again(
    parted: Site, embedding_server: EmbeddingServer
) -> None:
    """``setup`` forgets a comparison: what begins anew may have another price."""
    configure(parted, embedding_server, "rows_per_second = 1", "max_tokens_unasked = 1")
    with parted.service() as service:
        service.wait_for("backfill waits")
        asked = subprocess.Popen(
            [*COMMAND, "-c", str(parted.config_path), "backfill", "--yes"],
            stderr=subprocess.PIPE,
            text=True,
        )
        service.wait_for("table is compared")
        parted.sql("delete from cdc_embed.reconcile")
        problem = asked.communicate(timeout=30)[1]
        assert asked.returncode == 4
        assert "public.documents waits: about" in problem
        assert service.stop() == 0


def missing(site: Site) -> set[int]:
    return {int(problem.split()[1]) for problem in site.drift() if problem.startswith("missing")}


def test_another_column_of_the_same_name_is_compared(site: Site) -> None:
    """A column with a default that is stored once only: no rewrite, no row event."""
    site.configure(source='publish = "rows"')
    site.cli("setup")
    site.sql("insert into documents values (1, 'one', 'before'), (2, 'two', 'before')")
    with site.service() as service:
        wait_until(lambda: not site.drift(), "backfill")
        site.sql("alter table documents drop column body, add column body text default 'after'")
        wait_until(lambda: not site.drift(), "compared again", 30)
        assert service.stop() == 0


def keys(site: Site) -> list[tuple[int]]:
    """The keys that only one of both sides has."""
    return site.sql(
        "select id from documents full join cdc_embed.documents_embedding e using (id) "
        "where documents.title is null or e.chunk is null"
    )
