"""``dlq retry``: dead letters, tried once more.

Their rows are read from the source again and get a place in the order of the log, as every row
that is read. The row's present text is embedded. A text that is refused again stays a letter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from cdc_embed.change.document import Table
from cdc_embed.reconcile.slices import Work
from cdc_embed.target.ledger import DONE, FAILED, RUNNING, Request
from cdc_embed.target.letters import Letter, Letters

PART_LETTERS: Final = 100
"""The letters that are tried together, before the next report of progress."""

log = structlog.get_logger()


@dataclass(slots=True, kw_only=True)
class _RetryTally:
    """One table's part of the answer."""

    table: Table
    letters: Sequence[Letter]
    retried: int = 0
    refused: int = 0

    def contract(self) -> dict[str, Any]:
        """Describe the table as the command line does."""
        return {"name": self.table.full_name, "retried": self.retried, "refused": self.refused}

    def progress(self) -> dict[str, Any]:
        """Describe the table's progress for the command that waits."""
        return {**self.contract(), "estimate": len(self.letters)}


class Retrier:
    """Answers retry requests, one after the other."""

    def __init__(self, *, work: Work, letters: Letters) -> None:
        self._work = work
        self._slices = work.slices
        self._letters = letters

    def answer(self, request: Request) -> None:
        """Try the requested letters, and store the result beside the request.

        Letters of a paused table are left alone, and the table is named.
        """
        reply = self._work.ledger.reply
        ids = request.arguments["ids"]
        paused = self._paused(ids)
        tallies = [
            _RetryTally(table=table, letters=letters)
            for table in self._work.tables
            if table.full_name not in paused
            and (letters := self._letters.find([table.full_name], ids))
        ]
        if paused and not tallies:
            problem = "; ".join(f"{name} {why}" for name, why in paused.items())
            reply(request.id, FAILED, error=problem)
            return
        for tally in tallies:
            for start in range(0, len(tally.letters), PART_LETTERS):
                progress = {"tables": [each.progress() for each in tallies]}
                if not reply(request.id, RUNNING, progress=progress):
                    log.info("retry called off")
                    return
                self._retry(tally, tally.letters[start : start + PART_LETTERS])
            log.info("retried", **tally.contract())
        result = {
            "tables": [tally.contract() for tally in tallies],
            "retried": sum(tally.retried for tally in tallies),
            "refused": sum(tally.refused for tally in tallies),
            "paused": paused,
        }
        progress = {"tables": [each.progress() for each in tallies]}
        reply(request.id, DONE, progress=progress, result=result)

    def _paused(self, ids: Sequence[int]) -> dict[str, str]:
        """Return why tables with some of these letters cannot be read now, by name."""
        problems = self._work.problems
        listed = self._letters.find(problems.keys(), ids)
        return {letter.table: problems[letter.table] for letter in listed}

    def _retry(self, tally: _RetryTally, letters: Sequence[Letter]) -> None:
        table = tally.table
        for scan in self._slices.read_keys(table, {letter.key_in(table) for letter in letters}):
            for _ in self._slices.hand_over_all(table, scan, repair=True, retry=True):
                pass
        tally.retried += len(letters)
        left = self._letters.find([table.full_name], [letter.id for letter in letters])
        tally.refused += len(left)
