"""An application with two databases: one that cdc_embed follows, and its twin, that nobody does.

Every statement runs in both. In the first one it must end as it ends in the twin.
"""

import io
import re
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any, Final

import psycopg2

from tests.history.clients import Diary
from tests.migrations.steps import Step
from tests.migrations.surroundings import Ground
from tests.quiet import let_pass
from tests.site import Site

HARMS: Final = {"55000", "42P10"}
"""The errors of UPDATE and DELETE of a published table whose log could not tell the row."""
HARM_SECONDS: Final = 20.0
"""The time within which a running service ends such an error; a start has its share of it."""
REFUSED: Final = ("set unlogged", "set expression")
"""Clauses that PostgreSQL refuses of a published table, in some versions."""
BOUND: Final = {"0A000", "2BP01"}
"""The errors of ALTER TYPE and DROP of a column that a publication lists."""
ALTERED: Final = re.compile(r"alter table (\S+)")
PUBLISHED: Final = """
select 1 from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
where p.pubname = 'cdc_embed' and r.prrelid = to_regclass(%s)
"""
SLOWEST_SECONDS: Final = 10.0
"""No statement of an application may wait longer because of us."""

Outcome = tuple[str, int]
"""The SQLSTATE of the statement that failed, or nothing, and how many rows the last one touched."""


class Application:
    """Runs steps in both databases; ``tend`` starts a service if none runs."""

    def __init__(self, ground: Ground, diary: Diary, tend: Callable[[], None]) -> None:
        self._ground = ground
        self._diary = diary
        self._tend = tend
        self.steps = 0
        self.failed = 0

    def run(self, step: Step) -> bool:
        """Run a step in both databases; return whether it succeeded."""
        expected = self._run_in(self._ground.twin, step)
        began = time.monotonic()
        found = self._run_followed(step, expected)
        took = time.monotonic() - began
        said = "; ".join(step.statements)
        self._diary.note(f"{expected[0] or 'ok'} {expected[1]} {took:.2f} s: {said[:3000]}")
        assert found == expected, f"{found}, not {expected} as in the twin: {said}"
        assert took < SLOWEST_SECONDS or found[0], f"it took {took:.1f} s: {said}"
        self.steps += 1
        self.failed += bool(expected[0])
        return not expected[0]

    def _run_followed(self, step: Step, expected: Outcome) -> Outcome:
        """Run it where cdc_embed is; follow the documentation where that says what fails."""
        found = self._run_in(self._ground.site, step)
        if found == expected or not found[0]:
            return found
        refused = any(clause in step.statements[-1] for clause in REFUSED)
        if refused or (found[0] in BOUND and self._ground.surroundings.publish == "columns"):
            return self._unpublished(step)
        deadline = time.monotonic() + HARM_SECONDS
        while found[0] in HARMS and time.monotonic() < deadline:
            self._tend()
            let_pass(0.2)
            found = self._run_in(self._ground.site, step)
        return found

    def _unpublished(self, step: Step) -> Outcome:
        """Do as the documentation says where PostgreSQL refuses DDL of a published table."""
        said = "; ".join(step.statements)
        for table in dict.fromkeys(ALTERED.findall(said)):
            if self._ground.site.sql(PUBLISHED, table):
                self._diary.note(f"taken out of the publication: {table}")
                self._ground.site.sql(f"alter publication cdc_embed drop table only {table}")
        return self._run_in(self._ground.site, step)

    def both(self, statement: str) -> None:
        """Run what an operator does on advice. It can have been followed already, because the
        service notices that later: then it fails in both."""
        self._diary.note(f"advice: {statement}")
        failed = []
        for site in self._ground.both:
            try:
                site.sql(statement)
            except psycopg2.Error as exc:
                failed.append(str(exc))
        assert len(failed) in {0, 2}, f"in one database only: {statement}: {failed}"

    def _run_in(self, site: Site, step: Step) -> Outcome:
        with closing(psycopg2.connect(site.server.dsn(site.name, self._ground.role))) as connection:
            connection.autocommit = step.alone or step.apart
            rows = 0
            try:
                with connection.cursor() as cursor:
                    for statement in step.statements:
                        rows = _execute(cursor, statement, step.data)
                if not connection.autocommit:
                    (connection.rollback if step.rolled_back else connection.commit)()
            except psycopg2.Error as exc:
                return str(exc.pgcode), 0
            return "", rows


def _execute(cursor: Any, statement: str, data: str) -> int:
    if data:
        cursor.copy_expert(statement, io.StringIO(data))
    else:
        cursor.execute(statement)
    return int(cursor.rowcount)
