"""The output of commands: JSON for scripts, tables for people."""

import time
from typing import Any, Final, Self

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cdc_embed.finding import Finding, Severity


def print_json(data: Any) -> None:
    """Print data on stdout, as JSON."""
    typer.echo(orjson.dumps(data, option=orjson.OPT_INDENT_2).decode())


def say(text: str) -> None:
    """Print a line that is not data, on stderr."""
    Console(stderr=True, emoji=False, highlight=False, soft_wrap=True).print(text, markup=False)


def print_findings(findings: list[Finding]) -> None:
    """Print a line for each check; a failed one is followed by its fix."""
    console = Console(emoji=False, highlight=False, soft_wrap=True)
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
    """Print names and values, aligned."""
    table = Table.grid(padding=(0, 2))
    for name, value in pairs:
        table.add_row(name, value)
    Console(emoji=False, highlight=False).print(table)


LINE_SECONDS: Final = 5.0


class TableProgress:
    """Shows the progress of each table: bars on a terminal, elsewhere a line now and then."""

    def __init__(self, title: str, done: str) -> None:
        self._title = title
        self._done = done
        self._console = Console(stderr=True, emoji=False, highlight=False, soft_wrap=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self._bars = Progress(*columns, console=self._console)
        self._tasks: dict[str, Any] = {}
        self._waiting_for = ""
        self._said_at = time.monotonic()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._bars.stop()

    def show(self, progress: dict[str, Any]) -> None:
        """Show progress as the service stores it beside the request."""
        tables = progress.get("tables", [])
        waiting_for = progress.get("waiting_for", "")
        if waiting_for and waiting_for != self._waiting_for:
            self._waiting_for = waiting_for  # attempts can go on and fail in turns
            self._console.print(f"{self._title}: waiting for {waiting_for}", markup=False)
        if self._console.is_terminal:
            for table in tables:
                self._bar(table)
        elif tables and time.monotonic() - self._said_at > LINE_SECONDS:
            self._said_at = time.monotonic()
            parts = [f"{table['name']} {table[self._done]}" for table in tables]
            self._console.print(f"{self._title}: {', '.join(parts)} rows", markup=False)

    def _bar(self, table: dict[str, Any]) -> None:
        name = table["name"]
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=None)
        total = table.get("estimate")
        done = table[self._done]
        self._bars.update(
            self._tasks[name], completed=done, total=max(total, done) if total else None
        )
