"""The actions that a batch can take on a row, and the values they carry.

``plan`` chooses one for each row; ``target.write`` brings it about.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

from cdc_embed.change.document import Document, Key, hash_without
from cdc_embed.change.knowledge import (
    ABSENT,
    LOG,
    READ,
    UNKNOWN,
    Deferred,
    Known,
    Refused,
    State,
)
from cdc_embed.wire.messages import Value

Texts = tuple[str | None, ...]


class Row(NamedTuple):
    """A row's values as they were read from the source."""

    texts: Texts
    metadata: Texts = ()


@dataclass(frozen=True, slots=True)
class Metadata:
    """The metadata that is copied beside a document's vectors."""

    values: tuple[Value, ...] = ()
    hash: bytes = b""
    origin: Key | None = None
    """The row whose stored values stand for the unchanged ones; None if there are no unchanged
    ones."""
    letter: "Refuse | None" = None
    """The letter for values that the database refuses; they are NULL here."""

    def without(self, letter: "Refuse") -> "Metadata":
        """Return the same with NULL in place of the values that a letter is for."""
        values = tuple(
            None if place in letter.without else value for place, value in enumerate(self.values)
        )
        return replace(
            self, values=values, hash=hash_without(self.hash, letter.without), letter=letter
        )


NO_METADATA = Metadata()
REFUSED_BY_DATABASE = "database"
"""The reason of a dead letter whose row the target refuses."""
REFUSED_METADATA = "metadata"
"""The reason of a letter for metadata alone. The document is stored without these values."""


class RowRefusal(NamedTuple):
    """The words with which the target refuses a row, and the metadata that is to blame."""

    error: str
    without: tuple[int, ...] = ()
    """The places of the values without which it is taken; empty if it is refused whatever they
    are."""


@dataclass(frozen=True, slots=True)
class Remove:
    """The row is gone or has no text, so no chunk and no dead letter may stay."""


@dataclass(frozen=True, slots=True)
class Write:
    """The row's chunks become exactly these."""

    document: Document
    metadata: Metadata = NO_METADATA
    reread: bool = False
    """Whether the text was read from the source, so that it can be ahead of the log."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """The document cannot be embedded. Its old chunks go, a dead letter stays.

    With ``without`` it is the letter beside a document that is stored without these values.
    """

    fingerprint: bytes
    """The fingerprint, as in ``Refused``."""
    reason: str
    error: str
    without: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Move:
    """The row has a new key and its former text. Its stored chunks take the new key."""

    origin: Key
    fingerprint: bytes
    metadata: Metadata = NO_METADATA


@dataclass(frozen=True, slots=True)
class Annotate:
    """The row's text is stored, its metadata changed. Its chunks stay, their metadata is
    replaced."""

    metadata: Metadata
    state: Known
    """The state of the row afterwards."""


@dataclass(frozen=True, slots=True)
class Forget:
    """The row was gone when it was read again. Its chunks stay, but prove nothing any more."""


@dataclass(frozen=True, slots=True)
class Defer:
    """The text waits for the embedder. The stored chunks stay, and the key is noted. Later the row
    is read and embedded beside the stream."""

    xid: int | None = None
    """The xid, as in ``Deferred``."""


@dataclass(frozen=True, slots=True)
class Skip:
    """The stored document is right."""

    reason: str
    state: State


@dataclass(frozen=True, slots=True)
class Supersede:
    """A later change, already received, replaces all that this batch says of the row."""


Action = Remove | Write | Refuse | Move | Annotate | Forget | Defer | Skip | Supersede


def letter_of(action: Action) -> Refuse | None:
    """Return the dead letter that an action stores, alone or beside the document."""
    match action:
        case Refuse():
            return action
        case Write() | Move() | Annotate():
            return action.metadata.letter
    return None


def with_letter(action: Action, letter: Refuse) -> Action:
    """Return the letter in place of an action, or the action without the values it is for."""
    if letter.without and isinstance(action, Write | Move | Annotate):
        return replace(action, metadata=action.metadata.without(letter))
    return letter


def state_after(action: Action) -> State | None:
    """Return the state of the row once the action is committed; None if it stays as it is."""
    match action:
        case Refuse(digest, reason, error):
            return Refused(digest, reason, error)
        case Write() | Move() | Annotate() if action.metadata.letter is not None:
            return state_after(action.metadata.letter)
        case Write(document, metadata, reread):
            return Known(document.fingerprint, metadata.hash, READ if reread else LOG)
        case Move(_, digest, metadata):
            return Known(digest, metadata.hash)
        case Annotate(_, state):
            return state
        case Remove():
            return ABSENT
        case Forget():
            return UNKNOWN
        case Defer(xid):
            return Deferred(xid)
        case Skip(_, state):
            return state
        case Supersede():
            return None


def digest_of(action: Action | None) -> bytes | None:
    """Return the hash of a document with its metadata, because the database can refuse either."""
    if action is not None and (letter := letter_of(action)) is not None:
        return letter.fingerprint
    match action:
        case Write(document, metadata):
            return document.fingerprint + metadata.hash
        case Move(_, fingerprint, metadata):
            return fingerprint + metadata.hash
        case Annotate(metadata, state):
            return state.fingerprint + metadata.hash
    return None
