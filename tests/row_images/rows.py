"""Inserts, updates and deletes, as different statements make them."""

from typing import Final

from tests.row_images.stage import Case

TWO: Final = ("insert into documents values (1, 'one', 'first'), (2, 'two', 'second')",)
BIG: Final = ("insert into documents values (1, 'one', big(1)), (2, 'two', big(2))",)
BODIES: Final = ("insert into bodies values (1, big(1)), (2, big(2))",)

CASES: Final = {
    "insert": Case(when=TWO, texts=2),
    "insert, update and delete in one transaction": Case(
        when=(
            "insert into documents values (1, 't', 'short life');"
            "update documents set body = 'still short';"
            "delete from documents",
        ),
        texts=0,
        alone=range(3),
    ),
    "insert and update in one transaction": Case(
        when=("insert into documents values (1, 't', 'a'); update documents set body = 'b'",),
        texts=1,
        alone=range(1, 3),
    ),
    "delete and insert of one key in one transaction": Case(
        given=TWO,
        when=("delete from documents where id = 1; insert into documents values (1, 'one', 'x')",),
        texts=1,
    ),
    "delete and insert of one key with the same text": Case(
        given=TWO,
        when=("delete from documents; " + TWO[0],),
        texts=0,
        alone=range(3),
    ),
    "delete and insert of one key in two transactions": Case(
        given=TWO, when=("delete from documents", *TWO), texts=0, alone=2
    ),
    "insert and delete in two transactions": Case(
        when=("insert into documents values (1, 't', 'b')", "delete from documents"),
        texts=0,
        alone=1,
    ),
    "one key in three transactions": Case(
        given=BIG,
        when=(
            "update documents set body = big(10) where id = 1",
            "update documents set views = 1 where id = 1",
            "update documents set title = 'uno' where id = 1",
        ),
        texts=1,
        alone=2,
    ),
    "a text changes, then only another column": Case(
        given=BIG,
        when=("update documents set body = big(10)", "update documents set views = 1"),
        texts=2,
    ),
    "a text changes and changes back": Case(
        given=TWO,
        when=(
            "update documents set body = 'other' where id = 1",
            "update documents set body = 'first' where id = 1",
        ),
        texts=0,
        alone=2,
    ),
    "update to the same text": Case(
        given=(*TWO, "insert into documents values (3, 'three', big(3))"),
        when=(
            "update documents set body = body",
            "update documents set body = body || '', title = title || ''",
        ),
        texts=0,
    ),
    "upsert": Case(
        given=TWO,
        when=(
            "insert into documents values (1, 'one', 'first'), (2, 'two', 'new'), (3, 't', 'third')"
            "on conflict (id) do update set body = excluded.body",
            "insert into documents values (1, 'one', 'ignored') on conflict do nothing",
        ),
        texts=2,
    ),
    "merge": Case(
        given=(*TWO, "insert into documents values (3, 'three', 'third')"),
        when=(
            "merge into documents d "
            "using (values (1, 'first'), (2, null), (3, 'new'), (4, 'fourth')) v (id, body) "
            "on d.id = v.id when matched and v.body is null then delete "
            "when matched then update set body = v.body "
            "when not matched then insert (id, title, body) values (v.id, 't', v.body)",
        ),
        texts=2,
    ),
    "another column of a row whose text is out of line": Case(
        given=BODIES, when=("update bodies set views = views + 1",) * 3, texts=0
    ),
    "a text out of line changes, then only another column": Case(
        given=BODIES,
        when=("update bodies set body = big(10) where id = 1", "update bodies set views = 1"),
        texts=1,
    ),
    "another column of a row with one text out of line": Case(
        given=BIG, when=("update documents set views = views + 1",) * 3, texts=0
    ),
    "one of two texts, the other out of line": Case(
        given=BIG, when=("update documents set title = 'other' where id = 1",), texts=1
    ),
    "replica identity full": Case(
        given=("insert into whole values (1, 'one', big(1)), (2, 'two', big(2))",),
        when=(
            "update whole set views = 1",
            "update whole set body = body",
            "update whole set id = 10 where id = 1",
            "update whole set title = 'other' where id = 2",
            "delete from whole where id = 10",
        ),
        texts=1,
    ),
    "null, empty and blank": Case(
        when=(
            "insert into documents values (1, null, null), (2, '', ''), (3, ' ', E'\\t\\n')",
            "update documents set body = '' where id = 1",
            "update documents set title = null, views = 4",
        ),
        texts=0,
    ),
    "a text goes and comes back": Case(
        given=TWO,
        when=(
            "update documents set title = null, body = null where id = 1",
            "update documents set title = '', body = ' ' where id = 2",
            "update documents set title = 'one', body = 'first' where id = 1",
        ),
        texts=0,
        alone=1,
    ),
    "a thousand updates of other columns": Case(
        given=("insert into documents select i, 't', 'text ' || i from generate_series(1, 100) i",),
        when=("update documents set views = views + 1",) * 10,
        texts=0,
    ),
}
