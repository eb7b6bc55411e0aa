"""The way from rows that were read to verdicts and, where they are asked for, repairs.

The way of rows that were read from the source instead of the log: look up whole documents,
compare, embed what differs. Runs in the same worker thread as ``prepare``, between two ranges of
the log, and gives the same ``Prepared``.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cdc_embed.change.action import Remove, Row, Write
from cdc_embed.change.batch import Batch, RowId
from cdc_embed.change.compare import NOTHING, Stored, Verdict, compare, repair
from cdc_embed.change.document import Key, Table
from cdc_embed.change.knowledge import Basis, Deferred
from cdc_embed.change.plan import Cut, Plan, read_again
from cdc_embed.flow.embedding import EmbeddingRunner
from cdc_embed.flow.facts import BatchFacts
from cdc_embed.flow.going_on import OthersBehind, OthersWait, nothing_behind
from cdc_embed.flow.lane import Examined, Slice
from cdc_embed.flow.patience import Patience
from cdc_embed.flow.supply import Prepared, StoreReader, VectorSupply, wanted_texts

SAME_VECTOR: Final = 0.999
"""Cosine of a stored vector and a fresh one: rounding (halfvec, another machine) stays above it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extract:
    """A slice that the loop hands over."""

    slice: Slice
    hidden: frozenset[Key]
    """Rows for which the slice's snapshot can be too old."""
    others_wait: OthersBehind = nothing_behind
    """Whether something else waits behind it."""

    def others(self, runner: EmbeddingRunner) -> OthersWait:
        return lambda: self.others_wait(outage=runner.outage)


class Examiner:
    """Compares slices with what is stored, and repairs."""

    def __init__(
        self, *, store: StoreReader, cut: Cut, supply: VectorSupply, patience: Patience
    ) -> None:
        self._store = store
        self._cut = cut
        self._supply = supply
        self._patience = patience

    def examine(self, work: Extract, basis: Basis, facts: BatchFacts) -> Prepared:
        """Compare a slice with what is stored, and plan its repair where that is asked for."""
        part = work.slice
        rows = {key: row for key, row in part.rows.items() if key not in work.hidden}
        stored = self._stored(part.table, rows, basis)
        if part.embedded is not None:
            return self._settle(part, stored, basis, facts)
        comparison = _Examination(part, rows, stored, facts.cutting(self._cut))
        rest, away = self._sample(comparison, work, facts) if part.sample else ({}, False)
        if part.repair:
            rest |= comparison.repair(self._supply.runner)
        comparison.plan.refuse_rows(facts.refused_rows)
        wanted = self._supply.wanted(comparison.plan, basis, facts, {})
        texts = wanted_texts(comparison.plan, wanted)
        others_wait = work.others(self._supply.runner)
        embedded = self._supply.embed(texts, facts, others_wait)
        if embedded.away:  # the rows are no queue for an outage: they are handed over again
            rest |= comparison.leave(facts.untaken)
            facts.untaken.clear()
        prepared = self._supply.finish(comparison.plan, facts)
        examined = Examined(
            verdicts=comparison.verdicts, hidden=work.hidden, rest=rest, away=away or embedded.away
        )
        return replace(prepared, examined=examined)

    def _settle(
        self, part: Slice, stored: Mapping[Key, Stored], basis: Basis, facts: BatchFacts
    ) -> Prepared:
        """Plan what became of deferred rows that were read and embedded beside the stream.

        A row that is not deferred any more is settled by a later change. A row whose read does not
        see the change that deferred it is read again, and so is one that lost the donor of its
        vectors meanwhile.
        """
        planned, hidden = Plan(Batch()), set[Key]()
        for key, row in part.rows.items():
            state = stored[key].state
            if not isinstance(state, Deferred):
                continue
            if state.xid is not None and not part.snapshot.sees(state.xid):
                hidden.add(key)
                continue
            cut = facts.cutting(self._cut)
            planned.actions[part.table, key] = (
                Remove() if row is None else read_again(part.table, row, state, cut)
            )
        planned.refuse_texts(facts.refused_texts)
        planned.refuse_rows(facts.refused_rows)
        lacking = self._supply.wanted(planned, basis, facts, {}).keys() | facts.untaken
        hidden |= {key for _, key in planned.drop_texts(lacking)}
        examined = Examined(hidden=frozenset(hidden))
        return replace(self._supply.finish(planned, facts), examined=examined)

    def _stored(self, table: Table, keys: Iterable[Key], basis: Basis) -> dict[Key, Stored]:
        """Return what is stored of some rows once the batches in flight are committed."""
        rows = [(table, key) for key in keys]
        unknown = [row for row in rows if row not in basis.states]
        found: dict[RowId, Stored] = {}
        if unknown:
            look_up = partial(self._store.look_up_whole, unknown)
            found = self._patience.keep_trying("target", look_up)
        return {
            row[1]: Stored(basis.states[row]) if row in basis.states else found.get(row, NOTHING)
            for row in rows
        }

    def _sample(
        self, comparison: "_Examination", work: Extract, facts: BatchFacts
    ) -> tuple[dict[Key, Row | None], bool]:
        """Embed the fresh ones of the rows once more; a stored vector that differs is stale.

        Return the rows whose texts the embedder did not take, and whether it took nothing. They are
        sampled later.
        """
        writes = comparison.fresh_documents()
        texts = {c.hash: c.text for write in writes.values() for c in write.document.chunks}
        wanted = {digest: text for digest, text in texts.items() if digest not in facts.vectors}
        runner = self._supply.runner
        embedded = runner.embed(wanted, others_wait=work.others(runner))
        facts.vectors |= embedded.vectors
        untaken = embedded.untaken.keys()
        rest = {
            key: comparison.leave_row(key)
            for key, write in writes.items()
            if any(chunk.hash in untaken for chunk in write.document.chunks)
        }
        read = partial(self._store.vectors, comparison.part.table, list(writes))
        stored = self._patience.keep_trying("target", read)
        for key, write in writes.items():
            if key in rest:
                continue
            pairs = [
                (stored.get((key, place)), chunk.hash)
                for place, chunk in enumerate(write.document.chunks)
            ]
            if not all(_same(found, digest, facts.vectors) for found, digest in pairs):
                comparison.mark_stale(key, write)
        return rest, embedded.away


class _Examination:
    """The rows of one slice, the stored documents, and the plan that makes them equal."""

    def __init__(
        self,
        part: Slice,
        rows: Mapping[Key, Row | None],
        stored: Mapping[Key, Stored],
        cut: Cut,
    ) -> None:
        self.part = part
        self.plan = Plan(Batch())
        self.verdicts = {key: compare(part.table, row, stored[key]) for key, row in rows.items()}
        self._rows = rows
        self._stored = stored
        self._cut = cut

    def fresh_documents(self) -> dict[Key, Write]:
        """Return the documents of the fresh rows, as they would be written."""
        table, writes = self.part.table, {}
        for key, row in self._rows.items():
            if row is None or self.verdicts[key] is not Verdict.FRESH:
                continue
            action = repair(table, row, NOTHING, Verdict.STALE, self._cut)
            if isinstance(action, Write):
                writes[key] = action
        return writes

    def mark_stale(self, key: Key, write: Write) -> None:
        """Count a row whose vector differs as stale, and write it again where that is asked for."""
        self.verdicts[key] = Verdict.STALE
        if self.part.repair:
            self.plan.actions[self.part.table, key] = write

    def repair(self, runner: EmbeddingRunner) -> dict[Key, Row | None]:
        """Plan what makes the stored documents equal to the rows; return rows that did not fit."""
        table, actions = self.part.table, self.plan.actions
        rest: dict[Key, Row | None] = {}
        spent, most = 0, runner.rate.characters_per_batch / 2
        for key, row in self._rows.items():
            if (table, key) in actions:
                continue
            if key not in self.verdicts:
                continue
            if spent > most and len(actions) >= runner.least_texts:
                rest[key] = self.leave_row(key)
                continue
            action = repair(table, row, self._stored[key], self._verdict(key), self._cut)
            if action is not None:
                actions[table, key] = action
            if isinstance(action, Write):
                spent += sum(len(chunk.text) for chunk in action.document.chunks)
        return rest

    def leave(self, untaken: Collection[bytes]) -> dict[Key, Row | None]:
        """Take out the rows whose texts have one of these chunks, and return them."""
        return {key: self.leave_row(key) for _, key in self.plan.drop_texts(untaken)}

    def leave_row(self, key: Key) -> Row | None:
        """Take a row out, to be compared later, and return it."""
        del self.verdicts[key]
        return self._rows[key]

    def _verdict(self, key: Key) -> Verdict:
        verdict = self.verdicts[key]
        tried_again = self.part.retry and verdict is Verdict.DEAD_LETTER
        return Verdict.STALE if tried_again else verdict


def _same(
    stored: tuple[bytes, NDArray[np.float32]] | None,
    digest: bytes,
    fresh: Mapping[bytes, NDArray[np.float32]],
) -> bool:
    """Return whether a stored vector is that of the chunk with this hash."""
    if stored is None or stored[0] != digest or digest not in fresh:
        return False
    one, other = stored[1], fresh[digest]
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return lengths > 0 and float(one @ other) / lengths > SAME_VECTOR
