"""How commands print: JSON for scripts, tables for people."""

from typing import Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

from cdc_embed.finding import Finding, Severity


def print_json(data: Any) -> None:
    """Data on stdout, as JSON."""
    typer.echo(orjson.dumps(data, option=orjson.OPT_INDENT_2).decode())


def say(text: str) -> None:
    """Everything that is not data, on stderr."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)


def print_findings(findings: list[Finding]) -> None:
    """One line for each check; what failed is followed by what mends it."""
    console = Console(highlight=False, soft_wrap=True)
    for finding in findings:
        if finding.ok:
            mark, style = "ok", "green"
        elif finding.severity is Severity.WARNING:
            mark, style = "warning", "yellow"
        else:
            mark, style = "error", "bold red"
        console.print(f"{mark:8}", style=style, end="")
        console.print(f"{finding.id:24}{finding.message}", markup=False)
        if finding.fix and not finding.ok:
            console.print(f"{'':32}-> {finding.fix}", markup=False, style="cyan")


def print_pairs(pairs: list[tuple[str, str]]) -> None:
    """Names and values, aligned."""
    table = Table.grid(padding=(0, 2))
    for name, value in pairs:
        table.add_row(name, value)
    Console(highlight=False).print(table)
