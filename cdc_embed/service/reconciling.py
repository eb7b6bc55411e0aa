"""The construction of each term's reconciler, over sessions that last as long as an instance."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack

from cdc_embed.change.document import Table
from cdc_embed.embed.base import ModelCard
from cdc_embed.errors import CdcEmbedError
from cdc_embed.metrics import Metrics
from cdc_embed.postgres.session import Session
from cdc_embed.postgres.side import SOURCE, TARGET
from cdc_embed.reconcile.indexing import Indexer
from cdc_embed.reconcile.reconciler import Reconciler
from cdc_embed.reconcile.requests import Requests, Size
from cdc_embed.reconcile.retry import Retrier
from cdc_embed.reconcile.slices import Pace, Scope, SliceReader, Term, Work
from cdc_embed.reconcile.verify import Verifier
from cdc_embed.service.checked import Checked
from cdc_embed.service.reading import coverage_of, open_session
from cdc_embed.source.coverage import Undelivered, undelivered_is_outage
from cdc_embed.source.rows import RowReader
from cdc_embed.source.slot import SlotCatalogue
from cdc_embed.source.tables import estimate_rows, text_bytes
from cdc_embed.target.index import ensure_index
from cdc_embed.target.ledger import Ledger
from cdc_embed.target.letters import Letters
from cdc_embed.target.store import Store


class Reconciling:
    """Makes reconcilers, one for each term, and is their surroundings.

    Its sessions are its own, so that a long scan delays neither the stream nor the writer.
    """

    def __init__(
        self,
        checked: Checked,
        card: ModelCard,
        store: Store,
        undelivered: Undelivered,
        metrics: Metrics,
    ) -> None:
        self._config = checked.config
        self._sources = checked.sources
        self._card = card
        self._undelivered = undelivered
        self._metrics = metrics
        self._scan = open_session(self._config, SOURCE, "reconcile")
        self._notes = open_session(self._config, TARGET, "reconcile")
        self._coverage = coverage_of(self._config, self._scan)
        self._scopes = [Scope(table=t, space=store.space(t)) for t in checked.tables]
        self._extension_schema = checked.find_extension_schema()
        self._indexer = Indexer(open_session(self._config, TARGET, "index"), self._ensure_index)

    def close(self) -> None:
        """Close the sessions, and give up an index that is being made."""
        with ExitStack() as stack:
            stack.callback(self._scan.close)
            stack.callback(self._notes.close)
            stack.callback(self._indexer.close)

    def make(self, term: Term, on_failure: Callable[[CdcEmbedError], None]) -> Reconciler:
        """Make the reconciler of one term; ``on_failure`` is called with an error that ends it."""
        config = self._config
        ledger = Ledger(self._notes, config.target.schema, config.source.slot)
        pace = Pace(rows_per_second=config.backfill.rows_per_second)
        work = Work(
            term=term,
            slices=SliceReader(
                term=term,
                rows=RowReader(self._scan, term.ended),
                ledger=ledger,
                wal_end=SlotCatalogue(self._scan, config.source.slot).wal_end,
                pace=pace,
            ),
            scopes=self._scopes,
            ledger=ledger,
            undelivered=self._undelivered,
            metrics=self._metrics,
            pace=pace,
        )
        paid = self._card.paid
        retrier = Retrier(work=work, letters=Letters(self._notes, config.target.schema))
        return Reconciler(
            work=work,
            requests=Requests(
                work=work, backfill=config.backfill, paid=paid, measure=self._measure
            ),
            answers={
                "verify": Verifier(work=work, paid=paid).answer,
                "retry": retrier.answer,
            },
            surroundings=self,
            on_failure=on_failure,
        )

    # -- the surroundings of a reconciler ----------------------------------------------------------

    def table_compared(self, table: Table) -> None:
        """Have a table indexed whose rows all have their vectors."""
        self._indexer.filled(table)

    def reading(self) -> AbstractContextManager[None]:
        """Turn the loss of a table while it is read into an outage."""
        return undelivered_is_outage(self._coverage, self._sources)

    def cancel(self) -> None:
        """Cancel the statements of both sessions; called from another thread."""
        self._scan.cancel()
        self._notes.cancel()

    # -- for requests and the indexer --------------------------------------------------------------

    def _measure(self, table: Table) -> Size:
        shape = self._coverage.shape(table)
        if not self._card.paid:
            return Size(rows=estimate_rows(self._scan, table), bytes=0, shape=shape)
        rows, size = text_bytes(self._scan, table)
        return Size(rows=rows, bytes=size, shape=shape)

    def _ensure_index(self, session: Session, table: Table) -> bool:
        config = self._config
        return ensure_index(
            session, config.target.schema, table, config.index, self._extension_schema
        )
