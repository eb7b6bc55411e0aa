"""The faults of a history: three threads of misfortune, each with its own kind.

``Processes`` kills, stops and freezes services, ``Servers`` cuts sessions off, holds locks and
restarts databases, ``Outside`` makes the embedder ill and runs commands. Every fault ends by
itself, at the latest when its thread is told to end.
"""

import json
import os
import random
import signal
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg2

from tests.embedder_site import ALWAYS
from tests.history.clients import Diary, ask
from tests.history.fleet import DRIFT, TEMPORARY, Command, Fleet
from tests.history.tables import POISON, TABLES
from tests.site import EmbeddingServer, Site

MOST_COMMANDS = 1
SESSIONS = ("writer", "reader", "stream", "sentinel", "reconcile", "rows", "index", "")
"""Of the service, by the second word of their names; the last is the watch's."""


class Misfortune(threading.Thread):
    """Picks a fault now and then. ``pauses`` are seconds between two."""

    def __init__(self, name: str, seed: str, diary: Diary, *, pauses: tuple[float, float]) -> None:
        super().__init__(name=name, daemon=True)
        self.choice = random.Random(f"{seed}/{name}")
        self.diary = diary
        self._pauses = pauses
        self.ended = threading.Event()
        self.crash: BaseException | None = None

    def run(self) -> None:
        faults = self.faults()
        try:
            while not self.ended.wait(self.choice.uniform(*self._pauses)):
                fault = self.choice.choices(list(faults), list(faults.values()))[0]
                self.diary.note(f"{self.name}: {fault.__name__}")
                try:
                    fault()
                except psycopg2.Error as exc:
                    self.diary.note(f"{self.name}: {fault.__name__}: {' '.join(str(exc).split())}")
        except BaseException as exc:  # noqa: BLE001  told to the one who waits
            self.crash = exc

    def faults(self) -> dict[Callable[[], None], float]:
        raise NotImplementedError

    def hold(self, longest: float) -> None:
        """Let a fault last."""
        self.ended.wait(self.choice.uniform(0.1, longest))


class Processes(Misfortune):
    def __init__(self, seed: str, diary: Diary, fleet: Fleet) -> None:
        super().__init__("processes", seed, diary, pauses=(0.2, 2.5))
        self._fleet = fleet

    def faults(self) -> dict[Callable[[], None], float]:
        return {
            self.nothing: 3,
            self.kill: 3,
            self.terminate: 2,
            self.freeze: 2,
            self.standby: 1,
            self.no_standby: 1,
        }

    def nothing(self) -> None:
        self._fleet.tend()

    def kill(self) -> None:
        if service := self._fleet.choose(self.choice):
            self._fleet.kill(service)
            self.hold(1)
        self._fleet.tend()

    def terminate(self) -> None:
        if service := self._fleet.choose(self.choice):
            self._fleet.stop(service)
        self._fleet.tend()

    def freeze(self) -> None:
        if service := self._fleet.choose(self.choice):
            service.process.send_signal(signal.SIGSTOP)
            self.hold(self.choice.choice([1, 3, 3, 12, 70]))
            service.process.send_signal(signal.SIGCONT)
        self._fleet.tend()

    def standby(self) -> None:
        self._fleet.tend(at_least=2)

    def no_standby(self) -> None:
        self._fleet.tend()
        if len(self._fleet.running) > 1 and (service := self._fleet.choose(self.choice)):
            self._fleet.kill(service)


class Servers(Misfortune):
    def __init__(self, seed: str, diary: Diary, source: Site) -> None:
        super().__init__("servers", seed, diary, pauses=(0.1, 1.5))
        self._source = source
        self._target = source.target or source

    def faults(self) -> dict[Callable[[], None], float]:
        return {
            self.end_sessions: 8,
            self.end_everything: 1,
            self.freeze_session: 2,
            self.lock: 4,
            self.lock_checkpoint: 2,
            self.idle_transaction: 1,
            self.waiting_commits: 4,
            self.restart: 1,
            self.checkpoint: 1,
        }

    def _side(self) -> Site:
        return self.choice.choice([self._source, self._target])

    def _some_session(self) -> str:
        """Of some of the service's sessions."""
        kind = self.choice.choice(SESSIONS)
        return " ".join(word for word in ("cdc_embed", kind, self._source.name) if word)

    def end_sessions(self) -> None:
        self._end(self._side(), "application_name = left(%s, 63)", self._some_session())

    def freeze_session(self) -> None:
        """The server's end of a connection says nothing for a while."""
        found = ask(
            self._side(),
            "select pid from pg_stat_activity where application_name = left(%s, 63)",
            self._some_session(),
        )
        for (pid,) in found[:1]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                self.hold(self.choice.choice([1, 3]))
                os.kill(pid, signal.SIGCONT)

    def end_everything(self) -> None:
        self._end(self._side(), "backend_type in ('client backend', 'walsender')")

    def _end(self, site: Site, where: str, *values: Any) -> None:
        ended = ask(
            site,
            "select count(pg_terminate_backend(pid)) from pg_stat_activity "
            f"where pid <> pg_backend_pid() and {where}",
            *values,
        )
        self.diary.note(f"ended {ended} sessions: {where} {values}")

    def lock(self) -> None:
        table = self.choice.choice(TABLES)
        name = self.choice.choice([f"cdc_embed.{table.name}_embedding", "cdc_embed.checkpoint"])
        mode = self.choice.choice(["share", "access exclusive"])
        self._hold_open(self._target, f"lock table {name} in {mode} mode", 3)

    def lock_checkpoint(self) -> None:
        self._hold_open(self._target, "select * from cdc_embed.checkpoint for update", 3)

    def idle_transaction(self) -> None:
        """Rows can be compared only once it has ended."""
        self._hold_open(self._source, "select pg_current_xact_id()", 4)

    def _hold_open(self, site: Site, statement: str, longest: float) -> None:
        connection = site.connect()
        with connection.cursor() as cursor:
            cursor.execute("set lock_timeout = '2s'")
            cursor.execute(statement)
            self.hold(longest)
        connection.close()

    def waiting_commits(self) -> None:
        """Commits wait for a standby that is not there: decoded already, and not visible yet."""
        self._set_standby("nobody")
        self.hold(2)
        self._set_standby("")

    def _set_standby(self, name: str) -> None:
        ask(self._source, f"alter system set synchronous_standby_names = '{name}'")
        ask(self._source, "select pg_reload_conf()")

    def restart(self) -> None:
        self._side().server.restart(self.choice.choice(["immediate", "immediate", "fast"]))

    def checkpoint(self) -> None:
        ask(self._side(), "checkpoint")

    def heal(self) -> None:
        self._set_standby("")


class Outside(Misfortune):
    def __init__(
        self, seed: str, diary: Diary, source: Site, fleet: Fleet, server: EmbeddingServer | None
    ) -> None:
        super().__init__("outside", seed, diary, pauses=(0.1, 2.5))
        self._source = source
        self._target = source.target or source
        self._fleet = fleet
        self._server = server
        self._commands: list[tuple[Command, bool]] = []
        self.results: list[str] = []

    def faults(self) -> dict[Callable[[], None], float]:
        commands = {self.verify: 2.0, self.repair: 1.0, self.backfill: 1.0, self.look: 0.3}
        if self._server is None:
            return commands
        embedder = {self.ill: 4, self.hang: 1, self.failures: 4, self.drop: 2, self.defer: 3}
        return {**embedder, **commands}

    # -- the embedder --------------------------------------------------------------------------

    def _set(self, **faults: Any) -> None:
        if self._server is not None:
            self._server.faults(refuse=[POISON], **faults)

    def heal(self) -> None:
        self._set()

    def ill(self) -> None:
        self._set(**self.choice.choice([{"garbage": True}, {"wrong_dimensions": True}]))
        self.hold(1.5)
        self._set()

    def hang(self) -> None:
        self._set(hang=self.choice.choice([0.3, 30]))
        self.hold(3)
        self._set()

    def failures(self) -> None:
        status = self.choice.choice([429, 500, 503, 408])
        retry_after = self.choice.choice([None, 0, 0.5])
        self._set(fail_next=self.choice.choice([1, 3, 20]), status=status, retry_after=retry_after)

    def drop(self) -> None:
        self._set(drop_connection=self.choice.choice([1, 5]))

    def defer(self) -> None:
        """Take some texts, or none, for so long not that their rows are deferred."""
        piece = self.choice.choice(["common text", "an edit", "text", "filled"])
        faults: list[dict[str, Any]] = [
            {"break_at": [piece]},
            {"drop_at": [piece]},
            {"slow": [piece], "slow_seconds": 30.0},
            {"hang": 30.0},
            {"fail_next": ALWAYS, "status": 503},
        ]
        self._set(**self.choice.choice(faults))
        self.ended.wait(self.choice.uniform(6, 15))
        deferred = ask(self._target, "select count(*) from cdc_embed.deferred")[0][0]
        self.diary.note(f"outside: {deferred} rows are deferred")
        self._set()

    # -- commands ------------------------------------------------------------------------------

    def verify(self) -> None:
        whole = self._is_filled()
        self._begin(["verify", "--json"], may_drift=not whole)

    def repair(self) -> None:
        """Beside a complete target it has nothing to repair."""
        whole = self._is_filled()
        more = self.choice.choice([[], ["--sample", "5"]])
        self._begin(["verify", "--repair", "--json", *more], may_drift=not whole)

    def backfill(self) -> None:
        more = self.choice.choice([[], ["--table", "pages"]])
        self._begin(["backfill", "--json", *more])

    def look(self) -> None:
        self._begin(self.choice.choice([["status", "--json"], ["setup"], ["search", "text"]]))

    def _is_filled(self) -> bool:
        states = ask(self._target, "select state from cdc_embed.reconcile")
        return len(states) == len(TABLES) and set(states) == {("done",)}

    def _begin(self, arguments: list[str], *, may_drift: bool = False) -> None:
        """Run a command beside everything else, or kill it."""
        for command, drifts in [pair for pair in self._commands if pair[0].ended]:
            self._finish(command, drifts, 10)
        if len(self._commands) >= MOST_COMMANDS:
            return
        command = Command(self._source, *arguments)
        self.diary.note(f"outside: {command}")
        if self.choice.random() < 0.15:
            self.hold(2)
            command.kill()
        else:
            self._commands.append((command, may_drift))

    def await_commands(self, seconds: float) -> None:
        """Nothing goes wrong any more: what was begun must come to its end."""
        for command, may_drift in list(self._commands):
            self._finish(command, may_drift, seconds)

    def _finish(self, command: Command, may_drift: bool, seconds: float) -> None:
        """Note a result if the answer of a command is wrong, whatever went on beside it."""
        self._commands.remove((command, may_drift))
        try:
            code, out, err = command.finish(seconds)
        except subprocess.TimeoutExpired:
            self.results.append(f"{command} did not end")
            return
        self.diary.note(f"outside: {command}: {code} {err[-300:]!r}")
        found = json.loads(out) if command.arguments[0] == "verify" and out else {"drift": 0}
        if found["drift"] and not may_drift:
            self.results.append(f"{command} found drift: {json.dumps(found)}")
        drifted = code == DRIFT and found["drift"]
        if "Traceback" in err or not (drifted or code in {0, TEMPORARY}):
            self.results.append(f"{command} ended with {code}: {out}\n{err}")


OPEN_REQUESTS = (
    "select id, kind, state from cdc_embed.request where state in ('waiting', 'running')"
)
