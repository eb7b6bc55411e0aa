"""The tables whose changes arrive in the log, which depends on the output plugin.

A publication holds tables by oid and keeps them through a rename. wal2json receives table names
with each START_REPLICATION, and supports neither partitioned tables nor column lists. It leaves out
a table without a replica identity, and gives no error.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Final, Protocol

from cdc_embed.change.document import Table
from cdc_embed.config.load import Config
from cdc_embed.errors import PreflightError, SourceUnavailableError
from cdc_embed.finding import Finding
from cdc_embed.postgres.session import Session
from cdc_embed.postgres.side import UNDEFINED
from cdc_embed.source.observed import Observed, observed
from cdc_embed.source.publishing import Preparation, PublicationCoverage
from cdc_embed.source.tables import SourceTable, table_states

CONVERTED_ALIKE: Final = re.compile("UTF8|LATIN.*|ISO_8859_.*|WIN.*|KOI8.*|EUC_CN")
"""The encodings that Python decodes exactly as PostgreSQL does."""


class Coverage(Protocol):
    """The conditions for every change of some tables to arrive."""

    by_name: bool
    """Whether tables are followed by name, so that a renamed table is another one, and another list
    of names counts changes differently."""

    def findings(self, tables: Sequence[SourceTable]) -> list[Finding]:
        """Check that every change of the tables arrives."""

    def observe(self, tables: Sequence[SourceTable], listed: Iterable[int] = ()) -> Observed:
        """Look once which tables are undelivered, and at the shape of the others.

        ``listed``: the oids of the partitioned tables whose leaves are listed one by one. Few
        statements, whatever the number of tables; none waits for the lock of a table.
        """

    def prepare(self, tables: Sequence[SourceTable], adopt: bool, /) -> Preparation:
        """Return what setup has to do before the slot is made.

        With ``adopt`` it adds tables to a publication that it did not make.
        """

    def protect(self) -> list[str]:
        """Alter what is ours, so that no statement of the application fails; return what was
        done, or why it was not."""


class Wal2jsonCoverage:
    """The coverage of wal2json: the tables whose names START_REPLICATION lists."""

    by_name = True

    def __init__(self, session: Session, config: Config) -> None:
        self._session = session
        self._config = config

    def findings(self, tables: Sequence[SourceTable]) -> list[Finding]:
        partitioned = [
            _bad(
                f"wal2json cannot follow {source.table.full_name}, which is partitioned",
                'set source.plugin = "pgoutput" and make a new slot',
                source.table.full_name,
            )
            for source in tables
            if source.table.partitioned
        ]
        keys = [
            _bad(
                f"the key of {source.table.full_name} is not its primary key, the only one that "
                "wal2json tells of",
                'set source.plugin = "pgoutput" and make a new slot',
                source.table.full_name,
            )
            for source in tables
            if source.other_key
        ]
        undelivered = [
            _bad(f"{table} {problem}", "run: cdc-embed setup", table)
            for table, problem in self.observe(tables).undelivered.items()
        ]
        found = [*self._unread(), *partitioned, *keys, *undelivered]
        return found or [_finding(True, "wal2json can follow every table")]

    def _unread(self) -> list[Finding]:
        encoding = self._session.encoding()
        if CONVERTED_ALIKE.fullmatch(encoding):
            return []
        problem = f"wal2json does not convert {encoding}; Python decodes some of it differently"
        return [_bad(problem, 'set source.plugin = "pgoutput" and make a new slot')]

    def observe(self, tables: Sequence[SourceTable], listed: Iterable[int] = ()) -> Observed:
        states = table_states(self._session, self._config, listed)
        versions = {state.name: state.version for state in states}
        return observed(states, tables, {}, lambda source: versions[source.table.full_name])

    def prepare(self, tables: Sequence[SourceTable], _: bool, /) -> Preparation:
        return Preparation(obstacles=self.findings(tables))

    def protect(self) -> list[str]:
        return []


@dataclass(slots=True)
class Undelivered:
    """The undelivered tables that the watcher found, and those that the loop met meanwhile.

    Safe from any thread, because the whole mapping is replaced at once.
    """

    problems: Mapping[str, str] = field(default_factory=dict)
    """The reasons, by the table's full name."""
    until_setup: Mapping[str, str] = field(default_factory=dict)
    """The undelivered tables whose vectors only ``setup`` can make fit again."""
    _met: dict[str, str] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def meet(self, table: Table, problem: str) -> None:
        """Pause a table because of a change that cannot be used, until the watcher has looked."""
        with self._lock:
            self._met.setdefault(table.full_name, problem)
            self.problems = {**self._met, **self.problems}

    @contextmanager
    def looking(self) -> Iterator[dict[str, str]]:
        """Give a mapping for the undelivered tables that are found now; it is valid at the end.

        A table that the loop meets meanwhile stays paused until the next look.
        """
        found: dict[str, str] = {}
        with self._lock:
            before = set(self._met)
        yield found
        with self._lock:
            for name in before:
                del self._met[name]
            self.problems = {**self._met, **found, **self.until_setup}

    def problem_of(self, tables: Iterable[Table]) -> str:
        """Return why one of some tables is undelivered; empty when none is."""
        problems = self.problems
        names = (table.full_name for table in tables)
        return next((f"{name} {problems[name]}" for name in names if name in problems), "")


@contextmanager
def undelivered_is_outage(coverage: Coverage, tables: Sequence[SourceTable]) -> Iterator[None]:
    """Turn the error of a table that became unreadable into an outage while rows are read.

    Such a table must not end the service. The reader waits, because of ``SourceUnavailableError``,
    until the thread that looks for undelivered tables has found it too. From then on only this
    table is paused, and it will be compared.
    """
    try:
        yield
    except PreflightError as exc:
        name = str(exc.fields.get("table"))
        seen = coverage.observe(tables)
        problem = seen.altered.get(name) or seen.undelivered.get(name)
        if problem is None and exc.fields.get("state") in UNDEFINED:
            problem = "was altered and restored while it was being read"
        if problem is None:
            raise
        raise SourceUnavailableError(problem=f"table {name} {problem}") from exc


COVERAGES: Final[dict[str, Callable[[Session, Config], Coverage]]] = {
    "pgoutput": PublicationCoverage,
    "wal2json": Wal2jsonCoverage,
}
"""The coverages, by the output plugin's name."""


def _bad(message: str, fix: str, table: str = "") -> Finding:
    return _finding(False, message, fix, table)


def _finding(ok: bool, message: str, fix: str = "", table: str = "") -> Finding:
    return Finding(id="coverage", ok=ok, message=message, fix=fix, table=table)
