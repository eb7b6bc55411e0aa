"""Mistakes of a user: one clear sentence, the next step, the promised exit code."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extras
import pytest

from tests.servers import Servers
from tests.site import DOCUMENTS, Site, table_entry


@pytest.fixture
def bare(make_site: Callable[..., Site]) -> Site:
    """A database with the table, nothing set up."""
    site = make_site(18)
    site.sql(DOCUMENTS)
    site.configure()
    return site


def test_wrong_dsn_is_told_with_the_next_step(bare: Site) -> None:
    bare.config_path.write_text(
        bare.config_path.read_text().replace(f"/{bare.name}", "/no_such_database")
    )
    done = bare.cli("setup", expect=4)
    assert "no_such_database" in done.stderr
    assert "next:" in done.stderr
    bare.config_path.write_text(
        '[source]\ndsn = "postgresql://u:s3cret@127.0.0.1:1/db"\n[embedder]\nkind = "hash"\n'
        + table_entry()
    )
    done = bare.cli("run", "--no-wait", expect=75)
    assert "source.dsn" in done.stderr
    assert "s3cret" not in done.stderr + done.stdout


def test_wal_level_replica_is_told_with_the_sql(servers: Servers, tmp_path: Path) -> None:
    with servers.own(18, {"wal_level": "replica"}) as server:
        site = Site(server, "plain", tmp_path)
        site.sql(DOCUMENTS)
        site.configure()
        done = site.cli("setup", expect=4)
        assert "wal_level is replica" in done.stderr
        assert "alter system set wal_level = 'logical'" in done.stderr
        assert site.value("select count(*) from pg_publication") == 0
        site.close()


@pytest.mark.parametrize(
    ("ddl", "entry", "problem", "fix"),
    [
        ("select 1", table_entry("missing"), "there is no such table", "tables.name"),
        (
            'create table "Talk" (id int primary key, body text)',
            table_entry("Talk", 'text = ["body"]'),
            "table public.talk: there is no such table",
            'there is public."Talk"; write name = \'public."Talk"\' (without double quotes',
        ),
        (
            "create schema app; create table app.talk (id int primary key, body text)",
            table_entry("talk", 'text = ["body"]'),
            "table public.talk: there is no such table",
            "there is app.talk; write name = 'app.talk'",
        ),
        (
            "select 1",
            table_entry(text='text = ["nope"]'),
            "it has no column nope",
            "body, id, title, views",
        ),
        (
            "create table nokey (title text, body text)",
            table_entry("nokey"),
            "it has no primary key",
            "add primary key",
        ),
        (
            "alter table documents replica identity nothing",
            table_entry(),
            "its replica identity is nothing",
            "replica identity default",
        ),
        (
            "create table parts (id int, views int not null, body text, primary key (id, views)) "
            "partition by list (views); create table part partition of parts for values in (1); "
            "create unique index other on part (views); "
            "alter table part replica identity using index other",
            table_entry("parts", 'text = ["body"]'),
            "the replica identity of its partition public.part is (views), not the key (id, views)",
            "replica identity default",
        ),
        (
            "create table lasting (id int4range, valid daterange, body text, "
            "primary key (id, valid without overlaps))",
            table_entry("lasting", 'text = ["body"]'),
            "its primary key is WITHOUT OVERLAPS",
            "add primary key",
        ),
        (
            "create unlogged table fleeting (id int primary key, title text, body text)",
            table_entry("fleeting"),
            "has no change log",
            "set logged",
        ),
        (
            "create table later (id int primary key deferrable, title text, body text)",
            table_entry("later"),
            "its primary key is deferrable",
            "add primary key",
        ),
        (
            "create view glance as select * from documents",
            table_entry("glance"),
            "it is not a table",
            "name the table itself: there is public.documents; write name = 'public.documents'",
        ),
        (
            "alter table documents add made text generated always as (title || body) stored",
            table_entry(text='text = ["made"]'),
            "column made is generated",
            "tables.template",
        ),
        (
            "create table clash (chunk int primary key, body text)",
            table_entry("clash", 'text = ["body"]'),
            "key column chunk has a reserved name",
            "rename",
        ),
    ],
)
def test_unusable_table_is_named_with_what_mends_it(
    bare: Site, ddl: str, entry: str, problem: str, fix: str
) -> None:
    bare.sql(ddl)
    bare.configure(tables=entry)
    done = bare.cli("setup", expect=4)
    assert problem in done.stderr
    assert fix in done.stderr
    assert bare.value("select count(*) from pg_publication") == 0


def test_run_before_setup_says_so(bare: Site) -> None:
    done = bare.cli("run", expect=4)
    assert "cdc-embed setup" in done.stderr


def test_another_model_is_refused_with_rows_and_tokens(site: Site) -> None:
    with site.service() as service:
        site.sql(
            "insert into documents select i, 't', 'some text ' || i from generate_series(1,9) i"
        )
        service.settle()
        assert service.stop() == 0
    site.configure(embedder='kind = "hash"\ndimensions = 100')
    done = site.cli("run", expect=4)
    assert "9 rows are stored in another vector space" in done.stderr
    assert "dimensions 384, configured 100" in done.stderr
    assert "not had yet (at most about" in done.stderr
    assert site.value("select count(*) from cdc_embed.documents_embedding") == 9


def test_too_many_dimensions_for_the_index_names_the_way_out(bare: Site) -> None:
    """Those of pgvector's indexes ("A server has limits of its own" in CONTRIBUTING.md)."""
    bare.configure(embedder='kind = "hash"\ndimensions = 3000')
    done = bare.cli("setup", expect=4)
    assert "at most 2000 dimensions" in done.stderr
    assert "halfvec" in done.stderr
    bare.configure(embedder='kind = "hash"\ndimensions = 3000', more='[index]\ntype = "halfvec"\n')
    bare.cli("setup")
    with bare.service() as service:
        bare.sql("insert into documents values (1, 't', 'half')")
        service.settle()
        assert bare.value("select count(*) from cdc_embed.documents_embedding") == 1


def test_missing_publication_is_refused_before_a_change_is_lost(site: Site) -> None:
    site.sql("drop publication cdc_embed")
    done = site.cli("run", expect=4)
    assert "publication cdc_embed does not exist" in done.stderr
    assert "cdc-embed setup" in done.stderr


def test_only_table_that_leaves_the_publication_is_paused(site: Site) -> None:
    with site.service() as service:
        site.sql("alter publication cdc_embed drop table documents")
        paused = service.logged("table is paused")
        assert paused["table"] == "public.documents"
        assert "not in the publication" in paused["problem"]
        site.cli("setup")
        service.logged("table is delivered again, every row is compared")
        assert service.stop() == 0


def test_missing_slot_is_a_history_gap(site: Site) -> None:
    site.sql("select pg_drop_replication_slot(%s)", site.name)
    for command in ("run", "setup"):
        done = site.cli(command, expect=5)
        assert f"slot {site.name}: " in done.stderr
        assert "a position is recorded for it" in done.stderr
        assert "cdc-embed setup --rebuild" in done.stderr


def test_slot_that_someone_moved_is_a_history_gap(site: Site) -> None:
    site.sql("insert into documents values (1, 't', 'never seen')")
    site.sql("select pg_replication_slot_advance(%s, pg_current_wal_lsn())", site.name)
    done = site.cli("run", expect=5)
    assert "beyond the recorded position" in done.stderr
    assert "next:" in done.stderr


def test_slot_of_another_database_is_named(site: Site, make_site: Callable[..., Site]) -> None:
    """Its name is one of the whole server ("A server has limits of its own" in CONTRIBUTING.md)."""
    other = make_site(18)
    other.sql(DOCUMENTS)
    other.configure()
    text = other.config_path.read_text().replace(f'slot = "{other.name}"', f'slot = "{site.name}"')
    other.config_path.write_text(text)
    done = other.cli("setup", expect=4)
    assert f"belongs to database {site.name}" in done.stderr


def test_unknown_key_and_two_text_rules_are_configuration_errors(bare: Site) -> None:
    bare.configure(source='sloot = "x"')
    assert "sloot" in bare.cli("run", expect=3).stderr
    bare.configure(tables=table_entry(text='text = ["title"]\ntemplate = "{title}"'))
    assert "exactly one of text and template" in bare.cli("run", expect=3).stderr


def test_synchronous_standby_setting_that_catches_us_is_refused(
    servers: Servers, tmp_path: Path
) -> None:
    with servers.own(18, {"synchronous_commit": "local"}) as server:
        site = Site(server, "sync", tmp_path)
        site.sql(DOCUMENTS)
        site.configure()
        site.cli("setup")
        site.sql("alter system set synchronous_standby_names = '*'")
        site.sql("select pg_reload_conf()")
        done = site.cli("run", expect=4)
        assert "synchronous_standby_names" in done.stderr
        site.close()


def another_reader(site: Site) -> Any:
    """A connection that reads the slot, and never answers the server."""
    connection = psycopg2.connect(
        site.dsn,
        connection_factory=psycopg2.extras.LogicalReplicationConnection,
        application_name="somebody else",
        options="-c wal_sender_timeout=0",
    )
    connection.cursor().start_replication_expert(
        f'START_REPLICATION SLOT "{site.name}" LOGICAL 0/0 '
        "(proto_version '1', publication_names 'cdc_embed')"
    )
    return connection


def test_slot_in_use_is_waited_for_and_its_holder_named(site: Site) -> None:
    reader = another_reader(site)
    with site.service(wait=False) as service:
        entry = service.wait_for("standby, the slot is in use")
        assert "somebody else" in entry["holder"]
        assert service.status()["role"] == "standby"
        reader.close()
        service.wait_for("streaming")
        site.sql("insert into documents values (1, 't', 'text')")
        service.settle()
        assert site.drift() == []


def test_commands_name_another_reader_of_the_services_slot(site: Site) -> None:
    """It would never answer them."""
    reader = another_reader(site)
    for command in ("verify", "backfill"):
        assert "somebody else" in site.cli(command, expect=75).stderr
    reader.close()


def test_libpq_refuses_a_dsn_with_a_unit_it_does_not_take(site: Site) -> None:
    site.environment["CDC_EMBED_SOURCE__DSN"] = f"{site.dsn}?tcp_user_timeout=30s"
    for command in (["config", "check"], ["doctor"], ["run"]):
        said = site.cli(*command, expect=3).stderr
        assert "tcp_user_timeout is no number of milliseconds, without a unit" in said
        assert "Traceback" not in said


def test_a_service_name_that_no_file_defines_is_not_waited_for(site: Site) -> None:
    site.environment["CDC_EMBED_SOURCE__DSN"] = "service=nope"
    done = site.cli("run", expect=3)
    assert "source.dsn" in done.stderr
    assert "not found" in done.stderr
