"""``cdc-embed setup``: make publication, slot and tables, or show what would be made."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from cdc_embed.cli.context import Context
from cdc_embed.cli.output import say

if TYPE_CHECKING:
    from cdc_embed.config.load import Config
    from cdc_embed.embed.base import ModelCard
    from cdc_embed.setup.connections import Connections
    from cdc_embed.setup.plan import SetupPlan


def setup(
    ctx: typer.Context,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    as_sql: Annotated[
        bool, typer.Option("--sql", help="Print the statements for a DBA, and do nothing.")
    ] = False,
    adopt: Annotated[
        bool,
        typer.Option(
            "--adopt-publication",
            help="Add missing tables to a publication that setup did not make. Its other readers "
            "get their changes too; teardown takes them out.",
        ),
    ] = False,
    rebuild: Annotated[
        bool,
        typer.Option(
            "--rebuild",
            help="Make a new slot if it was lost, and replace the stored space by the configured "
            "one. The service then compares every row.",
        ),
    ] = False,
) -> None:
    """Make the publication, the slot and the tables of vectors. Can be run again at any time."""
    from cdc_embed.setup.connections import connections
    from cdc_embed.setup.hindrances import naming_hindrances
    from cdc_embed.setup.plan import plan_setup

    context: Context = ctx.obj
    shows = dry_run or as_sql
    with connections(context.load()) as databases, naming_hindrances(databases):
        if not shows:  # first of all, whatever keeps setup from the rest
            for done in databases.coverage.protect():
                say(f"source: {done}")
        plan, card = _do_first(databases, rebuild=rebuild, shows=shows)
        if plan is None:
            plan = plan_setup(databases, card, rebuild=rebuild, adopt=adopt)
        if as_sql:
            typer.echo(_script(plan, databases.config.target_is_source))
        elif dry_run:
            _print_plan(plan)
        else:
            _run(databases, plan, say)
            _finish(databases, plan, card)
    _expect_whole(plan)


def _do_first(
    databases: "Connections", *, rebuild: bool, shows: bool
) -> "tuple[SetupPlan | None, ModelCard]":
    """Do what everything else depends on, or return its steps, if they are only to be shown; return
    the card of the model, too, which was tried."""
    from cdc_embed.embed.base import NOTHING_KNOWN
    from cdc_embed.embed.make import make_embedder
    from cdc_embed.embed.trial import try_out
    from cdc_embed.setup.connections import known_facts
    from cdc_embed.setup.plan import plan_first, plan_mending
    from cdc_embed.setup.spaces import settle_spaces

    mending = plan_mending(databases, rebuild=rebuild)
    if mending.steps and not shows:
        _run(databases, mending, say)
    known = NOTHING_KNOWN if mending.steps and shows else known_facts(databases)
    config = databases.config.embedder
    embedder = make_embedder(config, known)
    try:
        tried = try_out(embedder, config)
        if tried.unproven:
            say(f"note: {tried.unproven}; {tried.way_out}")
        if mending.steps and shows:
            return mending, tried.card
        settlement = settle_spaces(databases, embedder, tried.card, rebuild=rebuild)
    finally:
        embedder.close()
    settling = plan_first(databases, settlement.ddl)
    if settling.steps and shows:
        return settling, tried.card
    _run(databases, settling, say)
    return None, tried.card


def _finish(databases: "Connections", plan: "SetupPlan", card: "ModelCard") -> None:
    """Remember the model that answers now, and say what comes next."""
    from cdc_embed.setup.spaces import keep_canaries

    keep_canaries(databases, card)
    for note in plan.notes:
        say(f"note: {note}")
    say("ready" if plan.steps else "nothing to do, everything is set up")
    say("next: cdc-embed run")


def _expect_whole(plan: "SetupPlan") -> None:
    """Raise for the tables that are left out, once the others are set up."""
    from cdc_embed.finding import expect

    if plan.left_out:
        names = dict.fromkeys(finding.table for finding in plan.left_out)
        say(f"left out, as run does, until it is mended: {', '.join(names)}")
    expect(plan.left_out)


def set_up(config: "Config", card: "ModelCard", *, say: Callable[[str], None]) -> None:
    """Do the work of ``setup`` for a model that is loaded already."""
    from cdc_embed.setup.connections import connections
    from cdc_embed.setup.plan import plan_setup

    with connections(config) as databases:
        _run(databases, plan_setup(databases, card), say)


def _run(databases: "Connections", plan: "SetupPlan", say: Callable[[str], None]) -> None:
    from cdc_embed.setup.plan import run_setup

    run_setup(
        databases,
        plan,
        on_step=lambda step: say(f"{step.where.value}: {step.why}"),
        on_wait=lambda holders: say(
            "the slot waits for transactions to end: " + ", ".join(holders)
        ),
    )


def _print_plan(plan: "SetupPlan") -> None:
    for step in plan.steps:
        typer.echo(_comment(f"{step.where.value}: {step.why}"))
        typer.echo(f"{step.statement};\n")
    for note in plan.notes:
        typer.echo(_comment(f"note: {note}"))
    if not plan.steps:
        typer.echo("-- nothing to do, everything is set up")


def _script(plan: "SetupPlan", one_database: bool) -> str:
    from cdc_embed.setup.plan import Where

    lines = [
        "-- Run as a role that may create publications, slots and schemas.",
        "set search_path = pg_catalog, pg_temp;  -- so that nothing of another role is run",
    ]
    for where in (Where.TARGET, Where.SOURCE):
        steps = [step for step in plan.steps if step.where is where]
        if steps and not one_database:
            lines.append(f"\n-- in the {where.value} database")
        for step in steps:
            lines += ["", _comment(step.why), f"{step.statement.rstrip().rstrip(';')};"]
    lines.append("\n-- Then run cdc-embed setup once more: it records where the slot is.")
    return "\n".join(lines)


def _comment(text: str) -> str:
    """Make one line of comment, even if a name in it has line breaks."""
    return "-- " + " ".join(text.split())
