"""The two threads that read rows of the source during one term, as one thing."""

from dataclasses import dataclass

from cdc_embed.flow.patience import Trouble
from cdc_embed.reconcile.deferred import DeferredReader
from cdc_embed.reconcile.reconciler import Reconciler


@dataclass(frozen=True, slots=True)
class Readers:
    """Compares rows, and embeds those that are deferred."""

    reconciler: Reconciler
    deferred: DeferredReader

    def start(self) -> None:
        """Begin both."""
        self.reconciler.start()
        self.deferred.start()

    def join(self) -> None:
        """Wait for both after the end of the term."""
        self.reconciler.join()
        self.deferred.join()

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
