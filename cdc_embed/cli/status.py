"""``cdc-embed status``: lag, slot, backlog and dead letters; with the service up or down."""

import time
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console

from cdc_embed.cli.context import Context
from cdc_embed.cli.output import print_json, print_pairs

if TYPE_CHECKING:
    from cdc_embed.config.load import Config

WATCH_SECONDS: Final = 2.0
EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""The address to ask if a service listens on every address."""


def status(
    ctx: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every two seconds.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show lag, slot, backlog and dead letters; works with the service down."""
    context: Context = ctx.obj
    config = context.load()
    while True:
        found = read_status(config, context.answer_seconds)
        if as_json:
            print_json(found)
        else:
            if watch:
                Console().clear()
            print_pairs(_pairs(found))
        if not watch:
            return
        time.sleep(WATCH_SECONDS)


def read_status(config: "Config", seconds: float) -> dict[str, Any]:
    """Ask the running service for its status; if none answers, read it from the databases."""
    return ask_service(config, seconds) or _ask_databases(config)


def ask_service(config: "Config", seconds: float) -> dict[str, Any] | None:
    """Return the status of the running service; None if none answers in time."""
    import httpx2

    from cdc_embed.serve.app import host_in_url

    host = EVERYWHERE.get(config.serve.host, config.serve.host)
    url = f"http://{host_in_url(host)}:{config.serve.port}/status"
    try:
        # a proxy would ask its own machine
        answer = httpx2.get(url, timeout=seconds, trust_env=False)
        found: dict[str, Any] = answer.json()
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError):
        return None
    ours = isinstance(found, dict) and found.get("slot", {}).get("name") == config.source.slot
    return found if ours else None


def _ask_databases(config: "Config") -> dict[str, Any]:
    from cdc_embed.errors import PreflightError
    from cdc_embed.serve.facts import Counts, gather
    from cdc_embed.serve.status import status as build_status
    from cdc_embed.setup.connections import connections
    from cdc_embed.setup.ownership import expect_own_slot
    from cdc_embed.setup.preflight import find_followed
    from cdc_embed.target.overview import stored_tables
    from cdc_embed.target.registry import applied_migrations

    with connections(config) as databases:
        if not applied_migrations(databases.target, config.target.schema):
            raise PreflightError(
                where="target database",
                problem=f"it has no schema {config.target.schema} that setup made",
                hint="run: cdc-embed setup",
            )
        expect_own_slot(databases)
        tables, paused = find_followed(databases)
        names = [*(source.table.full_name for source in tables), *paused]
        stored = stored_tables(databases.target, config.target.schema, names)
        observed = databases.coverage.observe(tables)
        facts = gather(databases, Counts(), observed, stored, paused)
    return build_status(facts, None, config.source.slot)


def _pairs(found: dict[str, Any]) -> list[tuple[str, str]]:
    slot, lsn = found["slot"], found["lsn"]
    pairs = [
        ("state", _text(found["state"])),
        ("role", _text(found["role"])),
        ("slot", f"{_text(slot['name'])}, {_text(slot['wal_status'])}"),
        ("log kept for it", f"{_text(slot['retained_bytes'])} bytes"),
        ("behind", f"{_text(found['lag_bytes'])} bytes"),
        ("oldest pending change", f"{_text(found['oldest_pending_age_seconds'])} seconds"),
        ("positions", ", ".join(f"{name} {_text(value)}" for name, value in lsn.items())),
    ]
    pairs += _spending(found["embedding"])
    pairs += [("waiting for", f"{stage}: {why}") for stage, why in found["waiting"].items()]
    for table in found["tables"]:
        estimate = _text(table["rows_source_estimate"])
        letters = f", {table['dead_letters']} dead letters" if table["dead_letters"] else ""
        deferred = f", {table['deferred']} deferred" if table["deferred"] else ""
        embedded = f"{table['rows_embedded']} documents of about {estimate} rows{letters}{deferred}"
        if table["backfill_state"] not in {None, "done"}:
            embedded += f", backfill {table['backfill_state']} at {table['backfill_done']} rows"
        index = table["index"]
        if index["state"] not in {"ready", "off"}:
            embedded += f"; index {index['state']}"
            embedded += f": {index['problem']}" if index["problem"] else ""
        elif index["rewritten_ratio"]:
            embedded += f"; {index['rewritten_ratio']:.0%} rewritten since the index was built"
        if table["problem"]:
            embedded += f"; paused: {table['problem']}"
        pairs.append((table["name"], embedded))
    return pairs


def _spending(embedding: dict[str, Any]) -> list[tuple[str, str]]:
    """Describe the tokens of a running service, with what they cost if that is known."""
    pairs = []
    for name, tokens, cost in (
        ("tokens since the start", embedding["tokens"], embedding["cost"]),
        ("tokens of pending backfills", embedding["pending_tokens"], embedding["pending_cost"]),
    ):
        if tokens:
            pairs.append((name, f"{tokens}, cost {cost:.2f}" if cost is not None else f"{tokens}"))
    return pairs


def _text(value: object) -> str:
    return "unknown" if value is None else str(value)
