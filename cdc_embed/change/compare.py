"""The comparison of a row that was read with the stored document, the core of reconcile.

It is pure and knows equality only. The log decides which of the two is newer, see ``unseen``.
"""

from collections.abc import Sequence
from enum import Enum
from typing import Final, NamedTuple

from cdc_embed.change.action import Action, Remove, Row
from cdc_embed.change.document import Table, fingerprint
from cdc_embed.change.knowledge import ABSENT, UNKNOWN, Deferred, Known, Refused, State
from cdc_embed.change.plan import Cut, read_again

UNKNOWN_END: Final = -1
TEXT: Final = 25
"""The oid of the type text."""
OWN_TYPES: Final = 16384
"""The first oid of a type that another database can lack. Its values are stored as text."""


class Stored(NamedTuple):
    """The target's facts about one document."""

    state: State
    whole: bool = True
    """Whether all its chunks are stored, and belong to one text."""
    end: int = UNKNOWN_END
    """The end of the last chunk in the text, in characters."""


NOTHING: Final = Stored(ABSENT)


class Verdict(Enum):
    """The result of comparing a stored document with its row."""

    FRESH = "fresh"
    MISSING = "missing"
    STALE = "stale"
    METADATA_STALE = "metadata_stale"
    ORPHAN = "orphan"
    DEAD_LETTER = "dead_letter"
    PENDING = "pending"

    @property
    def drifts(self) -> bool:
        return self not in {Verdict.FRESH, Verdict.DEAD_LETTER, Verdict.PENDING}


def compare(table: Table, row: Row | None, stored: Stored) -> Verdict:
    """Return the verdict for a row and its stored document.

    ``row`` is None where the source has none; a row without text has no document either. A deferred
    row is pending whatever is stored, because it is read and embedded again.
    """
    text = table.prepare(row.texts) if row is not None else None
    state = stored.state
    if isinstance(state, Deferred):
        return Verdict.PENDING
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
    """Return the action that makes the stored document equal to the row; None when it is equal."""
    if not verdict.drifts:
        return None
    if row is None or verdict is Verdict.ORPHAN:
        return Remove()
    known = stored.state if verdict is Verdict.METADATA_STALE else UNKNOWN
    return read_again(table, row, known, cut)


class KeyColumn(NamedTuple):
    """A column of a key, as a catalogue has it."""

    name: str
    type: str
    type_oid: int
    modifier: int
    """The type's length or precision; -1 if it has none."""

    def holds(self, real: "KeyColumn") -> bool:
        """Return whether this stored column holds every value of a table's own, unchanged."""
        if self.name != real.name:
            return False
        if real.type_oid >= OWN_TYPES and self.type_oid == TEXT:
            return True
        return self.type_oid == real.type_oid and self.modifier in {-1, real.modifier}


def key_difference(real: Sequence[KeyColumn], stored: Sequence[KeyColumn]) -> str:
    """Return how the stored key differs from the table's; empty when it does not."""
    if len(real) == len(stored) and all(s.holds(r) for s, r in zip(stored, real, strict=True)):
        return ""
    return f"its key is ({_named(real)}), its vectors are stored by ({_named(stored)})"


def _named(columns: Sequence[KeyColumn]) -> str:
    return ", ".join(f"{column.name} {column.type}" for column in columns) or "nothing"
