"""The ``status`` object of the command line's contract: from facts, and from a running service.

LSNs are strings, unknown is null.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cdc_embed.flow.telemetry import Positions
from cdc_embed.lsn import LSN
from cdc_embed.reconcile.size import Size
from cdc_embed.serve.facts import Facts, TableFacts
from cdc_embed.source.slot import Slot
from cdc_embed.target.ledger import DONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """The part of the status that only a running process knows."""

    state: str
    role: str
    positions: Positions
    oldest_pending_age_seconds: float = 0.0
    waiting: dict[str, str] = field(default_factory=dict)
    """The problems that the service waits out now, by stage."""
    index_problems: Mapping[str, str] = field(default_factory=dict)
    """The errors that kept a table's index from being made, by the table's name."""
    spending: "Spending | None" = None
    """The tokens of the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """The tokens of a model, since the start and for the backfills that are not done."""

    threads: int | None
    """The threads in which a model in this process computes."""
    tokens: int
    sizes: Mapping[str, Size]
    """The tables that were measured, by name."""
    cost: Callable[[int | None], float | None]
    """A function that gives the price of tokens; None if it is not known."""


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
        "embedding": _embedding(facts, live.spending if live else None),
        "waiting": _waiting(slot, live),
        "tables": [_table(table, live) for table in facts.tables],
    }


def _embedding(facts: Facts, spending: Spending | None) -> dict[str, Any]:
    tokens = pending = cost = pending_cost = None
    if spending is not None:
        tokens, cost = spending.tokens, spending.cost(spending.tokens)
        pending = _sum(pending_tokens(facts, spending.sizes).values())
        pending_cost = spending.cost(pending)
    return {
        "threads": spending.threads if spending else None,
        "tokens": tokens,
        "cost": cost,
        "pending_tokens": pending,
        "pending_cost": pending_cost,
    }


def pending_tokens(facts: Facts, sizes: Mapping[str, Size]) -> dict[str, int | None]:
    """Return the tokens that the backfill of each table will need; None if it is not known."""
    return {
        table.name: _left(table, sizes.get(table.name)) if table.backfill_state != DONE else 0
        for table in facts.tables
    }


def _left(table: TableFacts, size: Size | None) -> int | None:
    return size.tokens_after(table.backfill_done) if size is not None else None


def _sum(tokens: Iterable[int | None]) -> int | None:
    """Return the sum; None if a part is not known."""
    known = list(tokens)
    return None if None in known else sum(filter(None, known))


def _table(table: TableFacts, live: Live | None) -> dict[str, Any]:
    attempted = live.index_problems.get(table.name) if live else None
    return {
        "name": table.name,
        "rows_embedded": table.rows_embedded,
        "rows_source_estimate": table.rows_source_estimate,
        "backfill_state": table.backfill_state,
        "backfill_done": table.backfill_done,
        "dead_letters": table.dead_letters,
        "deferred": table.deferred,
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
