"""Triggers, rules and owners of others on objects of ours: named with the way out."""

from collections.abc import Callable, Iterator

import pytest

from cdc_embed.service.tolerance import Tolerance
from tests.cases import cases
from tests.site import DOCUMENTS, Site, table_entry, wait_until

DROPS = "create or replace function public.f() returns trigger language plpgsql as 'begin {}; end'"
RAISES = "raise exception ''no''"
ROWS = "create trigger mine {} on cdc_embed.{} for each row execute function public.f()"
OURS = {
    "a trigger that drops rows": ("trigger mine", "drop trigger mine on cdc_embed.{};"),
    "a rule that drops rows": ("rule mine", "drop rule mine on cdc_embed.{};"),
    "row level security": (
        "has row level security",
        "alter table cdc_embed.{} no force row level security, disable row level security;",
    ),
}
PUT = {
    "a trigger that drops rows": ROWS.format("before insert or update or delete", "{}"),
    "a rule that drops rows": "create rule mine as on update to cdc_embed.{} do instead nothing",
    "row level security": "alter table cdc_embed.{0} force row level security; "
    "alter table cdc_embed.{0} enable row level security",
}
TABLES = ("checkpoint", "dead_letter", "deferred", "reconcile", "request", "space")


@pytest.mark.parametrize("table", cases(TABLES, "checkpoint", "reconcile"))
@pytest.mark.parametrize("name", OURS)
def test_what_can_drop_rows_of_our_own_tables_is_refused(site: Site, name: str, table: str) -> None:
    site.sql(DROPS.format("return null"))
    site.sql(PUT[name].format(table))
    what, fix = OURS[name]
    for command in ("doctor", "setup", "run"):
        done = site.cli(command, expect=4)
        said = done.stdout + done.stderr
        assert what in said
        assert fix.format(table) in said
    site.sql(fix.format(table))
    site.cli("setup")
    site.cli("doctor")


def test_a_trigger_on_the_position_is_named_while_running(site: Site) -> None:
    site.sql(DROPS.format("return null"))
    with site.service() as service:
        service.settle()
        site.sql(ROWS.format("before update", "checkpoint"))
        site.sql("insert into documents values (1, 'a title')")
        fix = "drop trigger mine on cdc_embed.checkpoint;"
        wait_until(lambda: fix in str(service.status()["waiting"]), "named")
        site.sql(fix)
        service.settle()
        assert site.drift() == []
        assert service.stop() == 0


def test_what_only_refuses_is_named_with_the_refusal(site: Site) -> None:
    site.sql(DROPS.format(RAISES))
    fixes = {}
    for table in ("checkpoint", "embedding_table"):
        site.sql(ROWS.format("after insert or update", table))
        fixes[table] = f"drop trigger mine on cdc_embed.{table};"
        assert fixes[table] in site.cli("doctor").stdout
    site.configure(tables=table_entry(more='metadata = ["views"]'))
    assert fixes["embedding_table"] in site.cli("setup", expect=4).stderr
    site.sql(fixes["embedding_table"])
    site.cli("setup")
    assert fixes["checkpoint"] in site.cli("run", expect=4).stderr


def test_the_only_table_is_tried_again_once_its_trigger_is_gone(site: Site) -> None:
    site.sql(DROPS.format(RAISES))
    fix = "drop trigger mine on cdc_embed.documents_embedding;"
    with site.service(tolerance=Tolerance(refusing_table=1.0)) as service:
        service.settle()
        site.sql(ROWS.format("after insert", "documents_embedding"))
        site.sql("insert into documents values (1, 'a title')")
        wait_until(lambda: fix in str(service.status()["waiting"]), "named")
        site.sql(fix)
        stored = "select count(*) from cdc_embed.documents_embedding"
        wait_until(lambda: site.value(stored) == 1, "it is followed again")
        assert service.stop() == 0


@pytest.fixture
def owned(make_site: Callable[..., Site]) -> Iterator[Site]:
    """A service whose role owns what setup made, and can do no more."""
    site = make_site(18)
    role = f"owner_{site.name}"
    site.sql("create extension vector with schema public")
    site.sql(f"create role {role} login replication")
    site.sql(f"grant create, temporary on database {site.name} to {role}")
    site.sql(f"grant execute on function pg_control_system() to {role}")
    site.sql(DOCUMENTS)
    site.sql(f"alter table documents owner to {role}")
    site.configure()
    dsn = site.server.dsn(site.name, role)
    config = site.config_path.read_text().replace(f'dsn = "{site.dsn}"', f'dsn = "{dsn}"')
    site.config_path.write_text(config)
    site.cli("setup")
    yield site
    site.sql(f"drop owned by {role} cascade")
    site.sql(f"drop role {role}")


OWNED = {
    "table cdc_embed.checkpoint": "checkpoint",
    "table cdc_embed.embedding_table": "embedding_table",
    "view cdc_embed.documents_search": "documents_search",
    "function cdc_embed.visible_documents(bigint)": "visible_documents(bigint)",
}


@pytest.mark.parametrize(
    "what",
    cases(OWNED, "view cdc_embed.documents_search", "function cdc_embed.visible_documents(bigint)"),
)
def test_another_owner_of_ours_is_named_with_the_way_back(owned: Site, what: str) -> None:
    role = f"owner_{owned.name}"
    owned.sql(f"alter {what} owner to postgres")
    owned.sql(f"grant all on all tables in schema cdc_embed to {role}")
    fix = f"alter {what} owner to {role};"
    told = owned.cli("doctor").stdout
    assert "is owned by postgres" in told
    assert fix in told
    config = owned.config_path.read_text()
    owned.config_path.write_text(config.replace("[[tables]]", '[[tables]]\nmetadata = ["views"]'))
    if not what.startswith("table"):
        assert fix in owned.cli("setup", expect=4).stderr
    owned.sql(fix)
    owned.cli("setup")
    assert "is owned by postgres" not in owned.cli("doctor").stdout
