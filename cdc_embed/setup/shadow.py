"""The rows of a source table, slice by slice, for the shadow of its table of vectors."""

from collections.abc import Iterator, Mapping
from threading import Event
from typing import Final

from cdc_embed.change.action import Row
from cdc_embed.change.document import Key, Table
from cdc_embed.postgres.session import Session
from cdc_embed.source.rows import RowReader

SLICE_ROWS: Final = 1000
RETRY_SECONDS: Final = 0.05


def all_rows(source: Session, table: Table) -> Iterator[Mapping[Key, Row | None]]:
    """Read every row of a table, in the order of its key."""
    pause = Event()
    reader = RowReader(source, pause)
    after: Key | None = None
    while True:
        found = reader.scan(table, after, SLICE_ROWS)
        if found is None:  # the table was rewritten meanwhile
            pause.wait(RETRY_SECONDS)
            continue
        yield found.rows
        if not found.more:
            return
        after = next(reversed(found.rows))
