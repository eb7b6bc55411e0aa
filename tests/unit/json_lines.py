"""Lines as wal2json.c writes them, for the decoder's tests."""

import json
from collections.abc import Mapping

from cdc_embed.wire.wal2json import TableName

TEXT, INT8, NUMERIC, BYTEA = 25, 20, 1700, 17
MOMENT = "2026-11-20 13:32:47.8039+00"


def frame(
    action: str,
    columns: Mapping[str, tuple[int, str]] | None = None,
    identity: Mapping[str, tuple[int, str]] | None = None,
    pk: tuple[str, ...] = ("id",),
    table: TableName = ("public", "t"),
) -> bytes:
    """A row's line; a column is its type's oid and its value as JSON."""
    parts = [f'"action":"{action}","xid":7,"timestamp":"{MOMENT}","lsn":"0/10"']
    parts.append(f'"schema":{quoted(table[0])},"table":{quoted(table[1])}')
    for field, row in (("columns", columns), ("identity", identity)):
        if row is not None:
            listed = (
                f'{{"name":{quoted(name)},"typeoid":{kind},"value":{value}}}'
                for name, (kind, value) in row.items()
            )
            parts.append(f'"{field}":[{",".join(listed)}]')
    if action in "IUD":
        listed = (f'{{"name":{quoted(name)},"typeoid":20}}' for name in pk)
        parts.append(f'"pk":[{",".join(listed)}]')
    return f"{{{','.join(parts)}}}".encode()


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def text(value: str) -> tuple[int, str]:
    return TEXT, quoted(value)
