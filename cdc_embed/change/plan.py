"""The decision that the whole tool is about: one action for each row of a batch.

``plan`` takes a folded batch and what is known of the target and gives one action for each row, or
says which rows must be read again first. It is a pure function. The same facts give the same plan,
and nothing here can wait, fail or be out of date.

Two rules carry the correctness:

- a complete text is compared with the *stored* fingerprint: that needs no history;
- an unchanged (TOASTed) text proves only that this row version equals the version before it, so
  it counts only where the version before is *known*, from the log, to be what is stored.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from cdc_embed.change.action import (
    REFUSED_BY_DATABASE,
    REFUSED_METADATA,
    Action,
    Annotate,
    Defer,
    Forget,
    Metadata,
    Move,
    Refuse,
    Remove,
    Row,
    RowRefusal,
    Skip,
    Supersede,
    Texts,
    Write,
    digest_of,
    state_after,
    with_letter,
)
from cdc_embed.change.batch import Batch, Image, RowId
from cdc_embed.change.document import Document, Table, fingerprint
from cdc_embed.change.knowledge import (
    ABSENT,
    READ,
    UNKNOWN,
    Known,
    Outcome,
    Refused,
    State,
    States,
    proof,
)
from cdc_embed.wire.messages import UNCHANGED, Value

Cut = Callable[[Table, str], Document]
"""A prepared text to its document, in pieces that fit the model."""


def rows_to_look_up(batch: Batch, left_out: Collection[RowId] = ()) -> list[RowId]:
    """Return the rows whose stored state ``plan`` will ask for."""
    rows: dict[RowId, None] = {}
    for row, image in batch.images.items():
        if row in left_out or row[0] in batch.truncated or image.texts is None:
            continue
        rows[row] = None
        if image.origin is not None:
            rows[row[0], image.origin] = None
    return list(rows)


def one_chunk(_: Table, text: str) -> Document:
    """Return the document of a text that the model takes whole."""
    return Document.whole(text)


def plan(
    batch: Batch,
    states: States,
    *,
    cut: Cut = one_chunk,
    left_out: Collection[RowId] = (),
    refetched: Mapping[RowId, Row | None] | None = None,
) -> "Plan":
    """Plan the batch, given the stored ``states`` of ``rows_to_look_up`` (missing: absent).

    ``left_out`` are rows that a later change replaces. ``refetched`` holds each row that a first
    plan asked for, as it was read from the source, or None if there was none.
    """
    result = Plan(batch)
    for row, image in batch.images.items():
        if row in left_out:
            result.actions[row] = Supersede()
            continue
        stored = ABSENT if row[0] in batch.truncated else states.get(row, ABSENT)
        action: Action | None
        if image.texts is None:
            action = Remove()
        elif refetched is not None and row in refetched:
            action = _found(row[0], refetched[row], stored, cut)
        else:
            action = _logged(row, image, _before(row[0], image, states), stored, cut)
        if action is None:
            result.refetch.append(row)
        else:
            result.actions[row] = _carry_letter(row, image, action, states)
    return result


def _before(table: Table, image: Image, states: States) -> Known | None:
    """Return the version that the image's unchanged values are unchanged from, if proven."""
    return None if image.origin is None else proof(states.get((table, image.origin)))


def _logged(
    row: RowId, image: Image, before: Known | None, stored: State, cut: Cut
) -> Action | None:
    """Return the action for a change as it was logged; None if the log is not enough."""
    table, key = row
    texts = image.texts or ()
    unchanged = texts.count(UNCHANGED)
    if unchanged not in {0, len(texts)}:
        return None
    # the digest is None if the metadata is not known, because the version before is not
    digest = table.hash_metadata(image.metadata, before.metadata if before else None)
    kept = image.origin if UNCHANGED in image.metadata else None
    metadata = None if digest is None else Metadata(image.metadata, digest, kept)
    if unchanged == 0:
        return _compare(row, _values(texts), metadata, stored, cut)
    if image.origin is None or before is None or metadata is None:
        return None  # there is no version before, or it is not known
    if image.origin != key:
        return Move(image.origin, before.fingerprint, metadata)
    if metadata.hash == before.metadata:
        return Skip("toast", before)
    return Annotate(metadata, Known(before.fingerprint, metadata.hash))


def _compare(
    row: RowId, texts: Texts, metadata: Metadata | None, stored: State, cut: Cut
) -> Action | None:
    """Return the action for a complete text; None if its metadata is not known."""
    table, key = row
    text = table.prepare(texts)
    if text is None:
        return Remove()
    digest = fingerprint(text)
    if isinstance(stored, Refused) and stored.refuses(digest, metadata.hash if metadata else b""):
        return Skip("unchanged", stored)
    if metadata is None:
        return None
    if isinstance(stored, Known) and stored.fingerprint == digest:
        # the log itself says that this text is the row's, so it is known from here on
        after = Known(digest, metadata.hash)
        if stored.metadata == metadata.hash:
            return Skip("unchanged", after)
        if metadata.origin in {None, key}:
            return Annotate(metadata, after)
    return Write(cut(table, text), metadata)


def _found(table: Table, row: Row | None, stored: State, cut: Cut) -> Action:
    """Return the action for a row that was read again, because it can be newer than the log's
    position.

    An equal text that is known from the log is written again (its vector is there), because from
    here on it is known only from the read.
    """
    if row is None:
        return Forget()
    logged = isinstance(stored, Known) and stored.provenance is not READ
    return read_again(table, row, UNKNOWN if logged else stored, cut)


def read_again(table: Table, row: Row, stored: State, cut: Cut) -> Action:
    """Return the action that makes the stored document equal to a row that was read."""
    text = table.prepare(row.texts)
    if text is None:
        return Remove()
    digest, hashed = fingerprint(text), table.hash_metadata(row.metadata)
    assert hashed is not None, "what is read is complete"
    if isinstance(stored, Refused) and stored.refuses(digest, hashed):
        return Skip("unchanged", stored)
    metadata = Metadata(row.metadata, hashed)
    if isinstance(stored, Known) and stored.fingerprint == digest:
        if stored.metadata == hashed:
            return Skip("unchanged", stored)
        return Annotate(metadata, Known(digest, hashed, READ))
    return Write(cut(table, text), metadata, reread=True)


def _carry_letter(row: RowId, image: Image, action: Action, states: States) -> Action:
    """Return the action, or the dead letter that goes with its row to a new key, because the same
    document needs no second refusal."""
    if image.origin in {None, row[1]} or not isinstance(action, Write):
        return action
    letter = states.get((row[0], image.origin))
    if (
        isinstance(letter, Refused)
        and letter.reason != REFUSED_METADATA
        and letter.refuses(action.document.fingerprint, action.metadata.hash)
    ):
        return Refuse(letter.fingerprint, letter.reason, letter.error)
    return action


def _values(texts: tuple[Value, ...]) -> Texts:
    return tuple(value for value in texts if value is not UNCHANGED)


@dataclass(slots=True)
class Plan:
    """One action for each row of a batch, once ``refetch`` is empty."""

    batch: Batch
    actions: dict[RowId, Action] = field(default_factory=dict)
    refetch: list[RowId] = field(default_factory=list)
    """The rows whose text the log does not carry and the target does not know."""

    def texts(self) -> dict[tuple[Table, bytes], str]:
        """Return the text of every chunk to be written, by table and chunk hash."""
        return {
            (row[0], chunk.hash): chunk.text
            for row, action in self.actions.items()
            if isinstance(action, Write)
            for chunk in action.document.chunks
        }

    def refuse_texts(self, refused: Mapping[bytes, tuple[str, str]]) -> None:
        """Turn documents with a chunk that the model refuses into dead letters.

        ``refused``: (reason, error) by chunk hash.
        """
        for row, action in self.actions.items():
            if isinstance(action, Write):
                for chunk in action.document.chunks:
                    if chunk.hash in refused:
                        letter = Refuse(action.document.fingerprint, *refused[chunk.hash])
                        self.actions[row] = letter
                        break

    def defer_texts(self, untaken: Collection[bytes]) -> None:
        """Defer the documents with a chunk that the embedder does not take now, by chunk hash."""
        for row in self._rows_with(untaken):
            image = self.batch.images.get(row)
            self.actions[row] = Defer(image.change.xid if image is not None else None)

    def drop_texts(self, untaken: Collection[bytes]) -> list[RowId]:
        """Take out the rows whose documents have one of these chunks, by hash; return them."""
        rows = self._rows_with(untaken)
        for row in rows:
            del self.actions[row]
        return rows

    def _rows_with(self, hashes: Collection[bytes]) -> list[RowId]:
        return [
            row
            for row, action in self.actions.items()
            if isinstance(action, Write)
            and any(chunk.hash in hashes for chunk in action.document.chunks)
        ]

    def letters(self, refusals: Mapping[RowId, RowRefusal]) -> dict[RowId, Refuse]:
        """Return the dead letters of rows that the database refuses, with its error."""
        letters = {}
        for row, (error, without) in refusals.items():
            digest = digest_of(self.actions.get(row))
            if digest is not None:
                reason = REFUSED_METADATA if without else REFUSED_BY_DATABASE
                letters[row] = Refuse(digest, reason, error, without)
        return letters

    def refuse_rows(self, letters: Mapping[RowId, Refuse]) -> None:
        """Put the letters of rows that the database refused before in place of the same again.

        A row that was read since can have another text, which was not refused. A metadata value
        alone never costs the document its vectors, because it is left out.
        """
        for row, letter in letters.items():
            if digest_of(self.actions.get(row)) == letter.fingerprint:
                self.actions[row] = with_letter(self.actions[row], letter)

    @property
    def defers(self) -> bool:
        """Whether a text waits for the embedder."""
        return any(isinstance(action, Defer) for action in self.actions.values())

    @property
    def only_texts(self) -> bool:
        """Whether nothing but new texts is in it, so that nothing else waits for them."""
        texts = all(isinstance(action, Write | Supersede) for action in self.actions.values())
        return texts and not self.batch.truncated

    @property
    def writes(self) -> bool:
        """Whether the target must change."""
        if self.batch.truncated:
            return True
        return any(not isinstance(action, Skip | Supersede) for action in self.actions.values())

    def outcome(self) -> Outcome:
        """Return the states of the rows once the batch is committed."""
        states = {
            row: state
            for row, action in self.actions.items()
            if (state := state_after(action)) is not None
        }
        return Outcome(
            states=states,
            truncated=frozenset(self.batch.truncated),
            hashes=frozenset(self.texts()),
        )


def skipped(plan: Plan) -> Iterable[tuple[str, str]]:
    """Return (table, reason) of every row that needed nothing."""
    for (table, _), action in plan.actions.items():
        if isinstance(action, Skip):
            yield table.full_name, action.reason
        elif isinstance(action, Supersede):
            yield table.full_name, "superseded"
