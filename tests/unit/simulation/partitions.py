"""The simulated partitions of a table: they come with rows, are emptied and go, and no log says so.

One partition stays, the other comes and goes. What is noted of them is what ``sql/target`` notes.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from cdc_embed.change.shape import LeafChanges
from cdc_embed.target.leaves import PendingWork
from tests.unit.simulation.data import KEYS, PARTED, Row

LEAVING: Final = frozenset(KEYS[1:])
"""The keys of the partition that comes and goes."""


@dataclass
class Leaf:
    """A partition, or a table that was one."""

    oid: int
    file: int = 0
    """Another one when it is emptied."""
    attached: int = 0
    """Another number each time."""
    rows: dict[str, Row] = field(default_factory=dict)
    """Its rows while it is a table of its own."""

    @property
    def token(self) -> str:
        return f"{self.file} {self.attached}"


class Partitions:
    """The partitions of one table as they are now."""

    def __init__(self) -> None:
        self._numbers = count(PARTED.oid + 100)
        self.moved = False
        """One came or went; until then every change is in the log."""
        self.stays = Leaf(next(self._numbers))
        self.leaf: Leaf | None = Leaf(next(self._numbers))
        """The one that comes and goes."""
        self._apart: Leaf | None = None

    def of(self, key: str) -> Leaf | None:
        """Return the partition that has a key; none if it is away."""
        return self.leaf if key in LEAVING else self.stays

    def tokens(self) -> dict[int, str]:
        return {leaf.oid: leaf.token for leaf in (self.stays, self.leaf) if leaf is not None}

    def attach(self, rows: dict[str, Row], *, again: bool) -> Leaf:
        """Give it its place: the one that went, written to meanwhile, or a new one with rows."""
        leaf = self._apart if again and self._apart is not None else Leaf(next(self._numbers))
        leaf.attached = next(self._numbers)
        leaf.rows |= rows
        self.leaf, self._apart, self.moved = leaf, None, True
        return leaf

    def detach(self, rows: dict[str, Row], *, dropped: bool) -> None:
        if self.leaf is not None:
            self.leaf.rows = rows
        self.leaf, self._apart, self.moved = None, None if dropped else self.leaf, True

    def empty(self, leaves: Iterable[Leaf | None]) -> None:
        """Give them new files."""
        for leaf in leaves:
            if leaf is not None:
                leaf.file += 1


@dataclass
class Noted:
    """The leaves that the comparison of a table takes into account, as ``reconcile`` has them."""

    known: dict[int, str] = field(default_factory=dict)
    changed: set[int] = field(default_factory=set)
    orphans: bool = False

    @property
    def left(self) -> bool:
        """Whether something is left to be done."""
        return self.orphans or bool(self.changed)

    def begin(self, found: dict[int, str]) -> None:
        """Every row is compared from here on."""
        self.known, self.changed, self.orphans = found, set(), True

    def note(self, found: dict[int, str], changes: LeafChanges) -> None:
        self.known = found
        self.changed = (self.changed | changes.compared) & found.keys()
        self.orphans = self.orphans or changes.orphans

    def pending(self) -> PendingWork:
        return PendingWork(
            leaves={oid: self.known[oid] for oid in sorted(self.changed)}, orphans=self.orphans
        )

    def compared(self, leaf: int, token: str) -> None:
        if self.known.get(leaf) == token:
            self.changed.discard(leaf)
