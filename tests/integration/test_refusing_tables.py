"""One table that fails although every check of it is good: it is left out by name, alone."""

import re
from collections.abc import Callable, Iterator

import pytest

from cdc_embed.service.tolerance import Tolerance
from tests.in_process import QUICK
from tests.quiet import watch_for
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
create constraint trigger refuse after insert on cdc_embed.refused_embedding
  deferrable initially {} for each row execute function public.refuse()
"""
BY_TRIGGERS = {
    "an exception at the commit": ("raise exception 'not this one'", "deferred"),
    "a missing table": ("insert into public.audit_gone values (new.id)", "immediate"),
}


@pytest.fixture
def two(make_site: Callable[..., Site]) -> Iterator[Site]:
    """A table that stays as it is, and one whose table of vectors or view is about to fail.

    The service's role owns them, and can do no more.
    """
    site = make_site(18)
    role = f"owner_{site.name}"
    site.sql("create extension vector with schema public")
    site.sql(f"create role {role} login replication")
    site.sql(f"grant create, temporary on database {site.name} to {role}")
    site.sql(f"grant execute on function pg_control_system() to {role}")
    for name in ("healthy", "refused"):
        site.sql(f"create table {name} (id int primary key, body text)")
        site.sql(f"insert into {name} values (1, 'one')")
        site.sql(f"alter table {name} owner to {role}")
    site.configure(tables=TABLES)
    config = site.config_path.read_text()
    dsn = site.server.dsn(site.name, role)
    site.config_path.write_text(config.replace(f'dsn = "{site.dsn}"', f'dsn = "{dsn}"', 1))
    site.cli("setup")
    yield site
    site.sql(f"drop owned by {role} cascade")
    site.sql(f"drop role {role}")


def reason(service: RunningService) -> str:
    """The reason of the refused table; empty while it is followed."""
    found = {entry["name"]: entry["problem"] for entry in service.status()["tables"]}
    return found.get("public.refused") or ""


def stored(site: Site, table: str, key: int) -> bool:
    """The row has its vectors."""
    return bool(site.sql(f"select 1 from cdc_embed.{table}_embedding where id = %s", key))


@pytest.mark.parametrize("name", BY_TRIGGERS)
def test_a_trigger_keeps_the_service_from_one_table(two: Site, name: str) -> None:
    with two.service(tolerance=Tolerance(refusing_table=4.0)) as service:
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
        wait_until(lambda: service.status()["state"] == "streaming", "the others are followed")
        starts = service.times("streaming")
        watch_for(
            QUICK.catalogue + 2, lambda: service.times("streaming") == starts, "it is left alone"
        )
        ready = service.unready()
        assert "public.refused cannot be followed" in ready
        assert "a trigger" in ready
        assert "42P01" not in ready
        assert service.stop() == 0


NO_VIEWS = {
    "drop view cdc_embed.refused_search": "cdc-embed setup",
    "revoke all on cdc_embed.refused_search from owner_{}": "grant the missing privilege",
}


@pytest.mark.parametrize("statement", NO_VIEWS)
def test_a_view_that_cannot_be_read_keeps_only_its_proof(two: Site, statement: str) -> None:
    """Every table is followed meanwhile, and the service goes on."""
    with two.service() as service:
        service.settle()
        two.sql(statement.format(two.name))
        healthy, refused = two.verify(expect=1)["tables"]
        assert (healthy["checked"], healthy["problem"]) == (1, "")
        assert "refused_search" in refused["problem"]
        assert NO_VIEWS[statement] in refused["problem"]
        two.sql("insert into refused values (2, 'two')")
        service.settle()
        assert stored(two, "refused", 2)
        assert service.stop() == 0
    assert "refused_search" in two.cli("doctor").stdout


def test_setup_puts_lost_columns_back_and_embeds_nothing(two: Site) -> None:
    with two.service() as service:
        wait_until(lambda: stored(two, "refused", 1), "it has its vectors")
        assert service.stop() == 0
    vectors = "cdc_embed.refused_embedding"
    lost = ("chunk", "chunk_text", "start_offset", "end_offset", "document_hash", "commit_lsn")
    two.sql(f"alter table {vectors} " + ", ".join(f"drop {name} cascade" for name in lost))
    told = two.cli("doctor", expect=4).stdout
    assert "refused_embedding has no column chunk" in told
    two.cli("setup")
    with two.service() as service:
        service.settle()
        service.wait_for("reconciled")
        assert two.verify()["paused"] == {}
        assert service.metric("cdc_embed_embed_tokens_total") == 0
        assert service.stop() == 0
    columns = "chunk_text, start_offset, end_offset, document_hash = chunk_hash"
    assert two.sql(f"select {columns} from {vectors}") == [("one", 0, 3, True)]


LOST_KEYS = {
    "the constraint": ("drop constraint refused_embedding_pkey", "lost its"),
    "a column of it": ("drop column chunk_row cascade", "lost its"),
    "another one": (
        "drop constraint refused_embedding_pkey, add constraint mine primary key (chunk, id)",
        "another",
    ),
}


@pytest.mark.parametrize("name", LOST_KEYS)
def test_setup_names_the_way_out_of_a_lost_primary_key(two: Site, name: str) -> None:
    """The way out is true: its statement, then ``setup``."""
    dropped, what = LOST_KEYS[name]
    two.sql(f"alter table cdc_embed.refused_embedding {dropped}")
    two.cli("doctor", expect=4)
    told = two.cli("setup", expect=4).stderr
    assert f"public.refused: its table of vectors refused_embedding has {what} primary" in told
    found = re.search("(alter|drop) table [^;]*;", told)
    assert found, told
    two.sql(found.group())
    two.cli("setup")
    with two.service() as service:
        service.settle()
        assert two.verify()["paused"] == {}
        assert service.stop() == 0
