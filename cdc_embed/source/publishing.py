"""The coverage of pgoutput: the tables of a publication, ours or somebody else's.

It is made before the slot, because a slot that decodes without its publication loses the changes
(18) or cannot pass them (15). A publication that setup did not make has other readers, who would
get our tables. It is used if it carries the tables as it is, and else changed only on demand, by
adding what is missing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from psycopg2 import sql

from cdc_embed.change.document import Table
from cdc_embed.config.load import Config
from cdc_embed.finding import Finding, Severity
from cdc_embed.postgres.ddl import Ddl
from cdc_embed.postgres.session import Session
from cdc_embed.source import statements
from cdc_embed.source.harm import harm_of, harms, protect, repairs
from cdc_embed.source.leaves import Problem
from cdc_embed.source.observed import Observed, observed
from cdc_embed.source.publication import ABSENT, PARTITION, Publication, Sight, gap, look, mark_of
from cdc_embed.source.tables import SourceTable, TableState, table_states

SETUP = "run: cdc-embed setup"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """The part of setup that comes before the slot, with what it runs, and what it cannot mend."""

    obstacles: list[Finding] = field(default_factory=list)
    ddl: list[Ddl] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """The facts that the owner of the tables should know."""
    adds: list[Table] = field(default_factory=list)
    """The tables that are added to a publication of somebody else."""


class PublicationCoverage:
    """The coverage of pgoutput: the tables of a publication."""

    by_name = False

    def __init__(self, session: Session, config: Config) -> None:
        self._session = session
        self._config = config
        self._name = config.source.publication
        self._slot = config.source.slot
        self._lists = config.source.publish == "columns"

    def findings(self, tables: Sequence[SourceTable]) -> list[Finding]:
        sight = self._look(table_states(self._session, self._config))
        publication = sight.publication
        found = [*self._obstacles(sight, tables, adopt=False), *self._harmed(sight).values()]
        if publication is None:
            return [*found, _bad(f"publication {self._name} does not exist", SETUP)]
        if not publication.all_operations and publication.ours:
            found.append(_bad(f"publication {self._name} leaves operations out", SETUP))
        elif not found:
            gaps = ((source.table.full_name, gap(sight, publication, source)) for source in tables)
            found += [
                _bad(f"publication {self._name}: {name} {problem}", SETUP, name)
                for name, problem in gaps
                if problem is not None
            ]
        message = f"publication {self._name} carries every table"
        found = found or [Finding(id="publication", ok=True, message=message)]
        return [*found, *self._check_lists(sight, tables)]

    def observe(self, tables: Sequence[SourceTable], listed: Iterable[int] = ()) -> Observed:
        states = table_states(self._session, self._config, listed)
        sight = self._look(states)
        usable = {state.name for state in states if state.source is not None}
        found = {
            source.table.full_name: _undelivered(sight, source, source.table.full_name in usable)
            for source in tables
        }
        for name, finding in self._harmed(sight).items():
            found[name] = f"is published, and {finding.message} ({finding.fix})"
        gaps = {name: problem for name, problem in found.items() if problem}
        carried = sight.publication.tables if sight.publication is not None else {}
        versions = {oid: published.version for oid, published in carried.items()}
        seen = observed(states, tables, gaps, lambda source: versions.get(source.table.oid, ""))
        return replace(seen, mendable=bool(repairs(sight, self._slot)))

    def protect(self) -> list[str]:
        return protect(self._session, self._config)

    def prepare(self, tables: Sequence[SourceTable], adopt: bool, /) -> Preparation:
        states = table_states(self._session, self._config)
        sight = self._look(states)
        publication = sight.publication
        obstacles = self._obstacles(sight, tables, adopt=adopt)
        left_out = {finding.table for finding in obstacles}
        tables = [source for source in tables if source.table.full_name not in left_out]
        foreign = publication is not None and not publication.ours
        missing = _missing(publication, tables) if publication is not None and foreign else []
        only = len(tables) == len(states)
        return Preparation(
            obstacles=obstacles,
            ddl=self._added(missing) if foreign else self._own(sight, tables, only=only),
            notes=self._notes(tables),
            adds=[source.table for source in missing],
        )

    def _look(self, states: Sequence[TableState]) -> Sight:
        leaves = {leaf.root: state.leaves for state in states for leaf in state.leaves}
        return look(self._session, self._name, self._slot, leaves)

    # -- what keeps setup from it ------------------------------------------------------------------

    def _obstacles(
        self, sight: Sight, tables: Sequence[SourceTable], *, adopt: bool
    ) -> list[Finding]:
        """Check what setup cannot mend, because it is not its own to change."""
        found = _nested(sight, tables)
        for source in tables:
            for reason, fix in _unpublishable(sight, source):
                name = source.table.full_name
                found.append(_bad(f"table {name}: {reason}", fix, name))
        publication = sight.publication
        if publication is None or publication.ours:
            return found
        leaves = [leaf for source in tables for leaf in sight.leaves.get(source.table.oid, ())]
        needed = {
            statements.OPERATIONS: True,
            statements.VIA_ROOT: any(source.table.partitioned for source in tables),
            statements.GENERATED: harm_of(leaves, None, withheld=True) is not None,
        }
        options = [option for option in statements.wrong_options(publication) if needed[option]]
        if options:
            set_options = self._text(statements.set_options(self._name, options))
            return [*found, self._foreign("does not carry every change", set_options)]
        missing = _missing(publication, tables)
        for source in tables:
            problem = gap(sight, publication, source)
            entry = statements.entry(_identifier(source))
            add = self._text(statements.add_table(self._name, entry))
            if problem is not None and problem.startswith(PARTITION):
                fix = "name that table in tables.name, or set another source.publication"
                found.append(self._foreign(problem, fix, source.table.full_name))
            elif problem is not None and source not in missing:
                out = self._text(statements.drop_table(self._name, entry))
                found.append(self._foreign(problem, f"{out} {add}", source.table.full_name))
            elif problem is not None and not adopt:
                fix = f"{add}  -- or: cdc-embed setup --adopt-publication"
                found.append(self._foreign(problem, fix, source.table.full_name))
        return found

    def _foreign(self, problem: str, fix: str, table: str = "") -> Finding:
        whose = "was not made by setup for this slot, so it is not changed"
        problem = f"{table} {problem}".lstrip()
        return _bad(f"publication {self._name} {whose}: {problem}", fix, table)

    def _harmed(self, sight: Sight) -> dict[str, Finding]:
        """Name the tables whose UPDATE and DELETE fail now because they are published."""
        publication = sight.publication
        return {
            harm.table.name: _bad(
                f"UPDATE and DELETE of {harm.table.name} fail, because publication {self._name} "
                f"carries it and {harm.reason}",
                " ".join(self._text(part) for part in harm.statements(publication)),
                harm.table.name,
            )
            for harm in harms(sight)
            if publication is not None
        }

    def _check_lists(self, sight: Sight, tables: Sequence[SourceTable]) -> list[Finding]:
        carried = sight.publication.tables if sight.publication is not None else {}
        listed = [
            t.table.full_name
            for t in tables
            if t.table.oid in carried and carried[t.table.oid].listed
        ]
        if not listed:
            return []
        return [
            Finding(
                id="column_lists",
                ok=False,
                severity=Severity.WARNING,
                message=f"publication {self._name} lists the columns of {', '.join(listed)}: "
                f"PostgreSQL refuses to drop or retype them, and UPDATE and DELETE fail while the "
                f"replica identity has another column",
                fix='set source.publish = "rows", then run: cdc-embed setup',
            )
        ]

    # -- what setup runs ---------------------------------------------------------------------------

    def _own(self, sight: Sight, tables: Sequence[SourceTable], *, only: bool) -> list[Ddl]:
        """Return the statements that make our publication carry these tables.

        ``only``: and no others. While a configured table cannot be followed nothing is taken out,
        because it can be that table, by another name; once it is mended its changes arrive.
        """
        publication, name = sight.publication, self._name
        mark = Ddl("mark the publication as made by setup", statements.set_mark(name, self._slot))
        if publication is None:
            entries = [self._entry(source) for source in tables]
            create = statements.create(name, entries, generated=sight.generated)
            return [Ddl(_publish(tables), create), mark]
        options = statements.wrong_options(publication)
        found = []
        if options:
            set_options = statements.set_options(name, options)
            found.append(Ddl(f"have publication {name} carry every change", set_options))
        if not publication.all_tables:
            found += self._corrected(sight, tables, only=only)
        return [*found, *([mark] if publication.mark != mark_of(self._slot) else [])]

    def _added(self, missing: Iterable[SourceTable]) -> list[Ddl]:
        return [
            Ddl(
                f"add {source.table.full_name} to publication {self._name}",
                statements.add_table(self._name, statements.entry(_identifier(source))),
            )
            for source in missing
        ]

    def _corrected(self, sight: Sight, tables: Sequence[SourceTable], *, only: bool) -> list[Ddl]:
        """Return the statement that takes out and adds what differs; a table that is right is not
        named, because to name it one must own it."""
        publication, name = sight.publication, self._name
        assert publication is not None
        wrong = [source for source in tables if not self._carries(sight, publication, source)]
        followed = {source.table.oid for source in tables}
        others = [table for oid, table in publication.tables.items() if oid not in followed]
        stay, out = ([], others) if only else (others, [])
        again = [publication.tables.get(source.table.oid) for source in wrong]
        out += [table for table in again if table is not None]
        if not out and not wrong:
            return []
        parts = []
        if all(table.direct for table in out):
            parts += [statements.drop_table(name, statements.entry(t.identifier)) for t in out]
            parts += [statements.add_table(name, self._entry(source)) for source in wrong]
        else:  # it carries a schema
            entries = [*map(self._entry, tables), *(statements.entry(t.identifier) for t in stay)]
            parts.append(statements.set_tables(name, entries))
        why = _publish(wrong) if wrong else f"publish {', '.join(t.name for t in out)} no more"
        return [Ddl(why, sql.SQL(";\n").join(parts))]

    def _carries(self, sight: Sight, publication: Publication, source: SourceTable) -> bool:
        """Return whether a table is published in the configured form."""
        found = publication.tables.get(source.table.oid)
        return (
            found is not None
            and gap(sight, publication, source) is None
            and found.listed == self._has_list(source)
            and (not found.listed or found.columns == set(source.published_columns))
        )

    def _has_list(self, source: SourceTable) -> bool:
        return self._lists and not source.full_identity

    def _entry(self, source: SourceTable) -> sql.Composed:
        columns = source.published_columns if self._has_list(source) else ()
        return statements.entry(_identifier(source), columns)

    def _notes(self, tables: Sequence[SourceTable]) -> list[str]:
        if not self._lists:
            return []
        return [
            f"{source.table.full_name}: PostgreSQL will refuse to drop or retype "
            f"{', '.join(source.published_columns)} while they are published, and UPDATE and "
            f"DELETE will fail while its replica identity has another column"
            if self._has_list(source)
            else f"{source.table.full_name}: REPLICA IDENTITY FULL, so every column is published"
            for source in tables
        ]

    def _text(self, statement: sql.Composed) -> str:
        return Ddl("", statement).text(self._session).rstrip() + ";"


def _publish(tables: Iterable[SourceTable]) -> str:
    return "publish " + ", ".join(source.table.full_name for source in tables)


def _identifier(source: SourceTable) -> sql.Identifier:
    return sql.Identifier(source.table.schema, source.table.name)


def _missing(publication: Publication, tables: Sequence[SourceTable]) -> list[SourceTable]:
    """Return the tables that can be added to a publication of somebody else."""
    return [source for source in tables if source.table.oid not in publication.tables]


def _undelivered(sight: Sight, source: SourceTable, usable: bool) -> str | None:
    """Return why the publication does not bring a table's changes; None if it does.

    A table that is not usable can have left it for that reason, which then says more.
    """
    for reason, fix in _unpublishable(sight, source) if usable else ():
        return f"cannot be published: {reason} ({fix})"
    if sight.publication is None:
        return "has no publication"
    problem = gap(sight, sight.publication, source)
    return None if problem == ABSENT and not usable else problem


def _unpublishable(sight: Sight, source: SourceTable) -> list[Problem]:
    """Return why a table cannot be published without harm, or without its key."""
    leaves = sight.leaves.get(source.table.oid, ())
    found = []
    harm = harm_of(leaves, None)
    if harm is not None:
        fixes = [
            f"alter table {leaf.name} replica identity default;"
            for leaf in leaves
            if leaf.full and leaf.virtual
        ]
        found.append((f"UPDATE and DELETE would fail: {harm[0]}", " ".join(fixes)))
    if not sight.generated and any(leaf.generated_identity for leaf in leaves):
        problem = "its key has a generated column, which the log has from PostgreSQL 18 on"
        found.append((problem, "give it a key of other columns"))
    return found


def _nested(sight: Sight, tables: Sequence[SourceTable]) -> list[Finding]:
    """Check for tables that are partitions of another one, because the log has their changes as its
    own."""
    names = {source.table.oid: source.table.full_name for source in tables}
    return [
        _bad(
            f"table {names[oid]} is a partition of {names[above]}, which is followed too",
            "name only one of them in [[tables]]",
            names[oid],
        )
        for oid in names
        for leaf in sight.leaves.get(oid, ())
        if leaf.own
        for above in leaf.ancestors & names.keys()
    ]


def _bad(message: str, fix: str, table: str = "") -> Finding:
    """Return a failed check; ``table`` is the one that alone is concerned."""
    return Finding(id="publication", ok=False, message=message, fix=fix, table=table)
