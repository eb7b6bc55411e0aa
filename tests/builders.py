"""Tables, changes and checkpoints for tests that need no database.

Each has the fields that a test names, and the same others everywhere. What the source logs is made
in ``frames``.
"""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from cdc_embed.change.document import Key, Table, TableColumn
from cdc_embed.change.event import Change, Op
from cdc_embed.lsn import LSN, START, ZERO, Checkpoint, Identity, Position
from cdc_embed.wire.messages import Value

NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
HERE: Final = Identity(system_identifier="1", database="d", timeline=1)
"""The source and the target of every checkpoint that names no other."""
ID: Final = TableColumn("id", "bigint")


def table(
    name: str = "t",
    *metadata: TableColumn,
    oid: int = 1,
    key: tuple[TableColumn, ...] = (ID,),
    text: tuple[str, ...] = ("title", "body"),
    template: str | None = None,
) -> Table:
    return Table(
        schema="public",
        name=name,
        oid=oid,
        key=key,
        text_columns=text,
        template=template,
        embedding_table=f"{name}_embedding",
        metadata=metadata,
    )


TABLE: Final = table()
FIRST: Final = table("first", text=("body",))
SECOND: Final = table("second", text=("body",))


def change(
    op: Op,
    key: Key = (),
    texts: tuple[Value, ...] = (),
    old_key: Key | None = None,
    *,
    metadata: tuple[Value, ...] = (),
    table: Table = TABLE,
    size: int = 0,
    at: tuple[int, int] = (1, 1),
) -> Change:
    return Change(
        position=Position(LSN(at[0]), at[1]),
        xid=1,
        committed_at=NOW,
        table=table,
        op=op,
        key=key,
        old_key=old_key,
        texts=texts,
        metadata=metadata,
        size=size,
    )


def touch(
    xid: int, key: str = "1", *, old: str | None = None, op: Op = Op.UPDATE, of: Table = FIRST
) -> Change:
    """Make a change of which only the row and the transaction are of interest."""
    made = change(
        op,
        () if op is Op.TRUNCATE else (key,),
        old_key=(old,) if old is not None else None,
        table=of,
    )
    return replace(made, xid=xid)


def checkpoint(
    position: Position = START,
    *,
    end_lsn: int = ZERO,
    confirmed_lsn: int = ZERO,
    identity: Identity = HERE,
) -> Checkpoint:
    return Checkpoint(
        slot="s",
        source=identity,
        target=identity,
        position=position,
        end_lsn=LSN(end_lsn),
        confirmed_lsn=LSN(confirmed_lsn),
        batch_seq=0,
        epoch=1,
    )
