"""A target that fails over to its standby: the service goes on there, or says what was lost."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cdc_embed.demo.postgres import EmbeddedPostgres
from cdc_embed.lsn import LSN
from tests.invariant import FEWEST, confirmed, watched
from tests.servers import Servers
from tests.site import DOCUMENTS, Site, wait_until
from tests.standby import Standby


@pytest.fixture
def primary(servers: Servers) -> Iterator[EmbeddedPostgres]:
    with servers.own(18) as server:
        yield server


@pytest.fixture
def pair(make_site: Callable[..., Site], primary: EmbeddedPostgres, tmp_path: Path) -> Site:
    """A source with its target on the primary."""
    target = Site(primary, f"t{os.getpid()}", tmp_path)
    source = make_site(16, target=target)
    source.sql(DOCUMENTS)
    source.configure()
    source.cli("setup")
    target.close()
    return source


@pytest.fixture
def standby(pair: Site, primary: EmbeddedPostgres) -> Iterator[EmbeddedPostgres]:
    assert pair.target is not None
    with Standby(primary) as standby:
        pair.environment["CDC_EMBED_TARGET__DSN"] = (
            f"host=127.0.0.1,127.0.0.1 port={primary.port},{standby.port} "
            f"dbname={pair.target.name} user=postgres"
        )
        yield standby


def move(target: Site, server: EmbeddedPostgres) -> None:
    """The target is on another server from here on."""
    target.close()
    target.server = server


def test_service_goes_on_with_the_standby_once_it_is_promoted(
    pair: Site, primary: EmbeddedPostgres, standby: EmbeddedPostgres
) -> None:
    """Until then it is read-only; a session that began so is not kept."""
    target = pair.target
    assert target is not None
    with pair.service() as service:
        pair.sql("insert into documents select i, 't', 'text ' || i from generate_series(1, 20) i")
        service.settle()
        primary.stop("fast")  # waits until the standby has everything
        pair.sql("update documents set body = 'new ' || id where id <= 10")
        wait_until(
            lambda: "read-only" in str(service.status()["waiting"].get("target")), "it says so"
        )
        assert "it is a standby" in pair.cli("doctor", expect=75).stdout
        move(target, standby)
        with watched(pair) as watch:
            target.sql("select pg_promote()")
            service.settle(60)
            assert pair.drift() == []
            wait_until(lambda: watch.samples > FEWEST, "the watch has looked often enough")
        assert service.stop() == 0
    with pair.service(wait=False) as service:
        assert service.wait_for("servers changed")["target"]
        pair.sql("delete from documents where id = 20")
        service.settle()
        assert pair.drift() == []
        assert service.stop() == 0


def test_standby_that_lacks_the_last_batch_stops_the_service(
    pair: Site, primary: EmbeddedPostgres, standby: EmbeddedPostgres
) -> None:
    """It was confirmed, and the log will not bring it again: that is a gap."""
    target = pair.target
    assert target is not None
    with pair.service() as service:
        pair.sql("insert into documents values (1, 't', 'text 1')")
        service.settle()
        standby.stop()
        pair.sql("insert into documents values (2, 't', 'text 2')")
        service.settle()
        target.close()
        primary.stop("immediate")
        standby.start()
        move(target, standby)
        target.sql("select pg_promote()")
        pair.sql("insert into documents values (3, 't', 'text 3')")
        end = LSN.parse(pair.value("select pg_current_wal_insert_lsn()::text"))
        assert service.wait(60) == 5
        assert "setup --rebuild" in "".join(service.output)
        assert confirmed(pair) < end
    pair.cli("setup", "--rebuild")
    with pair.service() as service:
        service.wait_for("reconciled")
        service.settle()
        assert pair.drift() == []
        assert service.stop() == 0
