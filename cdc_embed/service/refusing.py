"""The tables that fail though every check of them is good. Each is left out for a while, alone.

A trigger on a table of vectors can refuse its rows, or a privilege on one view can be missing. Only
the work itself meets that, and the next start would meet it again.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from cdc_embed.config.table import TableConfig
from cdc_embed.errors import CdcEmbedError, PreflightError, TargetRefusedError
from cdc_embed.finding import Finding
from cdc_embed.setup.hindrances import Hindrance, with_way_out
from cdc_embed.setup.survey import Survey

AGAIN_SECONDS: Final = 60.0
"""An error that comes again within this time is one that no check at a start sees."""
SHORTEST_SECONDS: Final = 60.0
"""The time until such a table is tried again, at first; it doubles, because a try costs a start."""
LONGEST_SECONDS: Final = 3600.0


class _LeftOut(NamedTuple):
    finding: Finding
    seconds: float
    until: float


class Refusing:
    """Remembers the tables that failed, from one instance to the next. Safe from any thread."""

    def __init__(
        self,
        tables: Iterable[TableConfig],
        shortest: float = SHORTEST_SECONDS,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``shortest``: seconds until a table is tried again, at first."""
        self._owners = {
            name: table.full_name
            for table in tables
            for name in (table.full_name, table.embedding_table_name, table.search_view_name)
        }
        self._shortest = shortest
        self._clock = clock
        self._failed_at: dict[str, float] = {}
        self._left_out: Mapping[str, _LeftOut] = {}
        self.hindrances: Sequence[Hindrance] = ()
        """The things of others on objects of ours, as the last start found them."""

    def note(self, error: CdcEmbedError) -> bool:
        """Note an error; return whether its table is left out of the next starts, for a while.

        The first time it is not, because the checks of the next start can find the cause.
        Raises the error if another start is of no use, because it names no table, or not one of
        these.
        """
        if isinstance(error, TargetRefusedError):
            error = with_way_out(error, self.hindrances)
        if error.exit_code != PreflightError.exit_code or not error.fields.get("table"):
            raise error
        name = str(error.fields["table"])
        owner, now = self._owners.get(name, name), self._clock()
        recent = now - self._failed_at.get(owner, -AGAIN_SECONDS) < AGAIN_SECONDS
        self._failed_at[owner] = now
        before = self._left_out.get(owner)
        if not recent and before is None:
            return False
        if name not in self._owners:
            raise error
        seconds = self._shortest if before is None else min(2 * before.seconds, LONGEST_SECONDS)
        found = Finding(id="refusing", ok=False, message=str(error), fix=error.hint, table=owner)
        entry = _LeftOut(found, seconds, now + seconds)
        self._left_out = {**self._left_out, owner: entry}
        return True

    @property
    def findings(self) -> dict[str, Finding]:
        """The errors of the tables that are not tried yet again, by the table's full name."""
        now = self._clock()
        return {name: left.finding for name, left in self._left_out.items() if now < left.until}

    def leave_out(self, survey: Survey) -> None:
        """Pause these tables in a survey, unless it says why they cannot be followed."""
        for name, finding in self.findings.items():
            if name not in survey.paused:
                survey.pause(finding)
