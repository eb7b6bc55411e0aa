"""The tables that hold the rows of a followed table, and what keeps their changes out of the log.

A partitioned table holds no row itself. Its leaf partitions do, each with a replica identity and a
persistence of its own. A table with children (INHERITS, a hypertable's chunks) shows their rows as
its own, but no change of theirs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from cdc_embed.postgres.session import Session
from cdc_embed.sql import queries

NAMED: Final = 3
"""The children that a message names."""

Problem = tuple[str, str]
"""A problem, and the statement or the step that mends it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """A table that holds rows of a followed one, which is this itself, a leaf partition, or a
    child."""

    root: int
    """The oid of the followed table."""
    oid: int
    name: str
    """The qualified name, as SQL reads it."""
    partition: bool
    kind: str
    """The ``pg_class.relkind``: r table, p partitioned table (the followed one only), f foreign."""
    owned: bool
    """Whether this role owns it, and so can add it to a publication."""
    logged: bool
    full: bool
    """Whether it has REPLICA IDENTITY FULL."""
    key: tuple[str, ...]
    """The columns of its primary key, or of the index that ``REPLICA IDENTITY USING INDEX`` names;
    empty if it has none."""
    immediate: bool
    """Whether its key is not deferrable."""
    temporal: bool
    """Whether its key is WITHOUT OVERLAPS, an index without an order."""
    primary: tuple[str, ...]
    """The columns of its primary key."""
    identity: tuple[str, ...]
    """The columns of the index that is its replica identity; empty if there is none."""
    generated_identity: bool
    """Whether a column of that index is generated."""
    stored: bool
    """Whether it has a stored generated column."""
    virtual: tuple[str, ...]
    """The virtual generated columns."""
    ancestors: frozenset[int]
    """The partitioned tables above it."""

    @property
    def own(self) -> bool:
        """Whether it is the followed table itself."""
        return self.oid == self.root

    @property
    def publishable(self) -> bool:
        """Whether changes of its rows can be published."""
        return self.kind == "r" and self.logged


def read_leaves(session: Session, oids: Iterable[int]) -> dict[int, list[Leaf]]:
    """Return the leaves of some tables, by the table's oid; a table that is gone has none."""
    values = {"oids": sorted(set(oids))}
    leaves: dict[int, list[Leaf]] = {}
    rows = session.fetch("pg_inherits", queries("source/tables")["leaves"], values)
    for root, oid, name, partition, kind, *facts, ancestors in rows:
        owned, logged, full, key, immediate, temporal, primary, identity, *generated = facts
        generated_identity, stored, virtual = generated
        leaves.setdefault(root, []).append(
            Leaf(
                root=root,
                oid=oid,
                name=name,
                partition=partition,
                kind=kind,
                owned=owned,
                logged=logged,
                full=full,
                key=tuple(key or ()),
                immediate=bool(immediate),
                temporal=temporal,
                primary=tuple(primary),
                identity=tuple(identity or ()),
                generated_identity=generated_identity,
                stored=stored,
                virtual=tuple(virtual),
                ancestors=frozenset(ancestors),
            )
        )
    return leaves


def leaf_problems(leaves: Sequence[Leaf]) -> list[Problem]:
    """Return what keeps changes of a table's rows out of the log, or without their key."""
    key = next((set(leaf.key) for leaf in leaves if leaf.own), set())
    found = [problem for leaf in leaves for problem in _problems(leaf, key)]
    children = [leaf.name for leaf in leaves if not leaf.own and not leaf.partition]
    if not children:
        return found
    more = f" and {len(children) - NAMED} more" if len(children) > NAMED else ""
    inherits = (
        f"it has children by INHERITS ({', '.join(children[:NAMED])}{more}): it shows their rows, "
        f"but the log has their changes under their own names"
    )
    (parent,) = [leaf.name for leaf in leaves if leaf.own]
    alone = " ".join(f"alter table {child} no inherit {parent};" for child in children[:NAMED])
    fix = f"name the children in tables.name, or: {alone}"
    return [(inherits, fix), *found]


def _problems(leaf: Leaf, key: set[str]) -> list[Problem]:
    if leaf.kind == "f":
        return [
            (
                f"its partition {leaf.name} is a foreign table, which has no change log here",
                f"alter table ... detach partition {leaf.name};",
            )
        ]
    if not leaf.own and not leaf.partition:
        return []
    whose = "it" if leaf.own else f"its partition {leaf.name}"
    found = []
    if not leaf.logged:
        problem = f"{whose} is unlogged or temporary, so it has no change log"
        found.append((problem, f"alter table {leaf.name} set logged;"))
    identity = _identity_problem(leaf, key)
    return [*found, identity] if identity is not None else found


def _identity_problem(leaf: Leaf, key: set[str]) -> Problem | None:
    if leaf.own and not leaf.key:
        return (
            "it has no primary key, so its rows cannot be told apart",
            f"alter table {leaf.name} add primary key (...);",
        )
    if leaf.own and not leaf.immediate:
        return (
            "its primary key is deferrable, so two rows can have one key for a while",
            f"alter table {leaf.name} drop constraint ..., add primary key (...);",
        )
    if leaf.own and leaf.temporal:
        return (
            "its primary key is WITHOUT OVERLAPS, so its rows have no order",
            f"alter table {leaf.name} drop constraint ..., add primary key (...);  -- and add the "
            f"old one as: unique (... without overlaps)",
        )
    if leaf.full or (leaf.identity and set(leaf.identity) == key):
        return None
    whose = (
        "its replica identity" if leaf.own else f"the replica identity of its partition {leaf.name}"
    )
    what = f"({', '.join(sorted(leaf.identity))})" if leaf.identity else "nothing"
    keys = ", ".join(sorted(key))
    return (
        f"{whose} is {what}, not the key ({keys}): key changes and deletes would be lost",
        f"alter table {leaf.name} replica identity default;",
    )
