"""A sleep that ends for any descriptor, however high its number is."""

import os
import resource
import socket
from collections.abc import Iterator

import pytest

from cdc_embed.flow.waking import Waker

ENOUGH = 1100


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """So many are open that the next ones are beyond what ``select`` takes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * ENOUGH:
        pytest.skip("this process may not open so many files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * ENOUGH), hard))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(ENOUGH)]
    yield
    for number in opened:
        os.close(number)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_descriptors")
def test_a_descriptor_above_1023_wakes_the_loop() -> None:
    waker = Waker()
    here, there = socket.socketpair()
    try:
        assert here.fileno() > 1023
        assert waker.sleep([here], 0.01) == []
        there.send(b"x")
        assert waker.sleep([here], 5.0) == [here]
        waker.wake()
        assert waker.sleep([], 5.0) == []
    finally:
        for end in (here, there):
            end.close()
        waker.close()
