"""The construction of each term's reconciler, over sessions that last as long as an instance."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from threading import Event

from cdc_embed.change.document import Table
from cdc_embed.errors import CdcEmbedError
from cdc_embed.flow.supply import VectorSupply
from cdc_embed.postgres.session import Session
from cdc_embed.postgres.side import SOURCE, TARGET
from cdc_embed.reconcile.counts import TableCounter
from cdc_embed.reconcile.deferred import DeferredReader, Embedding
from cdc_embed.reconcile.indexing import Indexer
from cdc_embed.reconcile.readers import Readers
from cdc_embed.reconcile.reconciler import Reconciler
from cdc_embed.reconcile.requests import Requests
from cdc_embed.reconcile.retry import Retrier
from cdc_embed.reconcile.rounds import Rounds
from cdc_embed.reconcile.size import Size, TokenCounter
from cdc_embed.reconcile.slices import ReadingPace, Scope, SliceReader, Term, Work
from cdc_embed.reconcile.verify import Verifier
from cdc_embed.service.checked import Checked, LastingParts
from cdc_embed.service.shapes import LeafNews, MetLeaves
from cdc_embed.service.stages import Stages
from cdc_embed.source.coverage import Undelivered, undelivered_is_outage
from cdc_embed.source.observed import Observed
from cdc_embed.source.rows import RowReader, part_bytes
from cdc_embed.target.deferred import DeferredRows
from cdc_embed.target.index import IndexBuilder
from cdc_embed.target.leaves import Leaves
from cdc_embed.target.ledger import Ledger
from cdc_embed.target.letters import Letters
from cdc_embed.target.stored import StoredDocuments


class Reconciling:
    """Makes reconcilers, one for each term, and is their surroundings.

    Their rows are read in a session that no writer and no stream uses, so that a long scan delays
    neither. Their notes go into the session in which the target is watched.
    """

    def __init__(
        self,
        checked: Checked,
        kept: LastingParts,
        stages: Stages,
        undelivered: Undelivered,
        met: MetLeaves,
    ) -> None:
        intervals = kept.tolerance.intervals
        self._config = config = checked.config
        self._databases = checked.databases
        self._sources = checked.sources
        self._card = checked.model.card
        self._stages = stages
        self._undelivered = undelivered
        self._pace = ReadingPace(
            rows_per_second=config.backfill.rows_per_second,
            rounds=intervals.rounds,
            trouble=intervals.trouble,
        )
        self._pauses = intervals.counts
        self._metrics = kept.metrics
        self._news = LeafNews(checked.databases, checked.sources, met)
        self._scopes = [Scope(table=t, space=stages.store.space(t)) for t in checked.tables]
        self._builder = IndexBuilder(
            self._config.target.schema, self._config.index, checked.find_extension_schema()
        )
        index = Session(TARGET, config.target_login, f"cdc_embed index {config.source.slot}")
        self._indexer = Indexer(index, self._ensure_index, stages.store.look_ups)
        name = f"cdc_embed count {config.source.slot}"
        source, target = self._databases.source, self._databases.target
        self._count_source = Session(SOURCE, config.source_login, name, lookout=source)
        self._count_target = Session(TARGET, config.target_login, name, lookout=target)
        self._counter = TokenCounter(stages.cut, checked.model.card.count_tokens)
        self.sizes: Mapping[str, Size] = {}
        """The tables that were measured, by name; replaced whole."""
        self.has_work = True
        """Whether there can be something to compare or to answer; the watch finds out."""

    def close(self) -> None:
        """Leave an index that is being made to the server."""
        self._indexer.close()

    def make(self, term: Term, on_failure: Callable[[CdcEmbedError], None]) -> Readers:
        """Make what reads rows in one term; ``on_failure`` is called with an error that ends it."""
        work = self._make_work(term)
        deferred = DeferredReader(
            work=replace(work, slices=self._make_slices(term)), embedding=self._make_embedding()
        )
        reconciler = self._make_reconciler(work)
        return Readers(
            reconciler=reconciler,
            deferred=deferred,
            rounds=(
                Rounds("reconcile", reconciler, work, self, on_failure),
                Rounds("deferred", deferred, work, self, on_failure),
            ),
        )

    def _make_embedding(self) -> Embedding:
        stages = self._stages
        return Embedding(
            rows=DeferredRows(self._databases.target, self._config.target.schema),
            supply=VectorSupply(stages.store.look_ups, stages.runner, stages.patience),
            cut=stages.cut,
        )

    def _make_reconciler(self, work: Work) -> Reconciler:
        paid = self._card.paid
        letters = Letters(self._databases.target, self._config.target.schema)
        return Reconciler(
            work=work,
            requests=Requests(
                work=work, backfill=self._config.backfill, paid=paid, measure=self._measure
            ),
            answers={
                "verify": Verifier(work=work, paid=paid).answer,
                "retry": Retrier(work=work, letters=letters).answer,
            },
            surroundings=self,
        )

    def _make_work(self, term: Term) -> Work:
        config = self._config
        target = self._databases.target
        ledger = Ledger(target, config.target.schema, config.source.slot)
        stored, slices = self._stored(target), self._make_slices(term)
        return Work(
            term=term,
            slices=slices,
            scopes=self._scopes,
            ledger=ledger,
            stored=stored,
            leaves=Leaves(target, config.target.schema),
            undelivered=self._undelivered,
            metrics=self._metrics,
            pace=self._pace,
            counts=TableCounter(
                source=RowReader(self._count_source, term.ended),
                target=self._stored(self._count_target),
                make_room=lambda: self._databases.rows.close_unused(0),
                pause=slices.pause,
                pauses=self._pauses,
            ),
            has_news=self._news.has_news,
        )

    def _make_slices(self, term: Term) -> SliceReader:
        """Make a reader for one thread. The session of its rows can be shared, the reader
        cannot."""
        part = part_bytes(self._config.limits.memory)
        return SliceReader(
            term=term,
            rows=RowReader(self._databases.rows, term.ended, part_bytes=part),
            stored=self._stored(self._databases.target),
            wal_end=self._databases.catalogue.wal_end,
            pace=self._pace,
        )

    def _stored(self, session: Session) -> StoredDocuments:
        config = self._config
        return StoredDocuments(session, config.target.schema, config.source.slot)

    # -- the surroundings of a reconciler ----------------------------------------------------------

    def table_compared(self, table: Table) -> None:
        """Have a table indexed whose rows all have their vectors."""
        self._indexer.filled(table)

    def reading(self) -> AbstractContextManager[None]:
        """Turn the loss of a table while it is read into an outage."""
        return undelivered_is_outage(self._databases.coverage, self._sources)

    def cancel(self) -> None:
        """Cancel the statements of every session; called from another thread."""
        for session in (self._databases.rows, self._count_source, self._count_target):
            session.cancel()
        self._databases.cancel()

    @property
    def index_problems(self) -> dict[str, str]:
        """The reasons why a table has no index, or not the configured one, by the table's name."""
        return self._indexer.problems

    # -- for requests and the indexer --------------------------------------------------------------

    def _measure(self, tables: Sequence[Table]) -> dict[Table, Size]:
        """Measure tables, and take each one's shape first."""
        listed = [table.oid for table in tables if table.partitioned]
        observed = self._databases.coverage.observe(self._sources, listed)
        sizes = {table: self._size(table, observed) for table in tables}
        measured = {table.full_name: size for table, size in sizes.items()}
        self.sizes = {**self.sizes, **measured}
        return sizes

    def _size(self, table: Table, observed: Observed) -> Size:
        name = table.full_name
        rows, tokens = observed.estimates[name], None
        if self._card.paid:
            reader = RowReader(self._databases.rows, Event())
            rows, tokens = self._counter.measure(reader, table)
        return Size(rows=rows, tokens=tokens, shape=observed.shapes.get(name))

    def _ensure_index(self, session: Session, table: Table) -> bool:
        return self._builder.ensure(session, table.embedding_table)
