"""Random histories with DDL: no statement of an application fails because of us, no row is lost.

Each statement runs in a twin database without cdc_embed, too, and must end there in the same way.
After every burst the service is ready and the vectors are right, or it says what is wrong, and
what it says helps. A seed fixes the statements, not how they meet the service.

    DDL_SEED=7 pytest --long tests/acceptance/test_ddl_histories.py    the same again
    pytest --long --history-minutes 60 tests/acceptance/test_ddl_histories.py
"""

import os
import random
from collections.abc import Callable

import pytest

from tests.migrations.run import DdlHistory
from tests.site import Site

SHORT_SEED = 1


def history(make_site: Callable[..., Site], seed: int, version: int) -> DdlHistory:
    return DdlHistory(seed, make_site(version), make_site(version), version)


def test_short_history_with_ddl_ends_equal(make_site: Callable[..., Site]) -> None:
    with history(make_site, SHORT_SEED, 18).prepared() as short:
        short.run(0, bursts=1)


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.parametrize("version", [18, 16])
def test_long_histories_with_ddl_end_equal(
    make_site: Callable[..., Site], version: int, request: pytest.FixtureRequest
) -> None:
    minutes = request.config.getoption("--history-minutes")
    chosen = int(os.environ.get("DDL_SEED") or random.SystemRandom().randrange(1 << 32))
    with history(make_site, chosen, version).prepared() as long:
        long.run(60 * minutes)
