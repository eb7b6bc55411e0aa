"""The processors that this process may use: those of its affinity, and its container's quota.

Libraries count the processors of the machine, or of the affinity, and start a thread for each. In a
container with a quota such threads are stopped together for most of each period, and those that
wait for one another at the end of each step burn the quota. With half a processor one thread is
twice as fast as two. The functions without I/O take the texts of the kernel's files.

https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max),
https://docs.kernel.org/scheduler/sched-bwc.html (cpu.cfs_quota_us)
"""

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any, Final

CGROUPS: Final = Path("/sys/fs/cgroup")
OWN_CGROUPS: Final = Path("/proc/self/cgroup")


def usable_processors() -> int:
    """Return the number of threads that can compute at once; at least one."""
    try:
        processors = len(os.sched_getaffinity(0))
    except AttributeError:  # only Linux has it
        processors = os.cpu_count() or 1
    own = ""
    with suppress(OSError):
        own = OWN_CGROUPS.read_text()
    return threads_for(processors, (_limit_in(CGROUPS / folder) for folder in folders(own)))


def limit_threads(backend: str) -> tuple[int, dict[str, Any]]:
    """Have a model's libraries compute in as many threads as can run at once, or in fewer if they
    are told so; return their number, and what the backend wants to be told at loading."""
    import torch

    threads = min(torch.get_num_threads(), usable_processors())
    torch.set_num_threads(threads)
    os.environ.setdefault("RAYON_NUM_THREADS", str(threads))  # of tokenizers
    if backend == "openvino":
        return threads, {"ov_config": {"INFERENCE_NUM_THREADS": threads}}
    if backend == "onnx":
        with suppress(ImportError):  # loading names it
            options = import_module("onnxruntime").SessionOptions()
            options.intra_op_num_threads = threads
            return threads, {"session_options": options}
    return threads, {}


def threads_for(processors: int, limits: Iterable[str]) -> int:
    """Return the number of threads for these processors, within every limit, at least one.

    A part of a processor makes no thread, because all threads would wait for that one.
    """
    return max(1, math.floor(min([processors, *map(quota, limits)])))


def quota(limit: str) -> float:
    """Return the processors of a limit in the form of ``cpu.max``: ``50000 100000`` is a half.

    ``max``, as well as a negative quota, is no limit, and so is what cannot be read.
    """
    try:
        microseconds, period = map(int, limit.split())
        return microseconds / period if microseconds > 0 else math.inf
    except (ValueError, ZeroDivisionError):
        return math.inf


def folders(own: str) -> Iterator[str]:
    """Give the folders of the control groups that bound a process, below where they are mounted.

    ``own`` is the text of ``/proc/self/cgroup``. A limit of each group above holds, too. Inside a
    container the path can be that of the host, of which only the last part is mounted, as the root.
    """
    for line in own.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            mounts = ["", "unified"]
        elif "cpu" in controllers.split(","):
            mounts = ["cpu", controllers]
        else:
            continue
        for mount in dict.fromkeys(mounts):
            groups = [PurePosixPath(path), *PurePosixPath(path).parents]
            yield from (f"{mount}{group}".strip("/") for group in groups)


def _limit_in(folder: Path) -> str:
    """Return a group's limit in the form of ``cpu.max``; "" if there is none."""
    with suppress(OSError):
        return (folder / "cpu.max").read_text()
    with suppress(OSError):
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        return " ".join((folder / name).read_text() for name in names)
    return ""
