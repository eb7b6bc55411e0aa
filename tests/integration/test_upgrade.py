"""A schema of the previous version: what ``setup`` makes of it, what the commands say before."""

import json

import pytest

from tests.site import Site

PREVIOUS = (
    "delete from cdc_embed.migration where version >= 4",
    "alter table cdc_embed.dead_letter rename column reason to class",
    "alter table cdc_embed.embedding_table rename column table_name to source_table",
    "alter table cdc_embed.reconcile rename column table_name to source_table",
    "drop view cdc_embed.documents_search",
    "alter table cdc_embed.documents_embedding drop column chunk",
    "alter table cdc_embed.documents_embedding rename column chunk_row to chunk",
    "alter table cdc_embed.documents_embedding alter column chunk drop default",
    "alter table cdc_embed.embedding_table drop column adopted_publication",
    "alter table cdc_embed.reconcile drop column run, drop column leaf_digest, drop column leaves, "
    "drop column changed_leaves, drop column orphans",
    "alter table cdc_embed.embedding_table drop column key_columns, drop column definition, "
    "drop column source_system_identifier, drop column source_database",
    "alter table cdc_embed.space drop column canary, drop column found_window",
    "drop table cdc_embed.deferred",
    "drop index cdc_embed.dead_letter_key",
    "alter table cdc_embed.dead_letter add unique (table_name, key)",
)
"""Undo the last migration, and the number of a row beside that of its chunk."""

COLUMNS = (
    "select table_name, column_name, data_type, is_nullable, column_default "
    "from information_schema.columns where table_schema = 'cdc_embed' order by 1, 2"
)
LETTER = (
    "insert into cdc_embed.dead_letter (table_name, key, fingerprint, space, class, error) "
    """select 'public.documents', '{"id": 7}', '', id, 'refused', 'made up' from cdc_embed.space"""
)
SECOND_CHUNK = (
    "insert into cdc_embed.documents_embedding (id, chunk, embedding, start_offset, end_offset, "
    "document_hash, chunk_hash, space) select id, 1, embedding, 9, 9, document_hash, '', space "
    "from cdc_embed.documents_embedding"
)


@pytest.fixture
def previous(site: Site) -> Site:
    """A followed table with one row and one dead letter, as the previous version left them."""
    with site.service() as service:
        site.sql("insert into documents values (1, 'one', 'text')")
        service.wait_for("reconciled")
        service.settle()
        assert service.stop() == 0
    for statement in (*PREVIOUS, LETTER, SECOND_CHUNK):
        site.sql(statement)
    return site


def test_setup_migrates_a_schema_of_the_previous_version(previous: Site) -> None:
    site = previous
    assert "run: cdc-embed setup" in site.cli("run", expect=4).stderr
    found = json.loads(site.cli("doctor", "--json", expect=4).stdout)["checks"]
    assert {check["id"] for check in found if not check["ok"]} >= {"migrations"}
    assert {check["id"] for check in found} >= {"space"}, "the registry is read as it is"
    said = site.cli("setup").stderr
    assert "migration 004_names" in said
    assert "compare every row" not in said
    assert "vectors of public.documents" not in said
    assert "nothing to do" in site.cli("setup").stderr
    rows = "select chunk, chunk_row from cdc_embed.documents_embedding order by 1"
    assert site.sql(rows) == [(0, 0), (1, 1)]
    site.sql("delete from cdc_embed.documents_embedding where chunk = 1")
    (letter,) = json.loads(site.cli("dlq", "list", "--json").stdout)
    assert (letter["key"], letter["reason"]) == ({"id": 7}, "refused")
    assert site.value("select state from cdc_embed.reconcile") == "done"
    with site.service() as service:
        site.sql("insert into documents values (2, 'two', 'text')")
        service.settle()
        assert site.drift() == []


def test_migrated_schema_is_that_of_a_new_setup(previous: Site) -> None:
    previous.cli("setup")
    migrated = previous.sql(COLUMNS)
    previous.cli("teardown", "--yes")
    previous.cli("setup")
    assert previous.sql(COLUMNS) == migrated


def test_setup_reads_the_keeper_before_it_migrates(previous: Site) -> None:
    """Read as empty, the registry would let this slot take another's vectors."""
    site = previous
    site.sql("select pg_create_logical_replication_slot('theirs', 'pgoutput')")
    site.sql("update cdc_embed.embedding_table set slot = 'theirs'")
    site.sql("update cdc_embed.checkpoint set slot = 'theirs', source_system_identifier = '1'")
    refused = site.cli("setup", expect=4).stderr
    assert "is kept by slot theirs of another source" in refused
    site.sql("select pg_drop_replication_slot('theirs')")


def test_teardown_drops_a_schema_of_the_previous_version(previous: Site) -> None:
    previous.cli("teardown", "--yes")
    assert previous.value("select to_regnamespace('cdc_embed') is null")
