"""The configured tables as the source's catalogue shows them, and the problems found."""

from dataclasses import dataclass
from typing import Any

from psycopg2 import sql

from cdc_embed.change.document import KeyOrder, Table, TableColumn
from cdc_embed.config.load import Config
from cdc_embed.config.table import OUR_COLUMNS, TableConfig
from cdc_embed.finding import Finding
from cdc_embed.postgres.ddl import compose
from cdc_embed.postgres.session import Session
from cdc_embed.source.comparison import key_orders
from cdc_embed.sql import queries


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    name: str
    type: str
    own_type: bool
    """The type can be missing in another database."""
    in_key: int | None
    in_identity: int | None
    generated: bool
    order: KeyOrder


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTable:
    """A configured table that exists, with the form in which it is published."""

    table: Table
    full_identity: bool
    """REPLICA IDENTITY FULL of the table or of one partition: it is published without a column
    list, because with one its writers would fail."""

    @property
    def published_columns(self) -> tuple[str, ...]:
        """The columns of a column list: the key, then the metadata and the text."""
        table = self.table
        columns = [column.name for column in (*table.key, *table.metadata)]
        return tuple(dict.fromkeys([*columns, *table.text_columns]))


def find_tables(session: Session, config: Config) -> tuple[list[SourceTable], list[Finding]]:
    """Return the usable tables, and at least one finding for each table."""
    tables, findings = [], []
    for entry in config.tables:
        with session.transaction(entry.name) as cursor:
            found, problems = _find(cursor, entry, config.max_tokens(entry))
        if found is not None and not problems:
            tables.append(found)
            key = ", ".join(column.name for column in found.table.key)
            findings.append(Finding(id="table", ok=True, message=f"{entry.name}: key ({key})"))
        findings += problems
    return tables, findings


def estimate_rows(session: Session, table: Table) -> int | None:
    """Return the estimated number of rows of the source table; None before its first ANALYZE."""
    with session.transaction(table.full_name) as cursor:
        cursor.execute(queries("source/tables")["estimate"], {"oid": table.oid})
        rows: int | None = cursor.fetchone()[0]
    return rows


def shape_of(session: Session, table: Table) -> str:
    """Return the files of a table and its partitions, and the numbers and labels of its columns.

    The files change with a rewrite, a TRUNCATE or an ATTACH. A number changes when another column
    takes the name, and a label when one of an enum is renamed. The log need not contain any of
    these.
    """
    columns = [*(c.name for c in table.key), *table.text_columns, *(c.name for c in table.metadata)]
    with session.transaction(table.full_name) as cursor:
        cursor.execute(queries("source/tables")["shape"], {"oid": table.oid, "columns": columns})
        return str(cursor.fetchone()[0])


def text_bytes(session: Session, table: Table) -> tuple[int, int]:
    """Return (rows, bytes of text).

    Reads the whole table, but no out-of-line value.
    """
    lengths = sql.SQL(" + ").join(
        sql.SQL("coalesce(octet_length(t.{}::text), 0)").format(sql.Identifier(name))
        for name in table.text_columns
    )
    name = sql.Identifier(table.schema, table.name)
    statement = compose("source/tables", "text_size", bytes=lengths, table=name)
    with session.transaction(table.full_name) as cursor:
        cursor.execute(statement)
        rows, size = cursor.fetchone()
    return rows, size


def _find(
    cursor: Any, entry: TableConfig, max_tokens: int
) -> tuple[SourceTable | None, list[Finding]]:
    cursor.execute(queries("source/tables")["table"], {"schema": entry.schema, "name": entry.table})
    row = cursor.fetchone()
    if row is None:
        return None, [_bad(entry, "there is no such table", "correct tables.name")]
    oid, kind, identity, persistence, immediate_key, readable, role = row
    if kind not in {"r", "p"}:
        return None, [_bad(entry, "it is not a table", "name the table itself")]
    if persistence != "p":
        return None, [
            _bad(
                entry,
                "an unlogged or temporary table has no change log",
                f"alter table {entry.name} set logged;",
            )
        ]
    columns = _columns(cursor, oid)
    problems = [
        *_identity_problems(entry, identity, immediate_key, columns),
        *_column_problems(entry, columns),
    ]
    if not readable:
        problems.append(
            _bad(
                entry,
                f"role {role} has no right to read it",
                f"grant select on {entry.name} to {role};",
            )
        )
    partitions = _partitions(cursor, oid) if kind == "p" else []
    problems += [_bad(entry, problem, fix) for problem, fix in _problems_of(partitions)]
    return (
        SourceTable(
            table=_table(entry, oid, columns, max_tokens, partitioned=kind == "p"),
            full_identity="f" in {identity, *(own for _, own, _ in partitions)},
        ),
        problems,
    )


def partition_problems(session: Session, table: Table) -> list[tuple[str, str]]:
    """Return (problem, statement that mends it) of each partition with an unusable replica
    identity.

    A partition has a replica identity of its own: the default when it is made, whatever its table's
    is. Without the primary key in it, the log does not identify the partition's old rows.
    """
    with session.transaction(table.full_name) as cursor:
        return _problems_of(_partitions(cursor, table.oid))


def _partitions(cursor: Any, oid: int) -> list[tuple[str, str, bool]]:
    cursor.execute(queries("source/tables")["partitions"], {"oid": oid})
    found: list[tuple[str, str, bool]] = cursor.fetchall()
    return found


def _problems_of(partitions: list[tuple[str, str, bool]]) -> list[tuple[str, str]]:
    return [
        (
            f"the replica identity of its partition {name} is "
            f"{'nothing' if identity == 'n' else 'an index'}, not the primary key: "
            f"key changes and deletes would be lost",
            f"alter table {name} replica identity default;",
        )
        for name, identity, tells_key in partitions
        if not tells_key
    ]


def _columns(cursor: Any, oid: int) -> list[_Column]:
    cursor.execute(queries("source/tables")["columns"], {"oid": oid})
    found = cursor.fetchall()
    orders = key_orders(cursor, oid)
    return [
        _Column(
            name=name,
            type=kind,
            own_type=own_type or (name in orders and not orders[name][1]),
            in_key=in_key,
            in_identity=in_identity,
            generated=bool(generated),
            order=orders[name][0] if name in orders else KeyOrder(),
        )
        for name, kind, own_type, in_key, in_identity, generated in found
    ]


def _table(
    entry: TableConfig, oid: int, columns: list[_Column], max_tokens: int, *, partitioned: bool
) -> Table:
    key = sorted((c for c in columns if c.in_key is not None), key=lambda c: c.in_key or 0)
    return Table(
        schema=entry.schema,
        name=entry.table,
        oid=oid,
        key=tuple(_table_column(c) for c in key),
        text_columns=entry.text_columns,
        template=entry.template or None,
        embedding_table=entry.embedding_table_name,
        search_view=entry.search_view_name,
        metadata=tuple(
            _table_column(c)
            for c in sorted(columns, key=lambda c: c.name)
            if c.name in entry.metadata
        ),
        max_tokens=max_tokens,
        store_text=entry.store_text,
        partitioned=partitioned,
    )


def _table_column(column: _Column) -> TableColumn:
    """Return the column in the form of the target, where a type that only the source has is
    text."""
    if column.own_type:
        order = column.order._replace(loose=True)
        return TableColumn(column.name, "text", column.type, order)
    return TableColumn(column.name, column.type, order=column.order)


def _identity_problems(
    entry: TableConfig, identity: str, immediate_key: bool | None, columns: list[_Column]
) -> list[Finding]:
    if immediate_key is False:
        return [
            _bad(
                entry,
                "its primary key is deferrable, so two rows can have one key for a while",
                f"alter table {entry.name} drop constraint ..., add primary key (...);",
            )
        ]
    if immediate_key is None:
        return [
            _bad(
                entry,
                "it has no primary key, so its rows cannot be told apart",
                f"alter table {entry.name} add primary key (...);",
            )
        ]
    key = {column.name for column in columns if column.in_key is not None}
    index = {column.name for column in columns if column.in_identity is not None}
    if identity in {"d", "f"} or (identity == "i" and index == key):
        return []
    what = "nothing" if identity == "n" else f"({', '.join(sorted(index))})"
    return [
        _bad(
            entry,
            f"its replica identity is {what}, not the primary key: "
            f"key changes and deletes would be lost",
            f"alter table {entry.name} replica identity default;",
        )
    ]


def _column_problems(entry: TableConfig, columns: list[_Column]) -> list[Finding]:
    names = {column.name: column for column in columns}
    problems = []
    wanted = [(name, "tables.text") for name in entry.text_columns]
    wanted += [(name, "tables.metadata") for name in entry.metadata]
    for name, setting in wanted:
        if name not in names:
            known = ", ".join(sorted(names))
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
    return Finding(id="table", ok=False, message=f"table {entry.name}: {problem}", fix=fix)
