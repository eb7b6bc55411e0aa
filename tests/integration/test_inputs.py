"""Unusual texts, keys and names, through everything that can happen to a row."""

from collections.abc import Callable

import psycopg2
import pytest

from tests.inputs.table import InputTable
from tests.inputs.tables import ENUM, LATIN1_TABLES, TABLES
from tests.oracle import drift
from tests.site import Site
from tests.sources import OLDER, kinds


def configure(site: Site, tables: list[InputTable], *, setup: bool = True) -> None:
    for table in tables:
        table.create(site)
    site.configure(
        tables="".join(table.configuration for table in tables),
        embedder='kind = "hash"\ndimensions = 8',
        more='[index]\nkind = "none"\n',
    )
    if setup:
        site.cli("setup")


def live(site: Site, tables: list[InputTable]) -> None:
    """Insert, update, key update, delete, restart; compared by the test and by ``verify``."""
    with site.service() as service:
        for change in (
            InputTable.insert,
            InputTable.change_a_text,
            InputTable.move,
            InputTable.delete,
        ):
            for table in tables:
                change(table, site)
            service.settle()
            assert drift(site, [table.documents for table in tables]) == {}, change
        site.cli("verify")
        assert service.stop() == 0
    with site.service() as service:  # what is stored is known from the target alone
        for change in (InputTable.move_back, InputTable.insert_again, InputTable.shorten):
            for table in tables:
                change(table, site)
            service.settle()
            assert drift(site, [table.documents for table in tables]) == {}, change
        assert service.stop() == 0
    site.cli("verify")


@pytest.mark.parametrize(
    "source", kinds("pgoutput-18", long=("wal2json-15", *OLDER)), indirect=True
)
def test_every_input_is_followed_through_all_changes_of_a_row(source: Site) -> None:
    source.sql(ENUM)
    source.sql('create schema "we""ird; drop"')
    configure(source, TABLES)
    live(source, TABLES)
    source.cli("teardown", "--yes")
    left = (source.target or source).value("select to_regnamespace('cdc_embed')::text")
    assert left is None


def test_a_database_of_another_encoding_is_followed_as_it_is(source: Site) -> None:
    """wal2json writes in the database's encoding, whatever the client's is."""
    in_encoding(source, "LATIN1")
    configure(source, LATIN1_TABLES)
    live(source, LATIN1_TABLES)


def in_encoding(site: Site, encoding: str) -> None:
    """Make the empty database again."""
    site.close()
    server = psycopg2.connect(site.server.dsn())
    server.autocommit = True
    with server.cursor() as cursor:
        cursor.execute(f'drop database "{site.name}"')
        cursor.execute(
            f"create database \"{site.name}\" encoding '{encoding}' "
            "lc_collate 'C' lc_ctype 'C' template template0"
        )
    server.close()
    with pytest.MonkeyPatch.context() as environment:  # psycopg2 quotes names right in UTF-8 only
        environment.setenv("PGCLIENTENCODING", "UTF8")
        assert site.value("show server_encoding") == encoding


def test_a_target_that_lacks_characters_of_keys_is_refused(make_site: Callable[..., Site]) -> None:
    """A text that it lacks characters of is a dead letter; a key could be in no statement."""
    target = make_site(16)
    in_encoding(target, "LATIN1")
    site = make_site(18, target=target)
    site.sql("create table documents (id text primary key, title text, body text)")
    site.configure()
    refused = site.cli("setup", expect=4).stderr
    assert "it cannot store all keys of public.documents" in refused
    assert "use a target database with encoding 'UTF8'" in refused
    site.sql("alter table documents alter id type integer using 1")
    site.cli("setup")
    with site.service() as service:
        site.sql("insert into documents values (1, 'one', 'façade'), (2, 'two', '\U0001f600')")
        service.settle()
        assert target.value("select key->>'id' from cdc_embed.dead_letter") == "2"
        assert target.value("select id from cdc_embed.documents_embedding") == 1
        assert service.stop() == 0


@pytest.mark.parametrize("name", ["100%", "%s"])
def test_a_name_with_a_per_cent_sign_is_refused_by_name(
    make_site: Callable[..., Site], name: str
) -> None:
    site = make_site(18)
    table = InputTable(name=name, key={"id": "integer"}, keys=[])
    site.sql(f'create table "{name}" (id integer primary key, title text, body text)')
    site.configure(tables=table.configuration, embedder='kind = "hash"')
    refused = site.cli("setup", expect=4).stderr
    assert f"the name {name} has a % in it" in refused
