"""One history: a service kept busy and beaten, then left alone and compared, again and again."""

import random
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2

from cdc_embed.demo.postgres import EmbeddedPostgres
from cdc_embed.lsn import LSN
from tests.history.accidents import Accidents
from tests.history.clients import Client, Diary, ask
from tests.history.faults import OPEN_REQUESTS, Outside, Processes, Servers
from tests.history.fleet import Command, Fleet, tail
from tests.history.oracle import Oracle, Witness
from tests.history.tables import DOCUMENTS, IN_PARTITIONS, PREFILLED, TABLES
from tests.invariant import Watch
from tests.quiet import let_pass
from tests.site import EmbeddingServer, Site

DIMENSIONS = 8
QUIET_SECONDS = 150.0
"""For everything to be reflected once nothing happens any more, on a busy machine."""

ACCIDENTS = 0.2
"""The chance of an accident between two rounds."""
VERIFIED = 0.3
"""The chance that ``verify`` is asked too; its own process takes as long as all the rest."""

SETTINGS = {
    "max_prepared_transactions": "20",
    "deadlock_timeout": "200ms",
    "wal_sender_timeout": "8s",
    "max_connections": "150",
    "autovacuum_naptime": "5s",
}

MakeServer = Callable[[int, Mapping[str, str]], EmbeddedPostgres]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The servers and the plugin of a history; the rest of its configuration follows its seed."""

    version: int = 18
    target: int | None = None
    """The version of a separate target's server."""
    plugin: str = "pgoutput"

    def __str__(self) -> str:
        target = f"-to-{self.target}" if self.target else ""
        return f"{self.version}{target}-{self.plugin}"


class History:
    """A source, perhaps a target, an embedder, services, clients, and what befalls them."""

    def __init__(self, seed: int, setting: Setting, folder: Path, make_server: MakeServer) -> None:
        self.seed = seed
        self.setting = setting
        self.folder = folder
        self._make_server = make_server
        self._choice = random.Random(f"{seed}/history")
        self._diary = Diary(folder / "history.log")
        self._clients: list[Client] = []
        self._facts: list[str] = []
        self.rounds = 0
        self.committed = 0

    # -- set-up --------------------------------------------------------------------------------

    @contextmanager
    def prepared(self) -> Iterator["History"]:
        with ExitStack() as stack:
            target = None
            if self.setting.target is not None:
                target = self._site(stack, self.setting.target, "target", None)
            self.source = self._site(stack, self.setting.version, "history", target)
            self._embedder(stack)
            self._fill()
            self._configure()
            self.source.cli("setup")
            self.witness = Witness(self.source)
            self.fleet = Fleet(self.source, self._diary)
            stack.callback(self.fleet.close)
            self.watch = Watch(self.source, replaced=True)
            self.watch.start()
            stack.callback(self.watch.stop)
            yield self

    def _site(self, stack: ExitStack, version: int, name: str, target: Site | None) -> Site:
        server = stack.enter_context(self._make_server(version, SETTINGS))
        site = Site(server, name, self.folder, target)
        stack.callback(site.close)
        return site

    def _embedder(self, stack: ExitStack) -> None:
        self.server: EmbeddingServer | None = None
        if self._choice.random() < 0.8:
            options = ("--dimensions", str(DIMENSIONS), "--delay", self._pick("0", "0.02", "0.1"))
            self.server = stack.enter_context(EmbeddingServer(*options))

    def _pick(self, *values: str) -> str:
        return self._choice.choice(values)

    def _configure(self) -> None:
        if self.server is not None:
            embedder = f'{self.server.configuration}\ntimeout = "2s"\ndimensions = {DIMENSIONS}'
            embedder += f"\nconcurrency = {self._pick('1', '4')}"
            embedder += f'\nlinger = "{self._pick("0ms", "0ms", "100ms")}"'
        else:
            embedder = f'kind = "hash"\ndimensions = {DIMENSIONS}'
        self.half = self._choice.random() < 0.2
        more = [
            f'[limits]\nmemory = "{self._pick("256MB", "256MB", "200kB")}"\ndrain_timeout = "5s"',
            f"[backfill]\nrows_per_second = {self._pick('0', '300', '300', '1000')}",
            "max_tokens_unasked = 1000000000",
            f'[index]\ntype = "{"halfvec" if self.half else "vector"}"',
        ]
        source = f'plugin = "{self.setting.plugin}"\npublish = "{self._pick("columns", "rows")}"'
        self.source.configure(
            tables="".join(table.entry for table in TABLES),
            embedder=embedder,
            source=source,
            more="\n".join(more) + "\n",
        )

    def _fill(self) -> None:
        rows = int(self._pick("50", "300", "800", "800"))
        parts = self.setting.plugin == "pgoutput" and self._choice.random() < 0.3
        for table in TABLES:
            whole = table is not DOCUMENTS or not parts
            self.source.sql(table.definition if whole else IN_PARTITIONS)
            names = ", ".join((*table.key, table.text[-1]))
            rest = "".join(f", '{value}'" for value in table.filled)
            self.source.sql(
                f"insert into {table.name} ({names}) select {PREFILLED} + i{rest}, 'filled ' || i "
                "from generate_series(1, %s) i",
                rows,
            )

    # -- rounds --------------------------------------------------------------------------------

    def run(self, seconds: float, *, longest_round: float = 12.0, rounds: int = 3) -> None:
        """Rounds until the time is over; raises AssertionError with all that is known."""
        print(self.title)  # noqa: T201  how to run it again
        end = time.monotonic() + seconds
        self.fleet.start()
        while self.rounds < rounds or time.monotonic() < end:
            self.rounds += 1
            self._load(self._choice.uniform(1, longest_round))
            self._check()
            if self._choice.random() < ACCIDENTS:
                self._accident()
                self._check()
        self._verify()
        self.fleet.tend()
        for service in list(self.fleet.running):
            self.fleet.stop(service)
        self._expect(not self.fleet.problems, "\n".join(self.fleet.problems))

    @property
    def title(self) -> str:
        return f"history of seed {self.seed}, {self.setting}, in {self.folder}"

    def _load(self, seconds: float) -> None:
        seed = f"{self.seed}/{self.rounds}"
        self._diary.note(f"round {self.rounds}, {seconds:.1f} s")
        self._clients = self._make_clients(self._choice.choice([2, 5, 8]))
        processes = Processes(seed, self._diary, self.fleet)
        servers = Servers(seed, self._diary, self.source)
        outside = Outside(seed, self._diary, self.source, self.fleet, self.server)
        misfortunes = [
            thread
            for thread, chance in ((processes, 0.8), (servers, 0.8), (outside, 0.9))
            if self._choice.random() < chance
        ]
        outside.heal()
        for thread in (*self._clients, *misfortunes):
            thread.start()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.fleet.problems:
            let_pass(0.1)
            self.fleet.tend()
        for thread in (*misfortunes, *self._clients):
            thread.ended.set()
        self._until(lambda: _heals(servers), "the source can be asked again", 60)
        outside.heal()
        for thread in (*misfortunes, *self._clients):
            thread.join(QUIET_SECONDS)
            self._expect(not thread.is_alive(), f"{thread.name} does not end")
        outside.await_commands(QUIET_SECONDS)
        for misfortune in misfortunes:
            if misfortune.crash is not None:
                raise misfortune.crash
        self.committed += sum(client.committed for client in self._clients)
        self._until(lambda: _heals(servers), "the source can be asked again", 60)
        outside.heal()
        self._expect(not outside.results, "\n".join(outside.results))
        self._end_prepared()
        self._diary.note("quiet")

    def _make_clients(self, number: int) -> list[Client]:
        seed = f"{self.seed}/{self.rounds}"
        poison = self.server is not None
        return [
            Client(n, seed, self.source.connect, self.folder, poison=poison) for n in range(number)
        ]

    def _accident(self) -> None:
        accidents = Accidents(
            f"{self.seed}/{self.rounds}",
            self._diary,
            self.source,
            self.fleet,
            self.watch,
            self._change,
        )
        try:
            accidents.happen()
        except (AssertionError, subprocess.TimeoutExpired) as exc:
            self._fail(f"an accident cannot be mended: {exc}")

    def _change(self, seconds: float) -> None:
        """Clients alone, with nothing that goes wrong."""
        self._clients = self._make_clients(3)
        for client in self._clients:
            client.start()
        let_pass(seconds)
        for client in self._clients:
            client.ended.set()
        for client in self._clients:
            client.join(QUIET_SECONDS)
        self._end_prepared()

    def _end_prepared(self) -> None:
        for (name,) in ask(self.source, "select gid from pg_prepared_xacts"):
            ask(self.source, f"rollback prepared '{name}'")

    def _check(self) -> None:
        self.fleet.tend()
        end = LSN.parse(ask(self.source, "select pg_current_wal_lsn()::text")[0][0])
        self._until(lambda: self.fleet.durable() >= end, f"durable {end}")
        self._diary.note("durable")
        self._until(
            self._is_compared, "every table is compared, every request answered, no row deferred"
        )
        self._diary.note("compared")
        oracle = Oracle(
            self.source,
            dimensions=DIMENSIONS,
            tolerance=5e-3 if self.half else 1e-5,
            poison=self.server is not None,
        )
        problems = oracle.problems()
        if problems:
            keys = {key for _, key, _ in problems}
            self._fail(
                f"{len(problems)} differences:\n{oracle.describe(problems)}\n"
                f"-- what the log says of them:\n{self.witness.account(keys)}"
            )
        if self._choice.random() < VERIFIED:
            self._verify()
        self._expect(not self.fleet.problems, "\n".join(self.fleet.problems))
        self._expect(not self.fleet.complaints(), "\n".join(self.fleet.complaints()))
        self._expect(self.watch.is_alive(), "the watch over what is confirmed has ended")
        self._expect(not self.watch.violations, "\n".join(map(str, self.watch.violations[:10])))
        self.witness.forget()
        self.fleet.forget()
        self._diary.note("right")

    def _is_compared(self) -> bool:
        self.fleet.tend()
        target = self.source.target or self.source
        states = ask(target, "select state from cdc_embed.reconcile")
        done = len(states) == len(TABLES) and set(states) == {("done",)}
        waiting = f"{OPEN_REQUESTS} union all select id, 'deferred', '' from cdc_embed.deferred"
        return done and not ask(target, waiting)

    def _verify(self) -> None:
        command = Command(self.source, "verify", "--json")
        try:
            code, out, err = command.finish(QUIET_SECONDS)
        except subprocess.TimeoutExpired:
            self._fail("verify does not end")
        self._expect(code == 0 and '"drift": 0' in out, f"verify: {code}\n{out}\n{err}")

    # -- when it fails -------------------------------------------------------------------------

    def _until(self, true: Callable[[], bool], what: str, seconds: float = QUIET_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not self._holds(true):
            self._expect(not self.fleet.problems, "\n".join(self.fleet.problems))
            if time.monotonic() > deadline:
                self._fail(f"not within {seconds:.0f} s: {what}")
            let_pass(0.1)

    @staticmethod
    def _holds(true: Callable[[], bool]) -> bool:
        try:
            return true()
        except psycopg2.Error:
            return False

    def _expect(self, holds: bool, what: str) -> None:
        if not holds:
            self._fail(what)

    def _fail(self, what: str) -> Any:
        """Tell everything that is known."""
        parts = [self.title, f"round {self.rounds}: {what}"]
        parts.append("-- services:")
        parts += [str(status) for status in self.fleet.status()]
        parts += [tail(service) for service in (*self.fleet.ended[-2:], *self.fleet.running)]
        parts += [f"-- history:\n{self._diary.tail(40)}"]
        parts += [f"-- {c.name}:\n{c.diary.tail(12)}" for c in self._clients]
        for site in filter(None, (self.source, self.source.target)):
            try:
                parts += ["-- sessions:", *(str(row) for row in ask(site, SESSIONS))]
            except psycopg2.Error as exc:
                parts.append(str(exc))
        raise AssertionError("\n".join(parts))


SESSIONS = """
select pid, application_name, state, wait_event, pg_blocking_pids(pid), left(query, 80)
from pg_stat_activity where datname is not null and pid <> pg_backend_pid()
"""


def _heals(servers: Servers) -> bool:
    servers.heal()
    return True
