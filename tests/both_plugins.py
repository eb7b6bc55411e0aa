"""One change log through both output plugins, as far as the changes of the configured tables."""

import os
import select
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

import psycopg2

from cdc_embed.change.document import Table
from cdc_embed.change.event import Change, Event
from cdc_embed.change.transaction import Assembler
from cdc_embed.config.load import Config
from cdc_embed.lsn import ZERO
from cdc_embed.postgres.session import Session
from cdc_embed.postgres.side import SOURCE
from cdc_embed.rotation import Login
from cdc_embed.source.stream import Frame, Stream
from cdc_embed.source.tables import find_tables
from cdc_embed.wire import pgoutput, wal2json
from cdc_embed.wire.messages import Decoder
from cdc_embed.wire.wal2json import Followed, Wal2json
from tests.builders import checkpoint
from tests.installed import INSTALLED
from tests.servers import Servers
from tests.site import PATIENCE, Site

END: Final = "the end of it"
ANOTHER: Final = "another session: "
"""Before a statement of a second session."""
HOSTILE: Final = {
    "datestyle": "SQL, DMY",
    "intervalstyle": "sql_standard",
    "extra_float_digits": "-3",
    "timezone": "Asia/Tokyo",
    "bytea_output": "escape",
    "quote_all_identifiers": "on",
}
"""The settings of a database that must not change the values on their way."""
_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Log:
    """The frames of one plugin's slot."""

    tables: Sequence[Table]
    frames: Sequence[Frame]
    make_decoder: Callable[[], Decoder]

    def events(self) -> list[Event]:
        """Return the events of a connection that begins with these frames."""
        assembler, decode = Assembler(self.tables, checkpoint(), ZERO), self.make_decoder()
        return [
            event
            for frame in self.frames
            for message in decode(frame.payload)
            for event in assembler.feed(message, 0)
        ]

    def changes(self) -> list[dict[str, Any]]:
        """Every field of each change, the table by its name."""
        fields = [name for name in Change.__slots__ if name not in {"table", "size", "leaves_out"}]
        return [
            {"table": event.table.full_name, **{name: getattr(event, name) for name in fields}}
            for event in self.events()
            if isinstance(event, Change)
        ]


@contextmanager
def server_of_both(servers: Servers, folder: Path) -> Iterator[Callable[..., Site]]:
    """A server that has both plugins; gives what makes databases on it."""
    settings = {"max_prepared_transactions": "2", "max_replication_slots": "200"}
    with servers.own(INSTALLED, settings) as server:

        def make(encoding: str = "UTF8") -> Site:
            site = Site(server, f"d{os.getpid()}_{next(_numbers)}", folder)
            site.close()
            with closing(psycopg2.connect(server.dsn())) as admin, admin.cursor() as cursor:
                admin.autocommit = True
                cursor.execute(f"drop database {site.name}")
                create = f"create database {site.name} template template0 locale 'C'"
                cursor.execute(f"{create} encoding '{encoding}'")
                for setting, value in HOSTILE.items():
                    cursor.execute(f"alter database {site.name} set {setting} = '{value}'")
            return site

        yield make


def watch(
    site: Site, tables: Sequence[Mapping[str, Any]], statements: Sequence[str]
) -> tuple[Log, Log]:
    """Run the statements, and read them from a slot of pgoutput and one of wal2json."""
    found = configured(site, tables)
    names = ", ".join(_quoted(table) for table in found)
    site.sql(f"create publication compared for table {names}")
    slots = {plugin: f"{site.name}_{plugin}" for plugin in ("pgoutput", "wal2json")}
    for plugin, slot in slots.items():
        site.sql("select pg_create_logical_replication_slot(%s, %s)", slot, plugin)
    run(site, statements)
    published = {"proto_version": "1", "publication_names": "compared", "messages": "true"}
    asked = followed(found)
    codec = {"UTF8": "utf-8", "LATIN1": "latin-1"}[site.value("select getdatabaseencoding()")]
    asking = wal2json.options(asked)
    return (
        Log(found, read(site, slots["pgoutput"], published), lambda: pgoutput.messages),
        Log(found, read(site, slots["wal2json"], asking), lambda: Wal2json(asked, codec).decode),
    )


def configured(site: Site, tables: Sequence[Mapping[str, Any]]) -> list[Table]:
    """The tables as the product finds them."""
    config = Config(source={"dsn": site.dsn}, embedder={"kind": "hash"}, tables=tables)  # type: ignore[arg-type]
    with closing(Session(SOURCE, Login(site.dsn), "both plugins")) as session:
        found, findings = find_tables(session, config)
    assert len(found) == len(tables), [each.message for each in findings if not each.ok]
    return [source.table for source in found]


def followed(tables: Sequence[Table]) -> dict[wal2json.QualifiedName, Followed]:
    """Return the tables that wal2json is asked for."""
    return {
        (table.schema, table.name): Followed(
            oid=table.oid,
            columns=frozenset(
                [*(column.name for column in (*table.key, *table.metadata)), *table.text_columns]
            ),
        )
        for table in tables
    }


def run(site: Site, statements: Sequence[str]) -> None:
    """Each statement in a transaction of its own, unless it says otherwise."""
    with closing(site.connect()) as one, closing(site.connect()) as another:
        one.autocommit = another.autocommit = True
        with one.cursor() as first, another.cursor() as second:
            for statement in statements:
                cursor = second if statement.startswith(ANOTHER) else first
                cursor.execute(statement.removeprefix(ANOTHER))
            first.execute("select pg_logical_emit_message(false, 'cdc_embed', %s)", (END,))


def read(site: Site, slot: str, options: Mapping[str, str]) -> list[Frame]:
    """Every frame up to the end, which is a message in the log."""
    frames = []
    with closing(Stream(Login(site.dsn), slot)) as stream:
        stream.start_replication(dict(options))
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            frame = stream.read()
            if frame is None:
                select.select([stream], [], [], 0.1)
                continue
            frames.append(frame)
            if END.encode() in frame.payload:
                return frames
    raise TimeoutError(slot)


def _quoted(table: Table) -> str:
    return ".".join('"{}"'.format(part.replace('"', '""')) for part in (table.schema, table.name))
