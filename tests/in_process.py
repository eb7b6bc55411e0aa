"""Commands and services inside the test process: a start of Python less for each of them.

Each has what a process would have of its own: its output, its logs, its environment, its arguments.
Threads inherit whose they are. What a test kills, pauses, measures or runs in a thread is a process
(``tests/own_process.py``).
"""

import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from contextvars import ContextVar, copy_context
from dataclasses import replace
from functools import cache
from io import StringIO
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, Final
from unittest.mock import patch

import structlog
import typer.main

from cdc_embed.cli.context import Context
from cdc_embed.cli.logs import set_up_logs
from cdc_embed.cli.main import main
from cdc_embed.errors import CdcEmbedError
from cdc_embed.service import Service, Tolerance, load_config, running
from cdc_embed.service.tolerance import USUAL, Intervals

CRASHED: Final = 1
_PLAIN: Final = structlog.get_config()


class Output:
    """The output of a command or a service, and the settings of its logs."""

    def __init__(self) -> None:
        self.out = StringIO()
        self.err = StringIO()
        self._logging = _PLAIN
        self._logger = _Printer(self.out)

    def configure(self, settings: Mapping[str, Any]) -> None:
        """``structlog.configure`` of the command: its logs go to standard error."""
        self._logging = {**self._logging, **settings}
        self._logger = _Printer(self.err)

    def logger(self, context: Any) -> Any:
        return self._logging["wrapper_class"](self._logger, self._logging["processors"], context)


class _Printer:
    """A logger that prints whole lines, whatever their level."""

    def __init__(self, file: StringIO) -> None:
        self._file = file

    def __getattr__(self, level: str) -> Callable[[str], None]:
        return lambda line: print(line, file=self._file)


QUICK: Final = Intervals(catalogue=0.4, requests=0.2, rounds=0.1, trouble=0.5, standby=0.2)
"""Few seconds between two looks, because a test waits for the next one."""
COMMAND: Final = Context(poll_seconds=0.05, answer_seconds=20.0)
"""A service has many seconds to answer a command, because it shares this process."""
_output: ContextVar[Output | None] = ContextVar("output", default=None)


# -- commands ----------------------------------------------------------------------------------


def run_command(
    arguments: Sequence[str], environment: Mapping[str, str]
) -> "CompletedProcess[str]":
    """``cdc-embed`` with these arguments, through its console script's function."""
    _separate()
    output = Output()
    code = copy_context().run(_run, output, arguments, environment)
    return CompletedProcess(list(arguments), code, output.out.getvalue(), output.err.getvalue())


def _run(output: Output, arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    _output.set(output)
    with (
        redirect_stdout(output.out),
        redirect_stderr(output.err),
        patch.dict(os.environ, environment),
        patch.object(sys, "argv", ["cdc-embed", *arguments]),
        patch.object(sys, "excepthook", sys.excepthook),  # typer puts its own there
    ):
        try:
            main(COMMAND)
        except SystemExit as exc:
            if isinstance(exc.code, str):
                output.err.write(f"{exc.code}\n")
                return CRASHED
            return exc.code or 0
    return 0


# -- services ----------------------------------------------------------------------------------


class ServiceThread:
    """``cdc-embed run`` in a thread; ``take`` gets each line that it writes."""

    def __init__(
        self,
        config_path: Path,
        environment: Mapping[str, str],
        take: Callable[[str], None],
        *,
        tolerance: Tolerance = USUAL,
    ) -> None:
        _separate()
        usual = tolerance.intervals == Intervals()
        intervals = QUICK if usual else tolerance.intervals
        self._tolerance = replace(tolerance, away_at_start=True, intervals=intervals)
        self._output = Output()
        self._output.err = _Lines(take)
        self._service: Service | None = None
        self._stopped = False
        self._code = 0
        self._crash: BaseException | None = None
        with patch.dict(os.environ, environment):
            self._config = load_config(config_path)
        self._thread = threading.Thread(target=self._run, name="service", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def ask_to_stop(self) -> None:
        """Do the same as SIGTERM."""
        self._stopped = True
        if self._service is not None:
            self._service.stop()

    def wait(self, seconds: float) -> int:
        """The exit code, once it has ended; raises what crashed it."""
        self._thread.join(seconds)
        assert not self.alive, f"the service has not ended in {seconds:.0f} s"
        if self._crash is not None:
            raise self._crash
        return self._code

    def end(self, seconds: float) -> None:
        """Have it return without waiting for anything, if it still runs."""
        self._stopped = True
        if self.alive and self._service is not None:
            self._service.stop_now()
        self.wait(seconds)

    def _run(self) -> None:
        _output.set(self._output)
        set_up_logs(self._config.log.model_copy(update={"format": "json"}))
        try:
            with running(self._config, serve=True, tolerance=self._tolerance) as self._service:
                if self._stopped:
                    self._service.stop()
                self._service.run()
        except CdcEmbedError as exc:
            self._code = exc.exit_code
            steps = "".join(f"next:  {line}\n" for line in exc.hint.splitlines())
            self._output.err.write(f"error: {exc}\n{steps}")
        except BaseException as exc:  # noqa: BLE001  raised by who waits for the end
            self._code, self._crash = CRASHED, exc
            self._output.err.write(traceback.format_exc())


class _Lines(StringIO):
    """Hands each line on when it is complete."""

    def __init__(self, take: Callable[[str], None]) -> None:
        super().__init__()
        self._take = take
        self._begun = ""
        self._lock = threading.Lock()

    def write(self, text: str) -> int:
        with self._lock:
            *complete, self._begun = (self._begun + text).split("\n")
            for line in complete:
                self._take(f"{line}\n")
        return len(text)


# -- whose thread it is ------------------------------------------------------------------------


@cache
def _separate() -> None:
    """From here on a log line goes to the output of its thread."""
    structlog.configure(wrapper_class=_wrap)  # type: ignore[arg-type]  # as good as a class
    patch("structlog.configure", _configure).start()
    patch("typer.main.get_command", cache(typer.main.get_command)).start()  # 12 ms each time
    patch("threading.Thread.start", _start).start()


_configure_all: Final = structlog.configure
_start_thread: Final = threading.Thread.start


def _wrap(logger: Any, processors: Any, context: Any) -> Any:
    output = _output.get()
    if output is not None:
        return output.logger(context)
    return _PLAIN["wrapper_class"](logger, processors, context)


def _configure(**settings: Any) -> None:
    output = _output.get()
    if output is not None:
        output.configure(settings)
    else:
        _configure_all(**settings)


def _start(thread: threading.Thread) -> None:
    """Start a thread that inherits the context of the one that starts it, as of Python 3.14."""
    context, run = copy_context(), thread.run
    thread.run = lambda: context.run(run)  # type: ignore[method-assign]
    _start_thread(thread)
