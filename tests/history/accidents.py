"""The accidents that a person must mend in a history: a lost slot, damaged vectors.

Changes go on while nobody follows the log; afterwards the commands of the documentation must make
everything right.
"""

import random
import signal
from collections.abc import Callable

from tests.history.clients import Diary, ask
from tests.history.fleet import DRIFT, Command, Fleet
from tests.history.tables import TABLES
from tests.invariant import Watch
from tests.quiet import let_pass
from tests.site import Site, wait_until

COMMAND_SECONDS = 120.0
NOTICED_SECONDS = 10.0
"""Two looks of the watch at the files of the tables."""


class Accidents:
    """``change`` makes the application change rows for some seconds."""

    def __init__(
        self,
        seed: str,
        diary: Diary,
        source: Site,
        fleet: Fleet,
        watch: Watch,
        change: Callable[[float], None],
    ) -> None:
        self._choice = random.Random(f"{seed}/accidents")
        self._diary = diary
        self._source = source
        self._target = source.target or source
        self._fleet = fleet
        self._watch = watch
        self._change = change

    def happen(self) -> None:
        """One of them."""
        accident = self._choice.choice([self.lose_slot, self.damage])
        self._diary.note(f"accident: {accident.__name__}")
        accident()

    def lose_slot(self) -> None:
        """Changes are missed; ``setup --rebuild`` makes a slot, the service compares every row."""
        with self._watch.looking_away():
            for service in list(self._fleet.running):
                end = self._choice.choice([self._fleet.kill, self._fleet.stop])
                service.process.send_signal(signal.SIGCONT)
                end(service)
            self._change(self._choice.uniform(0, 1))
            ask(self._source, "select pg_drop_replication_slot(%s)", self._source.name)
            self._change(self._choice.uniform(0, 1))
            self._run(0, "setup", "--rebuild")
        self._fleet.tend()

    def damage(self) -> None:
        """Somebody changes the tables of vectors by hand; ``verify`` finds it and mends it."""
        self._await_comparisons()
        table = self._choice.choice(TABLES)
        name = f"cdc_embed.{table.name}_embedding"
        statement = self._choice.choice(
            [
                f"delete from {name} where {table.number} %% 2 = 0 or chunk = %s",
                f"update {name} set document_hash = 'damaged' where chunk >= %s",
                f"delete from {name} where chunk >= %s",
            ]
        )
        damaged = ask(
            self._target,
            f"with damaged as ({statement} returning 1) select count(*) from damaged",
            self._choice.choice([0, 1]),
        )[0][0]
        self._diary.note(f"accident: {damaged} chunks of {table.name}")
        self._run(DRIFT if damaged else 0, "verify", "--json")
        self._run(0, "verify", "--repair", "--json")
        self._run(0, "verify", "--json")

    def _await_comparisons(self) -> None:
        """A rewrite by the last client may not be noticed yet; its comparison mends damage too."""
        let_pass(NOTICED_SECONDS)
        states = "select state from cdc_embed.reconcile"
        wait_until(
            lambda: {state for (state,) in ask(self._target, states)} == {"done"},
            "every table is compared",
            COMMAND_SECONDS,
        )

    def _run(self, expected: int, *arguments: str) -> None:
        code, out, err = Command(self._source, *arguments).finish(COMMAND_SECONDS)
        assert code == expected, f"{arguments}: {code}, not {expected}: {out}\n{err}"
