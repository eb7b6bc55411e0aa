"""Values, keys, names and encodings through both output plugins; and where they honestly differ."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import pytest

from cdc_embed.change.event import Op
from cdc_embed.errors import DecodeError, TableChangedError
from cdc_embed.wire.messages import UNCHANGED
from cdc_embed.wire.wal2json import Wal2json
from tests.both_plugins import followed, server_of_both, watch
from tests.servers import Servers
from tests.site import Site

TYPES = """
create type colour as enum ('red', 'grün "2"');
create type address as (street text, number int);
create domain label as varchar(40) check (value <> '');
create domain price as numeric(8,2);
create domain picture as bytea;
"""

VALUES: Final[Mapping[str, Sequence[str]]] = {
    "boolean": ("true", "false"),
    '"char"': ("x", " "),
    "character(5)": ("ab", ""),
    "character varying(3)": ("abc", " "),
    "text": ("null", '\\\\ "value":1.5 \\t\\n\\x01\\x7f'),
    "name": ("a name", "é"),
    "smallint": ("-32768", "0"),
    "integer": ("-2147483648", "7"),
    "bigint": ("9223372036854775807", "-9223372036854775808"),
    "oid": ("4294967295", "0"),
    "regclass": ("documents", "pg_class"),
    "numeric": ("1.50", "-0.000", "18446744073709551617", "1e400", "-1e-400"),
    "numeric(8,2)": ("1234.5", "0"),
    "numeric(20,0)": ("18446744073709551616", "-1"),
    "real": ("1.1", "-0", "1e20", "1.4e-45"),
    "double precision": ("0.1", "-0", "1e300", "5e-324", "123456789012345678"),
    "money": ("1234.5", "-0.01"),
    "bytea": ("\\\\x00ff5c27", ""),
    "date": ("2026-11-21", "infinity", "4713-01-01 BC"),
    "time": ("23:59:59.999999", "24:00"),
    "time with time zone": ("12:00:00.5+05:30", "00:00-12"),
    "timestamp": ("294276-12-31 23:59:59.999999", "-infinity"),
    "timestamp with time zone": ("2026-03-29 02:30:00+02", "0044-03-15 BC"),
    "interval": ("1 year -2 days 03:04:05.006", "-1 mon"),
    "uuid": ("A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "{a0eebc999c0b4ef8bb6d6bb9bd380a11}"),
    "inet": ("10.0.0.1/8", "::1"),
    "bit varying": ("0101", ""),
    "json": ('{"b" : 1.50,"b":2}', "null"),
    "jsonb": ('{"b": [1, null], "a": "é"}', '"\\\\u00e9\\\\n"'),
    "xml": ("<a>\u00fc</a>", "text"),
    "int[]": ("{{1,2},{3,NULL}}", "{}"),
    "numeric[]": ("{1.50,NaN,NULL}", "{}"),
    "text[]": ('{"a,b",NULL,"NULL","\\\\"q\\\\" \\\\\\\\"}', "{}"),
    "int4range": ("[1,5]", "empty"),
    "nummultirange": ("{[1.5,2),[3,4]}", "{}"),
    "tsvector": ("fat & rats", "a:1A b"),
    "point": ("(1.5,-0)", "(0,1e20)"),
    "pg_lsn": ("16/B374D848", "0/0"),
    "colour": ('grün "2"', "red"),
    "colour[]": ('{red,"grün \\\\"2\\\\""}', "{NULL}"),
    "address": ('("High ""Street"", 1",)', "(,7)"),
    "label": ("a label", "x"),
    "price": ("1.5", "NaN"),
    "picture": ("\\\\x00ff", ""),
}
FLOATING: Final = frozenset({"numeric", "numeric(8,2)", "numeric(20,0)"} | {"real"}) | {
    "double precision"
}

KEYS: Final[Mapping[str, tuple[str, str]]] = {
    **{kind: (values[0], values[1]) for kind, values in VALUES.items()},
    "numeric": ("1.50", "1.5"),
    "double precision": ("5e-324", "0"),
    "price": ("1.5", "1"),
    "uuid": ("A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "00000000-0000-0000-0000-000000000000"),
}
NO_KEY: Final = frozenset({"json", "xml", "point"})
"""Types that have no order."""


@pytest.fixture(scope="module")
def make_database(
    servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Site]]:
    with server_of_both(servers, tmp_path_factory.mktemp("both")) as make:
        yield make


def literal(value: str) -> str:
    return "E'{}'".format(value.replace("'", "''"))


def entry(name: str, **more: Sequence[str]) -> dict[str, Any]:
    return {"name": name, "text": ["title"], **more}


def test_values_of_every_type_have_the_same_form(make_database: Callable[..., Site]) -> None:
    site = make_database()
    columns = {f"c{n:02}": kind for n, kind in enumerate(VALUES)}
    listed = ", ".join(f"{column} {kind}" for column, kind in columns.items())
    site.sql(f"{TYPES} create table documents (id int primary key, title text, {listed})")
    longest = max(map(len, VALUES.values()))
    filled = {column: "0" for column, kind in columns.items() if kind in FLOATING}
    statements = []
    for n in range(longest):
        row = filled | {c: VALUES[k][n] for c, k in columns.items() if n < len(VALUES[k])}
        names, marks = ", ".join(row), ", ".join(map(literal, row.values()))
        statements.append(f"insert into documents (id, title, {names}) values ({n}, 't', {marks})")
    statements += [
        f"update documents set {column} = null"
        for column, kind in columns.items()
        if kind not in FLOATING
    ]
    logs = watch(site, [entry("public.documents", metadata=list(columns))], statements)
    by_pgoutput, by_wal2json = (log.changes() for log in logs)
    assert len(by_wal2json) == longest * (1 + len(columns) - len(FLOATING))
    assert by_wal2json == by_pgoutput
    assert not any(UNCHANGED in change["metadata"] for change in by_wal2json)


def test_keys_of_every_type_have_the_same_form(make_database: Callable[..., Site]) -> None:
    site = make_database()
    site.sql(TYPES + "create table documents (id int primary key, title text)")
    kinds = [kind for kind in KEYS if kind not in NO_KEY]
    statements = []
    for n, kind in enumerate(kinds):
        site.sql(f"create table t{n} (id {kind} primary key, title text)")
        first, second = map(literal, KEYS[kind])
        statements += [
            f"insert into t{n} values ({first}, 't'); update t{n} set title = 'T'",
            f"update t{n} set id = {second}; update t{n} set title = 't'; delete from t{n}",
        ]
    logs = watch(site, [entry(f"public.t{n}") for n in range(len(kinds))], statements)
    by_pgoutput, by_wal2json = (log.changes() for log in logs)
    assert len(by_wal2json) == 5 * len(kinds)
    assert by_wal2json == by_pgoutput
    for kind, change in zip(kinds, by_wal2json[2::5], strict=True):
        assert change["old_key"] not in {None, change["key"]}, kind


def test_what_may_have_been_nan_is_read_again(make_database: Callable[..., Site]) -> None:
    """wal2json writes null for it: as NULL it would be stored as what it is not."""
    site = make_database()
    site.sql("create table documents (id int primary key, title text, n numeric, f float8, i int)")
    logs = watch(
        site,
        [entry("public.documents", metadata=["f", "i", "n"])],
        [
            "insert into documents values (1, 't', 'NaN', 'Infinity', null),"
            " (2, 't', null, '-Infinity', 1), (3, 't', 1, null, null), (4, 't', 1, 1, null)",
            "update documents set title = 'T'",
            "update documents set id = -id, title = title",
        ],
    )
    differing = 0
    for told, whole in zip(logs[1].changes(), logs[0].changes(), strict=True):
        open_values = [
            place
            for place, value in enumerate(whole["metadata"])
            if value in {"NaN", "Infinity", "-Infinity"} or (value is None and place != 1)
        ]
        for place in open_values:
            assert told["metadata"][place] is UNCHANGED
        if open_values:
            assert told["op"] is Op.INSERT, "no version before it tells the value"
            differing += 1
        same = set(whole) - ({"op", "metadata"} if open_values else set())
        assert {name: told[name] for name in same} == {name: whole[name] for name in same}
    assert differing == 9


def test_nan_as_a_key_stops_loudly(make_database: Callable[..., Site]) -> None:
    site = make_database()
    site.sql("create table documents (id numeric primary key, title text)")
    changes = ["insert into documents values ('NaN', 't')"]
    by_pgoutput, by_wal2json = watch(site, [entry("public.documents")], changes)
    assert [change["key"] for change in by_pgoutput.changes()] == [("NaN",)]
    with pytest.raises(TableChangedError, match="without its primary key"):
        by_wal2json.changes()


def test_a_database_of_another_encoding_gives_the_same_texts(
    make_database: Callable[..., Site],
) -> None:
    site = make_database("LATIN1")
    site.sql('create table "Tabellé" ("Schlüssel" text primary key, "Überschrift" text, n int)')
    every = "".join(map(chr, [*range(1, 128), *range(160, 256)]))
    logs = watch(
        site,
        [{"name": '"Tabellé"', "text": ["Überschrift"], "metadata": ["n"]}],
        [
            "insert into \"Tabellé\" values ('é', '{}', 1)".format(every.replace("'", "''")),
            'update "Tabellé" set "Schlüssel" = \'ü\'',
            "select pg_logical_emit_message(true, 'other', '\\xe9'::bytea)",
        ],
    )
    by_pgoutput, by_wal2json = (log.changes() for log in logs)
    assert by_wal2json == by_pgoutput
    assert [change["texts"] for change in by_wal2json] == [(every,)] * 2
    assert by_wal2json[1]["old_key"] == ("é",)
    log = logs[1]
    with pytest.raises(DecodeError):  # the plugin does not convert, whatever is asked for
        list(map(Wal2json(followed(log.tables)).decode, (each.payload for each in log.frames)))


NAMES: Final = (
    *("a b", "a,b", "a.b", "a\\b", "\\", "*", "'q'", '"q"', " lead", "trail ", "\t", "\n", "\v"),
    *("A", "ключ🔑", "a\u00a0b", "*.*", "a\\.b", "a\\\\b", ".", "..", ",", "a, b.c"),
)
DECOYS: Final = ("a", "b", "ab", "q", "lead", "trail", "key", "c", "a\\,b", "b.c")


def test_exactly_the_tables_that_are_asked_for_arrive(make_database: Callable[..., Site]) -> None:
    """Whatever is in their names: the decoder refuses any other by name."""
    site = make_database()
    schemas = ("public", "*", "s.t", "s", "a b", "\\")
    asked = {(schema, name) for schema in schemas for name in NAMES} - {("s", "a.b")}
    tables = [*asked, *((schema, name) for schema in schemas for name in DECOYS), ("s", "a.b")]
    quoted = {
        table: ".".join('"{}"'.format(part.replace('"', '""')) for part in table)
        for table in tables
    }
    for schema in schemas[1:]:
        site.sql(f'create schema "{schema}"')
    site.sql(
        "; ".join(
            f"create table {name} (id int primary key, title text)" for name in quoted.values()
        )
    )
    inserts = "; ".join(f"insert into {name} values (1, 't')" for name in quoted.values())
    logs = watch(site, [entry(quoted[table]) for table in asked], [inserts])
    by_pgoutput, by_wal2json = (log.changes() for log in logs)
    assert {change["table"] for change in by_wal2json} == {".".join(table) for table in asked}
    assert len(by_wal2json) == len(asked)
    assert by_wal2json == by_pgoutput


@pytest.mark.parametrize(
    "statements",
    [
        "alter table documents rename id to number; insert into documents values (2, 't', 'c')",
        "alter table documents drop constraint documents_pkey, add primary key (code);"
        "insert into documents values (2, 't', 'c')",
        "alter table documents drop constraint documents_pkey;"
        "insert into documents values (2, 't', 'c')",
        "create unique index other on documents (code);"
        "alter table documents replica identity using index other;"
        "update documents set title = 'T'",
        "create unique index other on documents (id, code);"
        "alter table documents replica identity using index other;"
        "update documents set title = 'T'",
    ],
)
def test_a_key_that_is_none_any_more_stops_both_at_the_next_row(
    make_database: Callable[..., Site], statements: str
) -> None:
    site = make_database()
    site.sql("create table documents (id int primary key, title text, code text not null)")
    changes = ["insert into documents values (1, 't', 'b')", statements]
    for log in watch(site, [entry("public.documents")], changes):
        with pytest.raises(TableChangedError, match=r"public\.documents"):
            log.changes()


def test_wal2json_omits_updates_and_deletes_without_an_identity(
    make_database: Callable[..., Site],
) -> None:
    """So the coverage of the configured tables is looked at all the time."""
    site = make_database()
    site.sql("create table documents (id int primary key, title text)")
    by_wal2json = watch(
        site,
        [entry("public.documents")],
        [
            "insert into documents values (1, 't')",
            "alter publication compared drop table documents",
            "alter table documents replica identity nothing",
            "update documents set title = 'missed'; insert into documents values (2, 't');"
            "delete from documents where id = 1",
        ],
    )[1]
    assert [(change["op"], change["key"]) for change in by_wal2json.changes()] == [
        (Op.INSERT, ("1",)),
        (Op.INSERT, ("2",)),
    ]
