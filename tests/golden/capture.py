"""Captures what real servers send, for the decoder's tests: ``python tests/golden/capture.py``.

One script of SQL runs on an embedded PostgreSQL 16 and 18, and for each of them two files are
written beside this one:

- ``pgoutput-N.jsonl``: every frame, as the server sent it (payload in hex, and data_start);
- ``pgoutput-N.txt``: what the decoder makes of it, one ``ascii()`` of a message a line.

The decoder cannot vouch for itself, so the second file is to be reviewed against the script, line
by line, before it is committed. Each step therefore writes its name into the change log first.
"""

import io
import json
import select
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2

from cdc_embed.demo.postgres import EmbeddedPostgres
from cdc_embed.source.stream import Frame, Stream
from cdc_embed.wire.pgoutput import decode

FOLDER = Path(__file__).parent
VERSIONS = (16, 18)
SLOT = "golden"
LAST_STEP = "end of the script"
PATIENCE = 60.0
"""Seconds to wait for the last step in the change log."""

WIDE = ", ".join(f"c{number} text" for number in range(2, 61))
WIDE_VALUES = ", ".join(
    "null" if number % 7 == 0 else f"'value {number}'" for number in range(2, 61)
)

# Out of line, because long, and not compressed. The same in every run.
LONG = "(select string_agg(md5(n::text), '') from generate_series(1, 70) n)"
LONGER = "(select string_agg(md5(n::text), '') from generate_series(101, 175) n)"

SCHEMA = f"""
create schema "my schema";
create extension vector;
create table plain (id int primary key, body text);
create table toasted (id int primary key, title text, body text);
alter table toasted alter body set storage external;
create table everything (id int primary key, title text, body text);
alter table everything alter body set storage external;
alter table everything replica identity full;
create table indexed (id int primary key, code text not null unique, body text);
alter table indexed replica identity using index indexed_code_key;
create table nothing (id int primary key, body text);
alter table nothing replica identity nothing;
create table keyless (body text);
create table "my schema"."we""ird, Table.name" (
  "Id" int primary key, "a ""b"", c" text, "ключ🔑" text
);
create table wide (c1 int primary key, {WIDE});
create table composite (
  tenant uuid, at timestamptz, body text, amount numeric, primary key (tenant, at, amount)
);
create type mood as enum ('sad', 'über happy');
create domain label as varchar(40) check (value <> '');
create type address as (street text, number int);
create table typed (
  id int primary key, mood mood, moods mood[], label label, home address, embedding vector(3),
  yes_or_no information_schema.yes_or_no, catalogue pg_catalog.pg_tables
);
create table builtin (
  id bigint primary key, bool bool, letter "char", code char(5), short varchar(3),
  amount numeric(8,2), anything numeric, real float4, double float8, bytes bytea, day date,
  clock time, at timestamp, atz timestamptz, lasts interval, document jsonb, raw json, uuid uuid,
  address inet, bits bit varying, matrix int[], spans int4range, words tsvector
);
create table customers (id int generated always as identity primary key, name text);
create table orders (
  id int generated always as identity primary key, customer int references customers
);
create table listed (id int primary key, body text, secret text);
create table evolving (id int primary key, body text);
create table generated (
  id int primary key, amount int, twice int generated always as (amount * 2) stored, note text
);
"""

ONLY_18 = "alter table generated add virtual int generated always as (amount * 3) virtual"

PUBLICATION = """
create publication golden for table
  plain, toasted, everything, indexed, nothing, keyless, "my schema"."we""ird, Table.name", wide,
  composite, typed, builtin, customers, orders, listed (id, body), evolving, generated
"""

STEPS: list[tuple[str, ...]] = [
    ("insert two rows", "insert into plain values (1, 'one'), (2, 'two')"),
    ("update without an old tuple", "update plain set body = 'ONE' where id = 1"),
    ("update that changes nothing", "update plain set body = body where id = 1"),
    ("update of the key", "update plain set id = 3 where id = 2"),
    ("delete by key", "delete from plain where id = 1"),
    (
        "delete and insert of one key, insert and delete of another, in one transaction",
        "delete from plain where id = 3; insert into plain values (3, 'again'), (4, 'short');"
        "delete from plain where id = 4",
    ),
    (
        "upsert",
        "insert into plain values (3, 'upserted'), (5, 'new')"
        " on conflict (id) do update set body = excluded.body",
    ),
    ("every key changes its sign", "update plain set id = -id"),
    (
        "null, empty and blank",
        "insert into plain values (10, null), (11, ''), (12, ' '),"
        " (13, E'\\n\\t\\r'), (14, 'null')",
    ),
    (
        "emoji, right to left, combining, zero width, outside the BMP",
        "insert into plain values (20, '🙂👍🏽 👩\u200d👩\u200d👧'), (21, 'שלום עולם مرحبا'),"
        " (22, 'caf\u00e9'), (23, 'cafe\u0301'), (24, 'a\u200bb\ufeffc'),"
        " (25, '\U00010348\U0010fffd'),"
        " (26, E'back\\\\slash, \"quotes\", ''apostrophes'', \\x01\\x7f')",
    ),
    (
        "text out of line",
        f"insert into toasted values (1, 'first', {LONG}), (2, 'second', {LONGER})",
    ),
    ("unchanged out-of-line text", "update toasted set title = 'FIRST' where id = 1"),
    ("changed out-of-line text", f"update toasted set body = {LONGER} where id = 1"),
    ("key update with unchanged out-of-line text", "update toasted set id = 7 where id = 1"),
    ("delete of out-of-line text", "delete from toasted where id = 7"),
    ("replica identity full: insert", f"insert into everything values (1, null, {LONG})"),
    ("replica identity full: update", "update everything set title = 'named'"),
    ("replica identity full: key update", "update everything set id = 2, body = ''"),
    ("replica identity full: delete", "delete from everything"),
    ("replica identity index: insert", "insert into indexed values (1, 'x', 'body')"),
    ("replica identity index: the primary key changes", "update indexed set id = 2"),
    ("replica identity index: the code changes", "update indexed set code = 'y'"),
    ("replica identity index: delete", "delete from indexed"),
    ("replica identity nothing", "insert into nothing values (1, 'body')"),
    ("no key at all", "insert into keyless values ('body'), (null)"),
    (
        "quoted names",
        "insert into \"my schema\".\"we\"\"ird, Table.name\" values (1, 'it''s', '🔑');"
        'update "my schema"."we""ird, Table.name" set "Id" = 2, "ключ🔑" = null',
    ),
    ("sixty columns", f"insert into wide values (1, {WIDE_VALUES})"),
    ("one of sixty columns", "update wide set c60 = 'last'"),
    (
        "composite key",
        "insert into composite values ('6F9619FF-8B86-D011-B42D-00CF4FC964FF',"
        " '2024-02-29 23:59:59.999999+05:30', 'body', 1.50)",
    ),
    ("composite key: another column", "update composite set body = 'BODY'"),
    ("composite key: one part changes", "update composite set amount = -0.0001"),
    ("composite key: delete", "delete from composite"),
    (
        "enum, enum array, domain, composite, extension type, domain and row of the catalogues",
        "insert into typed values (1, 'über happy', '{sad,NULL}', 'a label',"
        " row('High \"Street\", 1', null), '[1,-2.5,0]', 'YES', '(s,t,o,,t,f,t,)')",
    ),
    (
        "types of the server",
        "insert into builtin values (9223372036854775807, true, 'x', 'ab', 'abc', 1234.5,"
        " 'NaN', 1.1, 'Infinity', '\\x00ff27', 'infinity', '23:59:59.5', '4713-01-01 BC',"
        " '2025-03-30 02:30:00+02', '1 year -2 days 03:04:05.006',"
        ' \'{"b": [1, null], "a": "é"}\','
        " '{\"b\" : 1,\"b\":2}', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', '10.0.0.1/8', B'0101',"
        " '{{1,2},{3,NULL}}', '[1,5]', 'fat & rats');"
        "insert into builtin (id) values (-9223372036854775808)",
    ),
    (
        "rows for truncate",
        "insert into customers (name) values ('Ada'), ('Bob');"
        "insert into orders (customer) values (2)",
    ),
    ("truncate one table", "truncate plain"),
    ("truncate of two, identities restarted", "truncate orders, customers restart identity"),
    ("truncate that reaches another table", "truncate customers cascade"),
    ("truncate of three with everything", "truncate toasted, customers restart identity cascade"),
    (
        "truncate and insert in one transaction",
        "insert into plain values (30, 'gone'); truncate plain;"
        "insert into plain values (31, 'stays')",
    ),
    (
        "messages in a transaction",
        "select pg_logical_emit_message(true, 'prefix', 'content ✓');"
        "insert into plain values (32, 'between');"
        "select pg_logical_emit_message(true, '', '')",
    ),
    (
        "message beside a transaction, of bytes",
        "select pg_logical_emit_message(false, 'préfixe', '\\x00ff00'::bytea)",
    ),
    ("message alone in a transaction", "select pg_logical_emit_message(true, 'alone', 'x')"),
    (
        "rolled back but for its message outside",
        "begin",
        "insert into plain values (40, 'never')",
        "select pg_logical_emit_message(true, 'lost', 'never')",
        "select pg_logical_emit_message(false, 'kept', 'outlives the rollback')",
        "rollback",
    ),
    (
        "savepoint rolled back",
        "begin",
        "insert into plain values (41, 'before')",
        "savepoint s",
        "insert into plain values (42, 'never')",
        "rollback to s",
        "insert into plain values (43, 'after')",
        "commit",
    ),
    (
        "transaction with an origin",
        "select pg_replication_origin_create('upstream node')",
        "select pg_replication_origin_session_setup('upstream node')",
        "begin",
        "select pg_replication_origin_xact_setup('16/B374D848', '2020-01-02 03:04:05.678901+00')",
        "insert into plain values (50, 'from upstream')",
        "commit",
        "select pg_replication_origin_session_reset()",
    ),
    (
        "prepared transaction",
        "begin",
        "insert into plain values (51, 'prepared')",
        "prepare transaction 'p'",
        "insert into plain values (52, 'committed before it')",
        "commit prepared 'p'",
    ),
    ("copy", "copy plain from stdin\n60\tsixty\n61\t\\N\n62\t\n63\ta\\tb\n64\tlast\n"),
    ("column list: insert", "insert into listed values (1, 'body', 'secret')"),
    ("column list: only another column changes", "update listed set secret = 'changed'"),
    ("generated columns", "insert into generated (id, amount, note) values (1, 21, 'n')"),
    (
        "a column is added",
        "insert into evolving values (1, 'old');"
        "alter table evolving add column extra int default 7;"
        "update evolving set body = 'new'",
    ),
    (
        "a column changes its type, another its name",
        "alter table evolving alter extra type text using 'n' || extra;"
        "alter table evolving rename body to text; insert into evolving values (2, 'b', 'e')",
    ),
    (
        "a column is dropped",
        "alter table evolving drop column text; update evolving set extra = 'E'",
    ),
    (
        "the table is renamed",
        "alter table evolving rename to evolved; delete from evolved where id = 1",
    ),
    (LAST_STEP,),
]


def main() -> None:
    """Capture all versions."""
    for version in VERSIONS:
        frames = capture(version)
        write(version, frames)
        sys.stdout.write(f"PostgreSQL {version}: {len(frames)} frames\n")


def capture(version: int) -> list[Frame]:
    """Every frame of the script, from a server made for it."""
    with EmbeddedPostgres(version, {"max_prepared_transactions": "2"}) as server:
        with closing(psycopg2.connect(server.dsn())) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(SCHEMA)
                if version >= 18:
                    cursor.execute(ONLY_18)
                    cursor.execute(PUBLICATION + "with (publish_generated_columns = stored)")
                else:
                    cursor.execute(PUBLICATION)
                cursor.execute(f"select pg_create_logical_replication_slot('{SLOT}', 'pgoutput')")
                for name, *statements in STEPS:
                    cursor.execute("select pg_logical_emit_message(false, 'step', %s)", (name,))
                    for statement in statements:
                        if statement.startswith("copy"):
                            command, _, rows = statement.partition("\n")
                            cursor.copy_expert(command, io.StringIO(rows))
                        else:
                            cursor.execute(statement)
        return list(read_all(server.dsn()))


def read_all(dsn: str) -> Iterator[Frame]:
    """The frames of the slot, until the last step's name has come."""
    with closing(Stream(dsn, SLOT)) as stream:
        stream.start({"proto_version": "1", "publication_names": SLOT, "messages": "true"})
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            frame = stream.read()
            if frame is None:
                select.select([stream], [], [], 0.1)
                continue
            yield frame
            if frame.payload.endswith(LAST_STEP.encode()):
                return
    raise TimeoutError(LAST_STEP)


def write(version: int, frames: list[Frame]) -> None:
    """Put the frames and their meaning beside this file."""
    with (FOLDER / f"pgoutput-{version}.jsonl").open("w") as raw:
        for frame in frames:
            line = {"data_start": str(frame.data_start), "payload": frame.payload.hex()}
            raw.write(json.dumps(line) + "\n")
    with (FOLDER / f"pgoutput-{version}.txt").open("w") as expected:
        for frame in frames:
            expected.write(ascii(decode(frame.payload)) + "\n")


if __name__ == "__main__":
    main()
