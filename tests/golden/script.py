"""The SQL whose change log ``capture.py`` stores: a schema, and steps that each have a name."""

LAST_STEP = "end of the script"

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

# -- for wal2json, on a server without pgvector ---------------------------------------------------

SCHEMA_15 = (
    SCHEMA.replace("extension vector", "extension citext").replace("vector(3)", "citext")
    + """
create domain rough as numeric;
create domain raw_bytes as bytea;
create table numbers (
  id numeric primary key, short int2, word int4, long int8, object oid, anything numeric,
  fixed numeric(6,2), real float4, double float8, rough rough, raw raw_bytes
);
create table untouched (id int primary key, body text);
create table unasked (id int primary key references untouched, body text);
create table far (id text primary key, title text, body text);
alter table far alter id set storage external, alter body set storage external;
create table whole (a int, b text, primary key (b, a));
alter table whole replica identity full;
create table swinging (id int primary key, body text);
create table unkeyed (id int primary key, body text);
"""
)

KEY = "(select rpad('key ', 2200, 'k'))"

STEPS_WAL2JSON: list[tuple[str, ...]] = [
    *STEPS[:-1],
    (
        "digits that no float holds",
        "insert into numbers values (1.50, -32768, -2147483648, -9223372036854775808, 4294967295,"
        " 18446744073709551617, 1234.50, 1.1, 5e-324, 1.10, '\\x00ff');"
        "insert into numbers values (-0.00, 32767, 2147483647, 9223372036854775807, 0,"
        " 1e400 + 0.5, -0.10, '-0', '-0', 1e40, ''),"
        " (2, 0, 0, 0, 0, 1e-400, 0, 1e20, 1e300, 12345678901234567890.0, '\\x5c');"
        "update numbers set id = 1.500, word = null where id = 1.5",
    ),
    (
        "not a number",
        "insert into numbers (id, short, anything, fixed, real, double, rough) values"
        " (3, null, 'NaN', 'NaN', 'NaN', 'NaN', 'NaN'),"
        " (4, null, 'Infinity', null, 'Infinity', 'Infinity', 'Infinity'),"
        " (5, null, '-Infinity', null, '-Infinity', '-Infinity', '-Infinity')",
    ),
    ("truncate before any row, of a table that is not asked for too", "truncate untouched cascade"),
    (
        "rows of a table that is not asked for",
        "insert into untouched values (1, 'asked for'); insert into unasked values (1, 'no')",
    ),
    (
        "messages of others, of bytes that are no text",
        "select pg_logical_emit_message(true, 'other', '\\xff'::bytea);"
        "select pg_logical_emit_message(false, 'cdc_embed other', '\\xfe'::bytea);"
        "update untouched set body = body",
    ),
    ("key out of line: insert", f"insert into far values ({KEY}, 'title', {LONG})"),
    ("key out of line: another column", "update far set title = 'TITLE'"),
    ("key out of line: it changes, the text does not", "update far set id = 'short'"),
    ("key out of line: delete", "delete from far"),
    (
        "replica identity full, all of it the key",
        "insert into whole values (1, 'b'); update whole set b = b; update whole set a = 2;"
        "delete from whole",
    ),
    ("replica identity changes: an insert before", "insert into swinging values (1, 'one')"),
    (
        "replica identity changes: to full",
        "alter table swinging replica identity full; update swinging set body = 'ONE'",
    ),
    (
        "replica identity changes: to nothing, only an insert arrives",
        "alter table swinging replica identity nothing; update swinging set body = 'never';"
        "insert into swinging values (2, 'two'); delete from swinging where id = 1",
    ),
    (
        "replica identity changes: back to the default",
        "alter table swinging replica identity default; update swinging set body = 'TWO';"
        "delete from swinging",
    ),
    (
        "the primary key goes, and is another one",
        "insert into unkeyed values (1, 'one'); alter table unkeyed drop constraint unkeyed_pkey;"
        "insert into unkeyed values (2, 'two'); update unkeyed set body = 'never' where id = 2;"
        "alter table unkeyed add primary key (body);"
        "insert into unkeyed values (3, 'three'); update unkeyed set body = 'THREE' where id = 3",
    ),
    (LAST_STEP,),
]
