"""The keeper of a throwaway server, so that nothing is left behind, however our process ends.

A shell script makes the server's folder, waits for the end of our process, and removes the folder.
It is a process of its own, because ours can be killed. ``postgres`` starts and stops the server.
"""

import ctypes
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

# Makes a folder, and in it a cluster with the binaries that it is told, unless it finds one there.
# Then it waits for a line, or for the end of file that comes when our process is gone, however it
# went. Either way it removes everything.
_SCRIPT = """
trap '' PIPE
folder=$(mktemp -d "$1/cdc-pg-XXXXXXXX") || exit
echo "$folder"
if read -r bin; then
    test -e "$folder/data" || for locale in C.UTF-8 C; do  # not every system has the first
        "$bin/initdb" --pgdata="$folder/data" --username=postgres --auth=trust --encoding=UTF8 \\
            --locale="$locale" --no-sync >"$folder/initdb.log" 2>&1 && break
    done
    echo $?
    read -r _
fi
for _ in 1 2 3 4 5; do
    "$bin/pg_ctl" --pgdata="$folder/data" --mode=immediate stop >/dev/null 2>&1
    rm -rf "$folder" 2>/dev/null && exit
    sleep 1
done
"""


class Keeper:
    """A child process that keeps the folder of one server.

    ``spawn`` starts a command as the server's account; ``base`` is the folder to make it in.
    """

    def __init__(self, spawn: Callable[..., subprocess.Popen[bytes]], base: str) -> None:
        self._process = spawn(
            ["/bin/sh", "-c", _SCRIPT, "keeper", base],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def read_folder(self) -> str:
        """Read the path of the folder that the child made; empty if it could not. Once only."""
        return self._read_line()

    def make_cluster(self, binaries: Path) -> bool:
        """Make a cluster in the folder, unless it has one; False if initdb failed."""
        stdin = self._process.stdin
        assert stdin is not None, "the child has pipes"
        stdin.write(os.fsencode(str(binaries)) + b"\n")
        stdin.flush()
        return self._read_line() == "0"

    def dismiss(self) -> None:
        """Have the child remove the folder, and wait for its end."""
        self._process.communicate(b"goodbye\n")

    def _read_line(self) -> str:
        """Read the child's next line; empty if it has ended."""
        assert self._process.stdout is not None, "the child has pipes"
        return os.fsdecode(self._process.stdout.readline()).rstrip("\n")


def release_shared_memory(data: Path) -> None:
    """Remove the segment that a killed postmaster left; line 7 of its lock file names it."""
    try:
        segment = (data / "postmaster.pid").read_text().splitlines()[6].split()[1]
    except (FileNotFoundError, IndexError):
        return
    ctypes.CDLL(None).shmctl(int(segment), 0, None)  # 0 is IPC_RMID
