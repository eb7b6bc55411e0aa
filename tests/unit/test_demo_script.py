"""The demo gives a service up when it is stuck, not when the machine is slow."""

from itertools import count

import pytest

from cdc_embed.demo.script import wait_while_written


def test_demo_waits_while_the_service_writes() -> None:
    looks, written, waits = count(), count(), []
    wait_while_written(
        lambda: next(looks) > 20, lambda: next(written), lambda: waits.append(1), stall=0.0
    )
    assert len(waits) == 21


def test_demo_gives_up_when_nothing_is_written() -> None:
    with pytest.raises(TimeoutError, match="written nothing"):
        wait_while_written(lambda: False, lambda: 7, lambda: None, stall=0.01)
