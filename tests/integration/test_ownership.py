"""The keeper of a table of vectors: one slot of one source, whoever else writes there."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.site import DOCUMENTS, Site, wait_until
from tests.tcp_proxy import TcpProxy

OWNER = "select slot from cdc_embed.embedding_table where table_name = 'public.documents'"
STORED = "select count(*) from cdc_embed.documents_embedding"


def fill(site: Site, rows: int) -> None:
    site.sql(DOCUMENTS)
    site.sql(
        "insert into documents select i, 't', 'text ' || i from generate_series(1, %s) i", rows
    )
    site.configure()


def follow(site: Site) -> None:
    """Run the service until every row is compared."""
    with site.service() as service:
        service.wait_for("reconciled")
        service.settle()
        assert site.drift() == []
        assert service.stop() == 0


@pytest.fixture
def vectors(make_site: Callable[..., Site]) -> Site:
    return make_site(18)


@pytest.fixture
def first(make_site: Callable[..., Site], vectors: Site) -> Site:
    """A source whose vectors are in the target's schema."""
    site = make_site(18, target=vectors)
    fill(site, 3)
    site.cli("setup")
    follow(site)
    return site


@pytest.fixture
def second(make_site: Callable[..., Site], vectors: Site) -> Site:
    """Another source for the same schema, with a table of the same name."""
    site = make_site(18, target=vectors)
    fill(site, 5)
    return site


def test_two_sources_do_not_share_a_table_of_vectors(
    first: Site, second: Site, vectors: Site
) -> None:
    """The second one would take the first one's vectors for its own, and delete them as orphans."""
    refused = second.cli("setup", expect=4).stderr
    assert f"is kept by slot {first.name} of another source (database {first.name}" in refused
    assert "set another target.schema" in refused
    assert "cdc-embed setup --rebuild" in refused
    assert vectors.value(OWNER) == first.name
    assert "nothing to do" in first.cli("setup").stderr
    assert first.drift() == []

    text = second.config_path.read_text()
    second.config_path.write_text(text.replace("[target]", '[target]\nschema = "second"', 1))
    second.cli("setup")
    with second.service() as service:
        service.wait_for("reconciled")
        service.settle()
        assert vectors.value("select count(*) from second.documents_embedding") == 5
        assert service.stop() == 0
    assert vectors.value(STORED) == 3


def test_source_that_takes_anothers_place_keeps_what_is_equal(
    first: Site, second: Site, vectors: Site
) -> None:
    with first.service() as service:
        refused = second.cli("setup", "--rebuild", expect=4).stderr
        assert "is connected to the target (PID" in refused, "two would write into it"
        assert service.stop() == 0
    second.cli("setup", "--rebuild")
    assert vectors.value(OWNER) == second.name
    follow(second)
    assert vectors.value(STORED) == 5
    for command in ("run", "doctor"):
        told = str(first.cli(command, expect=4))
        assert f"is kept by slot {second.name}, not by {first.name}" in told
        assert "cdc-embed setup" in told
    assert vectors.value(STORED) == 5


SESSIONS = (
    "select 1 from pg_stat_activity where application_name like 'cdc_embed%' "
    "and datname = current_database()"
)
COMMANDS = ("setup", "run", "verify", "status", "backfill", "dlq list", "search x", "index rebuild")
REBUILDS = 'on_history_gap = "rebuild"'


@pytest.fixture
def namesake(make_site: Callable[..., Site], first: Site, vectors: Site) -> Site:
    """Another source server, whose slot has the same name, for the same schema."""
    site = make_site(16, target=vectors)
    fill(site, 5)
    site.configure(source=REBUILDS)
    text = site.config_path.read_text()
    site.config_path.write_text(text.replace(f'slot = "{site.name}"', f'slot = "{first.name}"'))
    return site


def test_a_namesake_of_another_server_is_refused_everywhere(
    first: Site, namesake: Site, vectors: Site
) -> None:
    """Each command of the second one says so, and the first one's service goes on."""
    position = "select slot, source_system_identifier, epoch from cdc_embed.checkpoint"
    with first.service() as service:
        service.settle()
        before = vectors.sql(position)
        for command in COMMANDS:
            refused = namesake.cli(*command.split(), expect=4).stderr
            assert "another source's slot of that name owns it" in refused, command
            assert "set source.slot or target.schema" in refused, command
            assert "gap" not in refused, command
        assert "another source's slot of that name" in namesake.cli("doctor", expect=4).stdout
        refused = namesake.cli("setup", "--rebuild", expect=4).stderr
        assert "is connected to the target (PID" in refused
        assert "nothing to drop" in namesake.cli("teardown", "--yes").stderr
        assert vectors.sql(position) == before
        first.sql("insert into documents values (9, 't', 'followed still')")
        service.settle()
        assert first.drift() == []
        assert service.stop() == 0
    assert vectors.value(OWNER) == first.name
    assert "nothing to do" in first.cli("setup").stderr


def test_a_namesake_with_other_tables_needs_another_slot_name(
    first: Site, namesake: Site, vectors: Site
) -> None:
    """A position belongs to a slot's name, so two of one name cannot be told apart."""
    namesake.sql("alter table documents rename to notes")
    text = namesake.config_path.read_text().replace('name = "documents"', 'name = "notes"')
    namesake.config_path.write_text(text)
    assert "set source.slot or target.schema" in namesake.cli("setup", expect=4).stderr
    named = text.replace(f'slot = "{first.name}"', f'slot = "{namesake.name}"')
    namesake.config_path.write_text(named)
    namesake.cli("setup")
    with first.service() as service, namesake.service() as other:
        other.wait_for("reconciled")
        first.sql("insert into documents values (9, 't', 'followed still')")
        for running in (service, other):
            running.settle()
        assert first.drift() == []
        assert vectors.value("select count(*) from cdc_embed.notes_embedding") == 5
        assert service.stop() == other.stop() == 0


def test_a_name_is_the_first_ones_before_its_setup_has_ended(
    first: Site, namesake: Site, vectors: Site
) -> None:
    """Its tables are registered, and a position is recorded only at the end."""
    first.wait_for_free_slot()
    first.sql("select pg_drop_replication_slot(%s)", first.name)
    vectors.sql("delete from cdc_embed.checkpoint")
    registered = "select table_name, source_system_identifier from cdc_embed.embedding_table"
    before = vectors.sql(registered)
    for command in ("setup", "run", "index rebuild", "dlq list"):
        refused = namesake.cli(*command.split(), expect=4).stderr
        assert "another source's slot of that name owns it" in refused, command
    assert vectors.sql(registered) == before
    first.cli("setup")
    follow(first)
    assert vectors.value(STORED) == 3


def test_a_name_in_our_own_database_can_be_anothers(first: Site, vectors: Site) -> None:
    """The database that holds another source's vectors begins to follow a table of its own."""
    vectors.sql(DOCUMENTS)
    vectors.configure()
    text = vectors.config_path.read_text()
    named = text.replace(f'slot = "{vectors.name}"', f'slot = "{first.name}"')
    vectors.config_path.write_text(named)
    before = vectors.sql("select slot, epoch from cdc_embed.checkpoint")
    for command in ("setup", "run", "verify"):
        refused = vectors.cli(command, expect=4).stderr
        assert "another source's slot of that name owns it" in refused, command
    assert vectors.sql("select slot, epoch from cdc_embed.checkpoint") == before


@pytest.mark.parametrize("noticed_by", ["watch", "stream", "stream without a slot"])
def test_another_server_behind_the_address_is_no_gap(
    first: Site, namesake: Site, vectors: Site, tmp_path: Path, noticed_by: str
) -> None:
    """The address of a running service's source leads to another server: it fences nobody.

    What the watch takes for a change of the tables ends it alike, though setup could mend that.
    """
    folder = tmp_path / "twin"
    folder.mkdir()
    twin = Site(namesake.server, first.name, folder)
    twin.sql("create table other (id int)")  # so that the OID of documents is another one
    twin.sql(DOCUMENTS)
    twin.sql("create publication cdc_embed for table documents")
    if noticed_by != "stream without a slot":
        twin.sql("select pg_create_logical_replication_slot(%s, 'pgoutput')", first.name)
    epoch = "select epoch from cdc_embed.checkpoint"
    with TcpProxy(first.server.port) as proxy:
        first.environment["CDC_EMBED_SOURCE__DSN"] = proxy.dsn(first.dsn)
        with first.service() as service:
            service.settle()
            before = vectors.value(epoch)
            if noticed_by == "watch":
                proxy.stall_at(b"cdc_embed stream")
            proxy.lead_to(twin.server.port)
            assert service.wait() == 4
        said = "".join(service.output)
        assert "another source's slot of that name owns it" in said
        assert vectors.value(epoch) == before
    twin.drop()


def test_a_namesake_may_take_the_place_of_a_slot_that_is_gone(
    first: Site, namesake: Site, vectors: Site
) -> None:
    first.wait_for_last_session()
    wait_until(lambda: not vectors.sql(SESSIONS), "its service is gone")
    namesake.cli("setup", "--rebuild")
    with namesake.service() as service:
        service.wait_for("reconciled")
        service.settle()
        assert namesake.drift() == []
        assert service.stop() == 0
    assert vectors.value(STORED) == 5
    assert "another source's slot of that name" in first.cli("run", expect=4).stderr


def test_service_that_may_rebuild_takes_no_other_slots_tables(first: Site, vectors: Site) -> None:
    """An old instance of before the slot was renamed."""
    text = first.config_path.read_text()
    first.config_path.write_text(text.replace(f'"{first.name}"', f'"{first.name}_new"', 1))
    first.wait_for_free_slot()
    first.sql("select pg_drop_replication_slot(%s)", first.name)
    first.cli("setup")
    assert vectors.value(OWNER) == f"{first.name}_new"
    first.config_path.write_text(text.replace("[source]", f"[source]\n{REBUILDS}"))
    refused = first.cli("run", expect=4).stderr
    assert f"is kept by slot {first.name}_new, not by {first.name}" in refused
    assert vectors.value(OWNER) == f"{first.name}_new"


def test_target_that_came_with_its_source_is_rebuilt_unasked(site: Site) -> None:
    """pg_upgrade, a restored dump: the position in the database is of the server it was on."""
    site.sql("insert into documents values (1, 'one', 'text')")
    site.configure(source=REBUILDS)
    site.sql("select pg_drop_replication_slot(%s)", site.name)
    site.sql("update cdc_embed.checkpoint set source_system_identifier = '1'")
    site.sql("update cdc_embed.checkpoint set target_system_identifier = '1'")
    assert "the position belongs to another cluster" in site.cli("setup", expect=5).stderr
    follow(site)


def test_slot_of_another_name_takes_over_once_the_former_is_free(site: Site) -> None:
    site.sql("insert into documents values (1, 'one', 'text')")
    text = site.config_path.read_text()
    with site.service() as service:
        service.wait_for("reconciled")
        service.settle()
        site.config_path.write_text(text.replace(f'"{site.name}"', f'"{site.name}_new"', 1))
        refused = site.cli("setup", expect=75).stderr
        assert f"replication slot {site.name} is active for PID" in refused
        assert service.stop() == 0
    site.wait_for_free_slot()
    site.sql("update documents set title = 'missed by the new slot'")
    assert "compare every row of public.documents" in site.cli("setup").stderr
    follow(site)
    site.config_path.write_text(text)
    assert f"is kept by slot {site.name}_new" in site.cli("run", expect=4).stderr


def test_table_of_vectors_is_that_of_one_source_table(site: Site) -> None:
    """Its columns would be altered for the other one before its name is refused."""
    site.sql("create table notes (id bigint primary key, body text)")
    site.configure(
        tables='[[tables]]\nname = "notes"\ntext = ["body"]\n'
        'embedding_table = "documents_embedding"\n'
    )
    refused = site.cli("setup", expect=4).stderr
    assert "cdc_embed.documents_embedding, is used by public.documents" in refused
    assert "set another embedding_table" in refused
    assert "cdc-embed setup --rebuild" in refused


@pytest.mark.parametrize(
    "statement",
    [
        "drop table documents",
        "alter table documents rename to documents_old",
        "alter table documents drop constraint documents_pkey, add primary key (title)",
    ],
)
def test_a_table_can_take_the_vectors_of_the_one_it_replaces(site: Site, statement: str) -> None:
    """Each way out that is told works: with its vectors, or with others."""
    site.sql("insert into documents values (1, 'one', 'text'), (2, 'two', 'text')")
    fixed = '[[tables]]\nname = "{}"\ntext = ["title", "body"]\nembedding_table = "{}"\n'
    site.configure(tables=fixed.format("documents", "vectors"))
    site.cli("setup")
    with site.service() as service:
        service.wait_for("reconciled")
        assert service.stop() == 0
    stored = "select embedded_at from cdc_embed.vectors order by embedded_at"
    before = site.sql(stored)
    site.sql("create table papers as select id::text, title, body from documents")
    site.sql("alter table papers add primary key (id)")
    site.sql(statement)
    site.configure(tables=fixed.format("papers", "vectors"))
    assert "run: cdc-embed setup" in site.cli("run", expect=4).stderr
    refused = site.cli("setup", expect=4).stderr
    assert "cdc_embed.vectors, is used by public.documents" in refused
    site.cli("setup", "--rebuild")
    with site.service() as service:
        service.wait_for("reconciled")
        site.sql("insert into papers values ('3', 'three', 'text')")
        service.settle()
        assert site.verify()["drift"] == 0
        assert service.stop() == 0
    assert site.sql(stored)[:2] == before, "nothing is embedded again"
    assert site.value("select count(*) from cdc_embed.papers_search") == 3
    assert "nothing to do" in site.cli("setup").stderr


def test_a_table_can_take_other_vectors_instead(site: Site) -> None:
    site.sql("insert into documents values (1, 'one', 'text')")
    follow(site)
    site.sql("alter table documents rename to old")
    site.sql("create table papers (like old including all)")
    site.sql("insert into papers select * from old")
    entry = '[[tables]]\nname = "papers"\ntext = ["title", "body"]\nembedding_table = "{}"\n'
    site.configure(tables=entry.format("documents_embedding"))
    assert "set another embedding_table" in site.cli("setup", expect=4).stderr
    site.configure(tables=entry.format("others"))
    site.cli("setup")
    with site.service() as service:
        service.wait_for("reconciled")
        assert site.verify()["tables"][0]["fresh"] == 1
        assert service.stop() == 0
