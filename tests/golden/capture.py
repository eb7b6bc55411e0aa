"""Captures what servers send, for the decoders' tests: ``python -m tests.golden.capture NAME``.

One script of SQL (``script.py``) runs on a server made for it: an embedded PostgreSQL 16 or 18 for
``pgoutput-16`` and ``pgoutput-18``, Debian's 15 for ``wal2json-15``. Two files are written beside
this one:

- ``NAME.jsonl``: every frame, as the server sent it (data_start and payload, which is in hex where
  it is binary); before those of wal2json the tables that were asked for;
- ``NAME.txt``: what the decoder makes of it, the ``ascii()`` of one frame's messages a line.

The decoder cannot vouch for itself, so the second file is to be reviewed against the script, line
by line, before it is committed. Each step therefore writes its name into the change log first.
"""

import io
import json
import select
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2

from cdc_embed.demo.postgres import EmbeddedPostgres
from cdc_embed.rotation import Login
from cdc_embed.source.stream import Frame, Stream
from cdc_embed.wire import wal2json
from cdc_embed.wire.pgoutput import decode
from cdc_embed.wire.wal2json import Followed, QualifiedName, Wal2json
from tests.golden import script
from tests.installed import INSTALLED, InstalledPostgres

FOLDER = Path(__file__).parent
SLOT = "golden"
SETTINGS = {"max_prepared_transactions": "2"}
PATIENCE = 60.0
"""Seconds to wait for the last step in the change log."""


def main(names: list[str]) -> None:
    """Capture what is named."""
    for name in names:
        plugin, _, version = name.partition("-")
        frames = CAPTURES[plugin](name, int(version))
        sys.stdout.write(f"{name}: {len(frames)} frames\n")


def capture_pgoutput(name: str, version: int) -> list[Frame]:
    """Capture pgoutput's frames and write both files."""
    with EmbeddedPostgres(version, SETTINGS) as server:
        with closing(psycopg2.connect(server.dsn())) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(script.SCHEMA)
                if version >= 18:
                    cursor.execute(script.ONLY_18)
                    cursor.execute(script.PUBLICATION + "with (publish_generated_columns = stored)")
                else:
                    cursor.execute(script.PUBLICATION)
                run(cursor, "pgoutput", script.STEPS, prefix="step")
        options = {"proto_version": "1", "publication_names": SLOT, "messages": "true"}
        frames = list(read_all(server.dsn(), options))
    lines: list[dict[str, Any]] = [
        {"data_start": str(frame.data_start), "payload": frame.payload.hex()} for frame in frames
    ]
    write(name, lines, [ascii(decode(frame.payload)) for frame in frames])
    return frames


def capture_wal2json(name: str, version: int) -> list[Frame]:
    """Capture wal2json's frames and write both files."""
    with InstalledPostgres(version, SETTINGS) as server:
        with closing(psycopg2.connect(server.dsn())) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(script.SCHEMA_15)
                tables = followed(cursor)
                run(cursor, "wal2json", script.STEPS_WAL2JSON, prefix="cdc_embed")
        frames = list(read_all(server.dsn(), wal2json.options(tables)))
    asked = [
        {"schema": schema, "table": table, "oid": known.oid, "columns": sorted(known.columns)}
        for (schema, table), known in tables.items()
    ]
    lines: list[dict[str, Any]] = [{"tables": asked}]
    lines += [
        {"data_start": str(frame.data_start), "payload": frame.payload.decode()} for frame in frames
    ]
    decoder = Wal2json(tables)
    write(name, lines, [meaning(decoder, frame.payload) for frame in frames])
    return frames


CAPTURES = {"pgoutput": capture_pgoutput, "wal2json": capture_wal2json}


def followed(cursor: Any) -> dict[QualifiedName, Followed]:
    """Every table of the script, with the columns that it will ever have; of one a part."""
    cursor.execute(
        "select relnamespace::regnamespace::text, relname::text, attrelid::oid::int,"
        " array_agg(attname::text) from pg_attribute join pg_class c on c.oid = attrelid"
        " where attnum > 0 and relkind = 'r' and c.oid >= 16384 and relname <> 'unasked'"
        " group by 1, 2, 3 order by 3"
    )
    later = {"evolving": {"extra", "text"}}
    left_out = {"listed": {"secret"}}
    return {
        (schema.strip('"'), name): Followed(
            oid=oid,
            columns=frozenset(columns) - left_out.get(name, set()) | later.get(name, set()),
        )
        for schema, name, oid, columns in cursor.fetchall()
    }


def meaning(decoder: Wal2json, payload: bytes) -> str:
    """The messages of a frame in words; of one that has none, the name of the step."""
    messages = " ".join(map(ascii, decoder.decode(payload)))
    return messages or f"# {json.loads(payload)['content']}"


def run(cursor: Any, plugin: str, steps: list[tuple[str, ...]], *, prefix: str) -> None:
    """Make the slot, then run every step, its name first."""
    cursor.execute(f"select pg_create_logical_replication_slot('{SLOT}', '{plugin}')")
    for name, *statements in steps:
        cursor.execute("select pg_logical_emit_message(false, %s, %s)", (prefix, name))
        for statement in statements:
            if statement.startswith("copy"):
                command, _, rows = statement.partition("\n")
                cursor.copy_expert(command, io.StringIO(rows))
            else:
                cursor.execute(statement)


def read_all(dsn: str, options: Mapping[str, str]) -> Iterator[Frame]:
    """The frames of the slot, until the last step's name has come."""
    with closing(Stream(Login(dsn), SLOT)) as stream:
        stream.start_replication(dict(options))
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            frame = stream.read()
            if frame is None:
                select.select([stream], [], [], 0.1)
                continue
            yield frame
            if script.LAST_STEP.encode() in frame.payload:
                return
    raise TimeoutError(script.LAST_STEP)


def write(name: str, raw: list[dict[str, Any]], expected: list[str]) -> None:
    """Put the frames and their meaning beside this file."""
    lines = [json.dumps(line, ensure_ascii=False) for line in raw]
    (FOLDER / f"{name}.jsonl").write_text("\n".join([*lines, ""]))
    (FOLDER / f"{name}.txt").write_text("\n".join([*expected, ""]))


if __name__ == "__main__":
    main(sys.argv[1:] or ["pgoutput-16", "pgoutput-18", f"wal2json-{INSTALLED}"])
