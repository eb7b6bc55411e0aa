"""Key changes copy vectors: a swap that is applied twice swaps back (CONTRIBUTING.md, T6).

Only the exact position, committed with the batch, makes a replay harmless, and only the batch's
number tells whether a commit took effect whose answer was lost. Both moments are met for sure
while the target's COMMIT waits for a standby that does not exist: it is in the target's log, and
nobody has answered.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cdc_embed.lsn import LSN
from tests.conftest import ready
from tests.hanging import standby_awaited
from tests.invariant import confirmed
from tests.servers import Servers
from tests.site import EmbeddingServer, RunningService, Site, wait_until

SWAP = [
    "update documents set id = -1 where id = 1",
    "update documents set id = 1 where id = 2",
    "update documents set id = 2 where id = -1",
    "update documents set id = id + 1 where id = 4",
    "update documents set id = id + 1 where id = 3",
]
BEFORE = {number: f"text {number} " + chr(64 + number) * 3000 for number in range(1, 5)}
"""Stored out of line: a change of the key leaves them out, and their vectors are copied."""
AFTER = {1: BEFORE[2], 2: BEFORE[1], 4: BEFORE[3], 5: BEFORE[4]}
TABLE = """
[[tables]]
name = "documents"
text = ["body"]
chunk = { max_tokens = 100000 }
"""
WAITING = (
    "select pid from pg_stat_activity a join pg_locks l using (pid) "
    "where a.wait_event = 'SyncRep' and l.mode = 'RowExclusiveLock' "
    "and l.relation = 'cdc_embed.documents_embedding'::regclass"
)
"""A batch that wrote vectors; the record of progress without any waits as well."""


@pytest.fixture
def site(
    servers: Servers,
    make_site: Callable[..., Site],
    tmp_path: Path,
    embedding_server: EmbeddingServer,
) -> Iterator[Site]:
    """A source whose target is on a server of its own."""
    with servers.own(18) as server:
        target = Site(server, "vectors", tmp_path)
        site = ready(make_site(18, target=target))
        site.cli("teardown", "--yes")
        together = 'linger = "500ms"'  # the changes of a transaction make one batch
        site.configure(embedder=f"{embedding_server.configuration}\n{together}", tables=TABLE)
        site.cli("setup")
        yield site
        target.close()


def texts(site: Site) -> dict[int, str]:
    assert site.target is not None
    return dict(site.target.sql("select id, chunk_text from cdc_embed.documents_embedding"))


def versions(site: Site) -> list[tuple[int, str]]:
    """The stored rows with the transactions that wrote them."""
    assert site.target is not None
    return [
        (number, writer)
        for number, writer in site.target.sql(
            "select id, xmin::text from cdc_embed.documents_embedding order by id"
        )
    ]


@contextmanager
def unanswered_commit(service: RunningService, statements: list[str]) -> Iterator[int]:
    """The batch of ``statements`` is in the target's log, unanswered; yields the writer's PID."""
    target = service.site.target
    assert target is not None
    with standby_awaited(target):
        service.site.transaction(*statements)
        yield wait_until(lambda: target.sql(WAITING), "the commit waits")[0][0]
    wait_until(lambda: not target.sql(WAITING), "the commit has ended")


def fill(service: RunningService) -> None:
    service.wait_for("reconciled")  # from here on what is stored is known from the log
    for number, text in BEFORE.items():
        service.site.sql("insert into documents values (%s, null, %s)", number, text)
    service.settle()
    assert texts(service.site) == BEFORE


def test_kill_between_commit_and_confirm_replays_no_key_change(
    site: Site, embedding_server: EmbeddingServer
) -> None:
    with site.service(process=True) as service:
        fill(service)
        with unanswered_commit(service, SWAP):
            service.kill()
    assert texts(site) == AFTER, "the commit took effect"
    ended = LSN.parse(site.checkpoint()["end_lsn"])
    assert confirmed(site) < ended, "so the log repeats it"
    written = versions(site)
    embedding_server.reset()
    with site.service() as service:
        service.settle()
        assert texts(site) == AFTER
        assert versions(site) == written
        assert site.drift() == []
        assert embedding_server.texts() == 0
        assert service.stop() == 0


def test_commit_whose_answer_was_lost_is_not_repeated(
    site: Site, embedding_server: EmbeddingServer
) -> None:
    """The target ends the writer's session after its transaction was committed."""
    assert site.target is not None
    with site.service() as service:
        fill(service)
        embedding_server.reset()
        with unanswered_commit(service, SWAP) as writer:
            site.target.sql("select pg_terminate_backend(%s)", writer)
            wait_until(lambda: texts(site) == AFTER, "the commit took effect")
            written = versions(site)
        service.settle()
        assert texts(site) == AFTER
        assert versions(site) == written, "recognised, not written again"
        assert site.drift() == []
        assert embedding_server.texts() == 0
        assert service.metric("cdc_embed_reconnects_total") == 0
        assert service.stop() == 0
