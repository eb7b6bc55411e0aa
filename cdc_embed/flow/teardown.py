"""``teardown``: what setup made, found by its marks, in the order in which it can go.

The slot goes first: it is what costs disk. Only a slot of our name, plugin and database, a
publication with our mark and the tables that setup registered are dropped.
"""

from typing import Any, Final

from psycopg2 import sql

from cdc_embed.errors import SlotBusyError
from cdc_embed.flow.connections import Connections
from cdc_embed.flow.setup import SetupPlan, Step, Where
from cdc_embed.source.publication import read_publication
from cdc_embed.sql import queries
from cdc_embed.target.schema import applied_migrations, compose


def plan_teardown(both: Connections) -> SetupPlan:
    """What would be dropped, and what is left alone though it has our names."""
    steps: list[Step] = []
    notes: list[str] = []
    _plan_slot(both, steps, notes)
    _plan_publication(both, steps, notes)
    _plan_target(both, steps, notes)
    return SetupPlan(steps, notes)


def run_teardown(both: Connections, plan: SetupPlan) -> None:
    for step in plan.steps:
        session = both.source if step.where is Where.SOURCE else both.target
        with session.transaction(step.why) as cursor:
            cursor.execute(step.statement)


def _plan_slot(both: Connections, steps: list[Step], notes: list[str]) -> None:
    config = both.config.source
    slot = both.catalogue.slot()
    if slot is None:
        return
    if slot.active and slot.active_pid is not None:
        raise SlotBusyError(
            slot=slot.name,
            pid=slot.active_pid,
            owner=slot.owner,
            hint="stop the service that reads it, then run: cdc-embed teardown",
        )
    database = both.catalogue.identity().database
    if slot.plugin != config.plugin or slot.database != database:
        notes.append(
            f"slot {slot.name} (plugin {slot.plugin}, database {slot.database}) is not ours"
        )
        return
    with both.source.transaction("slot") as cursor:
        statement = cursor.mogrify(
            queries("source/slot")["drop_slot"], {"slot": slot.name, "plugin": slot.plugin}
        ).decode()
    steps.append(Step(Where.SOURCE, f"drop slot {slot.name}", statement))


def _plan_publication(both: Connections, steps: list[Step], notes: list[str]) -> None:
    name = both.config.source.publication
    publication = read_publication(both.source, name)
    if publication is None:
        return
    if not publication.ours:
        notes.append(f"publication {name} was not made by setup and stays")
        return
    statement = sql.SQL(queries("source/slot")["drop_publication"]).format(
        publication=sql.Identifier(name)
    )
    with both.source.transaction("publication") as cursor:
        text = statement.as_string(cursor)
    steps.append(Step(Where.SOURCE, f"drop publication {name}", text))


def _plan_target(both: Connections, steps: list[Step], notes: list[str]) -> None:
    schema = both.config.target.schema
    slot = both.config.source.slot
    if not applied_migrations(both.target, schema):
        return
    identifier = sql.Identifier(schema)
    with both.target.transaction("schema") as cursor:
        cursor.execute(compose("registered_tables", schema=identifier))
        tables = [row[1] for row in cursor.fetchall()]
        shared = sql.SQL(queries("target/store")["other_checkpoints"]).format(schema=identifier)
        cursor.execute(shared, {"slot": slot})
        others: int = cursor.fetchone()[0]
        if others:
            notes.append(f"schema {schema} stays: {others} other slot(s) write into it")
            forget = sql.SQL(queries("target/store")["delete_checkpoint"]).format(schema=identifier)
            text = cursor.mogrify(forget, {"slot": slot}).decode()
            steps.append(Step(Where.TARGET, f"forget the position of slot {slot}", text))
            return
        foreign = _foreign(cursor, schema, tables)
        if foreign:
            notes.append(f"schema {schema} stays, with what is not ours: {', '.join(foreign)}")
        for table in tables:
            drop = compose("drop_table", table=sql.Identifier(schema, table))
            steps.append(
                Step(Where.TARGET, f"drop the vectors in {schema}.{table}", drop.as_string(cursor))
            )
        ours = _SERVICE_TABLES if foreign else ()
        for table in ours:
            drop = compose("drop_table", table=sql.Identifier(schema, table))
            steps.append(Step(Where.TARGET, f"drop {schema}.{table}", drop.as_string(cursor)))
        if not foreign:
            drop = compose("drop_schema", schema=identifier)
            steps.append(Step(Where.TARGET, f"drop schema {schema}", drop.as_string(cursor)))


_SERVICE_TABLES: Final = ("dead_letter", "embedding_table", "space", "checkpoint", "migration")


def _foreign(cursor: Any, schema: str, tables: list[str]) -> list[str]:
    ours = [*tables, *_SERVICE_TABLES]
    cursor.execute(queries("target/schema")["foreign_relations"], {"schema": schema, "ours": ours})
    return [row[0] for row in cursor.fetchall()]
