"""The root command's options on both sides of a command: ``-c FILE`` before it or behind it."""

from dataclasses import replace
from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

EVERYWHERE: Final = {"config": "config_path", "debug": "debug"}
"""The options of the root command, and their fields in ``Context``."""


class _Everywhere:
    """A command that takes the root's options too; the ones behind it count."""

    def get_params(self, ctx: Any) -> list[Any]:
        own: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        root = ctx.find_root().command
        others = [] if root is self else root.params
        return own + [param for param in others if param.name in EVERYWHERE]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        rest: list[str] = super().parse_args(ctx, args)  # type: ignore[misc]
        if ctx.parent is None:
            return rest
        for name, field in EVERYWHERE.items():
            value = ctx.params.pop(name, None)
            source = ctx.get_parameter_source(name)
            if ctx.obj is not None and source is not None and source.name == "COMMANDLINE":
                ctx.obj = replace(ctx.obj, **{field: value})
        return rest


class Command(_Everywhere, TyperCommand):
    """A command of the command line."""


class Group(_Everywhere, TyperGroup):
    """A group of commands. Without one of them it shows its help, which is no error."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help(), color=ctx.color)
            ctx.exit()
        return super().parse_args(ctx, args)


def accept_everywhere(app: typer.Typer) -> None:
    """Let every command below the root take the root's options."""
    for command in app.registered_commands:
        command.cls = Command
    for group in app.registered_groups:
        group.cls = Group
        assert group.typer_instance is not None
        accept_everywhere(group.typer_instance)
