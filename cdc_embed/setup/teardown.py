"""``teardown``: what setup made, found by its marks, in the order in which it can go.

The slot goes first: it is what costs disk. Only a slot of our name, plugin and database, a
publication with our mark and the tables that setup registered are dropped.
"""

from typing import Any, Final

from psycopg2 import sql

from cdc_embed.setup.connections import Connections
from cdc_embed.setup.plan import SetupPlan, Step, Where
from cdc_embed.source.publication import read_publication
from cdc_embed.source.slot import expect_idle
from cdc_embed.sql import queries
from cdc_embed.target.schema import (
    applied_migrations,
    compose,
    registered_tables,
)
from cdc_embed.target.view import drop_view_step

_SERVICE_TABLES: Final = (
    *("request", "reconcile", "dead_letter", "embedding_table", "space", "checkpoint"),
    "migration",
)
"""In the order in which they can be dropped."""


def plan_teardown(databases: Connections) -> SetupPlan:
    """What would be dropped, and what is left alone though it has our names."""
    steps: list[Step] = []
    notes: list[str] = []
    _plan_slot(databases, steps, notes)
    _plan_publication(databases, steps, notes)
    _plan_target(databases, steps, notes)
    return SetupPlan(steps, notes)


def run_teardown(databases: Connections, plan: SetupPlan) -> None:
    """Drop it; the target's part wholly or not at all, so that it can be run again."""
    for step in plan.steps:
        if step.where is Where.SOURCE:
            with databases.source.transaction(step.why) as cursor:
                cursor.execute(step.statement)
    with databases.target.transaction("schema") as cursor:
        for step in plan.steps:
            if step.where is Where.TARGET:
                cursor.execute(step.statement)


def _plan_slot(databases: Connections, steps: list[Step], notes: list[str]) -> None:
    config = databases.config.source
    slot = databases.catalogue.slot()
    if slot is None:
        return
    expect_idle(slot, "cdc-embed teardown")
    database = databases.catalogue.identity().database
    if slot.plugin != config.plugin or slot.database != database:
        notes.append(
            f"slot {slot.name} (plugin {slot.plugin}, database {slot.database}) is not ours"
        )
        return
    with databases.source.transaction("slot") as cursor:
        statement = cursor.mogrify(
            queries("source/slot")["drop_slot"], {"slot": slot.name, "plugin": slot.plugin}
        ).decode()
    steps.append(Step(Where.SOURCE, f"drop slot {slot.name}", statement))


def _plan_publication(databases: Connections, steps: list[Step], notes: list[str]) -> None:
    name = databases.config.source.publication
    publication = read_publication(databases.source, name)
    if publication is None:
        return
    if not publication.ours:
        notes.append(f"publication {name} was not made by setup and stays")
        return
    statement = sql.SQL(queries("source/slot")["drop_publication"]).format(
        publication=sql.Identifier(name)
    )
    with databases.source.transaction("publication") as cursor:
        text = statement.as_string(cursor)
    steps.append(Step(Where.SOURCE, f"drop publication {name}", text))


def _plan_target(databases: Connections, steps: list[Step], notes: list[str]) -> None:
    schema = databases.config.target.schema
    if not applied_migrations(databases.target, schema):
        return
    known = registered_tables(databases.target, schema)
    tables = [registered.embedding_table for registered in known.values()]
    views = [registered.search_view for registered in known.values() if registered.search_view]
    with databases.target.transaction("schema") as cursor:
        others = _other_slots(cursor, schema, databases.config.source.slot)
        if others:
            notes.append(f"schema {schema} stays: {others} other slot(s) write into it")
            steps.append(_forget_position(cursor, schema, databases.config.source.slot))
            return
        foreign = _foreign(cursor, schema, [*tables, *views])
        steps += [_drop_view(cursor, schema, view) for view in views]
        steps += [_drop_table(cursor, schema, table) for table in (*tables, *_SERVICE_TABLES)]
        if foreign:
            notes.append(f"schema {schema} stays, with what is not ours: {', '.join(foreign)}")
        elif schema != "public":
            drop = compose("drop_schema", schema=sql.Identifier(schema)).as_string(cursor)
            steps.append(Step(Where.TARGET, f"drop schema {schema}", drop))


def _other_slots(cursor: Any, schema: str, slot: str) -> int:
    statement = sql.SQL(queries("target/store")["other_checkpoints"])
    cursor.execute(statement.format(schema=sql.Identifier(schema)), {"slot": slot})
    others: int = cursor.fetchone()[0]
    return others


def _forget_position(cursor: Any, schema: str, slot: str) -> Step:
    statement = sql.SQL(queries("target/store")["delete_checkpoint"])
    text = cursor.mogrify(statement.format(schema=sql.Identifier(schema)), {"slot": slot}).decode()
    return Step(Where.TARGET, f"forget the position of slot {slot}", text)


def _drop_table(cursor: Any, schema: str, table: str) -> Step:
    drop = compose("drop_table", table=sql.Identifier(schema, table))
    return Step(Where.TARGET, f"drop {schema}.{table}", drop.as_string(cursor))


def _drop_view(cursor: Any, schema: str, view: str) -> Step:
    why, drop = drop_view_step(schema, view)
    return Step(Where.TARGET, why, drop.as_string(cursor))


def _foreign(cursor: Any, schema: str, tables: list[str]) -> list[str]:
    ours = [*tables, *_SERVICE_TABLES]
    cursor.execute(queries("target/schema")["foreign_objects"], {"schema": schema, "ours": ours})
    return [row[0] for row in cursor.fetchall()]
