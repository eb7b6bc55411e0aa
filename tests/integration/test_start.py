"""A start that waits for what is away, and says so; and ends where only a person can help."""

from pathlib import Path

import pytest

from cdc_embed.demo.postgres import EmbeddedPostgres
from tests.cases import cases
from tests.servers import Servers
from tests.site import DOCUMENTS, Site, wait_until


@pytest.fixture
def server(servers: Servers) -> EmbeddedPostgres:
    return servers.own(18, {})


@pytest.fixture
def away(server: EmbeddedPostgres, tmp_path: Path) -> Site:
    """A site whose server is down, after setup."""
    server.start()
    site = Site(server, "away", tmp_path)
    site.sql(DOCUMENTS)
    site.configure()
    site.cli("setup")
    site.sql("insert into documents values (1, 'one', 'text')")
    site.close()
    server.stop()
    return site


def test_a_database_that_is_away_at_the_start_is_waited_for(
    server: EmbeddedPostgres, away: Site
) -> None:
    try:
        with away.service(wait=False) as service:
            service.wait_for("waiting")
            assert service.get("/livez") == "ok\n"
            assert service.readiness() == (503, "starting, waits for: source database\n")
            assert "cdc_embed_phase" in service.get("/metrics")
            status = service.status()
            assert status["state"] == "starting"
            assert status["slot"]["name"] == "away"
            assert "source database" in status["waiting"]["start"]
            server.start()
            service.wait_for("streaming", 60)
            wait_until(lambda: service.readiness()[0] == 200, "it is ready")
            assert "start" not in service.status()["waiting"]
            service.settle()
            assert away.drift() == []
            assert service.stop() == 0
    finally:
        server.close()


def test_a_start_that_waits_can_be_stopped_and_told_not_to_wait(
    server: EmbeddedPostgres, away: Site
) -> None:
    with away.service(wait=False) as service:
        service.wait_for("waiting")
        assert service.stop() == 0
    assert "source database" in away.cli("run", "--no-wait", expect=75).stderr
    assert "source database" in away.cli("doctor", expect=75).stdout
    server.close()


def test_a_wrong_password_ends_the_start(site: Site) -> None:
    site.environment["CDC_EMBED_SOURCE__DSN"] = f"{site.dsn}?user=nobody_of_this_name"
    assert "nobody_of_this_name" in site.cli("run", expect=4).stderr


DISAGREEMENTS = {
    "a slot that is gone": (5, "select pg_drop_replication_slot('{slot}')"),
    "a slot that was moved": (
        5,
        "insert into documents values (1, 't', 't');"
        "select pg_replication_slot_advance('{slot}', pg_current_wal_lsn())",
    ),
    "a target of another cluster": (
        5,
        "update cdc_embed.checkpoint set target_system_identifier = '1'",
    ),
    "a target without a position": (4, "delete from cdc_embed.checkpoint"),
    "a table without its key": (4, "alter table documents drop constraint documents_pkey"),
    "vectors of another type": (
        4,
        "drop view cdc_embed.documents_search;"
        "alter table cdc_embed.documents_embedding alter embedding type public.halfvec(384)",
    ),
    "a publication that is gone": (4, "drop publication cdc_embed"),
    "a target that is read-only": (
        75,
        'alter database "{slot}" set default_transaction_read_only = on',
    ),
}


@pytest.mark.parametrize(
    "name",
    cases(
        DISAGREEMENTS,
        "a slot that is gone",
        "a table without its key",
        "a target that is read-only",
    ),
)
def test_doctor_and_run_agree(site: Site, name: str) -> None:
    code, statements = DISAGREEMENTS[name]
    site.cli("doctor")
    for statement in statements.format(slot=site.name).split(";"):
        site.sql(statement)
    told = site.cli("run", "--no-wait", expect=code).stderr
    found = site.cli("doctor", expect=code).stdout
    steps = [line.partition("next:")[2].strip() for line in told.splitlines() if "next:" in line]
    assert steps
    assert all(step in found for step in steps), (steps, found)


def test_doctor_and_run_agree_about_another_model(site: Site) -> None:
    site.sql("insert into documents values (1, 't', 'text')")
    with site.service() as service:
        service.wait_for("reconciled")
        assert service.stop() == 0
    site.configure(embedder='kind = "hash"\ndimensions = 100')
    told = site.cli("run", "--no-wait", expect=4).stderr
    found = site.cli("doctor", expect=4).stdout
    assert "cdc-embed setup --rebuild" in told
    assert "cdc-embed setup --rebuild" in found
