"""Commands and services in processes of their own: to be killed, paused, signalled or measured."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

COMMAND: Final = [sys.executable, "-m", "cdc_embed.cli"]
CLOSE_SECONDS: Final = 30.0


def run_command(
    arguments: Sequence[str], environment: Mapping[str, str]
) -> "subprocess.CompletedProcess[str]":
    """``cdc-embed`` with these arguments."""
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
        check=False,
    )


class ServiceProcess:
    """``cdc-embed run`` in a process; ``take`` gets each line that it writes to standard error."""

    def __init__(
        self, config_path: Path, environment: Mapping[str, str], take: Callable[[str], None]
    ) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, "-c", str(config_path), "run"],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        self._reader = threading.Thread(target=self._read, args=(take,), daemon=True)
        self._reader.start()

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def ask_to_stop(self) -> None:
        self.process.terminate()

    def wait(self, seconds: float) -> int:
        """The exit code, once it has ended and all it wrote was read."""
        code = self.process.wait(seconds)
        self._reader.join(CLOSE_SECONDS)
        for stream in (self.process.stderr, self.process.stdout):
            if stream is not None:
                stream.close()
        return code

    def end(self, seconds: float) -> None:
        """Kill it, if it still runs."""
        self.process.kill()
        self.wait(seconds)

    def _read(self, take: Callable[[str], None]) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            take(line)
