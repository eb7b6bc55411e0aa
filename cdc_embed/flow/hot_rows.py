"""Rows that change again and again, whose older versions are left out for a while."""

from dataclasses import dataclass, field
from typing import Final

from cdc_embed.change.action import Supersede
from cdc_embed.change.batch import RowId
from cdc_embed.change.plan import Plan

LEFT_OUT_SECONDS: Final = 2.0
"""The seconds for which a hot row's newer version keeps its older ones from being embedded."""


@dataclass(slots=True)
class HotRows:
    """Rows whose versions were left out, and since when."""

    since: dict[RowId, float] = field(default_factory=dict)

    def starving(self, rows: set[RowId], now: float) -> set[RowId]:
        return {row for row in rows & self.since.keys() if now - self.since[row] > LEFT_OUT_SECONDS}

    def mark(self, plan: Plan, now: float) -> None:
        for row in [row for row in self.since if row[0] in plan.batch.truncated]:
            del self.since[row]
        for row, action in plan.actions.items():
            if isinstance(action, Supersede):
                self.since.setdefault(row, now)
            else:
                self.since.pop(row, None)
