"""One table that cannot be followed: it is paused by name, and takes no other with it."""

import json
from collections.abc import Callable

import pytest

from tests.cases import cases
from tests.site import RunningService, Site, wait_until

TABLES = """
[[tables]]
name = "healthy"
text = ["body"]
[[tables]]
name = "broken"
text = ["body"]
metadata = ["tenant"]
"""
BREAKS = {
    "a renamed text column": ("body", "alter table broken rename body to content"),
    "a renamed metadata column": ("tenant", "alter table broken rename tenant to customer"),
    "a dropped metadata column": ("tenant", "alter table broken drop tenant"),
    "a metadata column of another type": (
        "tenant text",
        "alter table broken alter tenant type text",
    ),
    "a dropped table": ("there is no such table", "drop table broken cascade"),
    "a lost primary key": ("no primary key", "alter table broken drop constraint broken_pkey"),
    "dropped vectors": ("does not exist any more", "drop table cdc_embed.broken_embedding cascade"),
}


@pytest.fixture
def two(make_site: Callable[..., Site]) -> Site:
    """A table that stays as it is, and one that a migration is about to change."""
    site = make_site(18)
    site.sql("create table healthy (id int primary key, body text)")
    site.sql("create table broken (id int primary key, body text, tenant int)")
    site.sql("insert into healthy values (1, 'one')")
    site.sql("insert into broken values (1, 'one', 7)")
    site.configure(tables=TABLES, source='publish = "rows"')
    site.cli("setup")
    return site


def reason(service: RunningService) -> str:
    """The reason of the broken table; empty while it is followed."""
    found = {entry["name"]: entry["problem"] for entry in service.status()["tables"]}
    return found.get("public.broken") or ""


def follows(site: Site, key: int) -> None:
    """The healthy table is followed."""
    site.sql("insert into healthy values (%s, 'another')", key)
    stored = "select count(*) from cdc_embed.healthy_embedding where id = %s"
    wait_until(lambda: site.value(stored, key) == 1, "the healthy table is followed")


@pytest.mark.parametrize(
    "name",
    cases(BREAKS, "a renamed text column", "a dropped metadata column", "dropped vectors"),
)
def test_a_broken_table_takes_no_other_with_it(two: Site, name: str) -> None:
    words, statement = BREAKS[name]
    with two.service() as service:
        service.settle()
        two.sql(statement)
        if not statement.startswith("drop table broken"):
            two.sql("insert into broken (id) values (2)")
        follows(two, 2)
        if name != "a metadata column of another type":  # that one is noticed at the next start
            wait_until(lambda: reason(service), "it says so", 30)
        assert service.stop() == 0
    with two.service() as service:
        wait_until(lambda: reason(service), "it says so at the start", 30)
        assert words in reason(service)
        follows(two, 3)
        found = two.verify(expect=1)
        assert [table["name"] for table in found["tables"]] == ["public.healthy"]
        assert words in found["paused"]["public.broken"]
        assert service.stop() == 0
    hits = json.loads(two.cli("search", "another", "--table", "healthy", "--json").stdout)
    assert {hit["table"] for hit in hits} == {"public.healthy"}
    assert words in two.cli("search", "another", "--table", "broken", expect=4).stderr
    assert "public.broken" in two.cli("search", "another").stderr
    down = json.loads(two.cli("status", "--json").stdout)
    assert "public.healthy" in [table["name"] for table in down["tables"]]
    assert words in two.cli("doctor", expect=4).stdout


def test_a_mended_table_is_followed_again_without_a_restart(two: Site) -> None:
    two.sql("alter table broken rename tenant to customer")
    two.sql("update broken set body = 'missed'")
    with two.service() as service:
        wait_until(lambda: "tenant" in reason(service), "it is paused")
        follows(two, 2)
        two.sql("alter table broken rename customer to tenant")
        stored = "select chunk_text from cdc_embed.broken_embedding"
        wait_until(lambda: two.sql(stored) == [("missed",)], "it is compared", 30)
        wait_until(lambda: not reason(service), "it is followed")
        two.sql("update broken set body = 'new'")
        wait_until(lambda: two.sql(stored) == [("new",)], "it is followed")
        assert two.verify()["paused"] == {}
        assert service.stop() == 0


def test_a_backfill_leaves_a_broken_table_out(two: Site) -> None:
    two.sql("alter table broken rename tenant to customer")
    with two.service() as service:
        wait_until(lambda: "tenant" in reason(service), "it is paused")
        two.cli("backfill", "--yes")
        assert "no column tenant" in two.cli("backfill", "--table", "broken", expect=4).stderr
        assert service.stop() == 0


LETTER = (
    "insert into cdc_embed.dead_letter (table_name, key, fingerprint, space, reason, error) "
    "select %s, '{\"id\": \"1\"}', '', space, 'text', 'refused' "
    "from cdc_embed.embedding_table limit 1"
)


def test_letters_of_a_broken_table_are_left_alone_by_name(two: Site) -> None:
    """Also when it is broken at the start, and the service knows no form of it."""
    two.sql(LETTER, "public.broken")
    two.sql("alter table broken rename tenant to customer")
    with two.service() as service:
        wait_until(lambda: "tenant" in reason(service), "it is paused")
        assert "no column tenant" in two.cli("dlq", "retry", "--all", expect=4).stderr
        two.sql(LETTER, "public.healthy")
        told = two.cli("dlq", "retry", "--all", expect=1)
        assert "not retried, it is paused: public.broken cannot be followed" in told.stderr
        assert "public.healthy" in told.stdout
        assert service.stop() == 0
    letters = "select table_name from cdc_embed.dead_letter"
    assert two.sql(letters) == [("public.broken",)]
    told = two.cli("dlq", "retry", "--all", expect=4)
    assert "no column tenant" in told.stderr, "without a service, too"


UNFOLLOWABLE = {
    "a renamed text column": ("has no column body", "alter table broken rename body to content"),
    "a dropped table": ("there is no such table", "drop table broken"),
    "another name": ("there is no such table", "alter table broken rename to elsewhere"),
    "a lost primary key": ("no primary key", "alter table broken drop constraint broken_pkey"),
    "a child": ("no inherit", "create table child () inherits (broken)"),
    "a harmful column": (
        "replica identity default",
        "alter table broken add upper text generated always as (upper(body)) virtual, "
        "replica identity full",
    ),
}


def test_with_every_table_broken_the_service_ends(two: Site) -> None:
    two.sql("alter table broken rename body to content")
    two.sql("alter table healthy rename body to content")
    said = two.cli("run", expect=4).stderr
    assert "public.broken" in said
    assert "public.healthy" in said


@pytest.fixture
def fresh(make_site: Callable[..., Site]) -> Site:
    """Both tables, before the first setup."""
    site = make_site(18)
    site.sql("create table healthy (id int primary key, body text)")
    site.sql("create table broken (id int primary key, body text, tenant int)")
    site.sql("insert into healthy values (1, 'one')")
    site.configure(tables=TABLES)
    return site


@pytest.mark.parametrize("name", cases(UNFOLLOWABLE, "a dropped table", "a harmful column"))
def test_a_first_setup_makes_all_but_a_broken_table(fresh: Site, name: str) -> None:
    words, statement = UNFOLLOWABLE[name]
    fresh.sql(statement)
    for option in ("--dry-run", "--sql"):
        shown = fresh.cli("setup", option, expect=4)
        assert words in shown.stderr
        assert "healthy_embedding" in shown.stdout
        assert "broken_embedding" not in shown.stdout
    assert fresh.value("select to_regnamespace('cdc_embed') is null")
    told = fresh.cli("setup", expect=4).stderr
    assert words in told
    assert "left out, as run does, until it is mended: public.broken" in told
    assert fresh.cli("setup", expect=4).stderr.count("nothing to do") == 1
    assert words in fresh.cli("doctor", expect=4).stdout
    with fresh.service() as service:
        follows(fresh, 2)
        assert service.stop() == 0


@pytest.mark.parametrize("name", cases(UNFOLLOWABLE, "a lost primary key", "a child"))
def test_setup_makes_another_table_beside_a_broken_one(two: Site, name: str) -> None:
    words, statement = UNFOLLOWABLE[name]
    two.sql("create table third (id int primary key, body text)")
    two.sql("insert into third values (1, 'three')")
    two.configure(tables=TABLES + '[[tables]]\nname = "third"\ntext = ["body"]\n')
    two.sql(statement)
    assert words in two.cli("setup", expect=4).stderr
    with two.service() as service:
        wait_until(lambda: words in reason(service), "the broken one is paused")
        follows(two, 2)
        third = "select count(*) from cdc_embed.third_embedding"
        wait_until(lambda: two.value(third) == 1, "the new one is followed")
        assert service.stop() == 0


def test_a_setup_meanwhile_leaves_a_broken_table_published(two: Site) -> None:
    """So it is followed again once it is mended, without another setup."""
    two.sql("alter table broken rename to elsewhere")
    two.sql("create table third (id int primary key, body text)")
    two.configure(tables=TABLES + '[[tables]]\nname = "third"\ntext = ["body"]\n')
    two.cli("setup", expect=4)
    with two.service() as service:
        wait_until(lambda: "no such table" in reason(service), "it is paused")
        two.sql("update elsewhere set body = 'missed'")
        two.sql("alter table elsewhere rename to broken")
        stored = "select chunk_text from cdc_embed.broken_embedding"
        wait_until(lambda: two.sql(stored) == [("missed",)], "it is followed", 30)
        assert service.stop() == 0
    assert "nothing to do" in two.cli("setup").stderr


def test_what_setup_cannot_put_back_keeps_it_from_one_table(two: Site) -> None:
    two.sql("create view ours as select id, text from cdc_embed.broken_search")
    two.sql("alter table broken alter id type bigint")
    two.sql("alter table healthy alter id type bigint")
    told = two.cli("setup", expect=4).stderr
    assert "table public.broken" in told
    assert "drop view public.ours" in told
    with two.service() as service:
        wait_until(lambda: reason(service), "the broken one is paused")
        follows(two, 2**40)
        assert service.stop() == 0
    two.sql("drop view ours")
    two.cli("setup")


def test_another_ones_publication_keeps_setup_from_one_table(fresh: Site) -> None:
    fresh.sql("create publication theirs for table healthy")
    fresh.configure(tables=TABLES, source='publication = "theirs"')
    told = fresh.cli("setup", expect=4).stderr
    assert "--adopt-publication" in told
    with fresh.service() as service:
        follows(fresh, 2)
        assert service.stop() == 0
    fresh.cli("setup", "--adopt-publication")
    fresh.sql("alter table broken rename body to content")
    fresh.cli("setup", expect=4)
    published = "select count(*) from pg_publication_tables where pubname = 'theirs'"
    assert fresh.value(published) == 2, "what is configured is not taken out"
