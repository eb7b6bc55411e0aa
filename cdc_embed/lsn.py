"""Positions in the write-ahead log: the one place that compares them.

``Progress`` says what may be confirmed, ``find_gap`` whether a recorded position and a slot
still belong together. Both are pure: they take facts and give an answer.
"""

import re
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

_TEXT_FORM = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


class LSN(int):
    """A byte position in the write-ahead log; prints as PostgreSQL prints it, ``X/X``."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the LSN of its text form, e.g. ``16/B374D848``; ValueError when it is none."""
        match = _TEXT_FORM.fullmatch(text)
        if match is None:
            raise ValueError(f"not an LSN: {text!r}")
        return cls((int(match[1], 16) << 32) | int(match[2], 16))

    def __str__(self) -> str:
        return f"{self >> 32:X}/{self & 0xFFFFFFFF:X}"

    __repr__ = __str__


ZERO = LSN(0)


class Position(NamedTuple):
    """The place of one change in the order of commits: commit LSN, then ordinal in it.

    Change LSNs are not usable for this, because they are ordered only inside a transaction, and the
    rows of one COPY share one.
    """

    commit_lsn: LSN
    ordinal: int


START = Position(ZERO, 0)


class Progress:
    """Positions of one connection, from which follows what the server may be told.

    - ``received``: the server sent everything below it;
    - ``durable``: every transaction that ends at or before it is reflected in the target, by a
      committed batch or because there was nothing to write;
    - ``recorded``: the committed checkpoint row says so, ``greatest(end_lsn, confirmed_lsn)``;
    - ``open_commit``: the commit LSN of the transaction that is being delivered, None between two.

    The first three only grow. ``confirmable`` never exceeds ``recorded``, because after a crash
    our own slot would look as if somebody else had moved it.
    """

    __slots__ = ("durable", "open_commit", "received", "recorded")

    def __init__(self, recorded: LSN, confirmed: LSN = ZERO) -> None:
        """``confirmed``: the slot's position, where the server begins; all before it is durable."""
        self.received = self.durable = max(recorded, confirmed)
        self.recorded = recorded
        self.open_commit: LSN | None = None

    def mark_received(self, lsn: LSN) -> None:
        """Note that the server sent something up to ``lsn``; messages' positions go back too."""
        self.received = max(self.received, lsn)

    def mark_durable(self, lsn: LSN) -> None:
        """Note that everything up to ``lsn`` is reflected in the target."""
        self.durable = max(self.durable, lsn)
        self.mark_received(lsn)

    def mark_idle(self) -> None:
        """Note that all that was received is durable, up to the open transaction's commit."""
        self.mark_durable(self.received if self.open_commit is None else self.open_commit)

    def mark_recorded(self, lsn: LSN) -> None:
        """Note that the checkpoint row that says ``lsn`` is committed."""
        self.recorded = max(self.recorded, lsn)

    def confirmable(self) -> LSN:
        """Return the highest position up to which the server may forget the log."""
        return min(self.durable, self.recorded)

    def is_recorded(self, lsn: LSN) -> bool:
        """Return whether the committed checkpoint row reaches ``lsn``."""
        return lsn <= self.recorded

    def has_lost_nothing(self, confirmed: LSN, recorded: LSN) -> bool:
        """Return whether nothing is lost though the slot is at ``confirmed``, beyond the record.

        Everything below was durable on this connection then. ``recorded``: the position as the
        checkpoint says it now. If that went back, the target is an older one, and what was durable
        is no more.
        """
        return confirmed <= self.durable and recorded >= self.recorded

    def unrecorded_bytes(self) -> int:
        """Return how many durable bytes of log the checkpoint row does not cover yet."""
        return max(0, self.durable - self.recorded)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The server, database and timeline that a position belongs to."""

    system_identifier: str
    database: str
    timeline: int

    def is_of(self, other: "Identity") -> bool:
        """Return whether both are of one database, on whichever timeline."""
        same_server = self.system_identifier == other.system_identifier
        return same_server and self.database == other.database


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The recorded position, as its committed row says."""

    slot: str
    source: Identity
    target: Identity
    position: Position
    end_lsn: LSN
    """End of the last transaction that a batch completed; 0/0 before the first."""
    confirmed_lsn: LSN
    batch_seq: int
    epoch: int

    @property
    def recorded(self) -> LSN:
        """The position up to which everything is reflected in the target."""
        return max(self.end_lsn, self.confirmed_lsn)

    def reaching(self, confirmed: LSN) -> "Checkpoint":
        """Return the checkpoint as if it were recorded that all before ``confirmed`` is durable."""
        return replace(self, confirmed_lsn=max(self.confirmed_lsn, confirmed))

    def covers(self, position: Position) -> bool:
        """Return whether the change at ``position`` is reflected in the target already."""
        return position <= self.position or position.commit_lsn < self.recorded

    def replays(self, slot_confirmed: LSN) -> bool:
        """Return whether a stream from ``slot_confirmed`` must repeat the last recorded commit."""
        return slot_confirmed < self.end_lsn

    def missing_commit(self, commit_end: LSN, seen: bool) -> bool:
        """Return whether a replay that passes ``commit_end`` skipped the recorded commit."""
        return not seen and commit_end > self.end_lsn > ZERO

    def is_before(self, commit_lsn: LSN) -> bool:
        """Return whether a commit at ``commit_lsn`` comes after the recorded one."""
        return commit_lsn >= self.end_lsn > ZERO


def why_foreign(before: Identity, source: Identity) -> str | None:
    """Return why a position of ``before`` is not one of ``source``; None when it is."""
    if source.system_identifier != before.system_identifier:
        return (
            f"the position belongs to another cluster (system identifier "
            f"{before.system_identifier}, this one is {source.system_identifier})"
        )
    if source.database != before.database:
        return f"the position belongs to database {before.database}, not {source.database}"
    return None


def find_gap(
    checkpoint: Checkpoint,
    *,
    source: Identity,
    slot_confirmed: LSN,
    wal_end: LSN,
    history: list[tuple[int, LSN]],
) -> str | None:
    """Return why the slot cannot continue the recorded position, or None when it can.

    ``history`` holds (timeline, switch point) of every ancestor of the server's timeline.
    """
    recorded = checkpoint.recorded
    before = checkpoint.source
    foreign = why_foreign(before, source)
    if foreign is not None:
        return foreign
    if source.timeline != before.timeline:
        switch = dict(history).get(before.timeline)
        if switch is None:
            return f"timeline {source.timeline} does not descend from timeline {before.timeline}"
        if recorded > switch:
            return (
                f"the server left timeline {before.timeline} at {switch}, "
                f"before the recorded position {recorded}"
            )
    if recorded > wal_end:
        return f"the recorded position {recorded} is ahead of the server's log ({wal_end})"
    if slot_confirmed > recorded:
        return (
            f"the slot stands at {slot_confirmed}, beyond the recorded position {recorded}; "
            f"someone else moved or recreated it"
        )
    return None
