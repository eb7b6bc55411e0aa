"""The configured tables as the source's catalogue shows them, and the problems found."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from cdc_embed.change.document import Table, TableColumn
from cdc_embed.config.load import Config
from cdc_embed.config.table import OUR_COLUMNS, TableConfig
from cdc_embed.finding import Finding
from cdc_embed.postgres.session import Session
from cdc_embed.source.found import FoundColumn, FoundTable, look_up
from cdc_embed.source.leaves import Leaf, leaf_problems
from cdc_embed.sql import queries

NAME: Final = "correct tables.name"
ITSELF: Final = "name the table itself"
MEANT: Final = {NAME: "similar_tables", ITSELF: "viewed_tables"}
"""The question for the names that can be meant, by the fix that lacks them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTable:
    """A configured table that exists, with the form in which it is published."""

    table: Table
    full_identity: bool
    """Whether the table or one partition has REPLICA IDENTITY FULL. It is published without a
    column list, because with one its writers would fail."""
    other_key: bool = False
    """Whether its key is not its primary key, but the index of its replica identity."""

    @property
    def published_columns(self) -> tuple[str, ...]:
        """The columns of a column list: the key, then the metadata and the text."""
        table = self.table
        columns = [column.name for column in (*table.key, *table.metadata)]
        return tuple(dict.fromkeys([*columns, *table.text_columns]))


@dataclass(frozen=True, slots=True, kw_only=True)
class TableState:
    """The present state of one configured table."""

    name: str
    """The table's full name, as in ``Table.full_name``."""
    source: SourceTable | None
    """The table as it is followed; None if it cannot be, for the reasons that the findings give."""
    findings: list[Finding]
    """The findings, at least one, which is a good one if there is no problem."""
    leaves: Sequence[Leaf] = ()
    own_shape: str = ""
    """A token that changes with events that the log need not contain; see ``FoundTable``."""
    leaf_digest: str = ""
    leaf_shapes: Mapping[int, str] | None = None
    version: str = ""
    estimate: int | None = None
    """The estimated number of rows; None before the first ANALYZE."""

    @property
    def problem(self) -> str:
        """The reasons why it cannot be followed; empty if it can."""
        failed = [finding for finding in self.findings if finding.failed]
        return "; ".join(f"{finding.message} ({finding.fix})" for finding in failed)


def table_states(session: Session, config: Config, listed: Iterable[int] = ()) -> list[TableState]:
    """Read the state of every configured table.

    ``listed``: the oids of the partitioned tables whose leaves' shapes are listed.
    """
    found = look_up(session, config.tables, listed)
    return [_state(entry, found.get(entry.name)) for entry in config.tables]


def find_tables(session: Session, config: Config) -> tuple[list[SourceTable], list[Finding]]:
    """Return the usable tables, and at least one finding for each table."""
    states = table_states(session, config)
    tables = [state.source for state in states if state.source is not None]
    return tables, [
        replace(finding, fix=_meant(session, config, entry, finding.fix))
        if finding.fix in MEANT
        else finding
        for entry, state in zip(config.tables, states, strict=True)
        for finding in state.findings
    ]


def _meant(session: Session, config: Config, entry: TableConfig, fix: str) -> str:
    """Return the fix for a table that does not exist, or is a view, with the names that can be
    meant."""
    values = {"schema": entry.schema, "name": entry.table, "ours": config.target.schema}
    with session.transaction("pg_class") as cursor:
        cursor.execute(queries("source/tables")[MEANT[fix]], values)
        names = [row[0] for row in cursor.fetchall()]
    if not names:
        return fix
    quotes = " (without double quotes a name is folded to lower case)" if '"' in names[0] else ""
    return f"{fix}: there is {', '.join(names)}; write name = '{names[0]}'{quotes}"


def why_paused(finding: Finding) -> str:
    """Return why a table cannot be followed, as it follows the table's name."""
    fix = f" ({finding.fix})" if finding.fix else ""
    return f"cannot be followed: {finding.message}{fix}"


def wide_columns(session: Session, tables: Sequence[SourceTable]) -> dict[str, list[str]]:
    """Return the columns of any length that the service does not need, by table."""
    found = {}
    for source in tables:
        values = {"oid": source.table.oid, "columns": list(source.published_columns)}
        with session.transaction(source.table.full_name) as cursor:
            cursor.execute(queries("source/tables")["wide_columns"], values)
            columns = [row[0] for row in cursor.fetchall()]
        if columns:
            found[source.table.full_name] = columns
    return found


def _state(entry: TableConfig, found: FoundTable | None) -> TableState:
    problems = _problems(entry, found)
    if found is None:
        return TableState(name=entry.full_name, source=None, findings=problems)
    if problems:
        return TableState(
            name=entry.full_name,
            source=None,
            findings=problems,
            leaves=found.leaves,
            estimate=found.estimate,
        )
    source = SourceTable(
        table=_table(entry, found),
        full_identity=any(leaf.full for leaf in found.leaves),
        other_key=any(set(leaf.primary) != set(leaf.key) for leaf in found.leaves if leaf.own),
    )
    key = ", ".join(column.name for column in source.table.key)
    return TableState(
        name=entry.full_name,
        source=source,
        findings=[Finding(id="table", ok=True, message=f"{entry.name}: key ({key})")],
        leaves=found.leaves,
        own_shape=found.own_shape([*entry.text_columns, *entry.metadata]),
        leaf_digest=found.leaf_digest,
        leaf_shapes=found.leaf_shapes,
        version=found.version,
        estimate=found.estimate,
    )


def _problems(entry: TableConfig, found: FoundTable | None) -> list[Finding]:
    if found is None:
        return [_bad(entry, "there is no such table", NAME)]
    if found.kind not in {"r", "p"}:
        return [_bad(entry, "it is not a table", ITSELF)]
    problems = [_bad(entry, problem, fix) for problem, fix in leaf_problems(found.leaves)]
    problems += _column_problems(entry, found)
    if not found.readable:
        fix = f"grant select on {entry.name} to {found.role};"
        problems.append(_bad(entry, f"role {found.role} has no right to read it", fix))
    problems += [
        _bad(
            entry,
            f"role {found.role} has no right to use schema {schema}",
            f"grant usage on schema {schema} to {found.role};",
        )
        for schema in found.closed
    ]
    if found.filtered:
        problems.append(_filtered(entry, found.role))
    return problems


def _filtered(entry: TableConfig, role: str) -> Finding:
    return _bad(
        entry,
        f"row-level security applies to role {role}, which would see a part of the rows only",
        f"alter role {role} bypassrls;  -- or, if {role} is its owner: "
        f"alter table {entry.name} no force row level security;",
    )


def _table(entry: TableConfig, found: FoundTable) -> Table:
    columns = found.columns
    key = sorted((c for c in columns if c.in_key is not None), key=lambda c: c.in_key or 0)
    return Table(
        schema=entry.schema,
        name=entry.table,
        oid=found.oid,
        key=tuple(_table_column(c) for c in key),
        key_numbers=tuple(c.number for c in key),
        text_columns=entry.text_columns,
        template=entry.template or None,
        embedding_table=entry.embedding_table_name,
        search_view=entry.search_view_name,
        metadata=tuple(
            _table_column(c)
            for c in sorted(columns, key=lambda c: c.name)
            if c.name in entry.metadata
        ),
        max_tokens=entry.chunk.max_tokens,
        store_text=entry.store_text,
        partitioned=found.kind == "p",
        row_security=found.row_security,
    )


def _table_column(column: FoundColumn) -> TableColumn:
    """Return the column in the form of the target, where a type that only the source has is
    text."""
    if column.own_type:
        order = column.order._replace(loose=True)
        return TableColumn(column.name, "text", column.type, order)
    return TableColumn(column.name, column.type, order=column.order, type_oid=column.type_oid)


def _column_problems(entry: TableConfig, found: FoundTable) -> list[Finding]:
    columns = found.columns
    names = {column.name: column for column in columns}
    problems = []
    wanted = [(name, "tables.text") for name in entry.text_columns]
    wanted += [(name, "tables.metadata") for name in entry.metadata]
    for name, setting in wanted:
        if name not in names:
            known = ", ".join(sorted(found.other_columns or names))
            problems.append(
                _bad(entry, f"it has no column {name}", f"correct {setting}; it has: {known}")
            )
        elif names[name].generated:
            problems.append(
                _bad(
                    entry,
                    f"column {name} is generated, the change log does not carry it",
                    "use the columns it is made of, with tables.template"
                    if setting == "tables.text"
                    else f"remove it from {setting}",
                )
            )
    key = {column.name for column in columns if column.in_key is not None}
    used = {*key, *entry.text_columns, *entry.metadata}
    problems += [
        _bad(entry, f"the name {name} has a % in it, which is not supported", "rename it")
        for name in sorted({entry.schema, entry.table, *used})
        if "%" in name
    ]
    problems += [
        _bad(entry, f"{c.name} is in the key, which is always stored", "remove it from metadata")
        for c in columns
        if c.in_key is not None and c.name in entry.metadata
    ]
    clashes = sorted(c.name for c in columns if c.in_key is not None and c.name in OUR_COLUMNS)
    problems += [
        _bad(entry, f"key column {name} has a reserved name", "rename the column")
        for name in clashes
    ]
    return problems


def _bad(entry: TableConfig, problem: str, fix: str) -> Finding:
    return Finding(
        id="table",
        ok=False,
        message=f"table {entry.name}: {problem}",
        fix=fix,
        table=entry.full_name,
    )
