"""The shape of a table: tokens that change with events which the log need not contain.

A rewrite, a TRUNCATE of a partition, an ATTACH or a DETACH sends no row event. A partitioned table
has a token of its own and one for each leaf, so that partitions which come and go cost a comparison
of these leaves alone.
"""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The token of a table itself, and those of its leaf partitions by their oids."""

    own: str
    leaves: Mapping[int, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The one token for all leaves; empty if there are none."""
        listed = " ".join(f"{oid}={token}" for oid, token in sorted(self.leaves.items()))
        return hashlib.md5(listed.encode(), usedforsecurity=False).hexdigest() if listed else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafChanges:
    """The leaves whose rows must be compared, and whether stored keys can have lost their rows."""

    compared: frozenset[int]
    orphans: bool


def leaf_changes(
    known: Mapping[int, str], found: Mapping[int, str], never_filled: Collection[int]
) -> LeafChanges:
    """Decide what follows from other leaves than those that are known.

    ``never_filled``: tables that have no rows, and whose file is as it was made. Nothing is missed
    in a new one. One that went can look like that, too. Its rows were deleted since, and the log
    does not tell. The rows of any other leaf that is new or changed are compared. Each of these,
    and a leaf that went, can leave keys without rows, because a new one can have been emptied
    already.
    """
    new = found.keys() - known.keys() - set(never_filled)
    gone = known.keys() - found.keys()
    changed = {oid for oid in found.keys() & known.keys() if found[oid] != known[oid]}
    return LeafChanges(compared=frozenset(new | changed), orphans=bool(new or gone or changed))
