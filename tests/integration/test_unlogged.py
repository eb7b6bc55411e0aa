"""Tables of ours that somebody made UNLOGGED, for a bulk load: a crash empties them."""

import pytest

from tests.site import Site, wait_until

STATE = "select relpersistence from pg_class where oid = %s::regclass"


@pytest.fixture
def filled(site: Site) -> Site:
    """Three rows with their vectors, the service stopped."""
    site.sql("insert into documents select i, 't', 'text ' || i from generate_series(1, 3) i")
    with site.service() as service:
        service.wait_for("reconciled")
        service.settle()
        assert service.stop() == 0
    return site


def test_unlogged_vectors_are_named_and_compared_again(filled: Site) -> None:
    with filled.service() as service:
        filled.sql("alter table cdc_embed.documents_embedding set unlogged")

        def problem() -> str:
            return service.status()["tables"][0]["problem"] or ""

        wait_until(
            lambda: "documents_embedding is unlogged: a crash empties it" in problem(), "named"
        )
        filled.sql("truncate cdc_embed.documents_embedding")  # what a crash does
        assert "is unlogged" in filled.cli("doctor", expect=4).stdout
        assert "is unlogged" in filled.cli("verify", expect=1).stderr
        assert "survive a crash" in filled.cli("setup").stderr
        assert filled.value(STATE, "cdc_embed.documents_embedding") == "p"
        wait_until(lambda: filled.drift() == [], "every row is embedded again")
        assert not problem()


@pytest.mark.parametrize("name", ["deferred", "checkpoint"])
def test_an_unlogged_table_of_ours_is_named_and_made_right(filled: Site, name: str) -> None:
    filled.sql(f"alter table cdc_embed.{name} set unlogged")
    filled.sql("truncate cdc_embed.documents_embedding")  # what of a row was in the other is gone
    for command in ("doctor", "run --no-wait"):
        told = str(filled.cli(*command.split(), expect=4))
        assert f"cdc_embed.{name} is unlogged: a crash empties it" in told
    assert "survive a crash" in filled.cli("setup").stderr
    assert filled.value(STATE, f"cdc_embed.{name}") == "p"
    with filled.service() as service:
        service.settle()
        wait_until(lambda: filled.drift() == [], "every row is right")
        assert service.stop() == 0
    assert "nothing to do" in filled.cli("setup").stderr
