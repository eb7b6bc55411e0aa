"""What to do for each row of a batch: the decision that the whole tool is about.

``plan`` takes a folded batch and what is known of the target and gives one action for each row,
or says which rows must be read again first. It is a pure function: the same facts give the same
plan, and nothing here can wait, fail or be out of date.

Two rules carry the correctness:

- a complete text is compared with the *stored* fingerprint: that needs no history;
- an unchanged (TOASTed) text proves only that this row version equals the version before it, so
  it counts only where the version before is *known*, from the log, to be what is stored.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from cdc_embed.change.batch import Batch, Image, RowId
from cdc_embed.change.document import Document, Key, Table
from cdc_embed.change.knowledge import (
    ABSENT,
    UNKNOWN,
    Known,
    Outcome,
    Refused,
    Reread,
    State,
    States,
)
from cdc_embed.wire.messages import UNCHANGED

Texts = tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Delete:
    """The row is gone or has no text: no chunk and no dead letter may stay."""


@dataclass(frozen=True, slots=True)
class Write:
    """The row's chunks become exactly these."""

    document: Document
    reread: bool = False
    """The text was read from the source: possibly ahead of the log."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """The document cannot be embedded: its old chunks go, a dead letter stays."""

    fingerprint: bytes
    reason: str
    error: str


@dataclass(frozen=True, slots=True)
class Move:
    """The row has a new key and the text it had: its stored chunks take the new key."""

    origin: Key
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Forget:
    """The row was gone when it was read again: its chunks stay, but prove nothing any more."""


@dataclass(frozen=True, slots=True)
class Skip:
    """What is stored is right."""

    reason: str
    state: State


@dataclass(frozen=True, slots=True)
class Supersede:
    """A later change, already received, replaces all that this batch says of the row."""


Action = Delete | Write | Refuse | Move | Forget | Skip | Supersede


@dataclass(slots=True)
class Plan:
    """One action for each row of a batch, once ``refetch`` is empty."""

    batch: Batch
    actions: dict[RowId, Action] = field(default_factory=dict)
    refetch: list[RowId] = field(default_factory=list)
    """Rows whose text the log does not carry and the target does not know."""

    def texts(self) -> dict[tuple[Table, bytes], str]:
        """The text of every chunk to be written, by table and chunk hash."""
        return {
            (row[0], chunk.hash): chunk.text
            for row, action in self.actions.items()
            if isinstance(action, Write)
            for chunk in action.document.chunks
        }

    def refuse(self, refused: Mapping[bytes, tuple[str, str]]) -> None:
        """Turn documents with a refused chunk (by hash: reason, error) into dead letters."""
        for row, action in self.actions.items():
            if isinstance(action, Write):
                for chunk in action.document.chunks:
                    if chunk.hash in refused:
                        letter = Refuse(action.document.fingerprint, *refused[chunk.hash])
                        self.actions[row] = letter
                        break

    @property
    def writes(self) -> bool:
        """Whether the target must change at all."""
        if self.batch.truncated:
            return True
        return any(not isinstance(action, Skip | Supersede) for action in self.actions.values())

    def outcome(self) -> Outcome:
        """What will be known once the batch is committed."""
        states = {
            row: state
            for row, action in self.actions.items()
            if (state := _state_after(action)) is not None
        }
        return Outcome(
            states=states,
            truncated=frozenset(self.batch.truncated),
            hashes=frozenset(self.texts()),
        )


def rows_to_look_up(batch: Batch, left_out: Collection[RowId] = ()) -> list[RowId]:
    """The rows whose stored state ``plan`` will ask for."""
    rows: dict[RowId, None] = {}
    for row, image in batch.images.items():
        if row in left_out or row[0] in batch.truncated or image.texts is None:
            continue
        rows[row] = None
        if image.origin is not None and not image.complete:
            rows[row[0], image.origin] = None
    return list(rows)


def plan(
    batch: Batch,
    states: States,
    *,
    left_out: Collection[RowId] = (),
    refetched: Mapping[RowId, Texts | None] | None = None,
) -> Plan:
    """The batch's plan, given the stored ``states`` of ``rows_to_look_up`` (missing: absent).

    ``left_out`` are rows that a later change replaces. ``refetched`` holds what a first plan
    asked for: the text columns' values read from the source, or None where no row was found.
    """
    result = Plan(batch)
    for row, image in batch.images.items():
        if row in left_out:
            result.actions[row] = Supersede()
            continue
        stored = ABSENT if row[0] in batch.truncated else states.get(row, ABSENT)
        if image.texts is None:
            result.actions[row] = Delete()
        elif refetched is not None and row in refetched:
            result.actions[row] = _found(row[0], refetched[row], stored)
        elif image.complete:
            result.actions[row] = _compare(row[0], _values(image), stored)
        else:
            action = _unchanged(row, image, states)
            if action is None:
                result.refetch.append(row)
            else:
                result.actions[row] = action
    return result


def _found(table: Table, values: Texts | None, stored: State) -> Action:
    """The action for a row that was read again: its text may be newer than the log's position.

    An equal text that is known from the log is written again (its vector is there), because from
    here on it is known only from the read.
    """
    if values is None:
        return Forget()
    action = _compare(table, values, stored)
    if isinstance(action, Write):
        return Write(action.document, reread=True)
    if isinstance(action, Skip) and isinstance(stored, Known):
        return Write(Document.whole(table.prepare(values) or ""), reread=True)
    return action


def _compare(table: Table, values: Texts, stored: State) -> Action:
    text = table.prepare(values)
    if text is None:
        return Delete()
    document = Document.whole(text)
    if isinstance(stored, Known | Reread | Refused) and stored.fingerprint == document.fingerprint:
        return Skip("unchanged", stored)
    return Write(document)


def _unchanged(row: RowId, image: Image, states: States) -> Action | None:
    """The action for an image with unchanged values, None when the log is not enough."""
    table, key = row
    if image.origin is None or any(value is not UNCHANGED for value in image.texts or ()):
        return None
    before = states.get((table, image.origin), ABSENT)
    if not isinstance(before, Known):
        return None
    if image.origin == key:
        return Skip("toast", before)
    return Move(image.origin, before.fingerprint)


def _values(image: Image) -> Texts:
    return tuple(value for value in image.texts or () if value is not UNCHANGED)


def _state_after(action: Action) -> State | None:
    match action:
        case Write(document, reread):
            return Reread(document.fingerprint) if reread else Known(document.fingerprint)
        case Refuse(fingerprint):
            return Refused(fingerprint)
        case Move(_, fingerprint):
            return Known(fingerprint)
        case Delete():
            return ABSENT
        case Forget():
            return UNKNOWN
        case Skip(_, state):
            return state
        case Supersede():
            return None


def skipped(plan: Plan) -> Iterable[tuple[str, str]]:
    """(table, reason) of every row that needed nothing."""
    for (table, _), action in plan.actions.items():
        if isinstance(action, Skip):
            yield table.full_name, action.reason
        elif isinstance(action, Supersede):
            yield table.full_name, "superseded"
