"""The checkpoint row: read, create, forget. Only the store advances it."""

from collections.abc import Sequence
from typing import Any

from psycopg2 import sql

from cdc_embed.lsn import LSN, Checkpoint, Identity, Position
from cdc_embed.postgres.ddl import Ddl, compose
from cdc_embed.postgres.session import Session
from cdc_embed.sql import queries


def read_checkpoint(session: Session, schema: str, slot: str) -> Checkpoint | None:
    """Return the recorded position of a slot; None when ``setup`` did not run for it."""
    rows = session.fetch("checkpoint", _compose("read_checkpoint", schema), {"slot": slot})
    return checkpoint_of(rows[0]) if rows else None


def has_compared(session: Session, schema: str, slot: str) -> bool:
    """Return whether rows were compared for a slot, which takes a recorded position."""
    statement = compose("target/reconcile", "has_compared", schema=sql.Identifier(schema))
    compared: bool = session.fetch("reconcile", statement, {"slot": slot})[0][0]
    return compared


def create_checkpoint(session: Session, schema: str, first: Checkpoint) -> None:
    """Record the first position of a slot; leave a recorded one alone."""
    values = {
        "slot": first.slot,
        "source_system_identifier": first.source.system_identifier,
        "source_database": first.source.database,
        "source_timeline": first.source.timeline,
        "target_system_identifier": first.target.system_identifier,
        "target_database": first.target.database,
        "target_timeline": first.target.timeline,
        "confirmed_lsn": str(first.confirmed_lsn),
    }
    with session.transaction("checkpoint") as cursor:
        cursor.execute(_compose("create_checkpoint", schema), values)


def forget_position_ddl(schema: str, slot: str) -> Ddl:
    forget = compose(
        "target/schema",
        "forget_position",
        schema=sql.Identifier(schema),
        slot=sql.Literal(slot),
    )
    return Ddl(f"forget the position of slot {slot}", forget)


def server_identity(session: Session) -> Identity:
    """Return the session's server, database and timeline."""
    with session.transaction("catalogue") as cursor:
        cursor.execute(queries("target/store")["identity"])
        system_identifier, database, timeline = cursor.fetchone()
    return Identity(system_identifier=system_identifier, database=database, timeline=timeline)


def checkpoint_of(row: Sequence[Any]) -> Checkpoint:
    """Return the checkpoint in a row of ``read_checkpoint`` or ``take_epoch``."""
    return Checkpoint(
        slot=row[0],
        source=Identity(system_identifier=row[1], database=row[2], timeline=row[3]),
        target=Identity(system_identifier=row[4], database=row[5], timeline=row[6]),
        position=Position(LSN.parse(row[7]), row[8]),
        end_lsn=LSN.parse(row[9]),
        confirmed_lsn=LSN.parse(row[10]),
        batch_seq=row[11],
        epoch=row[12],
    )


def _compose(query: str, schema: str) -> sql.Composed:
    return compose("target/store", query, schema=sql.Identifier(schema))
