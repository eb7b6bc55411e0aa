"""One table that fails although every check of it is good: it is left out by name, alone."""

import re
import time
import urllib.error
from collections.abc import Callable

import pytest

from cdc_embed.service import refusing, watch
from tests.site import RunningService, Site, wait_until

TABLES = """
[[tables]]
name = "healthy"
text = ["body"]
[[tables]]
name = "refused"
text = ["body"]
"""
REFUSE = """
create function public.refuse() returns trigger language plpgsql as
  $$ begin {}; return new; end $$;
create trigger refuse {} insert on cdc_embed.refused_embedding
  for each row execute function public.refuse()
"""
BY_TRIGGERS = {
    "an exception": ("raise exception 'not this one'", "before"),
    "a missing table": ("insert into public.audit_gone values (new.id)", "after"),
}


@pytest.fixture
def two(make_site: Callable[..., Site]) -> Site:
    """A table that stays as it is, and one whose table of vectors or view is about to fail."""
    site = make_site(18)
    for name in ("healthy", "refused"):
        site.sql(f"create table {name} (id int primary key, body text)")
        site.sql(f"insert into {name} values (1, 'one')")
    site.configure(tables=TABLES)
    site.cli("setup")
    return site


def reason(service: RunningService) -> str:
    """The reason of the refused table; empty while it is followed."""
    found = {entry["name"]: entry["problem"] for entry in service.status()["tables"]}
    return found.get("public.refused") or ""


def unready(service: RunningService) -> str:
    """The words of readiness; empty while it is ready."""
    try:
        service.get("/readyz")
    except urllib.error.HTTPError as answer:
        return answer.read().decode()
    return ""


def stored(site: Site, table: str, key: int) -> bool:
    """The row has its vectors."""
    return bool(site.sql(f"select 1 from cdc_embed.{table}_embedding where id = %s", key))


@pytest.mark.parametrize("name", BY_TRIGGERS)
def test_a_trigger_keeps_the_service_from_one_table(
    two: Site, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(refusing, "SHORTEST_SECONDS", 8.0)
    with two.service() as service:
        service.settle()
        two.sql(REFUSE.format(*BY_TRIGGERS[name]))
        two.sql("insert into refused values (2, 'two')")
        two.sql("insert into healthy values (2, 'two')")
        wait_until(lambda: stored(two, "healthy", 2), "the healthy table is followed", 30)
        wait_until(lambda: "a trigger" in reason(service), "it is named, with a way out", 30)
        two.sql("drop function public.refuse cascade")
        wait_until(lambda: stored(two, "refused", 2), "it is tried again", 60)
        wait_until(lambda: not reason(service), "it is followed")
        assert two.verify()["paused"] == {}
        assert service.stop() == 0


def test_a_table_that_fails_is_not_tried_all_the_time(two: Site) -> None:
    """Nor the databases' words told to anybody: readiness has the way out alone."""
    with two.service() as service:
        service.settle()
        two.sql(REFUSE.format(*BY_TRIGGERS["a missing table"]))
        two.sql("insert into refused values (2, 'two')")
        wait_until(lambda: "42P01" in reason(service), "it is named", 30)
        starts = len([entry for entry in service.log if entry["event"] == "streaming"])
        time.sleep(watch.POLL_SECONDS + 2)
        assert len([entry for entry in service.log if entry["event"] == "streaming"]) == starts
        ready = unready(service)
        assert "public.refused cannot be followed" in ready
        assert "a trigger" in ready
        assert "42P01" not in ready
        assert service.stop() == 0


def test_a_missing_view_keeps_verify_from_one_table(two: Site) -> None:
    with two.service() as service:
        service.settle()
        two.sql("drop view cdc_embed.refused_search")
        found = two.verify(expect=1)
        assert [table["name"] for table in found["tables"]] == ["public.healthy"]
        assert "refused_search" in found["paused"]["public.refused"]
        assert "cdc-embed setup" in found["paused"]["public.refused"]
        two.sql("insert into healthy values (2, 'two')")
        wait_until(lambda: stored(two, "healthy", 2), "the healthy table is followed", 30)
        assert service.stop() == 0


LOST_KEYS = {
    "the constraint": ("drop constraint refused_embedding_pkey", "alter table"),
    "a column of it": ("drop column chunk_row cascade", "drop table"),
}


@pytest.mark.parametrize("name", LOST_KEYS)
def test_setup_names_the_way_out_of_a_lost_primary_key(two: Site, name: str) -> None:
    """The way out is true: its statement, then ``setup``."""
    dropped, way = LOST_KEYS[name]
    two.sql(f"alter table cdc_embed.refused_embedding {dropped}")
    told = two.cli("setup", expect=4).stderr
    assert "public.refused: its table of vectors refused_embedding has lost its primary" in told
    found = re.search(f"{way} [^;]*;", told)
    assert found, told
    two.sql(found.group())
    two.cli("setup")
    with two.service() as service:
        service.settle()
        assert two.verify()["paused"] == {}
        assert service.stop() == 0
