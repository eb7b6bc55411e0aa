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
from cdc_embed.reconcile import rounds
from cdc_embed.reconcile.rounds import Rounds


class Scripted(Rounds):
    """Ends its term after the round that is good."""

    def __init__(self, errors: Sequence[Exception]) -> None:
        self.failures: list[CdcEmbedError] = []
        self.noted: list[Exception | None] = []
        surroundings = SimpleNamespace(reading=nullcontext, cancel=lambda: None)
        term = SimpleNamespace(ended=Event())
        super().__init__("rows", cast(Any, term), cast(Any, surroundings), self.failures.append)
        self._errors = list(errors)

    def _turn(self) -> None:
        if self._errors:
            raise self._errors.pop(0)
        self._ended.set()

    def _has_work(self) -> bool:
        return False

    def _note(self, trouble: Exception | None) -> None:
        super()._note(trouble)
        self.noted.append(trouble)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "TROUBLE_SECONDS", 0.0)


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
    scripted.start()
    scripted.join()
    assert (scripted.noted, scripted.failures) == ([error, None], [])


@pytest.mark.parametrize(
    "error", [PreflightError(where="w", problem="p", hint="h"), OSError(), KeyError()]
)
def test_what_does_not_pass_ends_the_instance(error: Exception) -> None:
    scripted = Scripted([error])
    scripted.start()
    scripted.join()
    (failure,) = scripted.failures
    assert failure is error or isinstance(failure, UnexpectedError)
    assert not scripted.noted
