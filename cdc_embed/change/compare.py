"""A row as it was read from the source against what is stored of it: the heart of reconcile.

Pure, and by equality alone: which of the two is newer is not this module's question. The order of
the log has the last word, see ``unseen``.
"""

from enum import Enum
from typing import Final, NamedTuple

from cdc_embed.change.action import Action, Delete, Row
from cdc_embed.change.document import Table, fingerprint
from cdc_embed.change.knowledge import ABSENT, UNKNOWN, Known, Refused, State
from cdc_embed.change.plan import Cut, read_again

UNKNOWN_END: Final = -1


class Stored(NamedTuple):
    """What the target has of one document."""

    state: State
    whole: bool = True
    """Its chunks are all there, and of one text."""
    end: int = UNKNOWN_END
    """Where in the text the last chunk ends."""


NOTHING: Final = Stored(ABSENT)


class Verdict(Enum):
    """How a stored document stands to its row."""

    FRESH = "fresh"
    MISSING = "missing"
    STALE = "stale"
    METADATA_STALE = "metadata_stale"
    ORPHAN = "orphan"
    DEAD_LETTER = "dead_letter"

    @property
    def drifts(self) -> bool:
        return self not in {Verdict.FRESH, Verdict.DEAD_LETTER}


def compare(table: Table, row: Row | None, stored: Stored) -> Verdict:
    """``row`` is None where the source has none; a row without text has no document either."""
    text = table.prepare(row.texts) if row is not None else None
    state = stored.state
    if row is None or text is None:
        return Verdict.FRESH if state is ABSENT else Verdict.ORPHAN
    if state is ABSENT:
        return Verdict.MISSING
    digest, metadata = fingerprint(text), table.hash_metadata(row.metadata)
    if isinstance(state, Refused):
        refused = state.refuses(digest, metadata or b"")
        return Verdict.DEAD_LETTER if refused else Verdict.STALE
    if not isinstance(state, Known) or state.fingerprint != digest:
        return Verdict.STALE
    if not stored.whole or stored.end not in {UNKNOWN_END, len(text), len(text.rstrip())}:
        return Verdict.STALE
    if state.metadata != metadata:
        return Verdict.METADATA_STALE
    return Verdict.FRESH


def repair(
    table: Table, row: Row | None, stored: Stored, verdict: Verdict, cut: Cut
) -> Action | None:
    """What makes the stored document equal to the row; None when it is."""
    if not verdict.drifts:
        return None
    if row is None or verdict is Verdict.ORPHAN:
        return Delete()
    known = stored.state if verdict is Verdict.METADATA_STALE else UNKNOWN
    return read_again(table, row, known, cut)
