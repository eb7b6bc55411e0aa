"""The demo on a terminal: its database, its service, and the lines that it prints."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cdc_embed.cli.setup import set_up
from cdc_embed.config.load import ignore_environment
from cdc_embed.demo.corpus import corpus
from cdc_embed.demo.postgres import EmbeddedPostgres
from cdc_embed.demo.script import CREATE_TABLE, Arrivals, Edit, Report, Script, View, percentiles
from cdc_embed.embed.base import Embedder
from cdc_embed.lsn import LSN
from cdc_embed.service import Config, Service, load_config, running


def play(server: EmbeddedPostgres, folder: Path, console: Console, *, once: bool) -> Report:
    """Run the service beside the script on an empty database; without ``once`` until Ctrl-C."""
    _create_table(server)
    config = _write_config(folder, server.dsn())
    console.print("loading all-MiniLM-L6-v2 ...")
    embedder = _load_model(config)
    try:
        set_up(config, embedder.describe(), say=lambda text: console.print(f"  {text}"))
        watched = Arrivals()
        with (
            running(
                config, embedder=embedder, listeners=[watched.on_committed], serve=True
            ) as service,
            service.background(),
            closing(server.connect()) as connection,
        ):
            script = Script(server.connect, _view(service, watched, connection), embedder)
            report = _run_script(script, console)
            if not once:
                _wait_for_user(server.dsn(), console)
    finally:
        embedder.close()
    return report


def _run_script(script: Script, console: Console) -> Report:
    pages = corpus()
    with _progress(console, len(pages)) as on_progress:
        report = script.load_pages(pages, on_progress)
    console.print(
        f"[bold]{report.documents}[/] documents embedded through the stream, "
        f"{report.documents_per_second:.0f} a second\n"
    )
    for step in script.edit():
        report.steps.append(step)
        _show_step(step, console)
    script.finish(report)
    p50, p95 = percentiles(report.latencies)
    console.print(f"\ncommit to vector: {p50} s (median), {p95} s (95th percentile)")
    console.print(
        f"every row compared with its stored fingerprint: [bold]{report.drift}[/] differ\n"
    )
    for search in report.searches:
        console.print(f"[cyan]{search['query']}[/] -> [bold]{search['title']}[/]")
    return report


def _show_step(step: Edit, console: Console) -> None:
    skipped = ", ".join(f"{count} {reason}" for reason, count in step.skipped.items())
    p50, _ = percentiles(sorted(step.seconds))
    latency = f", {p50 * 1000:.0f} ms from commit to vector" if p50 is not None else ""
    console.print(
        f"{step.title:36} {step.changes:5} changes: [bold]{step.embedded:3}[/] embedded"
        + (f", skipped: {skipped}" if skipped else "")
        + latency
    )


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal; elsewhere a plain line for each tenth."""
    if console.is_terminal:
        columns = (
            TextColumn("embedding"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("embedding", total=total)
            yield lambda done: bar.update(task, completed=done)
        return
    shown = -1

    def show(done: int) -> None:
        nonlocal shown
        tenth = done * 10 // total
        if tenth > shown:
            shown = tenth
            console.print(f"embedding: {done} of {total}")

    yield show


def _view(service: Service, watched: Arrivals, connection: Any) -> View:
    """Give the script the service's numbers from its metrics, as a dashboard would read them.

    The slot passes rows that are deferred, which happens on a slow machine. They are waited for.
    """

    def skipped() -> dict[str, int]:
        found: dict[str, int] = {}
        for metric in service.registry.collect():
            if metric.name == "cdc_embed_changes_skipped":
                for sample in metric.samples:
                    reason = sample.labels["reason"]
                    found[reason] = found.get(reason, 0) + int(sample.value)
        return found

    def embedded() -> int:
        name = "cdc_embed_embed_texts_total"
        return int(service.registry.get_sample_value(name, {"source": "model"}) or 0)

    def is_reflected(end: LSN) -> bool:
        durable = service.positions.durable >= end and service.told
        return durable and not _is_something_deferred(connection)

    return View(watched=watched, is_reflected=is_reflected, embedded=embedded, skipped=skipped)


def _create_table(server: EmbeddedPostgres) -> None:
    connection = server.connect()
    with connection, connection.cursor() as cursor:
        cursor.execute(CREATE_TABLE)
    connection.close()


def _is_something_deferred(connection: Any) -> bool:
    with connection, connection.cursor() as cursor:
        cursor.execute("select exists (select from cdc_embed.deferred)")
        return bool(cursor.fetchone()[0])


def _write_config(folder: Path, dsn: str) -> Config:
    path = folder / "cdc_embed.toml"
    path.write_text(
        f'[source]\ndsn = "{dsn}"\n[serve]\nport = 0\n'
        '[[tables]]\nname = "public.documents"\ntext = ["title", "body"]\n',
        encoding="utf-8",
    )
    ignore_environment()
    return load_config(path)


def _load_model(config: Config) -> Embedder:
    from cdc_embed.embed.sentence_transformers import SentenceTransformersEmbedder, packaged_minilm

    folder = str(packaged_minilm())
    return SentenceTransformersEmbedder(config.embedder.model_copy(update={"model": folder}))


def _wait_for_user(dsn: str, console: Console) -> None:
    """Leave the database and the service to the user until Ctrl-C."""
    console.print(f'\nIt is still running. Change rows yourself:  psql "{dsn}"')
    console.print("Ctrl-C ends it and removes everything.")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        console.print("stopping ...")
