"""Prepared transactions: sent at COMMIT PREPARED, whatever was restarted before it.

Until then they hold the slot ("A server has limits of its own" in CONTRIBUTING.md).
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.installed import INSTALLED
from tests.servers import Servers
from tests.site import DOCUMENTS, EmbeddingServer, Site, wait_until
from tests.sources import SOURCES, Kind


@pytest.fixture(params=SOURCES)
def restartable(request: pytest.FixtureRequest, servers: Servers, tmp_path: Path) -> Iterator[Site]:
    """A database of each kind of source, on a server of its own that may prepare transactions."""
    kind: Kind = request.param
    plugin, version = kind
    with ExitStack() as stack:
        server = stack.enter_context(servers.own(version, {"max_prepared_transactions": "10"}))
        target = None
        if version == INSTALLED:
            target = Site(servers(18), f"vectors_{server.pid}", tmp_path)
            stack.callback(target.close)
        site = Site(server, "texts", tmp_path, target)
        stack.callback(site.close)
        site.environment["CDC_EMBED_SOURCE__PLUGIN"] = plugin
        yield site


def test_a_prepared_transaction_counts_when_it_is_committed(
    restartable: Site, embedding_server: EmbeddingServer
) -> None:
    """It began before all the others, and holds the slot until it ends."""
    site = restartable
    site.sql(DOCUMENTS)
    site.sql("insert into documents values (1, 'one', 'first'), (2, 'two', 'second')")
    site.configure(embedder=embedding_server.configuration + "\ndimensions = 8\n")
    site.cli("setup")
    site.cli("backfill")
    embedding_server.reset()
    with site.service() as service:
        site.sql(
            "begin; update documents set body = 'prepared' where id = 1;"
            "insert into documents values (3, 'three', 'third'); prepare transaction 'kept'"
        )
        site.sql(
            "begin; update documents set body = 'never' where id = 2;"
            "insert into documents values (4, 'four', 'never'); prepare transaction 'given up'"
        )
        site.sql("insert into documents values (5, 'five', 'between')")
        service.settle()
        assert site.drift() == []
        assert embedding_server.texts() == 1
        assert service.stop() == 0
    with site.service() as service:
        site.server.restart()
        site.close()
        site.sql("insert into documents values (6, 'six', 'after the restart')")
        wait_until(lambda: site.drift() == [], "connected again")
        assert embedding_server.texts() == 2
        site.sql("rollback prepared 'given up'")
        site.sql("commit prepared 'kept'")
        service.settle()
        assert site.drift() == []
        assert embedding_server.texts() == 4
        assert service.stop() == 0
    with site.service() as service:
        service.settle()
        assert embedding_server.texts() == 4, "nothing of it is repeated"
        assert site.drift() == []
