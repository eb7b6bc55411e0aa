"""A batch between its dispatch and its commit."""

from concurrent.futures import Future
from dataclasses import dataclass, field

from cdc_embed.change.batch import RowId
from cdc_embed.change.pending import is_other
from cdc_embed.flow.examine import Extract
from cdc_embed.flow.facts import BatchFacts
from cdc_embed.flow.lane import Offer
from cdc_embed.flow.prepare import Range, rows_of
from cdc_embed.flow.supply import Prepared
from cdc_embed.flow.writing import Written


@dataclass(slots=True, kw_only=True)
class InFlight:
    """A batch between its dispatch and its commit."""

    work: Range | Extract
    facts: BatchFacts = field(default_factory=BatchFacts)
    size: int = 0
    """The bytes of its changes."""
    oldest: float | None = None
    """The Unix time of its oldest commit; None for rows that were read."""
    offer: Offer | None = None
    """The slice that it is made of; None for a range of the log."""
    preparing: Future[Prepared] | None = None
    outdated: bool = False
    """Whether it is being prepared upon a batch that was not written as planned."""
    prepared: Prepared | None = None
    writing: Future[Written] | None = None
    attempts: int = 0
    """The times it was prepared in vain, though the database refused no row of it."""

    @property
    def has_others(self) -> bool:
        """Whether it is a slice, or has changes that are no new rows."""
        work = self.work
        return isinstance(work, Extract) or any(is_other(event) for event in work.events)

    def rows(self) -> set[RowId]:
        """Return the rows that it touches."""
        if isinstance(self.work, Range):
            return rows_of(self.work.events)
        part = self.work.slice
        return {(part.table, key) for key in part.rows}


@dataclass(frozen=True, slots=True, kw_only=True)
class CommittedBatch:
    """A batch that is committed, or had nothing to write."""

    prepared: Prepared
    written: Written
    offer: Offer | None
