"""Doctor and run before setup: what setup makes is no fault, what it would refuse is."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.site import DOCUMENTS, Site


@pytest.fixture
def bare(make_site: Callable[..., Site]) -> Site:
    site = make_site(18)
    site.sql(DOCUMENTS)
    site.configure()
    return site


def failed(site: Site, code: int) -> list[dict[str, Any]]:
    checks = json.loads(site.cli("doctor", "--json", expect=code).stdout)["checks"]
    return [
        check
        for check in checks
        if not check["ok"] and (check["severity"] == "error" or check["id"] == "setup")
    ]


def test_doctor_says_once_that_setup_did_not_run(bare: Site) -> None:
    (found,) = failed(bare, 0)
    assert found["id"] == "setup"
    assert found["message"] == "not set up yet"
    assert found["fix"] == "run: cdc-embed setup"
    bare.cli("setup")
    assert failed(bare, 0) == []
    bare.sql("drop publication cdc_embed")
    assert [check["id"] for check in failed(bare, 4)] == ["publication"]


def test_run_says_once_that_setup_did_not_run(bare: Site) -> None:
    done = bare.cli("run", expect=4)
    assert done.stderr.count("not set up yet") == done.stderr.count("cdc-embed setup") == 1


@pytest.mark.parametrize(
    ("ddl", "check"),
    [
        ("alter table documents drop constraint documents_pkey", "table"),
        ("create publication cdc_embed for table documents (id)", "publication"),
        ("select pg_create_physical_replication_slot('{slot}')", "slot"),
    ],
)
def test_what_setup_would_refuse_fails_before_setup_too(bare: Site, ddl: str, check: str) -> None:
    bare.sql(ddl.format(slot=bare.name))
    assert {check, "setup"} == {found["id"] for found in failed(bare, 4)}
    bare.cli("setup", expect=4)
    bare.sql(
        "select pg_drop_replication_slot(slot_name) from pg_replication_slots "
        f"where slot_name = '{bare.name}'"
    )
