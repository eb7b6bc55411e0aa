"""Servers of a hosting service, known by its roles: its own right to replicate, its own words."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Servers
from tests.site import DOCUMENTS, Site

SERVICES = {
    "rds": (
        "create role rds_superuser; create role rds_replication",
        "set rds.logical_replication = 1 in the parameter group",
        'grant rds_replication to "App";',
        "set max_slot_wal_keep_size = 51200 in the parameter group",
    ),
    "cloudsql": (
        "create role cloudsqlsuperuser",
        "set the database flag cloudsql.logical_decoding = on",
        'alter role "App" replication;',
        "set the database flag max_slot_wal_keep_size = 51200",
    ),
    "azure": (
        "create role azure_pg_admin",
        "set the server parameter wal_level = logical",
        'alter role "App" replication;',
        "set the server parameter max_slot_wal_keep_size = 51200",
    ),
    "none": (
        "select",
        "alter system set wal_level = 'logical';",
        'alter role "App" replication;',
        "alter system set max_slot_wal_keep_size = '50GB';",
    ),
}


@pytest.mark.parametrize("service", SERVICES)
def test_fixes_are_in_the_words_of_the_service(
    servers: Servers, tmp_path: Path, service: str
) -> None:
    roles, wal_level, replication, limit = SERVICES[service]
    with servers.own(18, {"wal_level": "replica"}) as server:
        site = Site(server, "hosted", tmp_path)
        site.transaction(
            DOCUMENTS, roles, 'create role "App" login', 'grant all on documents to "App"'
        )
        site.configure()
        site.environment = {"CDC_EMBED_SOURCE__DSN": server.dsn("hosted", "App")}
        fixes = {id_: finding["fix"] for id_, finding in findings(site).items()}
        assert fixes["wal_level"].startswith(wal_level)
        assert fixes["replication_role"].startswith(replication)
        assert fixes["max_slot_wal_keep_size"].startswith(limit)
        if service == "rds":
            site.sql(replication)
            assert findings(site)["replication_role"]["ok"]
        site.close()


def findings(site: Site) -> dict[str, dict[str, Any]]:
    done = site.cli("doctor", "--json", expect=4)
    return {finding["id"]: finding for finding in json.loads(done.stdout)["checks"]}


@pytest.fixture(params=["pgoutput", "wal2json"])
def ordinary(request: pytest.FixtureRequest, make_site: Callable[..., Site]) -> Iterator[Site]:
    """A source with a role that owns the table and is no superuser."""
    site = make_site(15, target=make_site(18))
    role = site.name
    site.sql(DOCUMENTS)
    site.sql(f"create role {role} login replication")
    site.sql(f"alter table documents owner to {role}")
    site.sql(f"grant create on database {site.name} to {role}")
    site.configure()
    site.environment["CDC_EMBED_SOURCE__DSN"] = site.dsn.replace("//postgres", f"//{role}")
    site.environment["CDC_EMBED_SOURCE__PLUGIN"] = request.param
    yield site
    site.sql(f"drop owned by {role}")
    site.sql(f"drop role {role}")


def test_a_role_that_sees_few_settings_is_enough(ordinary: Site) -> None:
    """Newer minor releases show the plugins that they allow to superusers only."""
    ordinary.cli("setup")
    ordinary.cli("doctor")
    with ordinary.service() as service:
        ordinary.sql("insert into documents values (1, 'one', 'text')")
        service.settle()
        assert not ordinary.drift()
    ordinary.cli("teardown", "--yes")


def test_a_plugin_that_is_not_allowed_is_told_with_the_setting(ordinary: Site) -> None:
    if not ordinary.sql("select 1 from pg_settings where name = 'output_plugin_libraries'"):
        pytest.skip("this minor release allows every plugin")
    ordinary.sql(f"alter role {ordinary.name} set output_plugin_libraries = 'test_decoding'")
    told = ordinary.cli("setup", expect=4).stderr
    assert 'add it to "output_plugin_libraries"' in told


def test_a_right_that_no_catalogue_shows_is_found_by_trying(make_site: Callable[..., Site]) -> None:
    """Here the user of the replication connection may, and the role that it becomes may not."""
    site = make_site(18)
    role = f"app_{site.name}"
    site.transaction(DOCUMENTS, f"create role {role} login")
    site.configure()
    site.environment = {"CDC_EMBED_SOURCE__DSN": site.server.dsn(site.name, role)}
    found = findings(site)["replication_role"]
    assert (found["ok"], found["fix"]) == (False, f"alter role {role} replication;")
    site.environment = {"CDC_EMBED_SOURCE__DSN": f"{site.dsn}?options=-c%20role%3D{role}"}
    assert findings(site)["replication_role"]["ok"]
    site.sql(f"drop role {role}")
