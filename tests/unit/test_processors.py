"""Threads for the processors that a container may use, by the kernel's files."""

import os
import sys
from math import inf
from pathlib import Path

import pytest

from cdc_embed.embed import processors
from cdc_embed.embed.processors import folders, quota, threads_for, usable_processors


@pytest.mark.parametrize(
    ("limit", "processors"),
    [
        ("max 100000\n", inf),
        ("50000 100000\n", 0.5),
        ("250000 100000", 2.5),
        ("-1\n 100000\n", inf),
        ("150000\n 100000\n", 1.5),
        ("", inf),
        ("50000 0", inf),
        ("half a processor", inf),
    ],
)
def test_a_quota_is_a_number_of_processors(limit: str, processors: float) -> None:
    """https://docs.kernel.org/admin-guide/cgroup-v2.html: $MAX $PERIOD."""
    assert quota(limit) == processors


@pytest.mark.parametrize(
    ("affinity", "limits", "threads"),
    [
        (8, [], 8),
        (8, ["max 100000"], 8),
        (8, ["50000 100000"], 1),
        (8, ["350000 100000"], 3),
        (2, ["350000 100000"], 2),
        (8, ["400000 100000", "max 100000", "200000 100000"], 2),
    ],
)
def test_threads_are_within_affinity_and_every_quota(
    affinity: int, limits: list[str], threads: int
) -> None:
    assert threads_for(affinity, limits) == threads


def test_the_groups_of_a_process_are_found_in_both_versions() -> None:
    assert list(folders("0::/\n")) == ["", "unified"]
    assert list(folders("0::/pod/app\n"))[:3] == ["pod/app", "pod", ""]
    first = "12:cpuset:/x\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n"
    assert list(folders(first)) == [
        *("cpu/docker/abc", "cpu/docker", "cpu"),
        *("cpu,cpuacct/docker/abc", "cpu,cpuacct/docker", "cpu,cpuacct"),
    ]
    assert list(folders("")) == []


def test_each_backend_is_told_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    class Torch:
        threads = 8
        get_num_threads = staticmethod(lambda: Torch.threads)

        @staticmethod
        def set_num_threads(threads: int) -> None:
            Torch.threads = threads

    class Onnx:
        class SessionOptions:
            intra_op_num_threads = 0

    monkeypatch.setitem(sys.modules, "torch", Torch)
    monkeypatch.setitem(sys.modules, "onnxruntime", Onnx)
    monkeypatch.setattr(processors, "usable_processors", lambda: 3)
    monkeypatch.setenv("RAYON_NUM_THREADS", "8")
    del os.environ["RAYON_NUM_THREADS"]
    assert processors.limit_threads("torch") == (3, {})
    assert os.environ["RAYON_NUM_THREADS"] == "3"
    assert Torch.threads == 3
    threads, told = processors.limit_threads("openvino")
    assert (threads, told) == (3, {"ov_config": {"INFERENCE_NUM_THREADS": 3}})
    assert processors.limit_threads("onnx")[1]["session_options"].intra_op_num_threads == 3
    Torch.threads = 1  # OMP_NUM_THREADS
    assert processors.limit_threads("torch") == (1, {})


@pytest.mark.parametrize(
    ("own", "files"),
    [
        ("0::/pod/app\n", {"pod/cpu.max": "100000 100000", "pod/app/cpu.max": "max 100000"}),
        ("0::/\n", {"cpu.max": "100000 100000"}),
        (
            "4:cpu,cpuacct:/of/the/host\n",
            {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"},
        ),
    ],
)
def test_one_processor_of_a_container_is_one_thread(
    own: str, files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processors, "CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(processors, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert usable_processors() == 8
    (tmp_path / "own").write_text(own)
    for name, content in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert usable_processors() == 1
