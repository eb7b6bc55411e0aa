"""The person who keeps cdc_embed running: configures it, and does what it says."""

import json
import random
import re
import signal
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import psycopg2

from cdc_embed.lsn import LSN
from tests.history.clients import Diary
from tests.migrations.surroundings import Ground
from tests.migrations.tables import HistoryTable
from tests.oracle import Documents
from tests.own_process import run_command
from tests.site import RunningService

SQL: Final = re.compile(r"\b(?:alter table|grant) (?:[^;(]|\(\.\.\.\))*;")
"""A statement that a message advises; a person fills in what is left open."""
START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 60.0

KEY: Final = """
select array_agg(a.attname::text order by k.place) from pg_index i
cross join unnest(i.indkey::int2[]) with ordinality k (number, place)
join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number
join pg_class c on c.oid = i.indrelid
where c.oid = to_regclass(%s) and k.place <= i.indnkeyatts
  and case c.relreplident when 'i' then i.indisreplident else i.indisprimary end
"""
COLUMNS: Final = """
select attname::text from pg_attribute
where attrelid = to_regclass(%s) and attnum > 0 and not attisdropped and attgenerated = ''
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """A table as the configuration has it."""

    schema: str
    table: str
    text: tuple[str, ...]
    metadata: tuple[str, ...]
    vectors: str

    @property
    def name(self) -> str:
        return f"{self.schema}.{self.table}"

    @property
    def stored(self) -> str:
        prefix = "" if self.schema == "public" else f"{self.schema}_"
        return self.vectors or f"{prefix}{self.table}_embedding"

    @property
    def toml(self) -> str:
        own = f'embedding_table = "{self.vectors}"\n' if self.vectors else ""
        return (
            f'[[tables]]\nname = "{self.name}"\ntext = {json.dumps(self.text)}\n'
            f"metadata = {json.dumps(self.metadata)}\n{own}"
        )


def wanted(table: HistoryTable) -> Entry:
    return Entry(
        schema=table.schema,
        table=table.name,
        text=tuple(column.name for column in table.of("text")),
        metadata=tuple(c.name for c in table.of("metadata") if c not in table.identity_key),
        vectors=table.vectors_name,
    )


class User:
    """Looks at a service from outside, and does what its messages say."""

    def __init__(self, ground: Ground, diary: Diary, choice: random.Random) -> None:
        self._site = ground.site
        self._source = ground.surroundings.source
        self._diary = diary
        self._choice = choice
        self.entries: list[Entry] = []
        self.service: RunningService | None = None
        self.logs: list[str] = []
        """Everything that a process of ours wrote."""

    # -- commands ----------------------------------------------------------------------------------

    def configure(self, tables: list[HistoryTable]) -> None:
        self.entries = [wanted(table) for table in tables]
        self._site.configure(
            tables="".join(entry.toml for entry in self.entries),
            embedder='kind = "hash"\ndimensions = 8',
            source=self._source,
        )
        self._diary.note(f"configured: {self.entries}")

    def command(self, *arguments: str) -> tuple[int, str, str]:
        done = run_command(["-c", str(self._site.config_path), *arguments], self._site.environment)
        said = f"{done.stdout[-3000:]}{done.stderr[-3000:]}"
        self._diary.note(f"$ {' '.join(arguments)}: {done.returncode}\n{said}")
        self.logs.append(done.stderr)
        return done.returncode, done.stdout, done.stderr

    def start(self) -> None:
        self.service = RunningService(self._site, process=True)
        self._diary.note(f"started {self.service.process.pid}")

    def end(self, how: str = "") -> None:
        """Kill it, or stop it; what it has written is kept."""
        service, self.service = self.service, None
        if service is None:
            return
        how = how or self._choice.choice(["kill", "kill", "stop"])
        if service.alive and how == "stop":
            service.process.send_signal(signal.SIGTERM)
            code = service.wait(STOP_SECONDS)
            served = any(entry["event"] == "streaming" for entry in service.log)
            assert code == 0 or not served, f"{code} after SIGTERM: {''.join(service.output[-30:])}"
        service.end()
        self._diary.note(f"{how}: {service.process.pid}")
        self.logs += service.output

    def tend(self) -> None:
        """Have a service run; one that ended by itself must not have done so while it streamed."""
        service = self.service
        if service is not None and not service.alive:
            code = service.process.poll()
            tail = "".join(service.output[-30:])
            streamed = any(entry["event"] == "streaming" for entry in service.log)
            self._diary.note(f"ended by itself with {code}: {tail}")
            assert not streamed, f"a service that streamed ended with {code}:\n{tail}"
            assert code in {4, 75}, f"ended with {code}:\n{tail}"
            self.end("kill")
        if self.service is None:
            self.start()

    # -- what it says ------------------------------------------------------------------------------

    def problem(self) -> str | None:
        """Return what ``/readyz`` says; None if it says ok."""
        service = self.service
        if service is None or not service.alive:
            return "not running"
        try:
            code, words = service.readiness()
        except (OSError, StopIteration):
            return "starting"
        return None if code == 200 else words.strip() or "nothing"

    def status(self) -> dict[str, Any]:
        service = self.service
        if service is not None and service.alive:
            with suppress(OSError, StopIteration):
                return service.status()
        return {}

    def has_reflected(self, end: LSN) -> bool:
        durable = self.status().get("lsn", {}).get("durable")
        return durable is not None and LSN.parse(durable) >= end

    def advice(self) -> list[str]:
        """Return the fixes of ``doctor``: commands and statements."""
        code, out, err = self.command("doctor", "--json")
        assert code in {0, 4, 5, 75}, f"doctor: {code}\n{err}"
        if not out.strip():
            return []
        checks = json.loads(out)["checks"]
        return [c["fix"] for c in checks if not c["ok"] and c["severity"] == "error"]

    # -- what it should have done ------------------------------------------------------------------

    def misfits(self) -> list[str]:
        """Return the configured tables that are not as the configuration says."""
        found = []
        for entry in self.entries:
            columns = {row[0] for row in self._site.sql(COLUMNS, entry.name)}
            key = set(self._key(entry) or ())
            if not {*entry.text, *entry.metadata} <= columns or key & set(entry.metadata):
                found.append(entry.name)
        return found

    def drift(self) -> list[str]:
        """Compare what is stored with what should be, without any help of cdc_embed."""
        found = []
        for entry in self.entries:
            try:
                found += [f"{entry.name}: {line}" for line in self._drift(entry)]
            except psycopg2.Error as exc:
                found.append(f"{entry.name}: {' '.join(str(exc).split())}")
        return found

    def _drift(self, entry: Entry) -> list[str]:
        key = self._key(entry)
        if not key:
            return ["no primary key"]
        documents = Documents(
            name=entry.table,
            schema=entry.schema,
            key=key,
            text=entry.text,
            metadata=entry.metadata,
            embedding_table=entry.stored,
            chunked=True,
        )
        return documents.drift(self._site)

    def _key(self, entry: Entry) -> list[str] | None:
        found: list[str] | None = self._site.value(KEY, entry.name)
        return found
