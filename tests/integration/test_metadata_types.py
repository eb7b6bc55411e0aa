"""Metadata of another type, or that the target refuses: never cut, and never without the text."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.cases import cases
from tests.integration.test_inputs import in_encoding
from tests.integration.test_key_changes import done, texts
from tests.oracle import Documents
from tests.site import Site, wait_until

TABLE = (
    "create type mood as enum ('good', 'bad'); create domain short as varchar(4); "
    "create table letters (id int primary key, body text, meta {type}); "
)
CONFIG = '[[tables]]\nname = "letters"\ntext = ["body"]\nmetadata = ["meta"]\n'
LETTERS = Documents(name="letters", text=("body",), metadata=("meta",))

LONG = "x" * 40
ALTER = "alter table letters alter meta type"
WIDER = {
    "varchar": ("varchar(4)", "'abcd'", [f"{ALTER} varchar(40)"], f"'{LONG}'"),
    "numeric": ("numeric(6,2)", "1.25", [f"{ALTER} numeric(12,4)"], "12345678.1234"),
    "time": ("time(0)", "'10:00'", [f"{ALTER} time(6)"], "'10:00:00.123456'"),
    "bit": ("bit(4)", "b'1010'", [f"{ALTER} bit(8) using meta::bit(8)"], "b'10101010'"),
    "enum": ("mood", "'good'", ["alter type mood add value 'neither'"], "'neither'"),
    "array": ("varchar(4)[]", "'{abcd}'", [f"{ALTER} varchar(40)[]"], f"array['{LONG}']"),
    "text to an enum": ("text", "'good'", [f"{ALTER} mood using meta::mood"], "'bad'"),
    "domain": (
        "short",
        "'abcd'",
        ["create domain longer as varchar(40)", f"{ALTER} longer"],
        f"'{LONG}'",
    ),
}
OTHER = {
    "int to bigint": ("int", "7", [f"{ALTER} bigint"], "5000000000"),
    "int to text": ("int", "7", [f"{ALTER} text"], "'seven'"),
    "varchar to text": ("varchar(4)", "'abcd'", [f"{ALTER} text"], f"'{LONG}'"),
    "int to numeric": ("int", "7", [f"{ALTER} numeric(10,2)"], "7.25"),
    "enum to int": ("mood", "'good'", [f"{ALTER} int using 1"], "8"),
}


def follow(site: Site, kind: str, value: str) -> None:
    site.sql(TABLE.format(type=kind))
    site.sql(f"insert into letters select i, 'letter ' || i, {value} from generate_series(1, 10) i")
    site.configure(tables=CONFIG, source='publish = "rows"')
    site.cli("setup")


def change(site: Site, statements: Sequence[str], value: str) -> None:
    for statement in statements:
        site.sql(statement)
    site.sql(f"insert into letters values (11, 'letter 11', {value})")
    site.sql(f"update letters set meta = {value} where id = 3")


def letters(site: Site) -> int:
    count: int = site.value("select count(*) from cdc_embed.dead_letter")
    return count


@pytest.mark.parametrize("kind", cases(WIDER, "varchar", "enum", "domain"))
def test_metadata_of_a_wider_type_needs_no_setup(make_site: Callable[..., Site], kind: str) -> None:
    site = make_site(18)
    first, value, statements, wider = WIDER[kind]
    follow(site, first, value)
    with site.service() as service:
        wait_until(lambda: done(service), "backfill")
        change(site, statements, wider)
        service.settle()
        wait_until(lambda: LETTERS.drift(site) == [], "every value is whole", 20)
        assert letters(site) == 0
        assert site.verify()["drift"] == 0
        assert texts(service) == 11
        assert service.stop() == 0


@pytest.mark.parametrize("kind", cases(OTHER, "int to text", "enum to int"))
def test_metadata_of_another_type_pauses_until_setup(
    make_site: Callable[..., Site], kind: str
) -> None:
    site = make_site(18)
    first, value, statements, other = OTHER[kind]
    follow(site, first, value)
    with site.service() as service:
        wait_until(lambda: done(service), "backfill")
        change(site, statements, other)
        wait_until(lambda: "run: cdc-embed setup" in service.readiness()[1], "noticed", 10)
        assert letters(site) == 0
        site.cli("setup")
        wait_until(lambda: done(service) and not LETTERS.drift(site), "taken up again", 30)
        service.settle()
        assert letters(site) == 0
        assert site.verify()["drift"] == 0
        assert texts(service) == 11
        assert service.stop() == 0


# -- values that the target refuses ------------------------------------------------------------

PAIR = '[[tables]]\nname = "letters"\ntext = ["body"]\nmetadata = ["meta", "place"]\n'
VECTORS = "cdc_embed.letters_embedding"
REFUSES = {
    "check": (f"alter table {VECTORS} add constraint no check (meta <> 'bad')", "bad"),
    "unique": (f"create unique index no on {VECTORS} (meta) where meta = 'bad'", "bad"),
    "encoding": ("", "\u2192"),
}
ALLOWS = {
    "check": f"alter table {VECTORS} drop constraint no",
    "unique": "drop index cdc_embed.no",
}


def listed(site: Site) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(site.cli("dlq", "list", "--json").stdout)
    return found


@pytest.mark.parametrize("kind", cases(REFUSES, "check", "encoding"))
def test_a_refused_metadata_value_alone_costs_no_vector(
    make_site: Callable[..., Site], kind: str
) -> None:
    """Whatever brings it: rows that are read, an insert, another value, another key."""
    statement, bad = REFUSES[kind]
    target = make_site(18)
    if kind == "encoding":
        in_encoding(target, "LATIN1")
    site = make_site(18, target=target)
    site.sql("create table letters (id int primary key, body text, meta text, place text)")
    site.sql(
        "insert into letters select i, 'letter ' || i, 'good ' || i, 'here' "
        "from generate_series(1, 5) i"
    )
    site.sql("update letters set meta = %s where id = 1", bad)
    site.configure(tables=PAIR)
    site.cli("setup")
    if statement:
        target.sql(statement)
    found = "select id, text, meta, place from cdc_embed.letters_search order by id"
    with site.service() as service:
        service.wait_for("reconciled")
        assert len(target.sql(found)) == 5, "every row is stored"
        site.sql("insert into letters values (6, 'letter 6', %s, 'here')", bad)
        if kind != "unique":  # else the first one was taken
            site.sql("update letters set meta = %s, place = 'there' where id = 2", bad)
            site.sql("update letters set id = 13, meta = %s where id = 3", bad)
            site.sql("update letters set id = 11 where id = 1")
        service.settle()
        refused = [6] if kind == "unique" else [2, 6, 11, 13]
        rows = {row[0]: row[1:] for row in target.sql(found)}
        assert len(rows) == 6
        assert sorted(key for key, row in rows.items() if row[1] is None) == refused
        assert rows[6] == ("letter 6", None, "here"), "the other value is kept"
        letters = listed(site)
        assert sorted(int(letter["key"]["id"]) for letter in letters) == refused
        assert {letter["reason"] for letter in letters} == {"metadata"}
        assert site.verify()["drift"] == 0
        assert site.verify()["tables"][0]["dead_letters"] == len(refused)
        site.cli("dlq", "drop", str(letters[0]["id"]))
        assert site.verify(expect=1)["tables"][0]["metadata_stale"] == 1
        site.cli("verify", "--repair", expect=None)
        if kind in ALLOWS:
            target.sql(ALLOWS[kind])
            site.cli("dlq", "retry", "--all", expect=None)
            service.settle()
            assert target.value(
                "select count(*) from cdc_embed.letters_search where meta = %s", bad
            )
            assert listed(site) == []
            assert site.verify()["drift"] == 0
        assert texts(service) == 6
        assert service.stop() == 0
