"""The ground of the integration and acceptance tests: a real database, a real service.

A ``Site`` is one database with its configuration; a ``RunningService`` is ``cdc-embed run`` in a
thread or in a process of its own, watched through its log and its ``/status``.
"""

import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from queue import Empty, Queue
from typing import Any, Protocol
from urllib.error import HTTPError

import psycopg2

from cdc_embed.demo.postgres import EmbeddedPostgres
from cdc_embed.lsn import LSN
from cdc_embed.service.tolerance import USUAL, Tolerance
from tests import in_process, own_process
from tests.in_process import ServiceThread
from tests.oracle import Documents
from tests.own_process import ServiceProcess

PATIENCE = 30.0

DOCUMENTS = """
create table documents (
  id bigint primary key, title text, body text, views integer not null default 0
)
"""


def wait_until(true: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """The first truthy answer; fails the test when there is none in time.

    It looks for a fifth of the time at the most: the service has the same processors.
    """
    deadline = time.monotonic() + seconds
    while True:
        began = time.monotonic()
        answer = true()
        if answer:
            return answer
        now = time.monotonic()
        if now > deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(min(max(0.01, 4 * (now - began)), 0.25))


def table_entry(
    name: str = "documents", text: str = 'text = ["title", "body"]', more: str = ""
) -> str:
    """A ``[[tables]]`` of the configuration."""
    return f"[[tables]]\nname = {name!r}\n{text}\n{more}\n"


class Site:
    """One source database (by default the target too), a slot name of its own, a config file."""

    def __init__(
        self, server: EmbeddedPostgres, name: str, folder: Path, target: "Site | None" = None
    ) -> None:
        self.server = server
        self.name = name
        self.folder = folder
        self.target = target
        self.environment: dict[str, str] = {}
        self._administer(f'create database "{name}" strategy file_copy')
        self._connection = self.connect()
        self._connection.autocommit = True

    @property
    def dsn(self) -> str:
        return self.server.dsn(self.name)

    @property
    def config_path(self) -> Path:
        return self.folder / f"{self.name}.toml"

    def connect(self) -> Any:
        return psycopg2.connect(self.dsn)

    def close(self) -> None:
        self._connection.close()

    def drop(self) -> None:
        """Remove the database, with its slots and whoever is connected to it."""
        slots = "pg_replication_slots where database = current_database() and active"
        self.sql(f"select pg_terminate_backend(active_pid) from {slots}")
        wait_until(lambda: not self.sql(f"select 1 from {slots}"), "nobody reads a slot")
        self.close()
        self._administer(f'drop database "{self.name}" with (force)')

    def _administer(self, statement: str) -> None:
        with closing(psycopg2.connect(self.server.dsn())) as admin, admin.cursor() as cursor:
            admin.autocommit = True
            cursor.execute(statement)

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run one statement in a transaction of its own."""
        if self._connection.closed:
            self._connection = self.connect()
            self._connection.autocommit = True
        with self._connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def value(self, statement: str, *values: Any) -> Any:
        return self.sql(statement, *values)[0][0]

    def transaction(self, *statements: str) -> None:
        """Run several statements in one transaction."""
        connection = self.connect()
        with connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
        connection.close()

    def configure(
        self,
        *,
        tables: str | None = None,
        embedder: str = 'kind = "hash"',
        source: str = "",
        more: str = "",
    ) -> None:
        tables = tables or '[[tables]]\nname = "documents"\ntext = ["title", "body"]\n'
        target = f'[target]\ndsn = "{self.target.dsn}"\n' if self.target else ""
        self.config_path.write_text(
            f'[source]\ndsn = "{self.dsn}"\nslot = "{self.name}"\n{source}\n{target}'
            f"[embedder]\n{embedder}\n[serve]\nport = 0\n{tables}{more}"
        )

    def cli(
        self, *arguments: str, expect: int | None = 0, process: bool = False
    ) -> "subprocess.CompletedProcess[str]":
        """A command, in this process unless it is to have its own; beside a test it has to."""
        beside = threading.current_thread() is not threading.main_thread()
        run = own_process.run_command if process or beside else in_process.run_command
        done = run(["-c", str(self.config_path), *arguments], self.environment)
        if expect is not None:
            assert done.returncode == expect, f"{arguments}: {done.stdout}\n{done.stderr}"
        return done

    def verify(self, *arguments: str, expect: int | None = 0) -> dict[str, Any]:
        """Run ``verify`` and return its answer: the product's own comparison."""
        done = self.cli("verify", "--json", *arguments, expect=expect)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    @contextmanager
    def service(
        self, *, wait: bool = True, process: bool = False, tolerance: Tolerance = USUAL
    ) -> Iterator["RunningService"]:
        """``cdc-embed run``; ended and checked at the end if it still runs.

        In a thread; with ``process`` in a process of its own, for what is killed or signalled, and
        with the usual tolerance.
        """
        running = RunningService(self, process=process, tolerance=tolerance)
        try:
            if wait:
                running.wait_for("streaming")
            yield running
        finally:
            running.end()

    def wait_for_last_session(self) -> None:
        """Until the server's side of every session of ours has ended.

        That is a moment after the client has, and only then are its statistics complete.
        """
        sessions = (
            "select count(*) from pg_stat_activity "
            "where application_name like 'cdc_embed%' and datname = current_database()"
        )
        wait_until(lambda: self.value(sessions) == 0, "every session has ended")

    def wait_for_free_slot(self) -> None:
        """Until the server has noticed that nobody reads from the slot any more."""
        free = "select not active from pg_replication_slots where slot_name = %s"
        wait_until(lambda: self.value(free, self.name), "the slot is free")

    def checkpoint(self) -> dict[str, Any]:
        columns = "commit_lsn, ordinal, end_lsn, confirmed_lsn, batch_seq, epoch"
        site = self.target or self
        row = site.sql(f"select {columns} from cdc_embed.checkpoint where slot = %s", self.name)[0]
        return dict(zip(columns.split(", "), row, strict=True))

    def deferred(self) -> list[int]:
        """The keys of the rows that wait for the embedder, of one column named id."""
        site = self.target or self
        if site.value("select to_regclass('cdc_embed.deferred') is null"):
            return []
        found = site.sql("select (key ->> 'id')::bigint from cdc_embed.deferred order by 1")
        return [key for (key,) in found]

    def drift(self, table: str = "documents") -> list[str]:
        """Every difference between the source's titles and bodies and the stored documents."""
        return Documents(name=table).drift(self)


class Run(Protocol):
    """``cdc-embed run``, wherever it runs."""

    @property
    def alive(self) -> bool: ...
    def ask_to_stop(self) -> None: ...
    def wait(self, seconds: float) -> int: ...
    def end(self, seconds: float) -> None: ...


class RunningService:
    """The service, in a thread or in its own process."""

    def __init__(self, site: Site, *, process: bool = False, tolerance: Tolerance = USUAL) -> None:
        self.site = site
        self.log: list[dict[str, Any]] = []
        self.output: list[str] = []
        self._events: Queue[dict[str, Any]] = Queue()
        start = ServiceProcess if process else partial(ServiceThread, tolerance=tolerance)
        self._run: Run = start(site.config_path, site.environment, self._take)

    def _take(self, line: str) -> None:
        self.output.append(line)
        if line.startswith("{"):
            event = json.loads(line)
            self.log.append(event)
            self._events.put(event)

    @property
    def process(self) -> "subprocess.Popen[str]":
        assert isinstance(self._run, ServiceProcess), "start it with process=True"
        return self._run.process

    @property
    def alive(self) -> bool:
        return self._run.alive

    def wait_for(self, event: str, seconds: float = PATIENCE) -> dict[str, Any]:
        """The next log entry of that name."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                entry = self._events.get(timeout=0.1)
            except Empty:
                assert self.alive, "".join(self.output)
                assert time.monotonic() < deadline, f"no {event!r}: {''.join(self.output)}"
                continue
            if entry["event"] == event:
                return entry

    def logged(self, event: str, times: int = 1, seconds: float = PATIENCE) -> dict[str, Any]:
        """An entry of the log, once it is there so often, whatever came before or after it."""

        def found() -> list[dict[str, Any]] | None:
            entries = [entry for entry in self.log if entry["event"] == event]
            return entries if len(entries) >= times else None

        entry: dict[str, Any] = wait_until(found, f"the log says {event}", seconds)[0]
        return entry

    def times(self, event: str) -> int:
        """The number of such entries of the log so far."""
        return sum(entry["event"] == event for entry in self.log)

    @property
    def port(self) -> int:
        return int(next(e for e in self.log if e["event"] == "serving")["port"])

    def get(self, path: str) -> str:
        url = f"http://127.0.0.1:{self.port}{path}"
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            body: bytes = answer.read()
        return body.decode()

    def readiness(self) -> tuple[int, str]:
        """The status code and the words of ``/readyz``, once the service answers."""
        self.logged("serving")
        try:
            return 200, self.get("/readyz")
        except HTTPError as refused:
            with refused:
                return refused.code, refused.read().decode()

    def unready(self) -> str:
        """The words of ``/readyz``; empty while it is ready."""
        code, words = self.readiness()
        return "" if code == 200 else words

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.get("/status"))
        return found

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        total = 0.0
        for line in self.get("/metrics").splitlines():
            head, _, value = line.rpartition(" ")
            if head.partition("{")[0] == name and all(want in head for want in wanted):
                total += float(value)
        return total

    def settle(self, seconds: float = PATIENCE) -> None:
        """Wait until everything that is committed now is reflected in the target, and no row is
        deferred."""
        end = LSN.parse(self.site.value("select pg_current_wal_lsn()::text"))

        def reached() -> bool:
            durable = self.status()["lsn"]["durable"]
            return durable is not None and LSN.parse(durable) >= end and not self.site.deferred()

        wait_until(reached, f"durable {end}", seconds)

    def kill(self) -> None:
        """As the kernel's out-of-memory killer would."""
        self.process.kill()
        self.wait()

    def stop(self) -> int:
        """SIGTERM, or what it does; the exit code."""
        self.ask_to_stop()
        return self.wait()

    def ask_to_stop(self) -> None:
        self._run.ask_to_stop()

    def wait(self, seconds: float = PATIENCE) -> int:
        """The exit code of a service that ends by itself."""
        return self._run.wait(seconds)

    def end(self) -> None:
        """Have it ended, whatever it does."""
        self._run.end(PATIENCE)


class EmbeddingServer:
    """The counting HTTP server, in its own process: counters inside cdc_embed are no evidence."""

    def __init__(self, *options: str) -> None:
        script = Path(__file__).parent / "embedding_server.py"
        self._process = subprocess.Popen(
            [sys.executable, str(script), "--port", "0", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.port = json.loads(self._process.stdout.readline())["port"]

    def __enter__(self) -> "EmbeddingServer":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    @property
    def configuration(self) -> str:
        return f'kind = "http"\nmodel = "test"\nurl = "http://127.0.0.1:{self.port}/v1/embeddings"'

    def counts(self) -> dict[str, Any]:
        counts: dict[str, Any] = self._ask("/counts")
        return counts

    def texts(self) -> int:
        """Texts embedded since the last reset."""
        return int(self.counts()["texts"])

    def reset(self) -> None:
        self._ask("/reset", {})

    def faults(self, **faults: Any) -> None:
        self._ask("/faults", faults)

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.loads(answer.read() or b"null")


def columns(rows: Sequence[tuple[Any, ...]]) -> list[Any]:
    """The first column of some rows."""
    return [row[0] for row in rows]
