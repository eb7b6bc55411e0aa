"""Random bad days of an embedding service under random changes: nothing is lost, nobody waits.

Whatever the day, a delete is reflected within seconds. In the end both tables are right, and the
only dead letters are those of the texts that the service never takes.

The calls are counted. At most, with a tenth more:

- one for as many texts of a transaction as a call can have (``MOST_TEXTS``), because the service
  does not wait for the next transaction. A text that must be tried again is in the last count.
- one for each injected failure. That is an answer without a vector for each text, but in one second
  only as many as there are calls at once: an outage that is called more often is called too often.
- after a kill, one for each batch in flight: what was embedded for it is embedded again.

    BAD_DAYS_SEED=7 pytest --long tests/acceptance/test_bad_days.py    the same days again
    pytest --long --history-minutes 30 tests/acceptance/test_bad_days.py
"""

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

from tests.embedder_site import ALWAYS
from tests.oracle import Documents
from tests.quiet import let_pass
from tests.site import DOCUMENTS, EmbeddingServer, RunningService, Site, wait_until

REFUSED, BROKEN, DROPPED = BAD = "forbidden", "broken", "dropped"
"""Words of the texts that deserve a letter: the service refuses the first, fails at the second, and
ends the connection at the third."""
BASE: Final = {"refuse": [REFUSED], "break_at": [BROKEN], "drop_at": [DROPPED]}
EVERY: Final = [""]
"""A part of every text."""
DAYS: Final[dict[str, dict[str, Any]]] = {
    "good": {},
    "slow": {"hang": 3.0},
    "crawling": {"hang": 0.8},
    "error": {"fail_next": ALWAYS, "status": 500},
    "gateway": {"fail_next": ALWAYS, "status": 504},
    "busy": {"fail_next": ALWAYS, "status": 429, "retry_after": 1.0},
    "no money": {"fail_next": ALWAYS, "status": 402},
    "moved": {"fail_next": ALWAYS, "status": 302},
    "not found": {"fail_next": ALWAYS, "status": 404},
    "not allowed": {"fail_next": ALWAYS, "status": 405},
    "nonsense": {"garbage": True},
    "too few": {"fewer": True},
    "too wide": {"wrong_dimensions": True},
    "no answer": {"drop_connection": ALWAYS},
    "cut off": {"reset_connection": ALWAYS},
    "flaky": {"fail_next": 5, "status": 503},
    "small": {"most": 4},
    "zeros": {"zeros": EVERY},
    "no numbers": {"nan": EVERY},
    "asks for time": {"fail_next": 1, "status": 503, "retry_after": 20.0},
    "one text asks for time": {"retry_after": 5.0},
    "one of two asks for time": {
        "turns": True,
        "fail_next": ALWAYS,
        "status": 503,
        "retry_after": 5.0,
    },
    "one of two refuses": {"turns": True, "fail_next": ALWAYS, "status": 400},
    "one of two fails": {"turns": True, "fail_next": ALWAYS, "status": 500},
    "one of two gives zeros": {"turns": True, "zeros": EVERY},
    "one of two gives no numbers": {"turns": True, "nan": EVERY},
    "one of two drops": {"turns": True, "drop_connection": ALWAYS},
}
DAY_SECONDS: Final = (4.0, 15.0)
DELETE_SECONDS: Final = 25.0
"""Seconds in which a delete is reflected, also while nothing is embedded."""
KILLS: Final = 0.15
MOST_TEXTS: Final = 64
"""Texts of a call; 4 on the day that says so."""
CALLS_PER_MINUTE: Final = 3000
"""A limit of ours, with every other seed: calls wait for their turn now and then."""
AT_ONCE: Final = 5
"""Calls at once: four of the stream, one of deferred rows."""
IN_FLIGHT: Final = 4
"""Batches in flight when a service is killed."""
OTHER: Final = """
create table other (
  id bigint primary key, title text, body text, views integer not null default 0
)
"""
TABLES: Final = "".join(
    f'[[tables]]\nname = "{name}"\ntext = ["title", "body"]\n' for name in ("documents", "other")
)


class Writer:
    """Changes both tables, as a seed says; it knows which rows have a text of the bad ones."""

    def __init__(self, site: Site, chance: random.Random) -> None:
        self._site = site
        self._chance = chance
        self.most = MOST_TEXTS
        """The texts that a call can have now."""
        self._keys: dict[str, list[int]] = {"documents": [], "other": []}
        self._next = 0
        self.calls = 0
        """The calls that the transactions so far need, if none fails."""

    def write(self) -> None:
        """Make one change, mostly of several rows."""
        table = self._chance.choice(["documents", "other"])
        kind = self._chance.choices(["insert", "update", "delete", "views"], [5, 4, 2, 2])[0]
        if kind == "insert" or not self._keys[table]:
            self._insert(table, self._chance.randint(1, 30))
            return
        key = self._chance.choice(self._keys[table])
        if kind == "update":
            update = f"update {table} set body = %s where id = %s"
            self._site.sql(update, self._text(table), key)
            self.calls += 1
        elif kind == "views":
            self._site.sql(f"update {table} set views = views + 1 where id = %s", key)
        else:
            self._keys[table].remove(key)
            self._site.sql(f"delete from {table} where id = %s", key)

    def _insert(self, table: str, count: int) -> None:
        """Insert rows, in one transaction or each in its own."""
        keys = range(self._next + 1, self._next + 1 + count)
        self._next += count
        self._keys[table] += keys
        rows = [(key, self._text(table)) for key in keys]
        together = self._chance.random() < 0.5
        for part in [rows] if together else [[row] for row in rows]:
            values = ", ".join(["(%s, 'title', %s)"] * len(part))
            self._site.sql(
                f"insert into {table} values {values}", *(v for row in part for v in row)
            )
            self.calls += -(-len(part) // self.most)

    def delete_stored(self) -> tuple[int, float]:
        """Delete a row that has a vector; return its key, and when."""
        stored = "select id from cdc_embed.other_embedding order by id limit 1"
        (key,) = self._site.sql(stored)[0]
        self._site.sql("delete from other where id = %s", key)
        if key in self._keys["other"]:
            self._keys["other"].remove(key)
        return key, time.monotonic()

    def _text(self, table: str) -> str:
        word = self._chance.choices(["good", *BAD], [90, 1, 1, 1])[0]
        return f"a {word if table == 'documents' else 'good'} text {self._chance.random()}"


@contextmanager
def running(site: Site, server: EmbeddingServer) -> Iterator[RunningService]:
    """Run the service in a process of its own, ready to be killed; it starts on a good day, because
    nonsense at its first call ends it."""
    server.faults(**BASE)
    with site.service(process=True) as service:
        yield service


def live_through(site: Site, server: EmbeddingServer, chance: random.Random, end: float) -> int:
    """Change rows on one bad day after the other, with kills between them; return the calls that
    this takes if none fails."""
    writer = Writer(site, chance)
    told: list[str] = []
    while time.monotonic() < end:
        with running(site, server) as service:
            while time.monotonic() < end:
                day = chance.choice(list(DAYS))
                told.append(day)
                server.faults(**BASE, **DAYS[day])
                writer.most = DAYS[day].get("most", MOST_TEXTS)
                over = time.monotonic() + chance.uniform(*DAY_SECONDS)
                while time.monotonic() < min(over, end):
                    writer.write()
                    let_pass(chance.uniform(0, 0.4))
                if site.sql("select 1 from cdc_embed.other_embedding limit 1"):
                    expect_delete(site, writer, told, service)
                assert service.alive, (told[-5:], service.output[-5:])
                if chance.random() < KILLS:
                    told.append("kill -9")
                    service.kill()
                    break
    return writer.calls + IN_FLIGHT * told.count("kill -9")


def expect_delete(site: Site, writer: Writer, told: list[str], service: RunningService) -> None:
    """Expect a delete to be reflected, whatever the day."""
    key, _ = writer.delete_stored()
    gone = "select 1 from cdc_embed.other_embedding where id = %s"
    try:
        wait_until(lambda: not site.sql(gone, key), f"a delete on {told[-3:]}", DELETE_SECONDS)
    except AssertionError as exc:
        said = "".join(service.output[-20:])
        raise AssertionError(f"{exc}\n{service.status()}\n{said}") from exc


def expect_right(site: Site) -> None:
    """Expect vectors of all rows but those whose texts deserve a letter, and letters of these."""
    bad = " or ".join(f"body like '%{word}%'" for word in BAD)
    deserved = {key for (key,) in site.sql(f"select id from documents where {bad}")}
    letters = site.sql("select table_name, (key->>'id')::bigint, reason from cdc_embed.dead_letter")
    assert {key for _, key, _ in letters} == deserved, letters
    site.sql(f"delete from documents where {bad}")


def expect_few_calls(server: EmbeddingServer, needed: int) -> None:
    """Expect no more calls than the failures explain."""
    counts = server.counts()
    seconds = Counter(int(at) for at in counts["failed"])
    injected = sum(min(AT_ONCE, failures) for failures in seconds.values())
    most = 1.1 * (needed + injected)
    figures = f"{counts['requests']} calls, {needed} needed, {injected} injected failures"
    print(f"{figures}, {len(counts['failed'])} failed")  # noqa: T201  how close it is
    assert counts["requests"] <= most, figures


@pytest.mark.long
@pytest.mark.timeout(0)
def test_random_bad_days_lose_nothing_and_hold_up_no_delete(
    make_site: Callable[..., Site],
    embedding_server: EmbeddingServer,
    request: pytest.FixtureRequest,
) -> None:
    seed = int(os.environ.get("BAD_DAYS_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"BAD_DAYS_SEED={seed}")  # noqa: T201  how to run it again
    site = make_site(18)
    site.sql(DOCUMENTS)
    site.sql(OTHER)
    limit = CALLS_PER_MINUTE * (seed % 2)
    more = f'timeout = "1s"\nmax_batch = {MOST_TEXTS}\nrequests_per_minute = {limit}'
    site.configure(embedder=f"{embedding_server.configuration}\n{more}", tables=TABLES)
    site.cli("setup")
    embedding_server.reset()
    end = time.monotonic() + 60 * request.config.getoption("--history-minutes")
    needed = live_through(site, embedding_server, random.Random(seed), end)
    embedding_server.faults(**BASE)
    with running(site, embedding_server) as service:
        service.settle(600)
        waiting = "select count(*) from cdc_embed.deferred"
        wait_until(lambda: site.value(waiting) == 0, "what was deferred is embedded", 300)
        expect_right(site)
        service.settle(60)
        for table in ("documents", "other"):
            assert Documents(name=table).drift(site) == []
        site.verify()
        assert service.stop() == 0
    expect_few_calls(embedding_server, needed)
