"""DDL of the application that takes the only followed table away, or the vectors of all."""

from collections.abc import Callable

import pytest

from tests.site import Site, wait_until

TABLE = "create table app.notes (id int primary key, body text)"
CONFIG = """
[[tables]]
name = "app.notes"
text = ["body"]
"""


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    site = make_site(18)
    site.sql("create schema app")
    site.sql(TABLE)
    site.sql("insert into app.notes select i, 'note ' || i from generate_series(1, 5) i")
    site.configure(tables=CONFIG)
    site.cli("setup")
    return site


def embedded(site: Site) -> list[tuple[int]]:
    return site.sql("select id from cdc_embed.app_notes_embedding order by id")


def test_row_security_of_the_only_table_ends_no_service(site: Site) -> None:
    with site.service() as service:
        service.settle()
        site.sql("alter table app.notes enable row level security")
        wait_until(lambda: "waits for: setup" in service.readiness()[1], "it is unready, and up")
        assert "app.notes: row level security" in service.status()["waiting"]["start"]
        assert "row level security" in site.verify(expect=1)["paused"]["app.notes"]
        site.sql("insert into app.notes values (6, 'note 6')")
        site.cli("setup")
        wait_until(lambda: len(embedded(site)) == 6, "it is followed again")
        wait_until(lambda: service.readiness()[1].startswith("ok"), "it is ready")
        assert service.stop() == 0


@pytest.mark.parametrize("options", [(), ("--rebuild",)], ids=["setup", "rebuild"])
def test_setup_makes_vectors_that_went_with_pgvector(site: Site, options: tuple[str, ...]) -> None:
    """``drop schema public cascade`` is what many a reset of a database begins with."""
    with site.service() as service:
        service.settle()
        assert service.stop() == 0
    site.sql("drop schema public cascade")
    site.sql("create schema public")
    site.sql("insert into app.notes values (6, 'note 6')")
    site.cli("setup", *options)
    with site.service() as service:
        wait_until(lambda: len(embedded(site)) == 6, "every row has its vector again")
        assert service.stop() == 0
    site.cli("verify")
    assert "nothing to do" in site.cli("setup").stderr


def test_a_service_with_an_older_configuration_says_so(site: Site) -> None:
    """After ``setup`` with other metadata only a restart helps, which has to be read there."""
    site.configure(tables=f'{CONFIG}metadata = ["kind"]\n')
    site.sql("alter table app.notes add kind text")
    site.cli("setup")
    with site.service() as service:
        service.settle()
        site.configure(tables=CONFIG)
        site.cli("setup")
        site.sql("insert into app.notes values (6, 'note 6')")
        wait_until(lambda: "waits for: setup" in service.readiness()[1], "it is unready, and up")
        assert "configuration read at the start (kind)" in service.status()["waiting"]["start"]
        assert service.stop() == 0
    with site.service() as service:
        wait_until(lambda: len(embedded(site)) == 6, "it is followed again")
        assert service.stop() == 0
