"""``verify`` proves that it saw every row: whatever loses rows from its scan is an error.

The scan and the backfill share one idea of the key and its order. A mistake about these hides rows
from both, so the proof rests on what such a mistake cannot change.
"""

from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from psycopg2 import sql

from cdc_embed.source import comparison, rows
from tests.site import DOCUMENTS, Site, wait_until

WORDS = """
create table documents (id text primary key, title text, body text);
insert into documents
select case when n % 2 = 0 then upper(md5(n::text)) else md5(n::text) end, 'title', n
from generate_series(1, 3000) n
"""


def verified(site: Site, *arguments: str, expect: int = 1) -> tuple[dict[str, Any], str]:
    """The result of the only table, and what a person reads."""
    (table,) = site.verify(*arguments, expect=expect)["tables"]
    text = site.cli("verify", *arguments, expect=expect)
    return table, text.stdout + text.stderr


def expect_no_result(site: Site, problem: str) -> None:
    """Exit 1, the table's name, the problem, and no fresh row."""
    table, text = verified(site)
    assert problem in table["problem"]
    assert (table["checked"], table["fresh"]) == (0, 0)
    assert "table public.documents: the comparison proves nothing" in text
    assert problem in text
    assert "fresh" not in text.partition("next:")[0].replace("nothing is fresh", "")


def another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have keys compared in another order than the one in which rows are read."""

    def compared(_: Any, operator: str, prefix: str) -> sql.Composed:
        value = sql.Placeholder(f"{prefix}0")
        return sql.SQL("lower(t.id) {} lower({})").format(sql.SQL(operator), value)

    monkeypatch.setattr(comparison, "_whole", compared)


def with_many_rows(site: Site) -> Site:
    """Rows of more than one slice, set up."""
    site.sql(DOCUMENTS)
    site.sql("insert into documents select n, 'title', n from generate_series(1, 1500) n")
    site.configure()
    site.cli("setup")
    return site


def test_a_wrong_order_of_keys_is_found_by_the_scan_itself(
    make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backfill of that table ends with an error, and the others go on."""
    site = make_site()
    site.sql(WORDS)
    site.sql("create table second (id bigint primary key, title text)")
    site.sql("insert into second select n, 'second' from generate_series(1, 10) n")
    names = ("documents", "second")
    site.configure(tables="".join(f'[[tables]]\nname = "{n}"\ntext = ["title"]\n' for n in names))
    site.cli("setup")
    another_order(monkeypatch)
    with site.service() as service:
        refused = service.logged("not reconciled")
        assert "public.documents" in refused["problem"]
        second = "select count(*) from cdc_embed.second_embedding"
        wait_until(lambda: site.value(second) == 10, "the other table is compared")
        found = {table["name"]: table for table in site.verify(expect=1)["tables"]}
        assert "rows with 1000 keys were read" in found["public.documents"]["problem"]
        assert (found["public.second"]["fresh"], found["public.second"]["problem"]) == (10, "")
        assert service.stop() == 0


def test_rows_that_the_scan_loses_are_found_by_the_count(
    make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if each slice seems to be complete, and others write at the same time."""
    site = with_many_rows(make_site())
    fetch = rows._fetch_in_order

    written = iter(range(2000, 3000))

    def lose_a_row(*arguments: Any) -> Any:
        part = fetch(*arguments)
        part.rows.pop(("1200",), None)
        return part

    def lose_more(*arguments: Any) -> Any:
        with closing(site.connect()) as other, other, other.cursor() as cursor:
            cursor.execute(f"insert into documents values ({next(written)}, 'more', 'text')")
        part = lose_a_row(*arguments)
        for number in range(1100, 1190):
            part.rows.pop((str(number),), None)
        return part

    monkeypatch.setattr(rows, "_fetch_in_order", lose_a_row)
    with site.service() as service:
        service.logged("reconciled")
        assert site.value("select count(*) from cdc_embed.documents_embedding") == 1499
        expect_no_result(site, "1499 rows were read, it has 1500")
        monkeypatch.setattr(rows, "_fetch_in_order", lose_more)
        expect_no_result(site, "rows were read, it has 150")
        assert service.stop() == 0


def test_a_row_that_no_part_has_is_found_while_others_write(
    make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many rows come after the scan has passed as it lost; the number of rows read fits."""
    site = with_many_rows(make_site())
    compare = comparison._rows

    def lose_a_row(columns: Any, operator: str, values: Any) -> sql.Composed:
        return sql.SQL("{} and t.id <> 1200").format(compare(columns, operator, values))

    monkeypatch.setattr(comparison, "_rows", lose_a_row)
    fetch = rows._fetch_in_order

    def write_meanwhile(*arguments: Any) -> Any:
        part = fetch(*arguments)
        if not part.more:
            site.sql("insert into documents select max(id) + 1, 'more' from documents")
        return part

    with site.service() as service:
        service.logged("reconciled")
        monkeypatch.setattr(rows, "_fetch_in_order", write_meanwhile)
        table, _ = verified(site)
        assert "1500 rows are in the parts that were read, it has 1501" in table["problem"]
        assert service.stop() == 0


@pytest.fixture
def filled(make_site: Callable[..., Site]) -> Site:
    """Twenty documents; two of them have the same text."""
    site = make_site()
    site.sql(DOCUMENTS)
    site.sql("insert into documents select n, 'title', n % 19 from generate_series(1, 20) n")
    site.configure(more='[index]\nkind = "none"\n')
    site.cli("setup")
    site.verify("--repair")
    return site


def test_documents_that_the_search_view_hides_are_an_error(filled: Site) -> None:
    columns = "id, chunk, embedding, text, embedded_at"
    view = filled.value("select pg_get_viewdef('cdc_embed.documents_search'::regclass)").strip(" ;")
    filled.sql(
        "create or replace view cdc_embed.documents_search with (security_invoker = true) as "
        f"select {columns} from ({view}) v where v.id > 5"
    )
    expect_no_result(filled, "the search view shows 15 documents, 20 are stored")


@pytest.mark.parametrize("arguments", [(), ("--sample", "50")])
def test_a_vector_of_zeros_is_drift_and_mended(filled: Site, arguments: tuple[str, ...]) -> None:
    """Also where the only other document of this text has such a vector, too."""
    zeros = "array_fill(0::real, array[384])::vector(384)"
    filled.sql(
        f"update cdc_embed.documents_embedding set embedding = {zeros} where id in (1, 3, 20)"
    )
    table, _ = verified(filled, *arguments)
    assert (table["checked"], table["fresh"], table["stale"]) == (20, 17, 3)
    filled.verify("--repair", *arguments)
    table, _ = verified(filled, *arguments, expect=0)
    assert table["fresh"] == 20
    assert filled.drift() == []


def test_no_new_document_takes_a_vector_of_zeros(filled: Site) -> None:
    filled.sql(
        "update cdc_embed.documents_embedding "
        "set embedding = array_fill(0::real, array[384])::vector(384) where id = 3"
    )
    with filled.service() as service:
        filled.sql("insert into documents values (30, 'title', '3')")
        service.settle()
        assert service.stop() == 0
    assert filled.verify("--repair")["tables"][0]["stale"] == 1
    assert filled.drift() == []
