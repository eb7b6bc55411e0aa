"""DDL on followed columns: found again by name, compared again, or the service stops loudly."""

from functools import partial

from tests.site import DOCUMENTS, RunningService, Site, wait_until

BIG = "(select string_agg(md5(n::text), ' ') from generate_series(1, 200) n)"
"""Stored out of line: an update of another column leaves it out of the log."""


def follow(site: Site, *more: str) -> None:
    """Tables published whole: a column list would refuse DDL on its columns."""
    site.sql(DOCUMENTS)
    site.sql("alter table documents alter body set storage external")
    for name in more:
        site.sql(f"create table {name} (like documents including all)")
    site.configure(
        source='publish = "rows"',
        tables="".join(
            f'[[tables]]\nname = "{name}"\ntext = ["title", "body"]\n'
            for name in ("documents", *more)
        ),
    )
    site.cli("setup")


def insert(site: Site, service: RunningService) -> None:
    site.sql(f"insert into documents values (1, 'one', 'first'), (2, 'two', {BIG})")
    service.settle()
    assert site.drift() == []


def follows(site: Site, table: str) -> bool:
    return site.drift(table) == []


def stored(site: Site) -> list[tuple[object, ...]]:
    return (site.target or site).sql(
        "select id, chunk, chunk_text, embedding::text from cdc_embed.documents_embedding "
        "order by id, chunk"
    )


def is_written(site: Site, text: str) -> bool:
    """Whether a text is stored, or nobody reads the slot who could store it."""
    led = site.value("select active from pg_replication_slots where slot_name = %s", site.name)
    return not led or any(text in str(row[2]) for row in stored(site))


def test_a_renamed_or_dropped_text_column_pauses_and_is_not_null(
    source: Site,
) -> None:
    """Without the check by name a row without its column is a row whose text is gone."""
    site = source
    follow(site)
    with site.service() as service:
        insert(site, service)
        before = stored(site)
        site.sql("alter table documents rename body to content")
        site.sql("update documents set title = 'changed'")
        site.sql("insert into documents values (3, 'three', 'third')")
        assert "body" in service.logged("table is paused")["problem"]
        assert service.stop() == 0
    assert stored(site) == before
    assert "body" in site.cli("run", expect=4).stderr
    site.sql("alter table documents rename content to body")
    site.cli("setup")
    with site.service() as service:
        wait_until(lambda: site.drift() == [], "what was missed is made up for")
        service.settle()
        before = stored(site)
        site.transaction(
            "update documents set title = 'once more'", "alter table documents drop column body"
        )
        # in one batch with it, wal2json's next row would look like one whose body is unchanged
        wait_until(lambda: is_written(site, "once more"), "it is written, or the service ended")
        site.sql("update documents set views = 7, title = 'without a body'")
        assert "body" in service.logged("table is paused")["problem"]
        assert service.stop() == 0
    assert [row[0] for row in stored(site)] == [row[0] for row in before]
    assert not any("without a body" in str(row[2]) for row in stored(site))
    site.sql("alter table documents add column body text default 'another'")
    site.cli("setup")
    with site.service() as service:
        wait_until(lambda: site.drift() == [], "compared again")
        assert service.stop() == 0


def test_a_row_changed_again_without_its_column_is_not_stored(source: Site) -> None:
    """All in one batch: the later change leaves the column out, as an unchanged value is."""
    site = source
    follow(site, "notes")
    with site.service() as service:
        insert(site, service)
        site.transaction(
            "update documents set title = 'once', body = 'changed' where id = 1",
            "alter table documents drop column body",
            "update documents set title = 'without a body' where id = 1",
        )
        paused = service.logged("table is paused")
        assert (paused["table"], "body" in paused["problem"]) == ("public.documents", True)
        site.sql("insert into notes values (1, 'one', 'followed')")
        service.settle()
        assert site.drift("notes") == []
        assert not any("without a body" in str(row[2]) for row in stored(site))
        fresh = "select document_hash from cdc_embed.documents_embedding where id = 1"
        assert bytes((site.target or site).value(fresh)) == b"", "it proves nothing"
        assert service.stop() == 0
    site.sql("alter table documents add column body text default 'another'")
    site.cli("setup")
    with site.service() as service:
        wait_until(lambda: site.drift() == [], "compared again")
        assert service.stop() == 0


def test_text_columns_may_change_place_or_type_or_be_replaced(
    source: Site,
) -> None:
    site = source
    follow(site, "notes", "pages")
    with site.service() as service:
        insert(site, service)
        for name in ("notes", "pages"):
            site.sql(f"insert into {name} table documents")
        service.settle()
        embedded = service.metric("cdc_embed_embed_texts_total", source="model")
        site.transaction(
            "update documents set views = 1",
            "alter table documents add column other text",
            "update documents set other = title",
            "alter table documents drop column title",
            "alter table documents rename other to title",
            "update documents set views = 2",
        )
        service.settle()
        assert site.drift() == []
        assert service.metric("cdc_embed_embed_texts_total", source="model") == embedded
        site.sql("update documents set title = 'uno' where id = 1")
        site.sql("update documents set id = 20, title = 'dos' where id = 2")
        site.sql("insert into documents values (3, 'third', 0, 'three')")
        service.settle()
        assert site.drift() == []
        # of all this no row is in the log
        site.sql("alter table documents alter body type varchar(9) using upper(left(body, 9))")
        site.sql("alter table notes drop body, add body text default 'another'")
        site.transaction(
            "alter table pages rename title to other",
            "alter table pages rename body to title",
            "alter table pages rename other to body",
        )
        for name in ("documents", "notes", "pages"):
            wait_until(partial(follows, site, name), f"{name} is compared again")
        site.sql("update documents set views = 3")
        service.settle()
        assert site.drift() == []
        assert service.stop() == 0


def test_a_row_that_a_filter_lets_in_is_read_again(published: Site) -> None:
    """The UPDATE arrives as an INSERT, and without the text that it did not change.

    ``run`` refuses a publication with a row filter; here it is there for one transaction only.
    """
    site = published
    follow(site)
    table = "alter publication cdc_embed set table documents"
    with site.service() as service:
        insert(site, service)
        site.transaction(
            f"{table} where (id > 0)",
            f"insert into documents values (-5, 'five', {BIG})",
            "update documents set id = 5 where id = -5",
            table,
        )
        service.settle()
        assert service.metric("cdc_embed_changes_received_total", op="insert") == 3
        assert service.metric("cdc_embed_changes_received_total", op="update") == 0
        assert site.drift() == []
        assert service.stop() == 0
