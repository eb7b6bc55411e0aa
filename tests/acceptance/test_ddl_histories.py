"""Random histories with DDL: no statement of an application fails because of us, no row is lost.

Each statement runs in a twin database without cdc_embed, too, and must end there in the same way.
After every burst the service is ready and the vectors are right, or it says what is wrong, and
what it says helps. A seed fixes the surroundings and the statements, not how they meet the service.

    DDL_SEED=7 pytest --long tests/acceptance/test_ddl_histories.py    the same again
    pytest --long --history-minutes 60 tests/acceptance/test_ddl_histories.py
"""

import itertools
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from cdc_embed.demo.postgres import EmbeddedPostgres
from tests.installed import INSTALLED
from tests.migrations.run import DdlHistory
from tests.migrations.surroundings import Surroundings, choose_surroundings, made
from tests.site import Site
from tests.sources import sites

SHORT_SEED: Final = 1
HISTORY_SECONDS: Final = 300.0
"""After this time another history begins: other tables, in other surroundings."""


def test_short_history_with_ddl_ends_equal(make_site: Callable[..., Site]) -> None:
    with made(Surroundings(), make_site) as ground, DdlHistory(SHORT_SEED, ground).prepared() as it:
        it.run(0, bursts=1)


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.parametrize("version", [18, 16, INSTALLED])
def test_long_histories_with_ddl_end_equal(
    servers: Callable[[int], EmbeddedPostgres],
    tmp_path: Path,
    version: int,
    request: pytest.FixtureRequest,
) -> None:
    end = time.monotonic() + 60 * request.config.getoption("--history-minutes")
    chosen = int(os.environ.get("DDL_SEED") or random.SystemRandom().randrange(1 << 32))
    for seed in itertools.count(chosen):
        surroundings = choose_surroundings(random.Random(f"{seed}/surroundings"), version)
        with (
            sites(servers, tmp_path) as make_site,
            made(surroundings, make_site) as ground,
            DdlHistory(seed, ground).prepared() as history,
        ):
            history.run(min(HISTORY_SECONDS, end - time.monotonic()))
        if time.monotonic() > end:
            return
