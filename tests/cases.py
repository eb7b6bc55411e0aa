"""The cases of a test: some of them run each time, the others with ``--long`` only."""

from collections.abc import Iterable
from typing import Any

import pytest


def cases(names: Iterable[str], *always: str) -> list[Any]:
    """Parameters of a test, of which those named ``always`` need no ``--long``."""
    listed = list(names)
    assert set(always) <= set(listed), f"{always} are not all in {listed}"
    return [
        pytest.param(name, id=name, marks=[] if name in always else pytest.mark.long)
        for name in listed
    ]
