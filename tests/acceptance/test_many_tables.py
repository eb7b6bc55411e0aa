"""An idle service asks little of its databases, however many tables it follows.

Statements are counted in the server's log, which has each of them: BEGIN and COMMIT too.
"""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.quiet import watch_for
from tests.servers import Servers
from tests.site import RunningService, Site, wait_until

MOST_STATEMENTS = 3
"""A second, on both databases together."""
MOST_CONNECTIONS = 6
MOST_PROCESSOR = 0.04
"""Seconds of processor time a second; half of it is the machine's mood."""
CONNECTIONS = (
    "select application_name from pg_stat_activity where application_name like 'cdc_embed%'"
)
LOGGED = re.compile(r"^(cdc_embed [^|]*)\|LOG:  (?:statement|execute [^:]*): (.*)$", re.MULTILINE)

PLANNED = re.compile(r"^cdc_embed [^|]*\|DETAIL:  prepare: prepare \w+ as (.*)$", re.MULTILINE)


@pytest.fixture
def site(servers: Servers, tmp_path: Path) -> Iterator[Site]:
    settings = {"log_statement": "all", "log_line_prefix": "%a|", "fsync": "off"}
    with servers.own(18, {**settings, "max_locks_per_transaction": "1024"}) as server:
        made = Site(server, "many", tmp_path)
        yield made
        made.close()


def follow(site: Site, number: int) -> None:
    """Tables of one row each, all of them configured and set up."""
    names = [f"t{n}" for n in range(number)]
    for name in names:
        site.sql(f"create table {name} (id bigint primary key, title text, body text)")
        site.sql(f"insert into {name} values (1, 'title', 'text')")
    entries = [f'[[tables]]\nname = "{name}"\ntext = ["title", "body"]\n' for name in names]
    site.configure(tables="\n".join(entries))
    site.cli("setup")


def statements(site: Site) -> list[tuple[str, str]]:
    """Each statement of ours in the log: the session's name, and the statement's first line."""
    return LOGGED.findall(site.server.log_text())


def processor(service: RunningService) -> float:
    """Seconds of processor time so far."""
    fields = Path(f"/proc/{service.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def is_idle(site: Site) -> bool:
    done = site.value("select bool_and(state = 'done') from cdc_embed.reconcile")
    indexed = site.value("select count(*) from pg_indexes where indexdef like '%hnsw%'")
    return bool(done) and indexed == site.value("select count(*) from cdc_embed.reconcile")


def all_counted(service: RunningService, number: int) -> bool:
    return [table["rows_embedded"] for table in service.status()["tables"]] == [1] * number


def test_a_start_reads_the_registry_once_for_all_tables(site: Site) -> None:
    """And the columns of the tables of vectors: each read has those of every table."""
    follow(site, 20)
    before = len(site.server.log_text())
    with site.service(process=True) as service:
        asked = PLANNED.findall(site.server.log_text()[before:])
        for begins in (
            'select e."table_name", e.embedding_table',
            "-- it has row level security, its owner",
        ):
            assert 0 < sum(statement.startswith(begins) for statement in asked) < 15, begins
        assert service.stop() == 0


@pytest.mark.parametrize(
    ("number", "seconds"),
    [
        (3, 10),
        pytest.param(300, 14, marks=pytest.mark.long),
        pytest.param(300, 60, marks=pytest.mark.long),
    ],
)
def test_an_idle_service_costs_three_statements_a_second(
    site: Site, number: int, seconds: int
) -> None:
    follow(site, number)
    with site.service(process=True) as service:
        wait_until(lambda: is_idle(site), "every table is compared and indexed", 240)
        wait_until(lambda: len(site.sql(CONNECTIONS)) <= MOST_CONNECTIONS, "the reader has left")
        wait_until(lambda: all_counted(service, number), "every document is counted")
        before, spent, began = len(statements(site)), processor(service), time.monotonic()
        watch_for(
            seconds,
            lambda: len(site.sql(CONNECTIONS)) <= MOST_CONNECTIONS,
            "the connections stay few",
            every=1,
        )
        asked, lasted = statements(site)[before:], time.monotonic() - began
        used = (processor(service) - spent) / lasted
        assert 0 < len(asked) <= MOST_STATEMENTS * lasted, asked
        assert used < MOST_PROCESSOR
        assert service.stop() == 0
