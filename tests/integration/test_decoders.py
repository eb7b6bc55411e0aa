"""One table of cases over both output plugins: the same log gives the same changes.

The server is Debian's PostgreSQL 15, read through a slot of each plugin; what is compared is what
the rest of the product sees: the changes of the configured tables, each with its place.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest

from cdc_embed.change.event import Op, TransactionEnd
from tests.both_plugins import ANOTHER, Log, server_of_both, watch
from tests.servers import Servers
from tests.site import Site


@pytest.fixture(scope="module")
def make_database(
    servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Site]]:
    with server_of_both(servers, tmp_path_factory.mktemp("both")) as make:
        yield make


DOCUMENTS = """
create table documents (id bigint primary key, title text, body text, views integer);
alter table documents alter body set storage external;
"""
LONG = "(select string_agg(md5(n::text), '') from generate_series(1, 80) n)"
LONGER = "(select string_agg(md5(n::text), '') from generate_series(101, 190) n)"
KEY = "(select rpad('key ', 2200, 'k'))"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Statements, and what must come of them."""

    statements: Sequence[str]
    ops: str
    """The first letter of each change, a T for a truncate: that there is something to compare."""
    schema: str = DOCUMENTS
    tables: Sequence[str] = ("public.documents",)
    text: Sequence[str] = ("title", "body")
    metadata: Sequence[str] = ()

    def watch(self, site: Site) -> tuple[Log, Log]:
        site.sql(self.schema)
        entries = [
            {"name": name, "text": list(self.text), "metadata": list(self.metadata)}
            for name in self.tables
        ]
        return watch(site, entries, self.statements)


CASES = {
    "insert, update, delete": Case(
        statements=[
            "insert into documents values (1, 'one', 'text'), (2, 'two', 'text')",
            "update documents set body = 'new' where id = 1",
            "update documents set views = 7",
            "update documents set body = body where id = 2",
            "delete from documents",
        ],
        ops="iiuuuudd",
    ),
    "all of a row's life in one transaction": Case(
        statements=[
            "insert into documents values (1, 't', 'a'); update documents set body = 'b';"
            "delete from documents where id = 1; insert into documents values (1, 't', 'c');"
            "delete from documents; insert into documents values (1, 't', 'd')",
        ],
        ops="iudidi",
    ),
    "upsert and merge": Case(
        statements=[
            "insert into documents values (1, 't', 'a')",
            "insert into documents values (1, 't', 'b'), (2, 't', 'c')"
            " on conflict (id) do update set body = excluded.body",
            "merge into documents d using (values (1, 'x'), (3, 'y')) v (id, body) on d.id = v.id"
            " when matched then update set body = v.body"
            " when not matched then insert values (v.id, 't', v.body)",
            "merge into documents d using (values (3)) v (id) on d.id = v.id"
            " when matched then delete",
        ],
        ops="iuiuid",
    ),
    "text out of line": Case(
        statements=[
            f"insert into documents values (1, 't', {LONG}), (2, null, {LONGER})",
            "update documents set views = 1",
            "update documents set title = 'T'",
            f"update documents set body = {LONGER} where id = 1",
            "update documents set id = 10, title = null where id = 1",
            f"update documents set id = 20, body = {LONG} where id = 2",
            "delete from documents",
        ],
        ops="iiuuuuuuudd",
        metadata=["views"],
    ),
    "keys swap and shift": Case(
        statements=[
            f"insert into documents values (1, 'one', 'a'), (2, 'two', {LONG})",
            "update documents set id = -id",
            "update documents set id = 3 where id = -1; update documents set id = -1 where id = -2;"
            "update documents set id = -2 where id = 3",
            "update documents set id = id + 1 where id = -1",
        ],
        ops="iiuuuuuu",
    ),
    "replica identity full": Case(
        schema=DOCUMENTS + "alter table documents replica identity full",
        statements=[
            f"insert into documents values (1, null, {LONG}, 1), (2, 'two', null, null)",
            "update documents set title = 'named'",
            "update documents set views = null",
            f"update documents set id = 3, body = {LONGER} where id = 1",
            "update documents set id = 4 where id = 3",
            "update documents set body = ''",
            "delete from documents",
        ],
        ops="iiuuuuuuuudd",
        metadata=["views"],
    ),
    "replica identity using the primary key's index": Case(
        schema=DOCUMENTS + "alter table documents replica identity using index documents_pkey",
        statements=[
            "insert into documents values (1, 't', 'a')",
            "update documents set id = 2, body = 'b'",
            "delete from documents",
        ],
        ops="iud",
    ),
    "composite key": Case(
        schema="create table documents (title text, tenant uuid, at timestamptz, amount numeric,"
        " body text, primary key (tenant, at, amount)); "
        "create table pairs (a int, b text, title text, body text, primary key (b, a));"
        "alter table pairs replica identity full",
        tables=["public.documents", "public.pairs"],
        statements=[
            "insert into documents values ('t', '6F9619FF-8B86-D011-B42D-00CF4FC964FF',"
            " '2024-02-29 23:59:59.999999+05:30', 1.50, 'b')",
            "insert into pairs values (1, 'b', 't', 'body')",
            "update documents set body = 'B'; update pairs set body = 'B'",
            "update documents set amount = 1.5; update documents set amount = 1e30",
            "update pairs set a = 2; update pairs set b = E' \\\\ \"quoted\" \\n'",
            "delete from documents; delete from pairs",
        ],
        ops="iiuuuuuudd",
    ),
    "key out of line": Case(
        schema="create table documents (id text primary key, title text, body text);"
        "alter table documents alter id set storage external, alter body set storage external",
        statements=[
            f"insert into documents values ({KEY}, 't', {LONG}), ('short', 't', {LONG})",
            "update documents set title = 'T'",
            "update documents set id = 'now ' || left(id, 10) where id <> 'short'",
            f"update documents set id = {KEY} where id = 'short'",
            "delete from documents",
        ],
        ops="iiuuuudd",
    ),
    "null, empty, blank": Case(
        statements=[
            "insert into documents values (1, null, null), (2, '', ' '),"
            " (3, E'\\t\\r\\n\\x01', 'null'),"
            " (4, 'NULL', E'\\\\x00 \\\\ \" ,\"value\":1.5 {}[]')",
            "update documents set title = null, body = ''",
        ],
        ops="iiiiuuuu",
    ),
    "unicode": Case(
        statements=[
            "insert into documents values (1, '🙂👍🏽 👩\u200d👩\u200d👧', 'שלום مرحبا'),"
            " (2, 'caf\u00e9', 'cafe\u0301'), (3, 'a\u200bb\ufeffc', '\U00010348\U0010fffd\u2028')",
        ],
        ops="iii",
    ),
    "truncate": Case(
        schema=DOCUMENTS + "create table notes (like documents including all);"
        "create table lines (note bigint references notes, n int);"
        "create table others (note bigint references notes, n int)",
        tables=["public.documents", "public.notes"],
        statements=[
            "truncate documents",
            "insert into documents values (1, 't', 'a'); insert into notes values (1, 't', 'a')",
            "truncate notes, documents, lines, others; insert into documents values (2, 't', 'b')",
            "truncate notes restart identity cascade",
            "insert into notes values (5, 't', 'a'); truncate documents; delete from notes",
        ],
        ops="TiiTTiTiTd",
    ),
    "work that is rolled back": Case(
        statements=[
            "begin; insert into documents values (1, 't', 'never'); rollback",
            "begin; insert into documents values (1, 't', 'a'); savepoint s;"
            "insert into documents values (2, 't', 'never'); update documents set body = 'never';"
            "rollback to s; savepoint s; insert into documents values (3, 't', 'c'); release s;"
            "update documents set body = 'd'; commit",
        ],
        ops="iiuu",
    ),
    "transactions inside of one another": Case(
        statements=[
            "begin; insert into documents select n, 't', 'old ' || n from generate_series(1,40) n",
            *(
                f"{ANOTHER}insert into documents values ({1000 + n}, 't', 'small {n}')"
                for n in range(5)
            ),
            "update documents set body = 'new ' || id where id < 1000",
            f"{ANOTHER}update documents set id = -id where id >= 1000",
            "commit",
        ],
        ops="i" * 5 + "u" * 5 + "i" * 40 + "u" * 40,
    ),
    "prepared transactions": Case(
        statements=[
            "begin; insert into documents values (1, 't', 'a'); prepare transaction 'p'",
            "insert into documents values (2, 't', 'b')",
            "commit prepared 'p'",
            "begin; insert into documents values (3, 't', 'c'); prepare transaction 'q'",
            "rollback prepared 'q'",
        ],
        ops="ii",
    ),
    "an origin, and messages of others": Case(
        statements=[
            "select pg_replication_origin_create('upstream')",
            "select pg_replication_origin_session_setup('upstream')",
            "begin; select pg_replication_origin_xact_setup('1/2', '2020-01-02 03:04:05.6789+00');"
            "insert into documents values (1, 't', 'a'); commit",
            "select pg_replication_origin_session_reset()",
            "select pg_replication_origin_drop('upstream')",
            "begin; select pg_logical_emit_message(true, 'other', '\\xff00'::bytea);"
            "insert into documents values (2, 't', 'b');"
            "select pg_logical_emit_message(false, 'cdc_embed2', '\\xfe'::bytea);"
            "select pg_logical_emit_message(true, '', 'x'); commit",
        ],
        ops="ii",
    ),
    "sixty columns": Case(
        schema="create table documents (id int primary key, title text, body text, "
        + ", ".join(f"c{n} text" for n in range(57))
        + ")",
        statements=[
            "insert into documents (id, title, c0, c56) values (1, 't', 'first', 'last')",
            "update documents set c30 = 'middle', c56 = null",
            "update documents set id = 2, body = 'b'",
        ],
        ops="iuu",
        metadata=["c0", "c30", "c56"],
    ),
    "columns come, go, change their type and their name": Case(
        statements=[
            "insert into documents values (1, 't', 'a', 1)",
            "alter table documents add extra int default 7",
            "update documents set extra = 8",
            "alter table documents drop extra, add other text",
            f"update documents set other = {LONG}",
            "alter table documents alter title type varchar(100)",
            "begin; update documents set body = 'b'; alter table documents rename other to extra;"
            "insert into documents values (2, 't', 'c', 2, 'e'); commit",
            "alter table documents rename views to seen",
            "update documents set body = 'd' where id = 1",
            "vacuum full documents",
            "cluster documents using documents_pkey",
            "alter table documents drop body",
            "update documents set title = 'T' where id = 1",
            "insert into documents (id, title) values (3, 'T')",
        ],
        ops="iuuuiuui",
        metadata=["views"],
    ),
    "names that need quoting": Case(
        schema='create schema "My schema, ""a"""; create table "My schema, ""a"""."we""ird \\ *"'
        ' ("Id, x" int, "a ""b""" text, "ключ🔑" text, "value" float8, "t\\n" bool,'
        ' primary key ("Id, x", "t\\n"))',
        tables=['"My schema, ""a"""."we""ird \\ *"'],
        text=['a "b"', "ключ🔑"],
        metadata=["value"],
        statements=[
            'insert into "My schema, ""a"""."we""ird \\ *"'
            " values (1, 'a', '\"value\":1', 2.5, true)",
            'update "My schema, ""a"""."we""ird \\ *" set "Id, x" = 2, "value" = -0.0',
            'delete from "My schema, ""a"""."we""ird \\ *"',
        ],
        ops="iud",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_both_plugins_tell_of_the_same_changes(
    name: str, make_database: Callable[..., Site]
) -> None:
    case = CASES[name]
    by_pgoutput, by_wal2json = case.watch(make_database())
    changes = by_wal2json.changes()
    assert changes == by_pgoutput.changes()
    letters = {Op.INSERT: "i", Op.UPDATE: "u", Op.DELETE: "d", Op.TRUNCATE: "T"}
    assert "".join(letters[change["op"]] for change in changes) == case.ops
    by_both = {event.end_lsn for event in by_pgoutput.events() if isinstance(event, TransactionEnd)}
    ends = [event.end_lsn for event in by_wal2json.events() if isinstance(event, TransactionEnd)]
    assert by_both <= set(ends), "it tells of empty transactions too"
    assert ends == sorted(ends)
