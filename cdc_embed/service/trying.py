"""The trial of the embedder at the start of a service, waited for or left to be made later.

Whoever has nothing stored needs the embedder before anything else. But where vectors are stored,
their canary says which model made them, so deletes and unchanged texts need not wait for it.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from threading import Event
from time import monotonic
from typing import Final

import structlog

from cdc_embed.config.sections import EmbedderConfig
from cdc_embed.embed.base import Embedder, ModelCard
from cdc_embed.embed.trial import Tried, try_out
from cdc_embed.embed.watched import WatchedEmbedder
from cdc_embed.errors import EmbedderUnavailableError

POLL_SECONDS: Final = 0.1
"""The time between two looks at whether a start is to end."""

log = structlog.get_logger()

TryOut = Callable[[], Tried]


def try_embedder(
    embedder: Embedder,
    config: EmbedderConfig,
    find_stored: Callable[[], ModelCard | None],
    stopping: Event,
    slow_seconds: float,
) -> WatchedEmbedder:
    """Try an embedder out; return it watched.

    One that is away, or gives no answer for ``slow_seconds``, is tried later, if ``find_stored``
    finds the card of stored vectors; else its error is raised. A stop closes the embedder.
    """
    trial = partial(try_out, embedder, config)
    worker = ThreadPoolExecutor(1, thread_name_prefix="embed")
    trying = worker.submit(trial)
    worker.shutdown(wait=False)
    stored, problem = _wait(trying, find_stored, stopping, slow_seconds)
    if stored is not None:
        log.warning("waiting", stage="embedder", problem=problem)
        first = iter([trying.result] if not trying.done() else [])
        return WatchedEmbedder(embedder, Tried(card=stored), lambda: next(first, trial)())
    if stopping.is_set():
        embedder.close()
    tried = trying.result()
    if tried.unproven:
        log.warning("embedder is not proven", unproven=tried.unproven, fix=tried.way_out)
    return WatchedEmbedder(embedder, tried)


def _wait(
    trying: "Future[Tried]",
    find_stored: Callable[[], ModelCard | None],
    stopping: Event,
    slow_seconds: float,
) -> tuple[ModelCard | None, str]:
    """Wait for a trial, as long as it has to be waited for; return the stored card, and why."""
    slow_at = monotonic() + slow_seconds
    while not stopping.is_set():
        if wait([trying], POLL_SECONDS).done:
            error = trying.exception()
            away = isinstance(error, EmbedderUnavailableError)
            return (find_stored() if away else None), str(error)
        if monotonic() > slow_at:
            slow_at = float("inf")
            if (stored := find_stored()) is not None:
                return stored, f"no answer for {slow_seconds:.0f} s"
    return None, ""
