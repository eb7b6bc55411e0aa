"""The needs of wal2json of a server; the names, strings and tables that it cannot know."""

from collections.abc import Callable

import psycopg2
import pytest

from tests.integration.test_wal2json import compared, entry, follow
from tests.oracle import Documents
from tests.site import DOCUMENTS, Site, wait_until


@pytest.fixture
def source(make_site: Callable[..., Site]) -> Site:
    site = make_site(15, target=make_site(18))
    site.sql(DOCUMENTS)
    follow(site)
    return site


def test_a_server_without_the_plugin_is_told_what_to_install(
    make_site: Callable[..., Site],
) -> None:
    site = make_site(18)
    site.sql(DOCUMENTS)
    follow(site)
    told = site.cli("setup", expect=4).stderr
    assert "wal2json" in told
    assert "install" in told
    assert 'source.plugin = "pgoutput"' in told


@pytest.mark.parametrize("encoding", ["EUC_JP", "EUC_KR"])
def test_an_encoding_that_python_reads_in_another_way_is_refused(
    source: Site, encoding: str
) -> None:
    """The plugin does not convert; the codecs differ in some characters, as Ⅷ and №."""
    source.close()
    admin = psycopg2.connect(source.server.dsn())
    admin.autocommit = True
    with admin.cursor() as cursor:
        cursor.execute(f"drop database {source.name}")
        create = f"create database {source.name} template template0 locale 'C'"
        cursor.execute(f"{create} encoding '{encoding}'")
    admin.close()
    source.sql(DOCUMENTS)
    told = source.cli("setup", expect=4).stderr
    assert encoding in told
    assert 'source.plugin = "pgoutput"' in told


def test_strings_with_backslashes_by_default_do_not_hinder(source: Site) -> None:
    source.sql(f"alter database {source.name} set standard_conforming_strings = off")
    source.close()
    source.sql('create table "a, b\\c" (id int primary key, title text, body text)')
    follow(source, entry('"a, b\\c"', more='embedding_table = "vectors"'))
    source.cli("setup")
    with source.service() as service:
        source.sql("insert into \"a, b\\c\" values (1, 't', 'text')")
        service.settle()
        assert Documents(name="a, b\\c", embedding_table="vectors").drift(source) == []


def test_a_table_whose_name_reads_the_same_is_another_one(source: Site) -> None:
    """The name s.t.x is asked for as both; what happens to the one does not count for the other."""
    source.sql('create schema s; create schema "s.t"')
    source.sql('create table s."t.x" (id int primary key, title text, body text)')
    source.sql('create table "s.t".x (id int primary key, title text, body text)')
    follow(source, entry('s."t.x"', more='embedding_table = "vectors"'))
    source.cli("setup")
    with source.service() as service:
        compared(service)
        source.sql("insert into s.\"t.x\" values (1, 't', 'text'), (2, 't', 'text')")
        source.sql("insert into \"s.t\".x values (1, 't', 'other')")
        source.sql('delete from "s.t".x; truncate "s.t".x')
        service.settle()
        assert Documents(schema="s", name="t.x", embedding_table="vectors").drift(source) == []


def test_tables_are_not_added_under_a_service_that_lacks_them(source: Site) -> None:
    """It would compare the others already, and then record positions that count without it."""
    source.cli("setup")
    source.sql("create table notes (id bigint primary key, title text, body text)")
    with source.service() as service:
        compared(service)
        follow(source, entry("documents"), entry("notes"))
        told = source.cli("setup", expect=75).stderr
        assert "stop the service that reads it" in told
        assert service.stop() == 0
    source.cli("setup")
    with source.service() as service:
        wait_until(lambda: service.status()["tables"], "the first look")
        compared(service, 2)
