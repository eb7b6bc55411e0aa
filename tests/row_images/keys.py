"""Keys that change, keys of several columns, of text, and REPLICA IDENTITY FULL."""

from typing import Final

from tests.row_images.stage import Case

BIG: Final = ("insert into documents values (1, 'one', big(1)), (2, 'two', big(2))",)
BODIES: Final = ("insert into bodies values (1, big(1)), (2, big(2))",)

CASES: Final = {
    "the key of a row with one text out of line": Case(
        given=BIG,
        when=("update documents set id = 10, views = 7 where id = 1",),
        texts=0,
    ),
    "the key and one of two texts, the other out of line": Case(
        given=BIG, when=("update documents set id = 10, title = 'uno' where id = 1",), texts=1
    ),
    "a key there and back": Case(
        given=BODIES,
        when=(
            "update bodies set id = 10 where id = 1",
            "update bodies set views = 1",
            "update bodies set id = 1 where id = 10",
        ),
        texts=0,
    ),
    "a key moves, then the text changes": Case(
        given=BIG,
        when=(
            "update documents set id = 10 where id = 1;"
            "update documents set body = 'b' where id = 10",
        ),
        texts=1,
        alone=range(1, 3),
    ),
    "a text changes, then the key moves": Case(
        given=BIG,
        when=(
            "update documents set body = big(10) where id = 1",
            "update documents set id = 10 where id = 1",
        ),
        texts=1,
    ),
    "two keys swapped in one transaction": Case(
        given=BODIES,
        when=(
            "update bodies set id = -1 where id = 1; update bodies set id = 1 where id = 2;"
            "update bodies set id = 2 where id = -1",
        ),
        texts=0,
    ),
    "two keys swapped in three transactions": Case(
        given=BODIES,
        when=(
            "update bodies set id = -1 where id = 1",
            "update bodies set id = 1 where id = 2",
            "update bodies set id = 2 where id = -1",
        ),
        texts=0,
    ),
    "every key shifted": Case(
        given=("insert into documents select i, 't', 'text ' || i from generate_series(1, 20) i",),
        when=("update documents set id = -id", "update documents set id = 21 + id"),
        texts=0,
    ),
    "a key moves to that of a deleted row": Case(
        given=BODIES,
        when=("delete from bodies where id = 2; update bodies set id = 2 where id = 1",),
        texts=0,
    ),
    "a key moves and another row takes its place": Case(
        given=BIG,
        when=(
            "update documents set id = 10 where id = 1",
            "insert into documents values (1, 't', 'b')",
        ),
        texts=1,
    ),
    "replica identity full: delete and insert, another key": Case(
        given=("insert into whole values (1, 'one', big(1)), (2, 'two', big(2))",),
        when=(
            "delete from whole where id = 1; insert into whole values (1, 'one', big(1));"
            "update whole set id = -id, views = 5",
        ),
        texts=0,
        alone=range(2),
    ),
    "composite key": Case(
        given=("insert into pairs values (1, 'x', 'one', big(1)), (1, 'y', 'two', big(2))",),
        when=(
            "update pairs set views = 1",
            "update pairs set b = b || 'z'",
            "update pairs set a = 2 where b = 'xz'",
            "update pairs set title = 'other' where a = 2",
            "delete from pairs where a = 1",
            "insert into pairs values (1, 'yz', 'new', 'text')",
        ),
        texts=2,
    ),
    "text key": Case(
        given=("insert into words values ('', 'one', big(1)), ('it''s', 'two', big(2))",),
        when=(
            "update words set views = 1",
            "update words set id = E'a\\\\b \\n\\t\"{}' where id = ''",
            "update words set title = 'other' where id <> 'it''s'",
            "update words set id = '' where id = 'it''s'",
        ),
        texts=1,
    ),
}
