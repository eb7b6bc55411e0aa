"""Lines as wal2json.c writes them, and those that a server sent, for the decoder's tests."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from cdc_embed.errors import DecodeError
from cdc_embed.wire.messages import Message
from cdc_embed.wire.wal2json import Followed, QualifiedName, Wal2json

GOLDEN = Path(__file__).parents[1] / "golden" / "wal2json-15"
OID = 16384
TEXT, INT8, NUMERIC, BYTEA = 25, 20, 1700, 17
MOMENT = "2026-11-20 13:32:47.8039+00"


def frame(
    action: str,
    columns: Mapping[str, tuple[int, str]] | None = None,
    identity: Mapping[str, tuple[int, str]] | None = None,
    pk: tuple[str, ...] = ("id",),
    table: QualifiedName = ("public", "t"),
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


def decoder(*columns: str, codec: str = "utf-8") -> Wal2json:
    """One that follows ``public.t``."""
    followed = Followed(oid=OID, columns=frozenset(columns or ("id", "body")))
    return Wal2json({("public", "t"): followed}, codec)


def outcome(payload: bytes, follower: Wal2json) -> tuple[Message, ...] | DecodeError:
    """Return the messages or the DecodeError; any other error fails the test."""
    try:
        return follower.decode(payload)
    except DecodeError as error:
        return error


def refusal(payload: bytes, follower: Wal2json | None = None) -> DecodeError:
    error = outcome(payload, follower or decoder())
    assert isinstance(error, DecodeError), f"{payload!r} was taken for {error!r}"
    return error


@cache
def golden() -> tuple[dict[QualifiedName, Followed], list[bytes], list[str]]:
    """The tables that were asked for, the frames, and what they mean."""
    head, *lines = _stored()
    tables = {
        (table["schema"], table["table"]): Followed(
            oid=table["oid"], columns=frozenset(table["columns"])
        )
        for table in head["tables"]
    }
    frames = [line["payload"].encode() for line in lines]
    return tables, frames, GOLDEN.with_suffix(".txt").read_text().splitlines()


def starts() -> list[str]:
    """Each frame's place in the log, as the server gave it."""
    return [line["data_start"] for line in _stored()[1:]]


def _stored() -> list[dict[str, Any]]:
    return [json.loads(line) for line in GOLDEN.with_suffix(".jsonl").read_text().splitlines()]
