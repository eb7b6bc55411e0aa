"""DDL of the application that our view, our functions and our policies must not refuse."""

from collections.abc import Callable

import pytest

from tests.site import Site

TABLE = (
    "create table letters (tenant int, id int primary key, code varchar(8) not null unique, "
    "title text, body text, kind varchar(4), spare text)"
)
CONFIG = """
[[tables]]
name = "letters"
text = ["title", "body"]
metadata = ["kind"]
store_text = {store}
"""
STATEMENTS = (
    "alter table letters alter id type bigint",
    "alter table letters alter code type text",
    "alter table letters alter kind type varchar(20)",
    "alter table letters alter title type varchar(50)",
    "alter table letters drop constraint letters_pkey, add primary key (code)",
    "alter table letters rename id to number",
    "alter table letters rename body to content",
    "alter table letters drop column spare",
    "alter table letters drop column kind",
    "alter table letters drop column title",
    "alter table letters drop column number",
    "alter table letters alter code type uuid using gen_random_uuid()",
    "alter table letters set schema other",
    "alter table other.letters rename to papers",
    "drop table other.papers",
)


@pytest.mark.parametrize("secured", [False, True], ids=["open", "secured"])
@pytest.mark.parametrize("store", ["true", "false"])
def test_no_ddl_of_the_application_is_refused_because_of_us(
    make_site: Callable[..., Site], secured: bool, store: str
) -> None:
    site = make_site(18)
    site.sql(TABLE)
    site.sql("create schema other")
    site.sql("insert into letters values (1, 1, 'a', 't', 'b', 'k')")
    if secured:
        site.sql("alter table letters enable row level security")
        site.sql("create policy own on letters using (tenant = 1)")
    site.configure(tables=CONFIG.format(store=store), source='publish = "rows"')
    site.cli("setup")
    for statement in STATEMENTS:
        if secured and "drop column number" in statement:
            continue
        site.sql(statement)


@pytest.mark.parametrize(
    "statement",
    ["rename id to number", "alter id type bigint", "rename body to content", "drop column kind"],
)
def test_searches_go_on_while_a_table_waits_for_setup(
    make_site: Callable[..., Site], statement: str
) -> None:
    site = make_site(18)
    site.sql(TABLE)
    site.sql("insert into letters values (1, 1, 'a', 't', 'b', 'k'), (1, 2, 'b', 't', 'c', 'k')")
    site.configure(tables=CONFIG.format(store="true"), source='publish = "rows"')
    site.cli("setup")
    with site.service() as service:
        service.wait_for("reconciled")
        service.settle()
    found = "select text from cdc_embed.letters_search order by 1"
    assert site.sql(found) == [("t\n\nb",), ("t\n\nc",)]
    site.sql(f"alter table letters {statement}")
    assert site.sql(found) == [("t\n\nb",), ("t\n\nc",)]
