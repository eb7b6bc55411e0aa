"""From a range of changes to a plan with its vectors in hand: look up, decide, read again, embed.

The same for a slice of rows that were read from the source: look up, compare, embed. Runs in the
worker thread, one batch at a time, on facts that the loop hands over. It changes nothing in the
target; all it may do is to cut a range or a slice shorter, so that embedding it takes about as
long as a batch should.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from cdc_embed.change.batch import Batch, RowId
from cdc_embed.change.compare import NOTHING, Stored, Verdict, compare, repair
from cdc_embed.change.document import Document, Key, Table, fingerprint
from cdc_embed.change.knowledge import ABSENT, State
from cdc_embed.change.pending import LaterChanges
from cdc_embed.change.plan import Cut, Plan, Row, Write, plan, rows_to_look_up
from cdc_embed.change.transaction import Change, Event
from cdc_embed.flow.embedding import EmbeddingRunner
from cdc_embed.flow.lane import Examined, Slice
from cdc_embed.flow.patience import Patience

ReadRows = Callable[[Table, Mapping[Key, int]], dict[Key, Row | None]]

SAME_VECTOR: Final = 0.999
"""Cosine of a stored vector and a fresh one: rounding (halfvec, another machine) stays above it."""


class StoreReader(Protocol):
    """The part of the store that this room reads."""

    def look_up(self, rows: Sequence[RowId]) -> dict[RowId, State]: ...
    def look_up_whole(self, rows: Sequence[RowId]) -> dict[RowId, Stored]: ...
    def find_donors(self, chunks: Sequence[tuple[Table, bytes]]) -> set[tuple[Table, bytes]]: ...
    def vectors(
        self, table: Table, keys: Sequence[Key]
    ) -> dict[tuple[Key, int], tuple[bytes, NDArray[np.float32]]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """What the loop hands over: changes, and the facts about them that only it has."""

    events: Sequence[Event]
    known: dict[RowId, State]
    """Stored states of rows that need no look-up."""
    arriving: frozenset[tuple[Table, bytes]]
    """Chunks that batches in flight will have stored."""
    replaced: frozenset[RowId]
    """Rows that a pending change replaces."""
    needed: frozenset[RowId]
    """Rows that must not be left out: a pending change carries their text on, or they have been
    left out for long enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extract:
    """What the loop hands over of a slice."""

    slice: Slice
    hidden: frozenset[Key]
    """Rows that the slice's snapshot may be too old about."""
    states: dict[RowId, State]
    """What batches in flight make of its rows."""
    arriving: frozenset[tuple[Table, bytes]]


@dataclass(slots=True, kw_only=True)
class Ready:
    """A batch that can be written: every action decided, every vector in hand or in the target."""

    plan: Plan
    vectors: dict[bytes, NDArray[np.float32]]
    rest: Sequence[Event]
    """The events of the range that did not fit."""
    reused: int
    """Chunks whose vector comes from a stored one."""
    examined: Examined | None = None
    """What came of a slice; None for a range of the log."""


@dataclass(slots=True)
class _Facts:
    """What was found out about a range; kept when it is cut and planned again."""

    states: dict[RowId, State]
    refetched: dict[RowId, Row | None] = field(default_factory=dict)
    donors: dict[tuple[Table, bytes], bool] = field(default_factory=dict)
    documents: dict[tuple[Table, bytes], Document] = field(default_factory=dict)

    def cutting(self, cut: Cut) -> Cut:
        """``cut``, but never twice for the same text: counting its tokens takes time."""

        def remembered(table: Table, text: str) -> Document:
            place = table, fingerprint(text)
            if place not in self.documents:
                self.documents[place] = cut(table, text)
            return self.documents[place]

        return remembered


class Preparer:
    """Prepares batches with one embedder, one target and one source."""

    def __init__(
        self,
        *,
        store: StoreReader,
        read_rows: ReadRows,
        cut: Cut,
        runner: EmbeddingRunner,
        patience: Patience,
    ) -> None:
        self._stock = store
        self._read_rows = read_rows
        self._cut = cut
        self._runner = runner
        self._patience = patience

    def prepare(self, work: Range) -> Ready:
        """The plan of a range, or of as much of it as should be embedded at once."""
        facts = _Facts(dict(work.known))
        events: Sequence[Event] = work.events
        rest: Sequence[Event] = ()
        planned, wanted = self._plan(work, events, rest, facts)
        size = self._fitting(events, planned, wanted)
        if size < len(events):
            events, rest = events[:size], events[size:]
            planned, wanted = self._plan(work, events, rest, facts)
        return self._embed(planned, wanted, rest)

    def examine(self, work: Extract) -> Ready:
        """The comparison of a slice with what is stored, and the repair where it is asked for."""
        part = work.slice
        facts = _Facts(dict(work.states))
        cut = facts.cutting(self._cut)
        rows = {key: row for key, row in part.rows.items() if key not in work.hidden}
        stored = self._stored(part.table, rows, work.states)
        verdicts = {key: compare(part.table, row, stored[key]) for key, row in rows.items()}
        planned = Plan(Batch())
        vectors: dict[bytes, NDArray[np.float32]] = {}
        if part.sample:
            vectors = self._sample(part, rows, verdicts, planned, cut)
        rest: dict[Key, Row | None] = {}
        spent, most = 0, self._runner.rate.characters_per_batch / 2
        for key, row in rows.items():
            if not part.repair or (part.table, key) in planned.actions:
                continue
            if spent > most and len(planned.actions) >= self._runner.least_texts:
                rest[key] = row
                del verdicts[key]
                continue
            verdict = verdicts[key]
            if part.retry and verdict is Verdict.DEAD_LETTER:
                verdict = Verdict.STALE
            action = repair(part.table, row, stored[key], verdict, cut)
            if action is not None:
                planned.actions[part.table, key] = action
            if isinstance(action, Write):
                spent += sum(len(chunk.text) for chunk in action.document.chunks)
        missing = self._to_embed(planned, work.arriving, facts)
        wanted = [chunk for chunk in missing if chunk[1] not in vectors]
        ready = self._embed(planned, wanted, (), again=part.retry)
        ready.vectors |= vectors
        ready.examined = Examined(verdicts=verdicts, hidden=work.hidden, rest=rest)
        return ready

    def _stored(
        self, table: Table, keys: Iterable[Key], states: Mapping[RowId, State]
    ) -> dict[Key, Stored]:
        """What is stored of some rows once the batches in flight are committed."""
        unknown = [(table, key) for key in keys if (table, key) not in states]
        stored: dict[RowId, Stored] = {}
        if unknown:
            look_up = partial(self._stock.look_up_whole, unknown)
            stored = self._patience.keep_trying("target", look_up)
        found = {key: stored.get((table, key), NOTHING) for _, key in unknown}
        return found | {key: Stored(state) for (_, key), state in states.items()}

    def _sample(
        self,
        part: Slice,
        rows: Mapping[Key, Row | None],
        verdicts: dict[Key, Verdict],
        planned: Plan,
        cut: Cut,
    ) -> dict[bytes, NDArray[np.float32]]:
        """Embed the fresh ones of the rows once more; a stored vector that differs is stale.

        With ``repair`` such a row is written again; gives the vectors for it.
        """
        table = part.table
        writes = {}
        for key, row in rows.items():
            if row is not None and verdicts[key] is Verdict.FRESH and table.prepare(row.texts):
                action = repair(table, row, NOTHING, Verdict.STALE, cut)
                if isinstance(action, Write):
                    writes[key] = action
        texts = {c.hash: c.text for write in writes.values() for c in write.document.chunks}
        fresh = self._runner.embed(texts).vectors
        read = partial(self._stock.vectors, table, list(writes))
        stored = self._patience.keep_trying("target", read)
        for key, write in writes.items():
            pairs = [
                (stored.get((key, place)), chunk.hash)
                for place, chunk in enumerate(write.document.chunks)
            ]
            if all(_same(found, digest, fresh) for found, digest in pairs):
                continue
            verdicts[key] = Verdict.STALE
            if part.repair:
                planned.actions[table, key] = write
        return fresh

    def _embed(
        self,
        planned: Plan,
        wanted: Sequence[tuple[Table, bytes]],
        rest: Sequence[Event],
        *,
        again: bool = False,
    ) -> Ready:
        texts = planned.texts()
        distinct = {digest: texts[table, digest] for table, digest in wanted}
        embedded = self._runner.embed(distinct, again=again)
        planned.refuse(embedded.refused)
        return Ready(
            plan=planned,
            vectors=embedded.vectors,
            rest=rest,
            reused=len(texts) - len(wanted),
        )

    def _plan(
        self, work: Range, events: Sequence[Event], rest: Sequence[Event], facts: _Facts
    ) -> tuple[Plan, list[tuple[Table, bytes]]]:
        """A plan without open questions, and the chunks that must be embedded for it."""
        batch = Batch.of(events)
        left_out = _left_out(batch, work, LaterChanges(rest))
        unknown = [row for row in rows_to_look_up(batch, left_out) if row not in facts.states]
        if unknown:
            found = self._patience.keep_trying("target", lambda: self._stock.look_up(unknown))
            facts.states |= {row: found.get(row, ABSENT) for row in unknown}
        decide = partial(
            plan, cut=facts.cutting(self._cut), left_out=left_out, refetched=facts.refetched
        )
        planned = decide(batch, facts.states)
        if planned.refetch:
            self._refetch(planned, facts)
            planned = decide(batch, facts.states)
        return planned, self._to_embed(planned, work.arriving, facts)

    def _refetch(self, planned: Plan, facts: _Facts) -> None:
        wanted: dict[Table, dict[Key, int]] = {}
        for row in planned.refetch:
            xid = planned.batch.images[row].change.xid
            wanted.setdefault(row[0], {})[row[1]] = xid
        for table, keys in wanted.items():
            found = self._patience.keep_trying("source", partial(self._read_rows, table, keys))
            facts.refetched |= {(table, key): row for key, row in found.items()}

    def _to_embed(
        self, planned: Plan, arriving: frozenset[tuple[Table, bytes]], facts: _Facts
    ) -> list[tuple[Table, bytes]]:
        """Chunks with no stored vector; each text once, whichever tables want it."""
        chunks = planned.texts()
        unknown = [c for c in chunks if c not in arriving and c not in facts.donors]
        if unknown:
            find = partial(self._stock.find_donors, unknown)
            found = self._patience.keep_trying("target", find)
            facts.donors |= {chunk: chunk in found for chunk in unknown}
        missing = [c for c in chunks if c not in arriving and not facts.donors[c]]
        return list({digest: (table, digest) for table, digest in missing}.values())

    def _fitting(
        self, events: Sequence[Event], planned: Plan, wanted: Sequence[tuple[Table, bytes]]
    ) -> int:
        """How many of the events to take, so that embedding takes as long as a batch should."""
        characters = self._runner.rate.characters_per_batch
        if len(wanted) <= self._runner.least_texts:
            return len(events)
        costs = _costs(planned, wanted)
        texts, spent = 0, 0
        for place, event in enumerate(events):
            if not isinstance(event, Change):
                continue
            cost = costs.pop((event.table, event.key), 0)
            texts += cost > 0
            spent += cost
            if texts > self._runner.least_texts and spent > characters:
                return place
        return len(events)


def _left_out(batch: Batch, work: Range, later: LaterChanges) -> frozenset[RowId]:
    """Rows that a later change replaces, with nothing that needs what this batch says of them."""
    return frozenset(
        row
        for row in batch.images
        if (row in work.replaced or later.replaces(row))
        and not (row in work.needed or later.needs(row))
    )


def _costs(planned: Plan, wanted: Sequence[tuple[Table, bytes]]) -> dict[RowId, int]:
    """Characters to embed for each row; a text that several want counts for the first."""
    open_chunks = dict.fromkeys(wanted)
    costs: dict[RowId, int] = {}
    for row, action in planned.actions.items():
        if isinstance(action, Write):
            for chunk in action.document.chunks:
                if (row[0], chunk.hash) in open_chunks:
                    del open_chunks[row[0], chunk.hash]
                    costs[row] = costs.get(row, 0) + len(chunk.text)
    return costs


def _same(
    stored: tuple[bytes, NDArray[np.float32]] | None,
    digest: bytes,
    fresh: Mapping[bytes, NDArray[np.float32]],
) -> bool:
    """Whether a stored vector is that of the chunk with this hash."""
    if stored is None or stored[0] != digest or digest not in fresh:
        return False
    one, other = stored[1], fresh[digest]
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return lengths == 0 or float(one @ other) / lengths > SAME_VECTOR


def rows_of(events: Sequence[Event]) -> set[RowId]:
    """The rows that some changes touch."""
    changes = (event for event in events if isinstance(event, Change))
    return {
        (change.table, key) for change in changes for key in (change.key, change.old_key) if key
    }
