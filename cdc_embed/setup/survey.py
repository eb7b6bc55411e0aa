"""The survey of both databases: the facts, the findings of the checks, the tables that can be
followed.

``preflight`` makes it. ``doctor`` shows it, ``setup`` and ``run`` decide by it, so that they agree.
"""

from dataclasses import dataclass, field

from cdc_embed.errors import (
    UNAVAILABLE,
    CdcEmbedError,
    HistoryGapError,
    OtherSourceError,
    PreflightError,
    UnfollowedError,
)
from cdc_embed.finding import Finding, expect
from cdc_embed.setup.hindrances import Hindrance
from cdc_embed.source.slot import Server, Slot
from cdc_embed.source.tables import SourceTable, why_paused


@dataclass(slots=True)
class Survey:
    """The facts about both databases, and the findings of the checks."""

    findings: list[Finding] = field(default_factory=list)
    tables: list[SourceTable] = field(default_factory=list)
    """The tables that can be followed."""
    slot: Slot | None = None
    database: str = ""
    server: Server | None = None
    slot_name: str = ""
    gap: str | None = None
    """The reason why the slot cannot continue the recorded position."""
    stranger: OtherSourceError | None = None
    """The server is not the one that the slot's name belongs to."""
    outage: CdcEmbedError | None = None
    """A database or a model cannot be asked now, or not be written."""
    away: Finding | None = None
    """The finding of the outage."""
    hindrances: list[Hindrance] = field(default_factory=list)
    """The things of others on objects of ours."""
    paused: dict[str, str] = field(default_factory=dict)
    """The reasons of the tables that cannot be followed, by name; one never stops the others."""

    @property
    def encoding(self) -> str:
        """The encoding of the source's database."""
        return self.server.encoding if self.server is not None else ""

    @property
    def failed(self) -> list[Finding]:
        """The findings that keep ``run`` from a table, or from all."""
        return [finding for finding in self.findings if finding.failed]

    def add(self, finding: Finding) -> None:
        """Add a finding; one that failed for a table alone leaves that table out."""
        if finding.failed and finding.table:
            self.pause(finding)
        else:
            self.findings.append(finding)

    def pause(self, finding: Finding) -> None:
        """Leave a table out, which alone is concerned by a finding."""
        self.findings.append(finding)
        self.paused.setdefault(finding.table, why_paused(finding))
        self.tables = [s for s in self.tables if s.table.full_name != finding.table]

    @property
    def exit_code(self) -> int:
        """The exit code of ``doctor``; that of ``run --no-wait`` too, unless other tables can be
        followed."""
        if self.gap is not None:
            return HistoryGapError.exit_code
        if any(finding.failed and finding is not self.away for finding in self.findings):
            return PreflightError.exit_code
        return UNAVAILABLE if self.away is not None else 0

    def fail(self, check: str, error: CdcEmbedError) -> None:
        """Add the finding of an error, which can be an outage."""
        found = Finding(id=check, ok=False, message=str(error), fix=error.hint)
        self.findings.append(found)
        if error.exit_code == UNAVAILABLE:
            self.outage, self.away = error, found

    def expect_usable(self) -> None:
        """Raise the error of a service that can do nothing at all; name every obstacle."""
        if self.stranger is not None:  # nothing that it says of tables is about ours
            raise self.stranger
        if self.gap is not None:
            raise HistoryGapError(slot=self.slot_name, problem=self.gap)
        lasting = [finding for finding in self.findings if finding is not self.away]
        together = [finding for finding in lasting if not finding.table]
        usable = any(source.table.full_name not in self.paused for source in self.tables)
        if usable or any(finding.failed for finding in together):
            expect(together if usable else lasting)
        else:
            expect(lasting, UnfollowedError, paused=self.paused)
        if self.outage is not None:
            raise self.outage
