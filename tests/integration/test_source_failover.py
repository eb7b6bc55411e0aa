"""A source that fails over to its standby: the slot is there, and the service goes on.

A position belongs to a timeline ("A server has limits of its own" in CONTRIBUTING.md).
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cdc_embed.demo.postgres import EmbeddedPostgres
from tests.servers import Servers
from tests.site import DOCUMENTS, Site, wait_until
from tests.standby import Standby

FAILOVER = "select failover from pg_replication_slots where slot_name = %s"


@pytest.fixture
def primary(servers: Servers) -> Iterator[EmbeddedPostgres]:
    with servers.own(18) as server:
        yield server


@pytest.fixture
def pair(primary: EmbeddedPostgres, tmp_path: Path) -> Iterator[Site]:
    site = Site(primary, f"t{os.getpid()}", tmp_path)
    site.sql(DOCUMENTS)
    site.configure()
    site.cli("setup")
    yield site
    site.close()


def findings(site: Site) -> list[dict[str, Any]]:
    checks = json.loads(site.cli("doctor", "--json").stdout)["checks"]
    return [check for check in checks if check["id"] == "failover"]


def problems(site: Site) -> str:
    return "; ".join(check["message"] for check in findings(site) if not check["ok"])


def wait_for_slots(site: Site, names: str) -> None:
    """Have the source wait for these standbys before it sends a change."""
    site.sql(f"alter system set synchronized_standby_slots = '{names}'")
    site.sql("select pg_reload_conf()")
    setting = "select current_setting('synchronized_standby_slots')"
    wait_until(lambda: site.value(setting) == names, "the setting is in effect")


def test_service_goes_on_with_the_slot_of_a_promoted_standby(
    pair: Site, primary: EmbeddedPostgres
) -> None:
    assert findings(pair)[0]["ok"]
    wanted = {"hot_standby_feedback": "on", "sync_replication_slots": "on"}
    with Standby(primary, slot="one", dbname=pair.name, settings=wanted) as standby:
        pair.environment["CDC_EMBED_SOURCE__DSN"] = (
            f"host=127.0.0.1,127.0.0.1 port={primary.port},{standby.port} dbname={pair.name} "
            "user=postgres target_session_attrs=read-write"
        )
        assert "can be ahead of a standby" in problems(pair)
        wait_for_slots(pair, "one")
        with pair.service() as service, closing(standby.connect(pair.name)) as other:
            other.autocommit = True
            pair.sql(
                "insert into documents select i, 't', 'text ' || i from generate_series(1, 9) i"
            )
            service.settle()

            def copied() -> bool:
                with other.cursor() as cursor:
                    cursor.execute(
                        "select synced and not temporary from pg_replication_slots "
                        "where slot_name = %s",
                        (pair.name,),
                    )
                    return bool(cursor.fetchone() == (True,))

            wait_until(copied, "the standby has the slot", 60)
            wait_until(lambda: problems(pair) == "", "doctor finds nothing")
            primary.stop("fast")
            pair.close()
            pair.server = standby
            pair.sql("select pg_promote()")
            pair.sql("alter system reset synchronized_standby_slots")
            pair.sql("select pg_reload_conf()")
            pair.sql("update documents set body = 'after' where id <= 4")
            service.settle(60)
            assert pair.drift() == []
            assert service.stop() == 0


def test_a_slot_is_made_or_becomes_one_that_standbys_copy(make_site: Callable[..., Site]) -> None:
    site = make_site(18)
    site.sql(DOCUMENTS)
    site.configure(source='failover = "off"')
    site.cli("setup")
    assert site.value(FAILOVER, site.name) is False
    site.configure()
    assert "is not kept through a failover" in problems(site)
    with site.service() as service:
        assert "failover" not in site.cli("setup").stderr, "it is read"
        assert service.stop() == 0
    site.wait_for_free_slot()
    assert "-- on a replication connection" in site.cli("setup", "--sql").stdout
    assert "through a failover" in site.cli("setup").stderr
    assert site.value(FAILOVER, site.name) is True
    assert "nothing to do" in site.cli("setup").stderr
    assert problems(site) == ""
    with site.service() as service:
        site.sql("insert into documents values (1, 'one', 'text')")
        service.settle()
        assert site.drift() == []
        assert service.stop() == 0
    site.configure(source='failover = "off"')
    site.wait_for_free_slot()
    site.cli("setup")
    assert site.value(FAILOVER, site.name) is False


def test_server_without_failover_slots_is_set_up_as_ever(make_site: Callable[..., Site]) -> None:
    site = make_site(16)
    site.sql(DOCUMENTS)
    site.configure()
    site.cli("setup")
    assert "nothing to do" in site.cli("setup").stderr
    assert [check["message"] for check in findings(site)] == ["no standby"]


@pytest.mark.parametrize("exists", [True, False])
def test_standby_that_is_waited_for_is_named(pair: Site, exists: bool) -> None:
    """Nothing is sent before it has the log, so the service would only look idle."""
    if exists:
        pair.sql("select pg_create_physical_replication_slot('absent', true)")
    reason = "has no standby now" if exists else "does not exist"
    with pair.service() as service:
        wait_for_slots(pair, "absent")
        pair.sql("insert into documents values (1, 'one', 'text')")
        wait_until(lambda: "standby" in service.status()["waiting"], "status says so")
        assert f"absent, which {reason}" in service.status()["waiting"]["standby"]
        assert f"names absent, which {reason}" in problems(pair)
        wait_for_slots(pair, "")
        service.settle()
        assert pair.drift() == []
        wait_until(lambda: "standby" not in service.status()["waiting"], "and not any more")
        assert service.stop() == 0
