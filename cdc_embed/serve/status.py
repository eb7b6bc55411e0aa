"""The ``status`` object of the command line's contract: from facts, and from a running service.

LSNs are strings, unknown is null.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cdc_embed.flow.telemetry import Positions
from cdc_embed.lsn import LSN
from cdc_embed.serve.facts import Facts, TableFacts
from cdc_embed.source.slot import Slot


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """The part of the status that only a running process knows."""

    state: str
    role: str
    positions: Positions
    oldest_pending_age_seconds: float = 0.0
    waiting: dict[str, str] = field(default_factory=dict)
    """Stage to problem: the things that the service waits for now."""
    index_problems: Mapping[str, str] = field(default_factory=dict)
    """The errors that kept a table's index from being made, by the table's name."""


def status(facts: Facts, live: Live | None, slot_name: str) -> dict[str, Any]:
    """Compose the status of a service; without ``live`` it is stopped."""
    slot, checkpoint = facts.slot, facts.checkpoint
    recorded = checkpoint.recorded if checkpoint else None
    current = slot.wal_end if slot else None
    durable = live.positions.durable if live and live.positions.durable else recorded
    return {
        "state": live.state if live else "stopped",
        "role": live.role if live else None,
        "epoch": checkpoint.epoch if checkpoint else None,
        "space": facts.space,
        "slot": {
            "name": slot_name,
            "active": slot.active if slot else False,
            "wal_status": slot.wal_status if slot else None,
            "retained_bytes": slot.retained_bytes if slot else None,
            "safe_wal_bytes": slot.safe_wal_bytes if slot else None,
        },
        "lsn": {
            "current": _text(current),
            "received": _text(live.positions.received if live else None),
            "durable": _text(durable),
            "confirmed": _text(slot.confirmed_lsn if slot else None),
        },
        "lag_bytes": max(0, current - durable) if current and durable else None,
        "oldest_pending_age_seconds": live.oldest_pending_age_seconds if live else None,
        "oldest_transaction_seconds": facts.oldest_transaction_seconds,
        "waiting": _waiting(slot, live),
        "tables": [_table(table, live) for table in facts.tables],
    }


def _table(table: TableFacts, live: Live | None) -> dict[str, Any]:
    attempted = live.index_problems.get(table.name) if live else None
    return {
        "name": table.name,
        "rows_embedded": table.rows_embedded,
        "rows_source_estimate": table.rows_source_estimate,
        "backfill_state": table.backfill_state,
        "backfill_done": table.backfill_done,
        "dead_letters": table.dead_letters,
        "problem": table.problem,
        "index": {
            "state": table.index.state,
            "rewritten_ratio": table.index.rewritten_ratio,
            "problem": attempted or table.index.problem,
        },
    }


def _waiting(slot: Slot | None, live: Live | None) -> dict[str, str]:
    """Return what the service waits for, and the standbys that its server waits for."""
    waiting = dict(live.waiting) if live else {}
    if slot is not None and slot.waits_for:
        waiting["standby"] = f"the source sends no change before slot {'; '.join(slot.waits_for)}"
    return waiting


def _text(lsn: LSN | None) -> str | None:
    return str(lsn) if lsn else None
