"""``teardown``: drops the objects that ``setup`` made, found by their marks, in a safe order.

The slot goes first, because it fills the disk. Only a slot of our name, plugin and database, a
publication with our mark and the tables that setup registered are dropped. Of somebody else's
publication only the tables that setup added are taken out. What somebody else put in the place of
an object of ours stays, and is named.
"""

from cdc_embed.errors import PreflightError
from cdc_embed.postgres.ddl import Ddl
from cdc_embed.setup.adoption import adopted_tables, withdraw_ddl
from cdc_embed.setup.connections import Connections
from cdc_embed.setup.locks import run_without_queueing
from cdc_embed.setup.mending import is_bare
from cdc_embed.setup.names import renamed_vectors, strangers
from cdc_embed.setup.ownership import name_owner
from cdc_embed.setup.plan import SetupPlan, Step, Where, steps_of
from cdc_embed.source.publication import look
from cdc_embed.source.slot import drop_slot_ddl, expect_idle
from cdc_embed.source.statements import drop_publication
from cdc_embed.target.index import builds_of
from cdc_embed.target.position import forget_position_ddl
from cdc_embed.target.registry import (
    applied_migrations,
    foreign_objects,
    other_slots,
    own_functions,
    registered_tables,
)
from cdc_embed.target.schema import MOST, SERVICE_TABLES, drop_ddl, drop_schema_ddl
from cdc_embed.target.source_functions import function_names
from cdc_embed.target.view import drop_function_ddl, drop_view_ddl


def plan_teardown(databases: Connections) -> SetupPlan:
    """Return the steps, and notes about objects that have our names but stay."""
    steps: list[Step] = []
    notes: list[str] = []
    _plan_slot(databases, steps, notes)
    _plan_publication(databases, steps, notes)
    _plan_target(databases, steps, notes)
    return SetupPlan(steps, notes)


def run_teardown(databases: Connections, plan: SetupPlan) -> None:
    """Run the steps; those of the target in one transaction, so that teardown can be run again."""
    for step in plan.steps:
        if step.where is Where.SOURCE:
            with databases.source.transaction(step.why) as cursor:
                cursor.execute(step.statement)
    statements = [step.statement for step in plan.steps if step.where is Where.TARGET]
    run_without_queueing(databases.target, "schema", statements)


def _plan_slot(databases: Connections, steps: list[Step], notes: list[str]) -> None:
    config = databases.config.source
    slot = databases.catalogue.slot()
    if slot is None:
        return
    expect_idle(slot, "cdc-embed teardown")
    database = databases.catalogue.identity().database
    if slot.plugin != config.plugin or slot.database != database:
        notes.append(
            f"slot {slot.name} ({slot.plugin}, database {slot.database}) is not ours, so it stays"
        )
        return
    steps += steps_of(databases, Where.SOURCE, [drop_slot_ddl(slot.name, slot.plugin)])


def _plan_publication(databases: Connections, steps: list[Step], notes: list[str]) -> None:
    source = databases.config.source
    added = withdraw_ddl(databases, adopted_tables(databases))
    steps += steps_of(databases, Where.SOURCE, added)
    publication = look(databases.source, source.publication, source.slot).publication
    if publication is None:
        return
    if not publication.ours:
        notes.append(
            f"publication {publication.name} was not made by setup for this slot and stays"
        )
        return
    drop = Ddl(f"drop publication {publication.name}", drop_publication(publication.name))
    steps += steps_of(databases, Where.SOURCE, [drop])


def _plan_target(databases: Connections, steps: list[Step], notes: list[str]) -> None:
    session, schema = databases.target, databases.config.target.schema
    slot = databases.config.source.slot
    if not applied_migrations(session, schema):
        if is_bare(databases):
            drop = drop_schema_ddl(schema).text(session)
            notes.append(f"schema {schema} stays: it is a copy without rows; {drop} cascade;")
        return
    owner = name_owner(databases)
    if owner:
        notes.append(f"schema {schema} stays: {owner}")
        return
    others = other_slots(session, schema, slot)
    if others:
        forget = "".join(f" {forget_position_ddl(schema, s).text(session)};" for s in others)
        notes.append(
            f"schema {schema} stays: slot {', '.join(others)} writes into it; if that is only what "
            f"this database was copied from, then run cdc-embed teardown again after:{forget}"
        )
        steps += steps_of(databases, Where.TARGET, [forget_position_ddl(schema, slot)])
        return
    known = registered_tables(session, schema).values()
    for registered in known:
        if moved := renamed_vectors(databases, registered, known):
            problem, fix = moved
            hint = f"{fix};  -- then run: cdc-embed teardown"
            raise PreflightError(where="target database", problem=problem, hint=hint)
    vectors = [registered.embedding_table for registered in known]
    views = [registered.search_view for registered in known if registered.search_view]
    forms = dict.fromkeys(vectors, MOST)
    strange = strangers(databases, [*vectors, *views, *SERVICE_TABLES], vectors=forms)
    tables = [name for name in (*vectors, *SERVICE_TABLES) if name not in strange]
    views = [name for name in views if name not in strange]
    functions = [name for registered in known for name in function_names(registered)]
    found = list(builds_of(session, schema, tables).values())
    found += [drop_view_ddl(schema, view) for view in views]
    found += [drop_ddl(schema, table) for table in tables]
    found += [drop_function_ddl(name) for name in own_functions(session, schema, functions)]
    foreign = foreign_objects(session, schema, [*tables, *views], functions)
    if foreign:
        notes.append(f"schema {schema} stays, it has other objects: {', '.join(foreign)}")
    elif schema != "public":
        found.append(drop_schema_ddl(schema))
    steps += steps_of(databases, Where.TARGET, found)
