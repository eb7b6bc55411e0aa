"""``setup``: the list of statements that make both sides ready, shown, printed or run.

The order is part of the contract: the target first, the publication before the slot (a slot that
decodes before its publication exists loses changes), the slot last, because it makes the server
keep its log from that moment on. Every statement can be run again.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Final

from psycopg2 import sql

from cdc_embed.change.document import KeyColumn
from cdc_embed.embed.base import ModelCard
from cdc_embed.errors import CdcEmbedError, HistoryGapError, PreflightError
from cdc_embed.finding import Finding, expect
from cdc_embed.flow.connections import Connections, connections, space_of
from cdc_embed.flow.preflight import Survey, check_model, survey_source
from cdc_embed.source.checks import check_slot
from cdc_embed.source.publication import publication_sql
from cdc_embed.source.tables import SourceTable
from cdc_embed.sql import queries
from cdc_embed.target.checks import check_vector_extension, vector_extension
from cdc_embed.target.position import create_checkpoint, read_checkpoint, server_identity
from cdc_embed.target.schema import (
    applied_migrations,
    find_registered,
    key_columns,
    migration_steps,
    space_step,
    table_steps,
)

WAIT_NOTICE_SECONDS: Final = 1.0


class Where(Enum):
    SOURCE = "source"
    TARGET = "target"


@dataclass(frozen=True, slots=True)
class Step:
    """One statement of ``setup``, on one side, with its reason."""

    where: Where
    why: str
    statement: str


@dataclass(frozen=True, slots=True)
class SetupPlan:
    """What ``setup`` will do, in order; empty when everything is as it should be."""

    steps: list[Step]
    notes: list[str]
    """What the user should know beside it."""


def plan_setup(both: Connections, card: ModelCard) -> SetupPlan:
    """The missing steps; raises ``PreflightError`` with every obstacle."""
    config = both.config
    survey = survey_source(both)
    findings = [*survey.findings, *check_model_if_stored(both, card, survey.tables)]
    extension = check_vector_extension(both.target)
    if "not on the target" in extension.message:
        findings.append(extension)
    if survey.slot is not None:
        findings.append(
            check_slot(survey.slot, config.source.slot, config.source.plugin, survey.database)
        )
    expect(findings)
    _refuse_forgotten_slot(both, survey)
    steps = [*_target_steps(both, card, survey.tables), *_source_steps(both, survey)]
    return SetupPlan(steps, _notes(both, survey))


def _refuse_forgotten_slot(both: Connections, survey: Survey) -> None:
    """A recorded position without its slot: a new slot would hide that changes were missed."""
    schema = both.config.target.schema
    if survey.slot is not None or not applied_migrations(both.target, schema):
        return
    if read_checkpoint(both.target, schema, both.config.source.slot) is not None:
        raise HistoryGapError(
            slot=both.config.source.slot,
            problem="a position is recorded for it, but the slot does not exist any more",
        )


def check_model_if_stored(
    both: Connections, card: ModelCard, tables: list[SourceTable]
) -> list[Finding]:
    """The model's findings; the stored spaces can be compared only after the first setup."""
    ready = bool(applied_migrations(both.target, both.config.target.schema))
    return check_model(both, card, tables if ready else [])


def run_setup(
    both: Connections,
    plan: SetupPlan,
    *,
    on_step: Callable[[Step], None],
    on_wait: Callable[[list[str]], None],
) -> None:
    """Run the steps, each in its own transaction; ``on_wait`` hears whom a new slot waits for."""
    for step in plan.steps:
        on_step(step)
        session = both.source if step.where is Where.SOURCE else both.target
        with _watching(both, step, on_wait), session.transaction(step.why) as cursor:
            cursor.execute(step.statement)
    _create_checkpoint(both)


class _watching:  # noqa: N801  reads as a verb where it is used
    """While a slot is being created, say at intervals whom it waits for."""

    def __init__(self, both: Connections, step: Step, on_wait: Callable[[list[str]], None]) -> None:
        self._needed = "create_logical_replication_slot" in step.statement
        self._both = both
        self._on_wait = on_wait
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        if self._needed:
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._needed:
            self._thread.join()

    def _watch(self) -> None:
        # a notice is all this is for: what fails here fails louder in the statement itself
        with suppress(CdcEmbedError), connections(self._both.config) as own:
            while not self._done.wait(WAIT_NOTICE_SECONDS):
                holders = own.catalogue.transactions_waited_for()
                if holders:
                    self._on_wait(holders)


def _target_steps(both: Connections, card: ModelCard, tables: list[SourceTable]) -> list[Step]:
    config = both.config
    schema = config.target.schema
    found: list[tuple[str, sql.Composable]] = []
    installed = vector_extension(both.target)
    if installed is None:
        found.append(
            ("install pgvector", sql.SQL(queries("target/schema")["create_vector_extension"]))
        )
    applied = applied_migrations(both.target, schema)
    found += migration_steps(schema, applied)
    for table in (source.table for source in tables):
        if applied and find_registered(both.target, schema, table) is not None:
            _check_key(both, table.embedding_table, table.key, table.full_name)
            continue
        space = space_of(card, table)
        found.append(space_step(schema, space))
        extension_schema = installed[1] if installed else "public"
        found += table_steps(schema, table, space, config.index, extension_schema)
    return [_step(both, Where.TARGET, why, statement) for why, statement in found]


def _check_key(
    both: Connections, embedding_table: str, key: Sequence[KeyColumn], name: str
) -> None:
    stored = key_columns(both.target, both.config.target.schema, embedding_table)[: len(key)]
    if stored != [(column.name, column.type) for column in key]:
        was = ", ".join(f"{column} {kind}" for column, kind in stored)
        now = ", ".join(f"{column.name} {column.type}" for column in key)
        raise PreflightError(
            where=f"table {name}",
            problem=f"its primary key is ({now}), its vectors are stored by ({was})",
            hint="put the key back, or start over: cdc-embed teardown && cdc-embed setup",
        )


def _source_steps(both: Connections, survey: Survey) -> list[Step]:
    config = both.config
    lists = config.source.publish == "columns"
    found: list[tuple[str, sql.Composable]] = list(
        publication_sql(survey.publication, config.source.publication, survey.tables, lists=lists)
    )
    if survey.slot is None:
        create = sql.SQL(queries("source/slot")["create_slot"]).format(
            slot=sql.Literal(config.source.slot), plugin=sql.Literal(config.source.plugin)
        )
        found.append(("make the replication slot", create))
    return [_step(both, Where.SOURCE, why, statement) for why, statement in found]


def _notes(both: Connections, survey: Survey) -> list[str]:
    if both.config.source.publish != "columns":
        return []
    listed = [source for source in survey.tables if not source.full_identity]
    full = [source for source in survey.tables if source.full_identity]
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


def _create_checkpoint(both: Connections) -> None:
    """The first recorded position: where the slot stands. A row that is there is left alone."""
    config = both.config
    slot = both.catalogue.slot()
    if slot is None or slot.confirmed_lsn is None:
        raise PreflightError(where=f"slot {config.source.slot}", problem="it has no position")
    create_checkpoint(
        both.target,
        config.target.schema,
        slot=config.source.slot,
        source=both.catalogue.identity(),
        target=server_identity(both.target),
        confirmed_lsn=slot.confirmed_lsn,
    )


def _step(both: Connections, where: Where, why: str, statement: sql.Composable) -> Step:
    session = both.source if where is Where.SOURCE else both.target
    with session.transaction(why) as cursor:
        return Step(where, why, statement.as_string(cursor))
