"""The publication: its required tables, its actual tables, and the statements between the two.

It is made before the slot, because a slot that decodes without its publication loses the changes
(18) or cannot pass them (15). A table with REPLICA IDENTITY FULL is published without a column
list, because with one the application's own UPDATE and DELETE would fail.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from psycopg2 import sql

from cdc_embed.config.load import Config
from cdc_embed.finding import Finding
from cdc_embed.postgres.ddl import Ddl, compose
from cdc_embed.postgres.session import Session
from cdc_embed.source.observed import Observed, observed
from cdc_embed.source.tables import SourceTable, table_states
from cdc_embed.sql import queries

MARK: Final = "made by cdc_embed"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedTable:
    oid: int
    name: str
    columns: frozenset[str]
    filtered: bool
    listed: bool
    """The table is published with a column list."""
    version: str
    """A token that changes when the table was undelivered for a while."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A publication as the catalogue shows it."""

    name: str
    all_tables: bool
    all_operations: bool
    ours: bool
    tables: dict[int, PublishedTable]


class PublicationCoverage:
    """The coverage of pgoutput: the tables of a publication."""

    by_name = False

    def __init__(self, session: Session, config: Config) -> None:
        self._session = session
        self._config = config
        self._name = config.source.publication
        self._lists = config.source.publish == "columns"

    def findings(self, tables: Sequence[SourceTable]) -> list[Finding]:
        return publication_findings(self._read(), self._name, tables)

    def observe(self, tables: Sequence[SourceTable]) -> Observed:
        publication = self._read()
        gaps = undelivered_tables(publication, tables)
        carried = publication.tables if publication is not None else {}
        versions = {oid: published.version for oid, published in carried.items()}
        states = table_states(self._session, self._config)
        return observed(states, tables, gaps, lambda source: versions.get(source.table.oid, ""))

    def ddl(self, tables: Sequence[SourceTable]) -> list[Ddl]:
        return publication_ddl(self._read(), self._name, tables, lists=self._lists)

    def notes(self, tables: Sequence[SourceTable]) -> list[str]:
        if not self._lists:
            return []
        listed = [source for source in tables if not source.full_identity]
        full = [source for source in tables if source.full_identity]
        return [
            *(
                f"{source.table.full_name}: PostgreSQL will refuse to drop or retype "
                f"{', '.join(source.published_columns)} while they are published"
                for source in listed
            ),
            *(
                f"{source.table.full_name}: REPLICA IDENTITY FULL, so every column is published"
                for source in full
            ),
        ]

    def _read(self) -> Publication | None:
        return read_publication(self._session, self._name)


def read_publication(session: Session, name: str) -> Publication | None:
    values = {"publication": name}
    rows = session.fetch("pg_publication", queries("source/slot")["publication"], values)
    if not rows:
        return None
    all_tables, all_operations, mark = rows[0][:3]
    tables = [_published(*row[3:]) for row in rows if row[3] is not None]
    return Publication(
        name=name,
        all_tables=all_tables,
        all_operations=all_operations,
        ours=mark == MARK,
        tables={table.oid: table for table in tables},
    )


def _published(
    oid: int, schema: str, table: str, columns: list[str] | None, *rest: Any
) -> PublishedTable:
    filtered, listed, version = rest
    return PublishedTable(
        oid=oid,
        name=f"{schema}.{table}",
        columns=frozenset(columns or ()),
        filtered=filtered,
        listed=listed,
        version=version,
    )


def publication_findings(
    publication: Publication | None, name: str, tables: Sequence[SourceTable]
) -> list[Finding]:
    """Check that every change of the tables arrives."""
    setup = "run: cdc-embed setup"
    if publication is None:
        return [_bad(f"publication {name} does not exist", setup)]
    findings = []
    if not publication.all_operations:
        findings.append(
            _bad(
                f"publication {name} leaves operations out",
                f"alter publication {name} set (publish = 'insert, update, delete, truncate');",
            )
        )
    else:
        findings += [
            _bad(f"publication {name}: {table} {problem}", setup)
            for table, problem in undelivered_tables(publication, tables).items()
        ]
    return findings or [
        Finding(id="publication", ok=True, message=f"publication {name} carries every table")
    ]


def undelivered_tables(
    publication: Publication | None, tables: Sequence[SourceTable]
) -> dict[str, str]:
    """Return the reason for each table whose changes do not arrive, by the table's name."""
    if publication is None or not publication.all_operations:
        problem = "has no publication" if publication is None else "is published in part only"
        return {table.table.full_name: problem for table in tables}
    gaps = {t.table.full_name: _gap(publication.tables.get(t.table.oid), t) for t in tables}
    return {name: problem for name, problem in gaps.items() if problem is not None}


def _gap(published: PublishedTable | None, table: SourceTable) -> str | None:
    if published is None:
        return "is not in the publication"
    if published.name != table.table.full_name:
        return f"is now named {published.name}"
    if published.filtered:
        return "has a row filter"
    missing = set(table.published_columns) - published.columns
    if missing:
        return f"lacks column {', '.join(sorted(missing))}"
    return None


def publication_ddl(
    publication: Publication | None, name: str, tables: Sequence[SourceTable], *, lists: bool
) -> list[Ddl]:
    """Return the statements that make the publication carry exactly these tables."""
    identifier = sql.Identifier(name)
    listed = sql.SQL(", ").join(_entry(table, lists) for table in tables)
    named = ", ".join(table.table.full_name for table in tables)
    if publication is None:
        create = _compose("create_publication", publication=identifier, tables=listed)
        mark = _compose("mark_publication", publication=identifier, mark=sql.Literal(MARK))
        return [Ddl(f"publish {named}", create), Ddl("mark the publication as made by setup", mark)]
    if publication.all_tables or _carries_exactly(publication, tables, lists):
        return []
    alter = _compose("alter_publication", publication=identifier, tables=listed)
    return [Ddl(f"publish {named}", alter)]


def drop_publication_ddl(name: str) -> Ddl:
    drop = _compose("drop_publication", publication=sql.Identifier(name))
    return Ddl(f"drop publication {name}", drop)


def _carries_exactly(publication: Publication, tables: Sequence[SourceTable], lists: bool) -> bool:
    if not publication.ours:
        return all(_gap(publication.tables.get(t.table.oid), t) is None for t in tables)
    if set(publication.tables) != {table.table.oid for table in tables}:
        return False
    return all(
        _gap(published, table) is None
        and published.listed == _has_list(table, lists)
        and (not published.listed or published.columns == set(table.published_columns))
        for table in tables
        for published in [publication.tables[table.table.oid]]
    )


def _has_list(table: SourceTable, lists: bool) -> bool:
    return lists and not table.full_identity


def _entry(table: SourceTable, lists: bool) -> sql.Composed:
    name = sql.Identifier(table.table.schema, table.table.name)
    if not _has_list(table, lists):
        return sql.SQL("{}").format(name)
    columns = sql.SQL(", ").join(sql.Identifier(column) for column in table.published_columns)
    return sql.SQL("{} ({})").format(name, columns)


def _compose(query: str, **parts: sql.Composable) -> sql.Composed:
    return compose("source/slot", query, **parts)


def _bad(message: str, fix: str) -> Finding:
    return Finding(id="publication", ok=False, message=message, fix=fix)
