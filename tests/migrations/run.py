"""A history with DDL: bursts of changes and migrations, a user's answer, a comparison."""

import json
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from cdc_embed.lsn import LSN
from tests.history.clients import Diary
from tests.invariant import Watch
from tests.migrations.application import Application
from tests.migrations.ddl import Migrations
from tests.migrations.rows import Rows
from tests.migrations.steps import Step
from tests.migrations.surroundings import Ground
from tests.migrations.tables import choose_tables, names
from tests.migrations.user import SQL, User, wanted
from tests.quiet import let_pass

NOTICED_SECONDS: Final = 20.0
"""The time in which a service notices DDL: ten seconds, and a busy machine."""
SETTLED_SECONDS: Final = 90.0
PASSING: Final = {"starting", "reconnecting", "standby", "draining", "stopped"}
"""Words of ``/readyz`` for a service that is on its way."""


class DdlHistory:
    """Two databases, an application, a service, and the person who looks after it."""

    def __init__(self, seed: int, ground: Ground) -> None:
        self.seed = seed
        self._ground = ground
        self._choice = random.Random(f"{seed}/ddl")
        self._diary = Diary(ground.site.folder / f"ddl-{seed}.log")
        self._rows = Rows(self._choice)
        self._migrations = Migrations(self._choice, self._rows, ground.surroundings.version)
        self._tables = choose_tables(self._choice, ground.surroundings.plugin == "pgoutput")
        self._user = User(ground, self._diary, random.Random(f"{seed}/user"))
        self._application = Application(ground, self._diary, self._user.tend)
        self.bursts = 0

    @contextmanager
    def prepared(self) -> Iterator["DdlHistory"]:
        with ExitStack() as stack:
            for table in self._tables:
                assert self._application.run(Step([*table.definition(), *table.more]))
                for _ in range(3):
                    self._application.run(self._rows.insert(table))
            self._user.configure(self._tables)
            assert self._user.command("setup")[0] == 0
            self._user.start()
            stack.callback(self._user.end, "kill")
            self._watch = Watch(self._ground.site, replaced=True)
            self._watch.start()
            stack.callback(self._watch.stop)
            yield self

    @property
    def title(self) -> str:
        where = self._ground.surroundings.named
        return f"DDL history of seed {self.seed} ({where}), told in {self._diary.path}"

    def run(self, seconds: float, *, bursts: int = 1) -> None:
        """Bursts until the time is over; raises AssertionError with what is known."""
        print(self.title, flush=True)  # noqa: T201  how to run it again
        end = time.monotonic() + seconds
        try:
            while self.bursts < bursts or time.monotonic() < end:
                self.bursts += 1
                self._diary.note(f"burst {self.bursts}")
                self._burst()
                self._settle_and_verify()
                self._compare_twins()
                self._look_back()
        except Exception as exc:
            self._diary.note(f"failed: {exc}")
            raise AssertionError(
                f"{self.title}, burst {self.bursts}: {exc}\n{self._diary.tail(30)}"
            ) from exc
        steps, failed = self._application.steps, self._application.failed
        print(f"{self.bursts} bursts, {steps} steps, {failed} failed in both")  # noqa: T201

    # -- a burst -----------------------------------------------------------------------------------

    def _burst(self) -> None:
        choice = self._choice
        for _ in range(choice.randint(5, 30)):
            table = choice.choice(self._tables)
            kind = self._migrations if choice.random() < 0.5 else self._rows
            step = kind.step(table)
            if step is not None and self._application.run(step):
                step.done()
            chance = choice.random()
            if chance < 0.06:
                self._user.end()
            elif chance < 0.16:
                self._user.tend()
            elif chance < 0.19:
                self._user.command("setup")
            let_pass(choice.choice([0, 0, 0, 0.05, 0.3]))
        if choice.random() < 0.15:
            self._user.command("setup", "--rebuild")

    # -- until everything is right -----------------------------------------------------------------

    def _settle(self) -> None:
        """Do what the service says until it is ready and nothing differs."""
        end = time.monotonic() + SETTLED_SECONDS
        advised = 0
        while True:
            self._user.tend()
            problem = self._await_verdict()
            if problem is None:
                if self._choice.random() < 0.3 and self._user.entries != self._wanted():
                    self._reconfigure()
                    continue
                return
            assert time.monotonic() < end, f"not ready in time: {problem}"
            if self._user.misfits() or self._user.entries != self._wanted():
                self._reconfigure()
            else:
                advised += 1
                assert advised < 9, f"no advice helps: {problem}"
                self._follow(problem)

    def _wanted(self) -> list[object]:
        return [wanted(table) for table in self._tables]

    def _await_verdict(self) -> str | None:
        """Wait until it is ready with nothing that differs, or says for a while what is wrong."""
        began = time.monotonic()
        said: tuple[str, float] | None = None
        while True:
            now = time.monotonic()
            problem = self._user.problem()
            if problem is None:
                said = None
                drift = self._drift()
                if not drift and self._user.problem() is None:
                    return None
                # documents that differ while all is said to be well
                assert now < began + NOTICED_SECONDS + 40, f"ready, but {drift[:10]}"
            elif problem == "not running":
                return problem
            elif said is None or said[0] != problem:
                said = (problem, now)
                self._diary.note(f"not ready: {problem}")
            elif now > said[1] + (25 if problem in PASSING else 3):
                return problem
            let_pass(0.3)

    def _drift(self) -> list[str]:
        end = LSN.parse(self._ground.site.value("select pg_current_wal_lsn()::text"))
        drift = self._user.drift()
        if drift or self._user.misfits():
            return drift or ["the configuration does not fit"]
        return [] if self._user.has_reflected(end) else ["not reflected yet"]

    def _reconfigure(self) -> None:
        """Adapt the configuration to the migrated tables, run setup, restart."""
        self._user.configure(self._tables)
        if self._choice.random() < 0.5:
            self._user.end()
            self._setup()
        else:
            self._setup()
            self._user.end()

    def _setup(self) -> None:
        code, _, err = self._user.command("setup")
        if code:
            self._follow(err)

    def _follow(self, said: str) -> None:
        """Run what is advised: by the message, then by doctor."""
        advice = "\n".join([said, *self._user.advice()])
        for statement in dict.fromkeys(SQL.findall(advice)):
            self._application.both(self._fill_in(statement))
        rebuild = "setup --rebuild" in advice
        for _ in range(2):
            if rebuild:
                self._user.end()
            code, _, err = self._user.command("setup", *(["--rebuild"] if rebuild else []))
            if not code:
                return
            rebuild = rebuild or "setup --rebuild" in err
            if "set another embedding_table" in err:
                self._rename_vectors(err)
            if "stop the service" in err:
                self._user.end()

    def _rename_vectors(self, said: str) -> None:
        """Give a table that is another one now other vectors than its predecessor's."""
        for table in self._tables:
            if f"table {table.full_name}:" in said:
                table.vectors_name = f"vectors_{table.number}_{table.next()}"
        self._user.configure(self._tables)

    def _fill_in(self, statement: str) -> str:
        """Put the key in its place, which only a person knows."""
        table = next((t for t in self._tables if t.full_name in statement), None)
        if "(...)" not in statement or table is None:
            return statement
        named = f"add constraint {table.new_key_name()} primary key ({names(table.key)})"
        return statement.replace("add primary key (...)", named)

    # -- comparisons -------------------------------------------------------------------------------

    def _settle_and_verify(self) -> None:
        """Have ``verify`` agree; it sees other keys before the service has noticed them."""
        end = time.monotonic() + SETTLED_SECONDS
        while True:
            self._settle()
            code, out, err = self._user.command("verify", "--json")
            if not code:
                return
            found = json.loads(out) if out.strip() else {}
            assert found.get("drift") == 0, f"verify: {out}\n{err}"
            problems = [table["problem"] for table in found["tables"]]
            assert found["paused"] or any(problems), f"verify: {out}\n{err}"
            assert time.monotonic() < end, f"verify: {code}, but ready: {out}"
            self._await_notice()

    def _await_notice(self) -> None:
        """Wait until the service says what ``verify`` has said, or long enough to notice it."""
        end = time.monotonic() + NOTICED_SECONDS
        while self._user.problem() is None and time.monotonic() < end:
            let_pass(0.2)

    def _compare_twins(self) -> None:
        """An application must have the same rows with cdc_embed and without."""
        for table in self._tables:
            key = ", ".join(f"{c.name}::text" for c in (*table.key, *table.of("text")))
            statement = f"select {key} from {table.full_name}"
            rows = [sorted(map(repr, site.sql(statement))) for site in self._ground.both]
            assert rows[0] == rows[1], f"{table.full_name} differs from its twin"

    def _look_back(self) -> None:
        service = self._user.service
        output = [*self._user.logs, *(service.output if service is not None else ())]
        bad = [line for line in output if "Traceback" in line or "beyond the recorded" in line]
        assert not bad, "".join(output[-60:])
        self._user.logs.clear()
        assert not self._watch.violations, self._watch.violations[:10]
