"""The services of a history, and the commands that are run beside them.

One service is always to be there: when one is killed, stopped or ends, another one follows. What
ends by itself must have had a reason that passes.
"""

import os
import random
import signal
import subprocess
import threading
from contextlib import suppress
from typing import Any
from urllib.error import URLError

from cdc_embed.lsn import LSN
from tests.history.clients import Diary
from tests.own_process import COMMAND
from tests.site import RunningService, Site

DRIFT = 1
TEMPORARY = 75
END_SECONDS = 90.0
"""For a stop: twice what the driver and the drain may wait for, on a busy machine."""


class Fleet:
    """The instances; their methods are called by several threads."""

    def __init__(self, site: Site, diary: Diary) -> None:
        self._site = site
        self._diary = diary
        self._lock = threading.RLock()
        self.running: list[RunningService] = []
        self.ended: list[RunningService] = []
        self.problems: list[str] = []

    def start(self) -> RunningService:
        with self._lock:
            service = RunningService(self._site, process=True)
            self.running.append(service)
            self._diary.note(f"started {service.process.pid}")
            return service

    def tend(self, *, at_least: int = 1) -> None:
        """Bury what ended by itself, and start another one when none is left."""
        with self._lock:
            for service in list(self.running):
                code = service.process.poll()
                if code is not None:
                    self._bury(service, f"ended by itself with {code}")
                    if code != TEMPORARY:
                        self.problems.append(
                            f"a service ended by itself with {code}:\n{tail(service)}"
                        )
            while len(self.running) < at_least:
                self.start()

    def kill(self, service: RunningService) -> None:
        with self._lock:
            if service in self.running:
                service.kill()
                self._bury(service, "killed")

    def stop(self, service: RunningService) -> None:
        """SIGTERM; it must end in time, with 0."""
        with self._lock:
            if service not in self.running:
                return
            self.running.remove(service)
        service.process.send_signal(signal.SIGCONT)
        service.process.terminate()
        try:
            code = service.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.problems.append(f"SIGTERM did not end the service:\n{tail(service)}")
            service.kill()
            code = None
        served = any(entry["event"] == "serving" for entry in service.log)
        if code not in {0, None} and (served or code not in {-signal.SIGTERM, TEMPORARY}):
            self.problems.append(f"SIGTERM ended the service with {code}:\n{tail(service)}")
        with self._lock:
            self.ended.append(service)
        self._diary.note(f"stopped {service.process.pid}: {code}")

    def choose(self, choice: random.Random) -> RunningService | None:
        with self._lock:
            return choice.choice(self.running) if self.running else None

    def status(self) -> list[dict[str, Any]]:
        """Return the status of each instance; those that cannot be asked are left out."""
        found = []
        with self._lock:
            running = list(self.running)
        for service in running:
            with suppress(URLError, OSError, StopIteration):
                found.append(service.status())
        return found

    def durable(self) -> LSN:
        """As far as the leader says that the target reflects the log."""
        leading = [LSN.parse(s["lsn"]["durable"]) for s in self.status() if s["role"] == "leader"]
        return max(leading, default=LSN(0))

    def complaints(self) -> list[str]:
        """Return the lines that should never be in a log."""
        return [
            line
            for service in (*self.ended, *self.running)
            for line in service.output
            if "Traceback" in line or '"level": "error"' in line or "beyond the recorded" in line
        ]

    def forget(self) -> None:
        """Forget the instances that ended, because they were looked at."""
        with self._lock:
            del self.ended[:-2]

    def _bury(self, service: RunningService, how: str) -> None:
        service.end()
        self.running.remove(service)
        self.ended.append(service)
        self._diary.note(f"{service.process.pid} {how}")

    def close(self) -> None:
        with self._lock:
            for service in self.running:
                service.end()


def tail(service: RunningService, lines: int = 40) -> str:
    return f"PID {service.process.pid}:\n" + "".join(service.output[-lines:])


class Command:
    """One run of the command line in a process of its own."""

    def __init__(self, site: Site, *arguments: str) -> None:
        self.arguments = arguments
        self._process = subprocess.Popen(
            [*COMMAND, "-c", str(site.config_path), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **site.environment},
        )

    def __str__(self) -> str:
        return " ".join(self.arguments)

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def finish(self, seconds: float) -> tuple[int, str, str]:
        """(exit code, stdout, stderr); raises TimeoutExpired."""
        try:
            out, err = self._process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        return self._process.returncode, out, err

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()
