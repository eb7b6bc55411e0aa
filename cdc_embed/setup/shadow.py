"""The rows of a source table, slice by slice, for the shadow of its table of vectors; and a
rehearsal of the swap, before they are read."""

from collections.abc import Iterator, Mapping
from threading import Event
from typing import Final

from cdc_embed.change.action import Row
from cdc_embed.change.document import Key, Table
from cdc_embed.errors import PreflightError, TargetRefusedError
from cdc_embed.postgres.ddl import Ddl, OnWait
from cdc_embed.postgres.session import Session
from cdc_embed.postgres.words import describe_statement
from cdc_embed.setup.locks import run_without_queueing
from cdc_embed.source.rows import RowReader
from cdc_embed.target.shadow import Shadow

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


def rehearse(session: Session, shadow: Shadow, swap: Ddl, on_wait: OnWait) -> None:
    """Put the empty shadow in the place of the table of vectors, and roll back.

    An expression of the application (a policy, a default, an index) can be of another type than the
    key has now. That is said before anything is copied.
    """
    name = shadow.table.full_name
    try:
        statements = [ddl.text(session) for ddl in (shadow.indexes_ddl(), swap)]
        run_without_queueing(session, name, statements, on_wait, keep=False)
    except TargetRefusedError as exc:
        run_without_queueing(session, name, [shadow.drop_ddl().text(session)])
        said = describe_statement(exc.__cause__) or str(exc)
        raise PreflightError(
            where=f"table {name}",
            problem=f"something of yours does not fit the key that it has now: {said}",
            hint="drop that, run: cdc-embed setup, and create it again as the key is now",
            table=name,
        ) from exc
