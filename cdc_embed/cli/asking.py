"""Requests for bulk work: to the running service, or to one of our own if none runs.

The request is a row of the target database, so any process can answer it.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from cdc_embed.cli.context import Context
from cdc_embed.config.load import Config
from cdc_embed.errors import PreflightError, RequestFailedError, SlotBusyError
from cdc_embed.service import Service, Tolerance, running
from cdc_embed.service.tolerance import Intervals
from cdc_embed.setup.connections import Connections, connections
from cdc_embed.setup.ownership import expect_own_slot
from cdc_embed.source.slot import UNKNOWN_OWNER
from cdc_embed.source.stream import stream_name
from cdc_embed.target.ledger import DONE, FAILED, Answer, Ledger
from cdc_embed.target.registry import applied_migrations, missing_migrations

LEADERLESS_SECONDS: Final = 5.0
"""The time without a reader of the slot after which its service counts as ended."""

Show = Callable[[dict[str, Any]], None]


def ask(
    context: Context, config: Config, kind: str, arguments: dict[str, Any], show: Show
) -> dict[str, Any]:
    """Make a request and wait for its result; ``show`` is called with its progress.

    Raises ``RequestFailedError`` if it cannot be done, and the errors of a service of our own.
    """
    with connections(config) as databases:
        schema = config.target.schema
        missing = missing_migrations(applied_migrations(databases.target, schema))
        if missing:
            raise PreflightError(
                where="target database",
                problem=f"schema {schema} lacks {', '.join(missing)}",
                hint="run: cdc-embed setup",
            )
        expect_own_slot(databases)
        ledger = Ledger(databases.target, schema, config.source.slot)
        number = ledger.ask(kind, arguments)
        answer = None
        try:
            answer = _wait_for_answer(
                databases, partial(_finished, ledger, number, show), context.poll_seconds
            )
        finally:
            if answer is None:
                ledger.reply(number, FAILED, error="called off")
        if answer.state == FAILED:
            raise RequestFailedError(kind=kind, problem=answer.error)
        return answer.result or {}


def _wait_for_answer(
    databases: Connections, find_answer: Callable[[], Answer | None], seconds: float
) -> Answer:
    """Wait for the answer; if no session reads the slot, run the service that gives it."""
    led_at = time.monotonic()
    if not _is_led(databases):
        led_at -= LEADERLESS_SECONDS
    while True:
        answer = find_answer()
        if answer is not None:
            return answer
        if _is_led(databases):
            led_at = time.monotonic()
        elif time.monotonic() - led_at >= LEADERLESS_SECONDS:
            with _own_service(databases.config, seconds) as service:
                while answer is None and not service.wait(seconds):
                    answer = find_answer()
            if answer is not None:
                return answer
        time.sleep(seconds)


@contextmanager
def _own_service(config: Config, seconds: float) -> Iterator[Service]:
    """Run a service for a command. It makes no new slot, whatever ``run`` would do, and looks for
    requests as often as the command looks for the answer."""
    source = config.source.model_copy(update={"on_history_gap": "stop"})
    tolerance = Tolerance(intervals=Intervals(requests=seconds, rounds=seconds))
    with (
        running(config.model_copy(update={"source": source}), tolerance=tolerance) as service,
        service.background(),
    ):
        yield service


def _finished(ledger: Ledger, number: int, show: Show) -> Answer | None:
    answer = ledger.answer(number)
    if answer is None:
        return Answer(state=FAILED, progress={}, result=None, error="it was deleted")
    show(answer.progress)
    return answer if answer.state in {DONE, FAILED} else None


def _is_led(databases: Connections) -> bool:
    """Return whether a service reads the slot; raise if another program does, because it never
    answers."""
    slot = databases.catalogue.slot()
    if slot is None or not slot.active:
        return False
    if slot.owner not in {stream_name(slot.name), UNKNOWN_OWNER}:
        raise SlotBusyError(slot=slot.name, pid=slot.active_pid, owner=slot.owner)
    return True
