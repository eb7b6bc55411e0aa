"""The facts that were found out for a batch at a cost, so that nothing is paid for twice.

A batch keeps them until it is committed, however often it is prepared again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cdc_embed.change.action import Refuse, Row
from cdc_embed.change.batch import RowId
from cdc_embed.change.document import Document, Table, fingerprint
from cdc_embed.change.event import Change, Event
from cdc_embed.change.plan import Cut
from cdc_embed.flow.texts import Refusal
from cdc_embed.wire.messages import UNCHANGED


@dataclass(slots=True, kw_only=True)
class BatchFacts:
    """Everything that was found out for a batch at a cost, for when it is prepared again."""

    documents: dict[tuple[Table, bytes], Document] = field(default_factory=dict)
    """The texts cut into chunks, by table and fingerprint, because counting tokens takes time."""
    reads: dict[RowId, tuple[Change, Row | None]] = field(default_factory=dict)
    """The rows that were read again, with the change that they were read for."""
    vectors: dict[bytes, NDArray[np.float32]] = field(default_factory=dict)
    """The vectors, by chunk hash: float32 arrays (d,)."""
    refused_texts: dict[bytes, Refusal] = field(default_factory=dict)
    """The chunks that the model refuses, by hash."""
    untaken: set[bytes] = field(default_factory=set)
    """The chunks that the embedder did not take, by hash. Nobody waits for them a second time."""
    refused_rows: dict[RowId, Refuse] = field(default_factory=dict)
    """The letters of the rows that the database refused."""

    def cutting(self, cut: Cut) -> Cut:
        """Return ``cut``, but never twice for the same text."""

        def remembered(table: Table, text: str) -> Document:
            place = table, fingerprint(text)
            if place not in self.documents:
                self.documents[place] = cut(table, text)
            return self.documents[place]

        return remembered

    def of(self, events: Sequence[Event]) -> "BatchFacts":
        """Return those that some of the batch's events will need in the next one."""
        changes = {change.position: change for change in events if isinstance(change, Change)}
        wanted = set(map(_place_of, changes.values())) if self.documents else set()
        documents = {place: doc for place, doc in self.documents.items() if place in wanted}
        hashes = {chunk.hash for document in documents.values() for chunk in document.chunks}
        return BatchFacts(
            documents=documents,
            vectors={h: vector for h, vector in self.vectors.items() if h in hashes},
            refused_texts={h: why for h, why in self.refused_texts.items() if h in hashes},
            reads={row: read for row, read in self.reads.items() if read[0].position in changes},
        )


def _place_of(change: Change) -> tuple[Table, bytes]:
    """Return the place in ``BatchFacts.documents`` of a change that holds its row's whole text."""
    texts = tuple(text for text in change.texts if text is not UNCHANGED)
    text = change.table.prepare(texts) if texts and len(texts) == len(change.texts) else None
    return change.table, fingerprint(text or "")
