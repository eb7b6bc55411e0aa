"""Asking the service for bulk work: the running one, or one of our own when none runs.

The request lies in the target database, so it does not matter which process answers it.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from cdc_embed.config.load import Config
from cdc_embed.errors import CdcEmbedError, PreflightError, RequestFailedError, SlotBusyError
from cdc_embed.service.start import running
from cdc_embed.setup.connections import Connections, connections
from cdc_embed.source.slot import UNKNOWN_OWNER
from cdc_embed.source.stream import stream_name
from cdc_embed.target.ledger import DONE, FAILED, Answer, Ledger
from cdc_embed.target.registry import applied_migrations, missing_migrations

POLL_SECONDS: Final = 0.2
LEADERLESS_SECONDS: Final = 5.0
"""A slot that nobody reads for so long has lost its service: it may have been killed."""

Show = Callable[[dict[str, Any]], None]


def ask(config: Config, kind: str, arguments: dict[str, Any], show: Show) -> dict[str, Any]:
    """The result of a request; ``show`` hears how far it is.

    Raises ``RequestFailedError`` when it cannot be done, and what the service itself would raise.
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
        ledger = Ledger(databases.target, schema, config.source.slot)
        number = ledger.ask(kind, arguments)
        answer = None
        try:
            answer = _follow(config, databases, ledger, number, show)
        finally:
            if answer is None:
                ledger.reply(number, FAILED, error="called off")
        if answer.state == FAILED:
            raise RequestFailedError(kind=kind, problem=answer.error)
        return answer.result or {}


def _follow(
    config: Config, databases: Connections, ledger: Ledger, number: int, show: Show
) -> Answer:
    """Wait for the answer; when nobody reads the slot, be the service that gives it."""
    led_at = time.monotonic()
    if not _is_led(databases):
        led_at -= LEADERLESS_SECONDS
    while True:
        answer = _finished(ledger, number, show)
        if answer is not None:
            return answer
        if _is_led(databases):
            led_at = time.monotonic()
        elif time.monotonic() - led_at >= LEADERLESS_SECONDS:
            with _own_service(config) as failed:
                while answer is None and not failed.is_set():
                    answer = _finished(ledger, number, show)
                    failed.wait(POLL_SECONDS)
            if answer is not None:
                return answer
        time.sleep(POLL_SECONDS)


def _finished(ledger: Ledger, number: int, show: Show) -> Answer | None:
    answer = ledger.answer(number)
    if answer is None:
        return Answer(state=FAILED, progress={}, result=None, error="it was deleted")
    show(answer.progress)
    return answer if answer.state in {DONE, FAILED} else None


def _is_led(databases: Connections) -> bool:
    """Whether a service reads the slot; raises when another program does, and will not answer."""
    slot = databases.catalogue.slot()
    if slot is None or not slot.active:
        return False
    if slot.owner not in {stream_name(slot.name), UNKNOWN_OWNER}:
        raise SlotBusyError(slot=slot.name, pid=slot.active_pid, owner=slot.owner)
    return True


@contextmanager
def _own_service(config: Config) -> Iterator[threading.Event]:
    """The same service as ``run``, in a thread; gives an event that tells of its end."""
    failures: list[BaseException] = []
    ended = threading.Event()
    with running(config, serve=False) as service:

        def follow() -> None:
            try:
                service.run()
            except BaseException as exc:  # noqa: BLE001  handed to the thread that waits
                failures.append(exc)
            finally:
                ended.set()

        thread = threading.Thread(target=follow, name="service")
        thread.start()
        try:
            yield ended
        finally:
            service.stop()
            thread.join()
    if failures:
        raise failures[0]
    if isinstance(service.failure, CdcEmbedError):
        raise service.failure
