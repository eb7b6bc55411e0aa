"""An unchanged text says nothing of what is stored (CONTRIBUTING.md, T5).

It says that a row version equals the one before. Every row begins with a stored text. The first
transaction changes it. The second changes something else, so that the log carries no text for it,
or carries an old tuple that equals the new one. A consumer that takes the second for "the text is
as it was" loses the first. The same after a dead letter, and for rows whose key changes.
"""

import random
import string
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from cdc_embed.lsn import LSN
from tests.oracle import Documents, drift
from tests.site import DOCUMENTS, EmbeddingServer, RunningService, Site, columns, wait_until

TABLES = """
[[tables]]
name = "documents"
text = ["body"]
chunk = { max_tokens = 100000 }
[[tables]]
name = "complete"
text = ["body"]
chunk = { max_tokens = 100000 }
"""
NAMES = ("documents", "complete")
BOTH = [Documents(name=name, text=("body",)) for name in NAMES]
FIRST = [
    "update {} set body = body || ' changed' where id in (1, 2, 5, 8, 9)",
    "update {} set body = body || ' poison' where id in (3, 4)",
    "update {} set body = null where id = 6",
    "update {} set id = 17 where id = 7",
]
SECOND = [
    "update {} set views = 1 where id in (1, 3, 5, 6, 17)",
    "update {} set id = id + 10 where id in (2, 4, 5)",
    "update {} set views = 2 where id = 15",
    "update {} set id = -8 where id = 8",
    "update {} set id = 8 where id = 9",
    "update {} set id = 9 where id = -8",
]
CHANGES_OF_SECOND = 12
PLUG = "insert into documents (id, body) values (100, 'the first of them waits')"


def big(seed: int) -> str:
    """A text that PostgreSQL stores out of line: an update of another column leaves it out."""
    return "".join(random.Random(seed).choices(string.ascii_letters + " ", k=3000))


@pytest.fixture
def site(make_site: Callable[..., Site], embedding_server: EmbeddingServer) -> Site:
    """Two tables of the same rows; of one the log carries whole old rows.

    The target is another database: its temporary tables would have Relations sent again, and then
    the next batch is waited for before more is read.
    """
    made = make_site(18, target=make_site(16))
    for name in NAMES:
        made.sql(DOCUMENTS.replace("documents", name))
        made.sql(f"alter table {name} alter body set storage external")
    made.sql("alter table complete replica identity full")
    made.configure(
        embedder=embedding_server.configuration, tables=TABLES, more='[index]\nkind = "none"\n'
    )
    made.cli("setup")
    return made


def letters(site: Site) -> list[tuple[str, int]]:
    assert site.target is not None
    found = "select table_name, (key->>'id')::int from cdc_embed.dead_letter order by 1, 2"
    return [(name, number) for name, number in site.target.sql(found)]


def change(site: Site, statements: list[str]) -> None:
    """For each table in a transaction of its own."""
    for name in NAMES:
        site.transaction(*(statement.format(name) for statement in statements))


def wait_until_received(service: RunningService) -> None:
    end = LSN.parse(service.site.value("select pg_current_wal_lsn()::text"))
    wait_until(
        lambda: LSN.parse(str(service.status()["lsn"]["received"])) >= end, "all was received"
    )


@contextmanager
def held(service: RunningService, server: EmbeddingServer) -> Iterator[None]:
    """Another row is being embedded until all of the block was received."""
    server.faults(hang=600, refuse=["poison"])
    service.site.sql(PLUG)
    wait_until(lambda: server.counts()["in_flight"], "a batch is being embedded")
    yield
    wait_until_received(service)
    server.faults(refuse=["poison"])


def together(service: RunningService, server: EmbeddingServer) -> None:
    """Both in the batch that forms while another is embedded."""
    with held(service, server):
        change(service.site, FIRST)
        change(service.site, SECOND)


def apart(service: RunningService, server: EmbeddingServer) -> None:
    """The second is decided before the first one's batch is written."""
    assert service.site.target is not None
    target = service.site.target
    lock = target.connect()
    with held(service, server):
        change(service.site, FIRST)
        with lock.cursor() as cursor:
            for name in NAMES:
                cursor.execute(f"lock table cdc_embed.{name}_embedding in share mode")
    waiting = "select count(*) from pg_locks where not granted"
    wait_until(lambda: target.value(waiting), "a batch cannot be written")
    change(service.site, SECOND)
    wait_until_received(service)
    most = len(NAMES) * CHANGES_OF_SECOND
    pending = "cdc_embed_pending_documents"
    wait_until(lambda: service.metric(pending) < most, "the second is being decided")
    lock.close()


def after(service: RunningService, server: EmbeddingServer) -> None:
    """The first is committed before the second comes."""
    with held(service, server):
        change(service.site, FIRST)
    service.settle()
    change(service.site, SECOND)


@pytest.mark.parametrize("when", [together, apart, after])
def test_another_later_change_never_hides_the_change_of_a_text(
    site: Site,
    embedding_server: EmbeddingServer,
    when: Callable[[RunningService, EmbeddingServer], None],
) -> None:
    with site.service() as service:
        for _ in NAMES:
            service.wait_for("reconciled")  # from here on what is stored is known from the log
        for name in NAMES:
            for number in range(1, 10):
                site.sql(f"insert into {name} (id, body) values (%s, %s)", number, big(number))
        service.settle()
        assert drift(site, BOTH) == {}
        when(service, embedding_server)
        service.settle()
        assert drift(site, BOTH) == {name: ["missing 14", "missing 3"] for name in NAMES}
        expected = [(f"public.{name}", number) for name in sorted(NAMES) for number in (3, 14)]
        assert letters(site) == expected
        assert columns(site.sql("select id from documents order by id")) == [
            *(1, 3, 6, 8, 9),
            *(12, 14, 15, 17),
            100,
        ]

        embedding_server.reset()
        change(site, ["update {} set views = 3"])
        service.settle()
        assert embedding_server.texts() == 0, "the same texts are not tried again"
        assert letters(site) == expected
        # the first text again is a change too, wherever it is still remembered
        site.sql("update documents set body = %s where id = 1", big(1))
        site.sql("update complete set body = %s where id = 1", big(1))
        change(site, ["update {} set body = body || ' cured' where id in (3, 14)"])
        service.settle()
        assert drift(site, BOTH) == {}
        assert letters(site) == []
        assert service.stop() == 0
