"""``dlq retry``: dead letters tried once more.

Their rows are read from the source again and take the way of every row that is read: a place in
the order of the log, and whatever the row says now counts. What is refused again stays a letter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from cdc_embed.change.document import Table
from cdc_embed.reconcile.slices import Scope, SliceReader
from cdc_embed.source.coverage import Undelivered
from cdc_embed.target.ledger import DONE, FAILED, RUNNING, Request
from cdc_embed.target.letters import Letter, Letters

PART_LETTERS: Final = 100
"""Tried together; progress is told in between."""

log = structlog.get_logger()


@dataclass(slots=True, kw_only=True)
class _Tally:
    """One table's part of the answer."""

    table: Table
    letters: Sequence[Letter]
    retried: int = 0
    refused: int = 0

    def contract(self) -> dict[str, Any]:
        return {"name": self.table.full_name, "retried": self.retried, "refused": self.refused}

    def progress(self) -> dict[str, Any]:
        return {**self.contract(), "estimate": len(self.letters)}


class Retrier:
    """Answers retry requests, one after the other."""

    def __init__(
        self,
        *,
        slices: SliceReader,
        scopes: Sequence[Scope],
        letters: Letters,
        undelivered: Undelivered,
    ) -> None:
        self._undelivered = undelivered
        self._slices = slices
        self._tables = [scope.table for scope in scopes]
        self._letters = letters

    def answer(self, request: Request) -> None:
        """Try the letters that are asked for, and leave the result beside the request."""
        reply = self._slices.ledger.reply
        tallies = [
            _Tally(table=table, letters=letters)
            for table in self._tables
            if (letters := self._letters.find([table.full_name], request.arguments["ids"]))
        ]
        problem = self._undelivered.problem_of([tally.table for tally in tallies])
        if problem:
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
        }
        progress = {"tables": [each.progress() for each in tallies]}
        reply(request.id, DONE, progress=progress, result=result)

    def _retry(self, tally: _Tally, letters: Sequence[Letter]) -> None:
        table = tally.table
        scan = self._slices.look(table, {letter.key_in(table) for letter in letters})
        for _ in self._slices.examine_all(table, scan, repair=True, retry=True):
            pass
        tally.retried += len(letters)
        left = self._letters.find([table.full_name], [letter.id for letter in letters])
        tally.refused += len(left)
