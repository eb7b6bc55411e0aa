"""The things of others on tables and views of ours: triggers, rules, row level security, owners.

A trigger can raise, or drop a row so that nobody notices. On tables of vectors that is found by the
number of rows; our own tables have no such proof, so nothing may drop their rows. Whatever is only
refused is named, with the statement that takes it away, once something was refused.
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from cdc_embed.errors import TargetRefusedError
from cdc_embed.finding import Finding, Severity
from cdc_embed.postgres.side import PRIVILEGE
from cdc_embed.setup.connections import Connections
from cdc_embed.sql import queries
from cdc_embed.target.registry import MARK
from cdc_embed.target.schema import SERVICE_TABLES

OWNER: Final = "owner"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hindrance:
    """One thing of others that is, or can be, in the way of a service."""

    relation: str
    kind: str
    what: str
    fix: str
    drops: bool
    """Whether it can drop or hide rows without an error."""


def find_hindrances(databases: Connections) -> list[Hindrance]:
    """Return what others have put on objects of ours, and those that they own."""
    tables = databases.config.tables
    relations = [name for t in tables for name in (t.embedding_table_name, t.search_view_name)]
    values = {
        "schema": databases.config.target.schema,
        "relations": [*SERVICE_TABLES, *relations],
        "own": list(SERVICE_TABLES),
        "mark": MARK,
    }
    rows = databases.target.fetch("pg_trigger", queries("target/rights")["hindrances"], values)
    return [
        Hindrance(relation=relation, kind=kind, what=what, fix=fix, drops=drops)
        for relation, kind, what, fix, drops in rows
    ]


def check_hindrances(databases: Connections, found: Iterable[Hindrance]) -> list[Finding]:
    """Return a finding for each; an error if it can drop rows of our own tables."""
    tables = {t.embedding_table_name: t.full_name for t in databases.config.tables}
    return [
        Finding(
            id="hindrance",
            ok=False,
            message=f"{each.what}, and {_harm(each)}",
            fix=each.fix,
            severity=Severity.ERROR if each.drops else Severity.WARNING,
            table=tables.get(each.relation, ""),
        )
        for each in found
        if each.kind != OWNER or each.relation not in tables  # those have a check of their own
    ]


def _harm(each: Hindrance) -> str:
    if each.kind == OWNER:
        return "setup cannot alter it"
    if each.drops:
        return "can drop or hide rows of ours without an error"
    return "can refuse rows of ours"


@contextmanager
def naming_hindrances(databases: Connections) -> Iterator[None]:
    """Raise what the target refuses inside the block with the way out."""
    try:
        yield
    except TargetRefusedError as exc:
        raise with_way_out(exc, find_hindrances(databases)) from exc


def with_way_out(error: TargetRefusedError, found: Collection[Hindrance]) -> TargetRefusedError:
    """Return the error with the statements that remove what can have refused it; the same one if
    nothing can."""
    owned = error.fields.get("state") == PRIVILEGE
    suspects = [
        each.fix
        for each in found
        if (each.kind == OWNER) == owned
        and (owned or each.relation in {*SERVICE_TABLES, error.fields.get("table")})
    ]
    if not suspects:
        return error
    cause = (
        "another role owns what is ours" if owned else "a trigger or rule of yours is in the way"
    )
    return TargetRefusedError(hint=f"{cause}: {' '.join(suspects)}", **error.fields)
