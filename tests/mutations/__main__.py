"""Take each protection out once and see its test fail: ``python -m tests.mutations [NAME ...]``.

Each mutation is one line of the code or the SQL, with the test that must notice. A copy of the tree
is patched, that test is run in it, and a failure is expected. A test that runs with ``--long`` only
is run with it. ``-j`` says how many run at once.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Final

import pytest

from tests.mutations.catalogue import MUTATIONS
from tests.mutations.mutation import ROOT, Mutation

NOT_FOUND: Final = {pytest.ExitCode.NO_TESTS_COLLECTED, pytest.ExitCode.USAGE_ERROR}
"""Exit codes without ``--long`` of a test, and of one case, that is only there with it."""


def judge(mutation: Mutation, tree: Path) -> str:
    """Say what the named test does without the protection, in a tree that may be patched."""
    path = tree / mutation.file
    original = path.read_text(encoding="utf-8")
    if original.count(mutation.line) != 1:
        raise SystemExit(f"{mutation.name}: its line is not once in {mutation.file}")
    path.write_text(original.replace(mutation.line, mutation.mutated), encoding="utf-8")
    run = run_test(mutation.test, tree)
    if run.returncode in NOT_FOUND:
        run = run_test(mutation.test, tree, "--long")
    path.write_text(original, encoding="utf-8")
    if run.returncode not in {0, 1}:
        return f"the test did not run: {mutation.test}\n{run.stdout}{run.stderr}"
    return "killed" if run.returncode else "SURVIVED"


def run_test(test: str, tree: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", *options, test],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )


@contextmanager
def copies(number: int) -> Iterator["SimpleQueue[Path]"]:
    """Copies of the tree to take and give back; they are gone at the end."""
    left_out = shutil.ignore_patterns(".git", ".venv", ".*_cache", ".hypothesis", "__pycache__")
    trees: SimpleQueue[Path] = SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        for place in range(number):
            trees.put(shutil.copytree(ROOT, Path(folder) / str(place), ignore=left_out))
        yield trees


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="how many at once")
    options = parser.parse_args()
    if unknown := set(options.names) - {mutation.name for mutation in MUTATIONS}:
        parser.error(f"no mutation is named {', '.join(sorted(unknown))}")
    chosen = [m for m in MUTATIONS if not options.names or m.name in options.names]
    with copies(options.jobs) as trees, ThreadPoolExecutor(options.jobs) as executor:

        def is_killed(mutation: Mutation) -> bool:
            tree = trees.get()
            try:
                verdict = judge(mutation, tree)
            finally:
                trees.put(tree)
            test = mutation.test.rpartition("::")[2]
            print(f"{verdict:9} {mutation.name}  ({test})", flush=True)  # noqa: T201
            return verdict == "killed"

        return 0 if all(list(executor.map(is_killed, chosen))) else 1


if __name__ == "__main__":
    raise SystemExit(main())
