"""Whose changes arrive in the log, which is the output plugin's to say.

A publication holds tables by oid and keeps them through a rename. wal2json is given names, with
each START_REPLICATION, and knows neither partitioned tables nor column lists; a table without a
replica identity it leaves out without a word.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol

from cdc_embed.change.document import Table
from cdc_embed.config.load import Config
from cdc_embed.errors import PreflightError, SourceUnavailableError
from cdc_embed.finding import Finding
from cdc_embed.postgres.ddl import Ddl
from cdc_embed.postgres.session import Session
from cdc_embed.postgres.side import UNDEFINED
from cdc_embed.source.publication import PublicationCoverage
from cdc_embed.source.tables import SourceTable, find_tables, shape_of
from cdc_embed.sql import queries

CONVERTED_ALIKE: Final = re.compile("UTF8|LATIN.*|ISO_8859_.*|WIN.*|KOI8.*|EUC_CN")
"""Encodings that Python reads as PostgreSQL does, to the last character."""


class Coverage(Protocol):
    """What must be so that every change of some tables arrives."""

    by_name: bool
    """Tables are asked for by name: under another name, or beside others, one is another."""

    def findings(self, tables: Sequence[SourceTable]) -> list[Finding]:
        """Whether everything that must arrive does."""

    def undelivered(self, tables: Sequence[SourceTable]) -> dict[str, str]:
        """Why changes of some of the tables do not arrive, by the table's name."""

    def shape(self, table: Table) -> str:
        """What differs as soon as something happened to a table that does not have to be in the
        log: another form of it, or that for a while its changes did not arrive."""

    def ddl(self, tables: Sequence[SourceTable], /) -> list[Ddl]:
        """Give the statements that must be run for it before there is a slot."""

    def notes(self, tables: Sequence[SourceTable], /) -> list[str]:
        """What the owner of the tables should know."""


class Wal2jsonCoverage:
    """What arrives through wal2json: the tables that it is asked for."""

    by_name = True

    def __init__(self, session: Session, config: Config) -> None:
        self._session = session
        self._config = config

    def findings(self, tables: Sequence[SourceTable]) -> list[Finding]:
        partitioned = [
            _bad(
                f"wal2json names the partitions of {source.table.full_name}, not the table",
                'set source.plugin = "pgoutput" and make a new slot',
            )
            for source in tables
            if source.table.partitioned
        ]
        undelivered = [
            _bad(f"{table} {problem}", "run: cdc-embed setup")
            for table, problem in self.undelivered(tables).items()
        ]
        found = [*self._unread(), *partitioned, *undelivered]
        return found or [_finding(True, "wal2json is asked for every table by name")]

    def _unread(self) -> list[Finding]:
        encoding = self._session.encoding()
        if CONVERTED_ALIKE.fullmatch(encoding):
            return []
        problem = f"wal2json does not convert, and {encoding} is read with other characters"
        return [_bad(problem, 'set source.plugin = "pgoutput" and make a new slot')]

    def undelivered(self, tables: Sequence[SourceTable]) -> dict[str, str]:
        found, findings = find_tables(self._session, self._config)
        oids = {source.table.full_name: source.table.oid for source in found}
        problems = "; ".join(finding.message for finding in findings if finding.failed)
        undelivered = {}
        for source in tables:
            name, oid = source.table.full_name, source.table.oid
            if name not in oids:
                undelivered[name] = f"cannot be followed ({problems})"
            elif oids[name] != oid:
                undelivered[name] = "is the name of another table now"
        return undelivered

    def shape(self, table: Table) -> str:
        with self._session.transaction(table.full_name) as cursor:
            cursor.execute(queries("source/tables")["version"], {"oid": table.oid})
            row = cursor.fetchone()
        return f"{shape_of(self._session, table)} {row and row[0]}"

    def ddl(self, _: Sequence[SourceTable], /) -> list[Ddl]:
        return []

    def notes(self, _: Sequence[SourceTable], /) -> list[str]:
        return []


@dataclass(slots=True)
class Undelivered:
    """Which tables are absent, and why; replaced whole by the one thread that looks."""

    problems: Mapping[str, str] = field(default_factory=dict)
    """By the table's full name."""

    def problem_of(self, tables: Iterable[Table]) -> str:
        """Why one of some tables stands still; empty when none does."""
        problems = self.problems
        names = (table.full_name for table in tables)
        return next((f"{name} {problems[name]}" for name in names if name in problems), "")


@contextmanager
def undelivered_is_outage(coverage: Coverage, tables: Sequence[SourceTable]) -> Iterator[None]:
    """Reading rows: a table that cannot be read because it left is no reason to end.

    It passes for an outage, ``SourceUnavailableError``, until whoever looks for absent tables has
    seen it too: from then on it stands still, and will be compared.
    """
    try:
        yield
    except PreflightError as exc:
        name = str(exc.fields.get("table"))
        problem = coverage.undelivered(tables).get(name)
        if problem is None and exc.fields.get("state") in UNDEFINED:
            problem = "was altered, and is what it was"
        if problem is None:
            raise
        raise SourceUnavailableError(problem=f"table {name} {problem}") from exc


COVERAGES: Final[dict[str, Callable[[Session, Config], Coverage]]] = {
    "pgoutput": PublicationCoverage,
    "wal2json": Wal2jsonCoverage,
}
"""By the output plugin's name."""


def _bad(message: str, fix: str) -> Finding:
    return _finding(False, message, fix)


def _finding(ok: bool, message: str, fix: str = "") -> Finding:
    return Finding(id="coverage", ok=ok, message=message, fix=fix)
