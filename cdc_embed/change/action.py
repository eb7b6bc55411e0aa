"""The actions that a batch can take on a row, and the values they carry.

``plan`` chooses one for each row; ``target.write`` brings it about.
"""

from dataclasses import dataclass
from typing import NamedTuple

from cdc_embed.change.document import Document, Key
from cdc_embed.change.knowledge import ABSENT, LOG, READ, UNKNOWN, Known, Refused, State
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
    """The row whose stored values stand for the unchanged ones; None: there are no unchanged
    ones."""


NO_METADATA = Metadata()
REFUSED_BY_DATABASE = "database"
"""The reason of a dead letter whose row the target refuses."""


@dataclass(frozen=True, slots=True)
class Delete:
    """The row is gone or has no text: no chunk and no dead letter may stay."""


@dataclass(frozen=True, slots=True)
class Write:
    """The row's chunks become exactly these."""

    document: Document
    metadata: Metadata = NO_METADATA
    reread: bool = False
    """The text was read from the source: possibly ahead of the log."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """The document cannot be embedded: its old chunks go, a dead letter stays."""

    fingerprint: bytes
    """The fingerprint, as in ``Refused``."""
    reason: str
    error: str


@dataclass(frozen=True, slots=True)
class Move:
    """The row has a new key and the text it had: its stored chunks take the new key."""

    origin: Key
    fingerprint: bytes
    metadata: Metadata = NO_METADATA


@dataclass(frozen=True, slots=True)
class Annotate:
    """The row's text is stored, its metadata changed: its chunks stay, their metadata is
    replaced."""

    metadata: Metadata
    state: Known
    """The state of the row afterwards."""


@dataclass(frozen=True, slots=True)
class Forget:
    """The row was gone when it was read again: its chunks stay, but prove nothing any more."""


@dataclass(frozen=True, slots=True)
class Skip:
    """The stored document is right."""

    reason: str
    state: State


@dataclass(frozen=True, slots=True)
class Supersede:
    """A later change, already received, replaces all that this batch says of the row."""


Action = Delete | Write | Refuse | Move | Annotate | Forget | Skip | Supersede


def state_after(action: Action) -> State | None:
    """Return the state of the row once the action is committed; None if it stays as it is."""
    match action:
        case Write(document, metadata, reread):
            return Known(document.fingerprint, metadata.hash, READ if reread else LOG)
        case Refuse(digest, reason, error):
            return Refused(digest, reason, error)
        case Move(_, digest, metadata):
            return Known(digest, metadata.hash)
        case Annotate(_, state):
            return state
        case Delete():
            return ABSENT
        case Forget():
            return UNKNOWN
        case Skip(_, state):
            return state
        case Supersede():
            return None


def digest_of(action: Action | None) -> bytes | None:
    """Return the hash of a document with its metadata: the database can refuse either."""
    match action:
        case Write(document, metadata):
            return document.fingerprint + metadata.hash
        case Move(_, fingerprint, metadata):
            return fingerprint + metadata.hash
        case Annotate(metadata, state):
            return state.fingerprint + metadata.hash
    return None
