"""The agreement of the tables of vectors with the source: key, types of metadata, row security.

``setup`` makes them agree. A table with another key must not be written, because a key of another
type can be cut, and a key of fewer columns can be two rows'.
"""

from collections.abc import Collection, Iterable
from dataclasses import replace

from cdc_embed.change.document import Table
from cdc_embed.errors import PreflightError, TablesChangedError
from cdc_embed.finding import Finding, Severity, judge
from cdc_embed.setup.connections import Connections, lost_vectors
from cdc_embed.setup.rights import functions_of
from cdc_embed.source.observed import differs, stored_as
from cdc_embed.target.registry import (
    CHUNK_COLUMNS,
    NOT_STORED,
    Registered,
    VectorTable,
    registered_tables,
    unreadable_views,
    vector_tables,
)
from cdc_embed.target.source_functions import altered_objects
from cdc_embed.target.view import SearchView

SETUP = "run: cdc-embed setup"


def unfit_tables(databases: Connections, tables: Iterable[Table]) -> dict[str, str]:
    """Return the difference of each table whose vectors are stored by another key, or with other
    types of metadata, than ``tables`` have; by the table's name."""
    kept = _kept(databases, tables)
    found = {table.full_name: _unfit(table, stored) for table, _, stored in kept}
    return {name: problem for name, problem in found.items() if problem}


def expect_unchanged(
    databases: Connections, tables: Iterable[Table], unfit: Collection[str]
) -> None:
    """Raise when ``setup`` changed tables of vectors, so that others than ``unfit`` do not fit
    now."""
    now = unfit_tables(databases, tables)
    for name in sorted(now.keys() ^ set(unfit)):
        raise TablesChangedError(table=name)


def lost_tables(databases: Connections, tables: Iterable[Table]) -> dict[str, str]:
    """Return the loss of each table that had vectors and lacks some part of them, by the table's
    name."""
    schema = databases.config.target.schema
    known = registered_tables(databases.target, schema)
    stored = vector_tables(databases.target, schema)
    names = [table.full_name for table in tables if table.full_name in known]
    lost = {
        name: lost_vectors(known[name], stored.get(known[name].embedding_table, NOT_STORED))
        for name in names
    }
    return {name: f"{problem}; {SETUP}" for name, problem in lost.items() if problem}


def expect_key(schema: str, table: Table, name: str, stored: VectorTable) -> None:
    """Raise when a table of vectors has no primary key, or one of a form that ``setup`` never made.

    ``setup`` cannot put it back unasked, because meanwhile there can be two rows of one key.
    """
    if stored.key:
        return
    other = stored.key_name
    problem = (
        f"has another primary key than setup made, {other}" if other else "has lost its primary key"
    )
    vectors = f"{_quoted(schema)}.{_quoted(name)}"
    columns = [*(column.name for column in table.key), CHUNK_COLUMNS[0]]
    fix = f"drop table {vectors} cascade;  -- setup makes it again, and every row is embedded"
    if stored.columns.keys() >= set(columns):
        drop = f"drop constraint {other}, " if other else ""
        fix = f"alter table {vectors} {drop}add primary key ({', '.join(map(_quoted, columns))});"
    raise PreflightError(
        where=f"table {table.full_name}",
        problem=f"its table of vectors {name} {problem}",
        hint=f"{fix}  -- then {SETUP}",
        table=table.full_name,
    )


def _quoted(name: str) -> str:
    return '"{}"'.format(name.replace('"', '""'))


def check_tables(databases: Connections, tables: Iterable[Table]) -> list[Finding]:
    """Check of each table of vectors its key, its owner, and whether it shows rows that the source
    hides."""
    findings = []
    schema = databases.config.target.schema
    problem_of = unreadable_views(databases.target, schema)
    kept = _kept(databases, tables)
    fit = [
        functions_of(databases, table)
        for table, known, stored in kept
        if not _unfit(table, stored)
        and (known.source_oid, known.key_columns) == (table.oid, table.key_numbers)
    ]
    altered = altered_objects(databases.target, schema, fit)
    for table, known, stored in kept:
        found = [_check_key(table, stored), _check_owner(databases, table, stored)]
        problem, fix = problem_of(table.search_view) or ("its search view can be read", "")
        view = _view_of(databases, table, known)
        if moved := view.find_renamed():
            now, back = moved
            problem = f"its search view {schema}.{table.search_view} was renamed to {now}"
            fix = f"{back}  -- or {SETUP}, which makes another one"
        said = f"{table.full_name}: {problem}"  # only searches and verify need it
        found.append(judge("search_view", not fix, said, fix, Severity.WARNING))
        what = altered.get(table.embedding_table)
        if not what and not _unfit(table, stored) and not view.as_made:
            what = f"view {table.search_view}"
        if what and not table.row_security:
            said = f"{table.full_name}: {what} is not as setup made it, so readers see other rows"
            found.append(judge("readers", False, said, SETUP, Severity.WARNING))
        if table.row_security:
            found += _check_row_security(databases, table, view, stored, what)
        findings += [replace(finding, table=table.full_name) for finding in found]
    return findings


def _kept(
    databases: Connections, tables: Iterable[Table]
) -> list[tuple[Table, Registered, VectorTable]]:
    """Return the tables that have a table of vectors, with it, as registered and as it is."""
    schema = databases.config.target.schema
    registered = registered_tables(databases.target, schema)
    stored = vector_tables(databases.target, schema)
    known = [
        (table, registered[table.full_name]) for table in tables if table.full_name in registered
    ]
    return [(t, r, stored[r.embedding_table]) for t, r in known if r.embedding_table in stored]


def _unfit(table: Table, stored: VectorTable) -> str:
    metadata = [(c.name, stored.columns.get(c.name, c.type)) for c in table.metadata]
    has = [*stored.key.items(), *metadata]
    return differs(has, table) if has != stored_as(table.stored_columns) else ""


def _check_key(table: Table, stored: VectorTable) -> Finding:
    problem = _unfit(table, stored)
    message = f"{table.full_name} {problem or 'has its vectors stored by its key'}"
    return judge("stored_key", not problem, message, SETUP)


def _check_owner(databases: Connections, table: Table, stored: VectorTable) -> Finding:
    name = f"{databases.config.target.schema}.{table.embedding_table}"
    message = f"{name} is owned by {stored.owner}"
    if not stored.owned:
        message += f", so role {stored.role} can neither index nor alter it"
    fix = f"grant {stored.owner} to {stored.role};  -- or run setup as {stored.owner}"
    return judge("owner", stored.owned, message, fix, Severity.WARNING)


def _check_row_security(
    databases: Connections,
    table: Table,
    view: SearchView,
    stored: VectorTable,
    altered: str | None,
) -> list[Finding]:
    problem, one_database = "", databases.config.target_is_source
    if not stored.row_security:
        problem = "row level security hides rows of it, and none of their vectors"
    elif altered:
        problem = f"{altered} is not as setup made it, so readers see other rows"
    elif not _unfit(table, stored) and not view.is_right():
        problem = "its search view and policies are for another table or key, and show no vector"
    if problem:
        return [judge("row_security", False, f"{table.full_name}: {problem}", SETUP)]
    who = (
        "a reader sees the vectors of the rows that this reader sees there"
        if one_database
        else "only policies of yours show its vectors, because they are on another server"
    )
    said = f"{table.full_name} has row level security: {who}"
    return [judge("row_security", True, said, ""), *_check_policies(databases, table, view)]


def _view_of(databases: Connections, table: Table, known: Registered) -> SearchView:
    return SearchView(
        databases.target,
        databases.config.target.schema,
        table,
        known=known,
        one_database=databases.config.target_is_source,
    )


def _check_policies(databases: Connections, table: Table, view: SearchView) -> list[Finding]:
    """Warn of policies of the user's own, which show vectors to more readers; on another server
    than the source's nobody else makes any."""
    if not databases.config.target_is_source:
        return []
    vectors = f"{databases.config.target.schema}.{table.embedding_table}"
    return [
        judge(
            "policy",
            False,
            f"{table.full_name}: policy {name} of yours shows its vectors to more readers",
            f"drop policy {name} on {vectors};  -- unless you mean it",
            Severity.WARNING,
        )
        for name in view.state.others
    ]
