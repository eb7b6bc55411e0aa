"""The two threads that read rows of the source during one term, as one thing."""

from collections.abc import Sequence
from dataclasses import dataclass

from cdc_embed.flow.patience import Trouble
from cdc_embed.reconcile.deferred import DeferredReader
from cdc_embed.reconcile.reconciler import Reconciler
from cdc_embed.reconcile.rounds import Rounds


@dataclass(frozen=True, slots=True, kw_only=True)
class Readers:
    """Compares rows, and embeds those that are deferred."""

    reconciler: Reconciler
    deferred: DeferredReader
    rounds: Sequence[Rounds]
    """The threads in which they work."""

    def start(self) -> None:
        """Begin both."""
        for each in self.rounds:
            each.start()

    def join(self) -> None:
        """Wait for both after the end of the term."""
        for each in self.rounds:
            each.join()

    @property
    def waiting_for(self) -> str:
        """The ends and locks that the comparison waits for; empty if there are none."""
        return self.reconciler.waiting_for

    @property
    def trouble(self) -> Trouble | None:
        """The error because of which rows are not compared, nor requests answered."""
        return self.reconciler.trouble

    @property
    def waiting_rows(self) -> str:
        """The number of rows that wait for the embedder, and why; empty if there are none."""
        return self.deferred.problem
