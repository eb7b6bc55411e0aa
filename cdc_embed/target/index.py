"""The HNSW index of a table of vectors.

It is made once the table is filled, because that is several times faster than inserts into it. A
new one is built beside the old one, under another name, and then takes its name, so that searches
are never without an index that they had. A build goes on at the server when its client is gone; the
next attempt waits for it and takes what it made.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import structlog
from psycopg2 import sql

from cdc_embed.config.sections import IndexConfig
from cdc_embed.errors import TargetUnavailableError
from cdc_embed.postgres.ddl import Ddl, OnWait, compose
from cdc_embed.postgres.session import Session
from cdc_embed.sql import queries
from cdc_embed.target.renamed import rename_back
from cdc_embed.target.schema import OPERATORS, index_name
from cdc_embed.target.vectors import create_hnsw

SWAP_LOCK_TIMEOUT: Final = "2s"
"""The wait for a lock of the swap, behind which others would wait."""
RESOURCES: Final = "53"
"""The SQLSTATE class of insufficient resources, such as shared memory for parallel workers."""
NO_WORKERS: Final = "index is built without parallel workers"
MARK: Final = "made by cdc_embed after {rewritten} rewritten rows"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """An HNSW index as the catalogue shows it."""

    valid: bool
    operators: str
    options: frozenset[str]
    mark: str | None

    @property
    def is_marked(self) -> bool:
        """Whether the service made it, whatever its name is."""
        return bool(self.mark and self.mark.startswith(MARK.partition("{")[0]))

    def fits(self, config: IndexConfig) -> bool:
        """Return whether it is complete and has the configured operators and options."""
        options = frozenset({f"m={config.m}", f"ef_construction={config.ef_construction}"})
        return self.valid and (self.operators, self.options) == (operators_of(config), options)


@dataclass(slots=True)
class Indexes:
    """Our HNSW indexes of one table of vectors, by name; the build that runs, and the rows."""

    embedding_table: str
    by_name: dict[str, Index] = field(default_factory=dict)
    phase: str | None = None
    """The phase of the build that is running."""
    pid: int | None = None
    renamed: str | None = None
    """The name that other hands gave the index that searches use."""
    rewritten: int = 0
    """The rows that were deleted, or updated with new index entries, since statistics were
    reset."""
    rows: int = 0

    @property
    def current(self) -> Index | None:
        """The index that searches use."""
        return self.by_name.get(names_of(self.embedding_table)[0])

    def takes(self, config: IndexConfig) -> bool:
        """Return whether an index is complete that was not swapped in, because its builder ended
        or a lock was refused."""
        new = self.by_name.get(names_of(self.embedding_table)[1])
        return new is not None and new.fits(config)

    @property
    def leftover(self) -> str | None:
        """The indexes that searches do not use and writes pay for; None while one is built."""
        left = sorted(self.by_name.keys() - {names_of(self.embedding_table)[0]})
        if not left or self.phase is not None:
            return None
        return f"{', '.join(left)} is of no use, and is dropped by the next start or rebuild"

    @property
    def rewritten_ratio(self) -> float | None:
        """The share of rows rewritten since the index was built; None if it is unknown."""
        mark = self.current.mark if self.current is not None else None
        found = re.search(r"after (\d+) rewritten", mark or "")
        if found is None or self.rewritten < int(found[1]) or not self.rows:
            return None
        return round((self.rewritten - int(found[1])) / self.rows, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFacts:
    """The state of one table's index, for ``status`` and ``doctor``."""

    state: Literal["off", "ready", "building", "unswapped", "outdated", "invalid", "missing"]
    rewritten_ratio: float | None = None
    problem: str | None = None
    """The reason why searches cannot use the configured index, or what writes pay for beside it."""
    due: bool = True
    """Whether every row is compared, so that the index is to be there."""


def describe(found: Indexes, config: IndexConfig, *, compared: bool) -> IndexFacts:
    """Return the state of an index; ``compared``: every row of the table is, so it is due."""
    current, ratio = found.current, found.rewritten_ratio
    if config.kind == "none":
        return IndexFacts(state="off")
    if found.phase is None and found.takes(config):
        new = names_of(found.embedding_table)[1]
        problem = f"{new} is complete, and is taken by the next start or rebuild"
        return IndexFacts(state="unswapped", rewritten_ratio=ratio, problem=problem)
    if current is not None and current.fits(config):
        return IndexFacts(state="ready", rewritten_ratio=ratio, problem=found.leftover)
    if found.renamed is not None and current is None:
        problem = f"it was renamed to {found.renamed}; the next start gives it its name back"
        return IndexFacts(state="ready", rewritten_ratio=ratio, problem=problem)
    if found.phase is not None:
        return IndexFacts(state="building", rewritten_ratio=ratio, problem=found.phase)
    if current is not None and current.valid:
        problem = "it has other operators or options than configured"
        return IndexFacts(state="outdated", rewritten_ratio=ratio, problem=problem)
    if not compared:
        return IndexFacts(state="missing", problem="it is made after the backfill", due=False)
    if any(not index.valid for index in found.by_name.values()):
        return IndexFacts(state="invalid", problem="its build was broken off")
    return IndexFacts(state="missing", problem="the service makes it")


def names_of(embedding_table: str) -> tuple[str, str, str]:
    """Return the names of a table's index, of one that is being built, and of a former one."""
    one, new, old = (index_name(embedding_table, k) for k in ("hnsw", "hnsw_new", "hnsw_old"))
    return one, new, old


def operators_of(config: IndexConfig) -> str:
    return f"{config.type}_{OPERATORS[config.distance]}"


def read_indexes(session: Session, schema: str, tables: Sequence[str]) -> dict[str, Indexes]:
    """Read the indexes of some tables of vectors; one that does not exist is left out."""
    found: dict[str, Indexes] = {}
    values = {"schema": schema, "tables": list(tables)}
    rows = session.fetch("pg_index", queries("target/reconcile")["find_indexes"], values)
    for table, rewritten, live, name, *index, phase, pid in rows:
        indexes = found.setdefault(table, Indexes(table, rewritten=rewritten, rows=live))
        if name in names_of(table):
            indexes.by_name[name] = _index(*index)
            if pid is not None:
                indexes.phase, indexes.pid = phase, pid
        elif name is not None and _index(*index).is_marked:
            indexes.renamed = name
    return found


def _index(valid: bool, operators: str, options: list[str], mark: str | None) -> Index:
    return Index(valid=valid, operators=operators, options=frozenset(options), mark=mark)


def end_build_ddl(schema: str, table: str) -> Ddl:
    """End the build of a table's index, because whatever alters the table would wait for it."""
    name = sql.SQL("quote_ident({}) || '.' || quote_ident({})").format(
        sql.Literal(schema), sql.Literal(table)
    )
    names = sql.Literal(list(names_of(table)))
    end = compose("target/reconcile", "end_builds", table=name, names=names)
    return Ddl(f"end the build of the index of {table}", end)


def builds_of(session: Session, schema: str, tables: Sequence[str]) -> dict[str, Ddl]:
    """Return the statement that ends the running build of a table's index, by the table."""
    found = read_indexes(session, schema, tables)
    return {t: end_build_ddl(schema, t) for t, indexes in found.items() if indexes.pid is not None}


def has_index(session: Session, schema: str, table: str) -> bool:
    """Return whether a table of vectors has its search index."""
    found = read_indexes(session, schema, [table]).get(table)
    return found is not None and found.current is not None and found.current.valid


def with_spare_memory(session: Session, ddl: Ddl) -> Ddl:
    """Return the statement that indexes a table nobody uses yet, with its second attempt, without
    parallel workers, if there is no shared memory for them."""

    def build(_: OnWait) -> None:
        try:
            _build_at_once(session, ddl)
        except TargetUnavailableError as exc:
            if not _lacks_resources(exc):
                raise
            _build_at_once(session, ddl, queries("target/reconcile")["build_serially"])

    return replace(ddl, work=build)


def _build_at_once(session: Session, ddl: Ddl, setting: str = "select") -> None:
    with session.transaction(ddl.why, ddl=True) as cursor:
        cursor.execute(setting)
        cursor.execute(ddl.statement)


def _lacks_resources(exc: TargetUnavailableError) -> bool:
    return str(exc.fields.get("state")).startswith(RESOURCES)


class IndexBuilder:
    """Builds the indexes of one service's tables, in sessions that are its caller's."""

    def __init__(self, schema: str, config: IndexConfig, extension_schema: str) -> None:
        self._schema = schema
        self._config = config
        self._extension_schema = extension_schema

    def ensure(self, session: Session, embedding_table: str) -> bool:
        """Make the configured index, while reads and writes go on; return whether that was
        necessary.

        An index under another name is not ours and stays.
        """
        return self._make(session, embedding_table, again=False)

    def rebuild(self, session: Session, embedding_table: str) -> None:
        """Make the index anew, whatever there is."""
        self._make(session, embedding_table, again=True)

    def _make(self, session: Session, table: str, *, again: bool) -> bool:
        try:
            return self._attempt(session, table, again=again)
        except TargetUnavailableError as exc:
            if not _lacks_resources(exc):
                raise
            log.warning(NO_WORKERS, table=table, problem=exc.fields.get("problem"))
            return self._attempt(session, table, again=again, parallel=False)

    def _attempt(self, session: Session, table: str, *, again: bool, parallel: bool = True) -> bool:
        one, new, old = names_of(table)
        with self._alone(session, table):
            rename_back(session, self._schema, table, SWAP_LOCK_TIMEOUT)
            found = self._read(session, table)
            built = found.takes(self._config)
            if self._config.kind == "none":
                self._drop(session, table, found, one, new, old)
                return False
            if not built and not again and found.current and found.current.fits(self._config):
                self._drop(session, table, found, new, old)
                if found.current.mark is None:
                    self._mark(session, table)
                return False
            self._drop(session, table, found, old, *(() if built else (new,)))
            if not built:
                self._build(session, table, new, parallel=parallel)
            self._swap(session, table)
            self._mark(session, table)
            self._drop(session, table, self._read(session, table), old)
        return True

    @contextmanager
    def _alone(self, session: Session, table: str) -> Iterator[None]:
        """Keep other builders away; the lock lasts as long as the session, and its build."""
        name = sql.Identifier(self._schema, table)
        with session.transaction(table) as cursor:
            values = {"table": name.as_string(cursor)}
            cursor.execute(queries("target/reconcile")["lock_index"], values)
            locked = cursor.fetchone()[0]
        if not locked:
            pid = self._read(session, table).pid
            other = f"PID {pid}" if pid is not None else "another session"
            raise TargetUnavailableError(
                problem=f"{other} builds the index of {table}",
                hint="wait for it; its progress: select * from pg_stat_progress_create_index",
            )
        generation = session.generation
        try:
            yield
        finally:
            if session.is_open and session.generation == generation:
                with session.transaction(table) as cursor:
                    cursor.execute(queries("target/reconcile")["unlock_index"], values)

    def _build(self, session: Session, table: str, name: str, *, parallel: bool) -> None:
        relation = sql.Identifier(self._schema, table)
        create = create_hnsw(
            relation, name, self._config, self._extension_schema, concurrently=True
        )
        with session.autocommit(table, ddl=True) as cursor:
            cursor.execute(queries("target/reconcile")["outlive_client"])
            if not parallel:
                cursor.execute(queries("target/reconcile")["build_serially"])
            notices = cursor.connection.notices
            notices.clear()
            try:
                cursor.execute(create)
            finally:
                for notice in notices:
                    log.warning("index notice", table=table, notice=" ".join(notice.split()))

    def _swap(self, session: Session, table: str) -> None:
        """Give the new index the name of the one that searches use."""
        one, new, old = names_of(table)
        found = self._read(session, table)
        try:
            with session.transaction(table, ddl=True) as cursor:
                cursor.execute("select set_config('lock_timeout', %s, true)", (SWAP_LOCK_TIMEOUT,))
                if one in found.by_name:
                    cursor.execute(self._rename(one, old))
                cursor.execute(self._rename(new, one))
        except TargetUnavailableError as exc:
            problem = f"{new} is complete, but cannot take its place yet: {exc.fields['problem']}"
            hint = "the next start, or cdc-embed index rebuild, takes it; it is not built again"
            raise TargetUnavailableError(problem=problem, hint=hint) from exc

    def _mark(self, session: Session, table: str) -> None:
        """Store beside the index how many rows had been rewritten before it."""
        mark = compose(
            "target/reconcile",
            "mark_index",
            index=sql.Identifier(self._schema, names_of(table)[0]),
            mark=sql.Literal(MARK.format(rewritten=self._read(session, table).rewritten)),
        )
        with session.transaction(table) as cursor:
            cursor.execute(mark)

    def _rename(self, name: str, other: str) -> sql.Composed:
        index = sql.Identifier(self._schema, name)
        return compose("target/schema", "rename_index", index=index, name=sql.Identifier(other))

    def _drop(self, session: Session, table: str, found: Indexes, *names: str) -> None:
        for name in found.by_name.keys() & set(names):
            index = sql.Identifier(self._schema, name)
            with session.autocommit(table, ddl=True) as cursor:
                cursor.execute(compose("target/reconcile", "drop_index", index=index))

    def _read(self, session: Session, table: str) -> Indexes:
        found = read_indexes(session, self._schema, [table])
        return found.get(table, Indexes(table))
