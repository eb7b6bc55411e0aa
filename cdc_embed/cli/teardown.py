"""``cdc-embed teardown``: show what setup made, ask, and drop just that."""

from typing import Annotated

import typer

from cdc_embed.cli.context import Context
from cdc_embed.cli.output import say


def teardown(
    ctx: typer.Context,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Drop the slot, the publication and the tables that setup made, and nothing else."""
    from cdc_embed.errors import PreflightError
    from cdc_embed.setup.connections import connections
    from cdc_embed.setup.teardown import plan_teardown, run_teardown

    context: Context = ctx.obj
    with connections(context.load()) as databases:
        plan = plan_teardown(databases)
        if not plan.steps:
            say("nothing to drop")
            return
        for step in plan.steps:
            say(f"{step.where.value}: {step.why}")
        for note in plan.notes:
            say(f"note: {note}")
        if not yes and not typer.confirm("Drop all of this?", err=True):
            raise PreflightError(where="teardown", problem="nothing was dropped", hint="")
        run_teardown(databases, plan)
        say("done")
