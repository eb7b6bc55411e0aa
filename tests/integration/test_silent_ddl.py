"""DDL that changes what rows show while the log has no word of it: noticed by the catalogue."""

from collections.abc import Callable

import pytest

from tests.integration.test_key_changes import done
from tests.oracle import Documents
from tests.site import Site, wait_until

TABLE = """
create type mood as enum ('good', 'bad');
create domain kind as mood;
create domain kinder as kind;
create type pair as (a int, m mood);
create type moods as range (subtype = mood);
create table letters (
  id int primary key, title text, body text, m int, n int,
  d kinder, list mood[], p pair, pairs pair[], r moods
);
insert into letters select i, 'title ' || i, 'body ' || i, i, -i,
  'bad', '{bad}', '(1,bad)', '{"(1,bad)"}', '[bad,bad]' from generate_series(1, 10) i
"""
CONFIG = '[[tables]]\nname = "letters"\ntext = ["title", "body"]\nmetadata = {metadata}\n'
SWAP = (
    "alter table letters rename {0} to x; alter table letters rename {1} to {0}; "
    "alter table letters rename x to {1}"
)
ENUM = "alter type mood rename value 'bad' to 'worse'"
SILENT = {
    "texts swap names": (SWAP.format("title", "body"), ()),
    "metadata swap names": (SWAP.format("m", "n"), ("m", "n")),
    "a domain's enum": (ENUM, ("d",)),
    "an array's enum": (ENUM, ("list",)),
    "a range's enum": (ENUM, ("r",)),
    "a composite's enum": (ENUM, ("p",)),
    "a composite's attribute": ("alter type pair add attribute z int", ("p",)),
    "an array's attribute": ("alter type pair drop attribute a", ("pairs",)),
}


@pytest.mark.parametrize("change", SILENT)
def test_values_that_show_otherwise_are_compared(
    make_site: Callable[..., Site], change: str
) -> None:
    statement, metadata = SILENT[change]
    letters = Documents(name="letters", text=("title", "body"), metadata=metadata)
    site = make_site(18)
    site.sql(TABLE)
    site.configure(tables=CONFIG.format(metadata=list(metadata)))
    site.cli("setup")
    with site.service() as service:
        wait_until(lambda: done(service), "backfill")
        assert letters.drift(site) == []
        site.sql(statement)
        assert letters.drift(site) != [], "the log says nothing"
        wait_until(lambda: letters.drift(site) == [], "every row is compared", 20)
        assert site.verify()["drift"] == 0
        assert service.stop() == 0
