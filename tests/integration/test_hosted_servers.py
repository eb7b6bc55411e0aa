"""Servers of a hosting service, known by its roles: its own right to replicate, its own words."""

import json
from collections.abc import Callable
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


def test_a_right_that_no_catalogue_shows_is_found_by_trying(
    make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site(18)
    role = f"app_{site.name}"
    site.transaction(DOCUMENTS, f"create role {role} login")
    site.configure()
    site.environment = {"CDC_EMBED_SOURCE__DSN": site.server.dsn(site.name, role)}
    found = findings(site)["replication_role"]
    assert (found["ok"], found["fix"]) == (False, f"alter role {role} replication;")
    monkeypatch.setattr("cdc_embed.setup.preflight.accepts_replication", lambda *_: True)
    assert findings(site)["replication_role"]["ok"]
    site.sql(f"drop role {role}")
