"""The thread that works on rows: what passes is waited out, all else ends the instance."""

import errno
from collections.abc import Sequence
from contextlib import nullcontext
from threading import Event
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cdc_embed.errors import (
    CdcEmbedError,
    PreflightError,
    SourceUnavailableError,
    TargetUnavailableError,
    UnexpectedError,
)
from cdc_embed.reconcile.rounds import Rounds
from cdc_embed.reconcile.slices import ReadingPace


class Scripted:
    """Ends its term after the round that is good."""

    has_work = False

    def __init__(self, errors: Sequence[Exception]) -> None:
        self.failures: list[CdcEmbedError] = []
        self.noted: list[Exception | None] = []
        self.note = self.noted.append
        self._errors = list(errors)
        self._ended = Event()

    def turn(self) -> None:
        if self._errors:
            raise self._errors.pop(0)
        self._ended.set()

    def run(self) -> None:
        surroundings = SimpleNamespace(reading=nullcontext, cancel=lambda: None)
        work = SimpleNamespace(
            term=SimpleNamespace(ended=self._ended), pace=ReadingPace(trouble=0.0)
        )
        rounds = Rounds(
            "rows", self, cast(Any, work), cast(Any, surroundings), self.failures.append
        )
        rounds.start()
        rounds.join()


@pytest.mark.parametrize(
    "error",
    [
        SourceUnavailableError(problem="away"),
        TargetUnavailableError(problem="away"),
        OSError(errno.EMFILE, "too many open files"),
    ],
)
def test_what_passes_is_waited_out_and_noted(error: Exception) -> None:
    scripted = Scripted([error])
    scripted.run()
    assert (scripted.noted, scripted.failures) == ([error, None], [])


@pytest.mark.parametrize(
    "error", [PreflightError(where="w", problem="p", hint="h"), OSError(), KeyError()]
)
def test_what_does_not_pass_ends_the_instance(error: Exception) -> None:
    scripted = Scripted([error])
    scripted.run()
    (failure,) = scripted.failures
    assert failure is error or isinstance(failure, UnexpectedError)
    assert not scripted.noted
