"""DDL that the target refuses: a freeze by an event trigger, a right that is missing."""

from collections.abc import Iterator

import pytest

from tests.site import RunningService, Site, wait_until

FREEZE = (
    "create function public.no_ddl() returns event_trigger language plpgsql as "
    "$$ begin raise exception 'DDL is frozen until Monday'; end $$",
    "create event trigger no_ddl on ddl_command_start execute function public.no_ddl()",
)


@pytest.fixture
def frozen(site: Site) -> Iterator[Site]:
    """A database in which an event trigger refuses all DDL."""
    for statement in FREEZE:
        site.sql(statement)
    yield site
    site.sql("drop event trigger if exists no_ddl")


def waits(service: RunningService) -> str:
    words: str = service.status()["waiting"].get("target", "")
    return words


def test_a_freeze_of_ddl_is_waited_for_by_name(frozen: Site) -> None:
    with frozen.service() as service:
        frozen.sql("insert into documents values (1, 'one', 'text')")
        wait_until(lambda: "DDL is frozen until Monday" in waits(service), "it says so")
        assert "create a temporary table" in waits(service)
        frozen.sql("drop event trigger no_ddl")
        wait_until(lambda: not frozen.drift(), "the row is stored", 60)
        service.settle()
        assert waits(service) == ""
        service.logged("indexed", seconds=60)
        assert service.stop() == 0


def test_a_missing_temporary_right_is_named_with_its_grant(site: Site) -> None:
    role = f"{site.name}_role"
    site.sql(f"create role {role} login replication")
    site.sql(f"revoke temporary on database {site.name} from public")
    site.sql(f"grant usage on schema cdc_embed to {role}")
    site.sql(f"grant all on all tables in schema cdc_embed, public to {role}")
    site.environment["CDC_EMBED_SOURCE__DSN"] = site.dsn.replace("//postgres", f"//{role}")
    try:
        found = site.cli("doctor", expect=4).stdout
        assert f"grant temporary on database {site.name} to {role};" in found
        assert "may not create temporary tables" in site.cli("run", expect=4).stderr
    finally:
        site.sql(f"drop owned by {role}")
        site.sql(f"drop role {role}")
