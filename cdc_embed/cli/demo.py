"""``cdc-embed demo``: everything, on a database of its own, in a minute."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cdc_embed.cli.logs import set_up_logs
from cdc_embed.cli.output import print_json
from cdc_embed.cli.setup import set_up
from cdc_embed.config.load import Config, ignore_environment, load_config
from cdc_embed.config.sections import LogConfig
from cdc_embed.demo.corpus import corpus
from cdc_embed.demo.postgres import EmbeddedPostgres
from cdc_embed.demo.script import CREATE_TABLE, Report, Script, Service, Step, Watched, percentiles
from cdc_embed.embed.base import Embedder
from cdc_embed.flow.telemetry import Telemetry
from cdc_embed.service.service import Service as RunningService
from cdc_embed.service.start import running

SETTINGS = {"max_slot_wal_keep_size": "1GB", "shared_buffers": "128MB"}


def demo(
    once: Annotated[bool, typer.Option("--once", help="Stop after the last step.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Try it: an embedded PostgreSQL, a real model, a real corpus. Nothing is left behind."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    set_up_logs(LogConfig(level="warning"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with TemporaryDirectory(prefix="cdc-embed-") as folder:
        console.print("starting PostgreSQL 18 with wal_level = logical ...")
        with EmbeddedPostgres(18, SETTINGS) as server:
            report = _play(server, Path(folder), console, once=once)
    if as_json:
        print_json(report.contract())
    if report.drift:
        raise typer.Exit(1)


def _play(server: EmbeddedPostgres, folder: Path, console: Console, *, once: bool) -> Report:
    _create_table(server)
    config = _write_config(folder, server.dsn())
    console.print("loading all-MiniLM-L6-v2 ...")
    embedder = _model(config)
    try:
        set_up(config, embedder.describe(), say=lambda text: console.print(f"  {text}"))
        watched = Watched()
        with (
            running(config, embedder=embedder, listeners=[watched.listen]) as service,
            _following(service),
        ):
            script = Script(server.connect, _view(service.telemetry, watched), embedder)
            report = _run_script(script, console)
            if not once:
                _stay(server.dsn(), console)
    finally:
        embedder.close()
    return report


def _run_script(script: Script, console: Console) -> Report:
    pages = corpus()
    with _progress(console, len(pages)) as on_progress:
        report = script.load(pages, on_progress)
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


def _show_step(step: Step, console: Console) -> None:
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
    """A bar on a terminal; plain lines, one for each tenth, elsewhere."""
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


@contextmanager
def _following(service: RunningService) -> Iterator[None]:
    """The service in a thread of its own; what stops it early is raised here."""
    failures: list[BaseException] = []

    def follow() -> None:
        try:
            service.run()
        except BaseException as exc:  # noqa: BLE001  handed to the thread that waits
            failures.append(exc)

    thread = threading.Thread(target=follow, name="service")
    thread.start()
    try:
        yield
    finally:
        service.stop()
        thread.join()
    if failures:
        raise failures[0]


def _view(telemetry: Telemetry, watched: Watched) -> Service:
    registry = telemetry.metrics.registry

    def skipped() -> dict[str, int]:
        found: dict[str, int] = {}
        for metric in registry.collect():
            if metric.name == "cdc_embed_changes_skipped":
                for sample in metric.samples:
                    reason = sample.labels["reason"]
                    found[reason] = found.get(reason, 0) + int(sample.value)
        return found

    def embedded() -> int:
        name = "cdc_embed_embed_texts_total"
        return int(registry.get_sample_value(name, {"source": "model"}) or 0)

    return Service(
        watched=watched,
        durable=lambda: telemetry.positions.durable,
        embedded=embedded,
        skipped=skipped,
    )


def _create_table(server: EmbeddedPostgres) -> None:
    connection = server.connect()
    with connection, connection.cursor() as cursor:
        cursor.execute(CREATE_TABLE)
    connection.close()


def _write_config(folder: Path, dsn: str) -> Config:
    path = folder / "cdc_embed.toml"
    path.write_text(
        f'[source]\ndsn = "{dsn}"\n[serve]\nport = 0\n'
        '[[tables]]\nname = "public.documents"\ntext = ["title", "body"]\n',
        encoding="utf-8",
    )
    ignore_environment()
    return load_config(path)


def _model(config: Config) -> Embedder:
    from cdc_embed.embed.sentence_transformers import SentenceTransformersEmbedder, packaged_minilm

    folder = str(packaged_minilm())
    return SentenceTransformersEmbedder(config.embedder.model_copy(update={"model": folder}))


def _stay(dsn: str, console: Console) -> None:
    """Leave the database and the service to the user until Ctrl-C."""
    console.print(f'\nIt is still running. Change rows yourself:  psql "{dsn}"')
    console.print("Ctrl-C ends it and removes everything.")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        console.print("stopping ...")
