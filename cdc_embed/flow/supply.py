"""The vectors of a plan: one in hand, a stored donor's, or the model's.

Changes (``prepare``), rows that were read (``examine``) and deferred rows all come here; with their
vectors they are a batch that can be written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cdc_embed.change.batch import RowId
from cdc_embed.change.compare import Stored
from cdc_embed.change.document import Key, Table
from cdc_embed.change.knowledge import Basis, State
from cdc_embed.change.plan import Plan
from cdc_embed.flow.embedding import EmbeddingRunner
from cdc_embed.flow.facts import BatchFacts
from cdc_embed.flow.going_on import OthersWait
from cdc_embed.flow.lane import Examined
from cdc_embed.flow.patience import Patience
from cdc_embed.flow.texts import Embedded

ChunkId = tuple[Table, bytes]
"""A chunk of a table, by its hash."""


class StoreReader(Protocol):
    """The part of the store that is read to prepare a batch."""

    def look_up(self, rows: Sequence[RowId]) -> dict[RowId, State]: ...
    def look_up_whole(self, rows: Sequence[RowId]) -> dict[RowId, Stored]: ...
    def find_donors(self, chunks: Sequence[ChunkId]) -> set[ChunkId]: ...
    def vectors(
        self, table: Table, keys: Sequence[Key]
    ) -> dict[tuple[Key, int], tuple[bytes, NDArray[np.float32]]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A batch that can be written, with every action decided, and every vector in hand or in the
    target."""

    plan: Plan
    vectors: Mapping[bytes, NDArray[np.float32]]
    used: int = 0
    """The events of the range that are in the plan; the rest did not fit."""
    reused: int = 0
    """The chunks whose vector comes from a stored one."""
    examined: Examined | None = None
    """The result of a slice; None for a range of the log."""


class VectorSupply:
    """Gives every chunk of a plan its vector, which is one in hand, a stored donor, or the
    model's."""

    def __init__(self, store: StoreReader, runner: EmbeddingRunner, patience: Patience) -> None:
        self._store = store
        self.patience = patience
        self.runner = runner

    def wanted(
        self, planned: Plan, basis: Basis, facts: BatchFacts, donors: dict[ChunkId, bool]
    ) -> dict[bytes, ChunkId]:
        """Return the chunks that must be embedded, by hash, each text once for all tables.

        ``donors`` remembers which chunks were looked for, and found, in this preparation.
        """
        chunks = [
            chunk
            for chunk in planned.texts()
            if chunk not in basis.arriving
            and chunk[1] not in facts.vectors
            and chunk[1] not in facts.refused_texts
            and chunk[1] not in facts.untaken
        ]
        unknown = [chunk for chunk in chunks if chunk not in donors]
        if unknown:
            find = partial(self._store.find_donors, unknown)
            found = self.patience.keep_trying("target", find)
            donors |= {chunk: chunk in found for chunk in unknown}
        return {chunk[1]: chunk for chunk in chunks if not donors[chunk]}

    def embed(
        self,
        texts: dict[bytes, str],
        facts: BatchFacts,
        others_wait: OthersWait | None,
    ) -> Embedded:
        """Embed texts, by chunk hash; what came of them is in ``facts``, and is returned."""
        embedded = self.runner.embed(texts, others_wait=others_wait)
        facts.vectors |= embedded.vectors
        facts.refused_texts |= embedded.refused
        facts.untaken |= embedded.untaken.keys()
        return embedded

    def finish(self, planned: Plan, facts: BatchFacts) -> Prepared:
        """Return the plan with its vectors.

        A document that the model refuses becomes a dead letter, one that the embedder does not take
        is deferred.
        """
        planned.refuse_texts(facts.refused_texts)
        before = planned.texts()
        planned.defer_texts(facts.untaken)
        texts = planned.texts()
        left = {h for _, h in before.keys() - texts.keys() if h in facts.vectors}
        self.runner.kept.keep({h: facts.vectors[h] for h in left})
        reused = sum(digest not in facts.vectors for _, digest in texts)
        return Prepared(plan=planned, vectors=facts.vectors, reused=reused)


def wanted_texts(planned: Plan, wanted: Mapping[bytes, ChunkId]) -> dict[bytes, str]:
    """Return the texts of wanted chunks, by hash."""
    texts = planned.texts()
    return {digest: texts[chunk] for digest, chunk in wanted.items()}
