"""Partitioned tables, published as one: changes name the root, whichever partition has the row."""

from typing import Final

from tests.row_images.stage import Case

THREE: Final = (
    "insert into events values (1, '2024-01-10', 'one', big(1)), (2, '2024-02-10', 'two', big(2)),"
    "(3, '2024-07-10', 'three', 'third')",
)

CASES: Final = {
    "rows of several partitions": Case(
        given=THREE,
        when=(
            "update events set views = 1",
            "update events set title = 'other' where id <= 2",
            "update events set id = 30 where id = 3",
            "delete from events where id = 1",
        ),
        texts=1,
        alone=2,
    ),
    "rows written to the partition itself": Case(
        given=THREE,
        when=(
            "insert into january values (4, '2024-01-11', 'four', 'fourth')",
            "update autumn_and_later set title = 'other' where id = 3",
            "delete from january where id = 1",
        ),
        texts=2,
    ),
    "an update moves a row to another partition": Case(
        given=THREE,
        when=("update events set day = '2024-02-20', views = 1 where id = 1",),
        texts=0,
        alone=range(2),
    ),
    "an update changes a row and moves it": Case(
        given=THREE,
        when=("update events set day = '2024-05-20', body = 'new' where id = 1",),
        texts=1,
    ),
    "a row moves there and back": Case(
        given=THREE,
        when=(
            "update events set day = '2024-02-10' where id = 1",
            "update events set day = '2024-01-10' where id = 1",
        ),
        texts=0,
        alone=range(3),
    ),
    "every row moves": Case(
        given=THREE,
        when=("update events set day = day + 40",),
        texts=0,
        alone=range(4),
    ),
    "truncate of all partitions": Case(
        given=THREE,
        when=("truncate events", "insert into events values (1, '2024-01-10', 't', 'again')"),
        texts=1,
        pauses=True,
    ),
    "a partition is attached and written to": Case(
        given=THREE,
        when=(
            "create table next_year (like events including all)",
            "alter table events attach partition next_year for values from ('2025-01-01') to "
            "('2026-01-01')",
            "insert into events values (5, '2025-05-05', 'five', 'fifth')",
            "update events set day = '2025-01-10' where id = 3",
            "delete from events where day > '2025-01-01'; drop table next_year",
        ),
        texts=1,
        alone=range(3),
        pauses=True,
    ),
}
