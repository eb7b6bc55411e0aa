"""Cases of whole tables or transactions: TRUNCATE, savepoints, messages, types, DDL."""

from typing import Final

from tests.row_images.stage import Case

TWO: Final = ("insert into scratch values (1, 'one', 'first'), (2, 'two', 'second')",)

CASES: Final = {
    "truncate of two tables, then insert": Case(
        given=(*TWO, "insert into notes (title, body) values ('n', 'note')"),
        when=(
            "insert into scratch values (3, 't', 'gone at once');"
            "truncate scratch, notes, replies restart identity;"
            "insert into scratch values (1, 'one', 'again');"
            "insert into notes (title, body) values ('n', 'another note')",
        ),
        texts=2,
        alone=range(2, 4),
        pauses=True,
    ),
    "truncate that reaches another table": Case(
        given=(
            "insert into notes (title, body) values ('n', 'note')",
            "insert into replies (title, body, note) select 'r', 'reply', id from notes",
        ),
        when=("truncate notes cascade", "insert into notes (title, body) values ('m', 'new')"),
        texts=1,
        pauses=True,
    ),
    "truncate, then the same rows": Case(
        given=TWO, when=("truncate scratch; " + TWO[0],), texts=0, alone=range(3), pauses=True
    ),
    "truncate rolled back": Case(given=TWO, when=("begin; truncate scratch; rollback",), texts=0),
    "savepoints": Case(
        given=TWO,
        when=(
            "begin; insert into scratch values (3, 't', 'stays'); savepoint a;"
            "update scratch set body = 'never'; truncate scratch; rollback to a;"
            "insert into scratch values (4, 't', 'stays too'); savepoint b;"
            "update scratch set body = 'changed' where id = 1; savepoint c;"
            "delete from scratch where id = 2; rollback to c; release b; commit",
        ),
        texts=3,
    ),
    "rollback": Case(
        given=TWO,
        when=(
            "begin; update scratch set body = 'never'; delete from scratch where id = 2;"
            "insert into scratch values (3, 't', 'never'); rollback",
        ),
        texts=0,
    ),
    "messages of the application": Case(
        when=(
            "select pg_logical_emit_message(true, 'prefix', 'content ✓');"
            "insert into documents values (1, 't', 'between');"
            "select pg_logical_emit_message(true, '', '')",
            "select pg_logical_emit_message(false, 'cdc_embed', '\\x00ff00'::bytea)",
            "select pg_logical_emit_message(true, 'alone', 'x')",
        ),
        texts=1,
    ),
    "a transaction with an origin": Case(
        when=(
            "select pg_replication_origin_create(current_database())",
            "select pg_replication_origin_session_setup(current_database())",
            "begin; select pg_replication_origin_xact_setup('16/B374D848', '2020-01-02');"
            "insert into documents values (1, 't', 'from upstream'); commit",
            "update documents set body = 'from upstream again'",
            "select pg_replication_origin_session_reset()",
            "select pg_replication_origin_drop(current_database())",
            "update documents set views = 5",
        ),
        texts=1,
        alone=range(1, 3),
        pauses=True,
    ),
    "texts of types of their own": Case(
        given=("insert into moods values (1, 'title', 'sad'), (2, null, 'glad')",),
        when=(
            "update moods set body = body",
            "update moods set body = 'glad' where id = 1",
            "update moods set title = 'named', body = null where id = 2",
        ),
        texts=2,
    ),
    "a generated column": Case(
        given=("insert into sums values (1, 'one', 'first')",),
        when=("update sums set body = body", "update sums set body = 'longer than first'"),
        texts=1,
    ),
    "a column is added and dropped between transactions": Case(
        given=TWO,
        when=(
            "alter table scratch add extra text default 'x'",
            "update scratch set extra = 'y'",
            "update scratch set body = 'new' where id = 1",
            "alter table scratch drop extra",
            "update scratch set body = 'newer' where id = 2",
        ),
        texts=2,
        pauses=True,
    ),
    "a column is added and dropped inside a transaction": Case(
        given=TWO,
        when=(
            "begin; update scratch set body = 'new' where id = 1;"
            "alter table scratch add extra text default 'x';"
            "insert into scratch values (3, 't', 'third', 0, 'extra'); savepoint a;"
            "alter table scratch drop extra; insert into scratch values (4, 't', 'never');"
            "rollback to a; update scratch set id = 5 where id = 2;"
            "alter table scratch drop extra; insert into scratch values (6, 't', 'sixth');"
            "commit",
        ),
        texts=3,
        pauses=True,
    ),
    "another column is renamed": Case(
        given=TWO,
        when=(
            "alter table scratch rename views to seen",
            "update scratch set seen = 9",
            "alter table scratch rename seen to views",
            "update scratch set body = 'new' where id = 1",
        ),
        texts=1,
        pauses=True,
    ),
    "rewrites": Case(
        given=(*TWO, "insert into scratch values (3, 'three', big(3))"),
        when=(
            "alter table scratch add stamp uuid default gen_random_uuid()",
            "alter table scratch alter views type bigint",
            "update scratch set views = 9",
            "alter table scratch drop stamp, alter views type integer",
            "vacuum full scratch",
            "cluster scratch using scratch_pkey",
            "update scratch set views = 10",
        ),
        texts=0,
        pauses=True,
    ),
    "another replica identity and back": Case(
        given=("insert into whole values (1, 'one', big(1)), (2, 'two', big(2))",),
        when=(
            "alter table whole replica identity default",
            "update whole set views = 1",
            "update whole set title = 'uno' where id = 1",
            "delete from whole where id = 2",
            "alter table whole replica identity full",
            "update whole set views = 2, id = 5",
        ),
        texts=1,
        alone=range(1, 3),
        pauses=True,
    ),
}
