"""The slot after a failover of the source, and what it needs on PostgreSQL 17 and newer.

A failover slot is copied to the standbys that synchronize slots, so the service goes on with a
promoted one. Older servers leave the slot behind, and every row is compared afterwards. This module
reads the primary, so it knows of a standby only what the primary shows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from psycopg2 import sql

from cdc_embed.finding import Finding, Severity
from cdc_embed.postgres.connect import connect_for_replication
from cdc_embed.postgres.ddl import Ddl, OnWait
from cdc_embed.postgres.session import Session
from cdc_embed.postgres.side import SOURCE, translated
from cdc_embed.rotation import Login
from cdc_embed.source.hosting import Hosting
from cdc_embed.source.slot import Server, Slot
from cdc_embed.sql import queries

FAILOVER_VERSION: Final = 170000
"""The first version with failover slots."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StandbySlot:
    """A physical slot, or one that ``synchronized_standby_slots`` names."""

    name: str
    exists: bool
    active: bool
    feedback: bool
    """Whether its standby sends the horizon of its snapshots (``hot_standby_feedback`` is on)."""
    waited_for: bool
    """Whether ``synchronized_standby_slots`` names it, so that no change is sent before its standby
    has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standbys:
    """The standbys of a source, as the primary shows them."""

    slots: Sequence[StandbySlot] = ()
    without_slot: Sequence[str] = ()
    """The standbys that stream without a slot, by their application_name."""
    synchronizes: bool | None = None
    """Whether a standby copies slots now; None where this role cannot see it."""

    @property
    def any(self) -> bool:
        return bool(self.without_slot) or any(slot.active for slot in self.slots)


def wants_failover(server: Server, failover: str) -> bool | None:
    """Return whether the slot is to be a failover slot; None where there are none."""
    return None if server.version < FAILOVER_VERSION else failover == "auto"


def read_standbys(session: Session) -> Standbys:
    """Read what the primary shows of its standbys."""
    found = session.fetch("standbys", queries("source/slot")["standby_slots"])
    ((visible, without_slot, synchronizes),) = session.fetch(
        "standbys", queries("source/slot")["standbys"]
    )
    return Standbys(
        slots=tuple(
            StandbySlot(name=name, exists=exists, active=active, feedback=feedback, waited_for=wait)
            for name, exists, active, feedback, wait in found
        ),
        without_slot=tuple(without_slot),
        synchronizes=synchronizes if visible else None,
    )


def alter_failover_ddl(login: Login, slot: str, failover: bool) -> Ddl:
    """Make a slot that nobody reads a failover slot, or an ordinary one.

    Only a replication connection can do that, so the script of ``setup --sql`` has it as a comment.
    """
    command = f'ALTER_REPLICATION_SLOT "{slot}" (FAILOVER {"true" if failover else "false"})'

    def alter(_: OnWait) -> None:
        with translated(SOURCE, f"slot {slot}"):
            connection = connect_for_replication(login, f"cdc_embed {slot}")
            try:
                connection.cursor().execute(command)
            finally:
                connection.close()

    why = "keep" if failover else "do not keep"
    shown = sql.SQL("-- on a replication connection: {}").format(sql.SQL(command))
    return Ddl(f"{why} slot {slot} through a failover", shown, work=alter)


def check_failover(
    server: Server, slot: Slot | None, standbys: Standbys, failover: str
) -> list[Finding]:
    """Check that the slot outlives a failover; ``failover`` is the configuration's word."""
    wanted = wants_failover(server, failover)
    if failover == "off":
        return [_finding(True, "source.failover is off")]
    if wanted is None:
        version = f"PostgreSQL {server.version_text} keeps no slot through a failover"
        fix = "upgrade to 17 or later; after a failover run: cdc-embed setup --rebuild"
        return [_finding(not standbys.any, version if standbys.any else "no standby", fix)]
    problems = [
        *_problems_of_slot(slot),
        *_problems_of_waiting(standbys, server.hosting),
        *(_problems_of_standbys(standbys, server.hosting) if standbys.any else ()),
    ]
    told = "a standby can take over the slot" if standbys.any else "no standby"
    return problems or [_finding(True, told)]


def _problems_of_slot(slot: Slot | None) -> Iterator[Finding]:
    if slot is not None and not slot.failover:
        message = f"slot {slot.name} is not kept through a failover"
        yield _finding(False, message, "stop the service, then run: cdc-embed setup")


def _problems_of_waiting(standbys: Standbys, hosting: Hosting) -> Iterator[Finding]:
    named = [slot for slot in standbys.slots if slot.waited_for]
    without = {
        slot.name: hosting.set(
            "synchronized_standby_slots", ", ".join(n.name for n in named if n is not slot)
        )
        for slot in named
    }
    for slot in named:
        if not slot.active:
            state = "has no standby now" if slot.exists else "does not exist"
            message = (
                f"synchronized_standby_slots names {slot.name}, which {state}: no change arrives"
            )
            yield _finding(False, message, f"start its standby, or: {without[slot.name]}")


def _problems_of_standbys(standbys: Standbys, hosting: Hosting) -> Iterator[Finding]:
    for name in standbys.without_slot:
        message = f"standby {name or '?'} streams without a slot, so it cannot keep ours"
        yield _finding(False, message, "on the standby: set primary_slot_name")
    active = [slot for slot in standbys.slots if slot.active]
    for slot in active:
        if not slot.feedback:
            message = f"the standby of {slot.name} sends no hot_standby_feedback"
            yield _finding(False, message, f"on it: {hosting.set('hot_standby_feedback', 'on')}")
    if standbys.synchronizes is False:
        fix = hosting.set("sync_replication_slots", "on")
        yield _finding(
            False, "no standby synchronizes slots", f"on it: {fix} and dbname in primary_conninfo"
        )
    if active and not any(slot.waited_for for slot in active):
        listed = ", ".join(slot.name for slot in active)
        fix = hosting.set("synchronized_standby_slots", listed)
        yield _finding(False, "the service can be ahead of a standby that takes over", fix)


def _finding(ok: bool, message: str, fix: str = "") -> Finding:
    return Finding(
        id="failover",
        ok=ok,
        severity=Severity.WARNING,
        message=message,
        fix="" if ok else fix,
    )
