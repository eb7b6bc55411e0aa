"""Random histories: many clients, many faults, and in the end source and target are equal.

Without what protects the order (skip rules, positions, fences, hidden rows) these fail within
seconds to minutes; what they find first is then told by a test of its own. A seed fixes what
each client and each misfortune does, not how they meet: a failure prints the seed, what was
done, and what the log said of the rows that differ.

    HISTORY_SEED=7 pytest --long tests/acceptance/test_histories.py    the same again
    pytest --long --history-minutes 60 tests/acceptance/test_histories.py
"""

import os
import random
from pathlib import Path

import pytest

from tests.history.run import History, Setting
from tests.servers import Servers

SETTINGS = [
    Setting(version=18),
    Setting(version=16),
    Setting(version=16, target=18),
    Setting(version=18, target=16),
    Setting(version=15, target=18, plugin="wal2json"),
]
SECONDS = 40.0
SHORT_SEED = 21


def seed() -> int:
    return int(os.environ.get("HISTORY_SEED") or random.SystemRandom().randrange(1 << 32))


def test_short_history_ends_equal(tmp_path: Path, servers: Servers) -> None:
    """Two rounds: a frozen service, locks, an ill embedder. Kills have tests of their own."""
    with History(SHORT_SEED, Setting(version=18), tmp_path, servers.own).prepared() as history:
        history.run(0, longest_round=2, rounds=2)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_history_of_a_fixed_seed_ends_equal(tmp_path: Path, servers: Servers) -> None:
    with History(1, Setting(version=18), tmp_path, servers.own).prepared() as history:
        history.run(SECONDS, longest_round=7)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_history_of_a_random_seed_ends_equal(tmp_path: Path, servers: Servers) -> None:
    chosen = seed()
    setting = random.Random(chosen).choice(SETTINGS)
    with History(chosen, setting, tmp_path, servers.own).prepared() as history:
        history.run(SECONDS, longest_round=7)


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_long_history_ends_equal(
    tmp_path: Path, servers: Servers, setting: Setting, request: pytest.FixtureRequest
) -> None:
    seconds = 60.0 * request.config.getoption("--history-minutes")
    with History(seed(), setting, tmp_path, servers.own).prepared() as history:
        history.run(seconds, longest_round=40)
