"""One step of an application: statements that belong together, and what they leave."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


def nothing() -> None:
    """Leave the table as it was."""


@dataclass(frozen=True, slots=True)
class Step:
    """Statements that an application runs together."""

    statements: Sequence[str]
    done: Callable[[], None] = nothing
    """Notes in the history's table what changed."""
    data: str = ""
    """The rows that COPY reads."""
    rolled_back: bool = False
    """The transaction is rolled back at its end."""
    apart: bool = False
    """Each statement is a transaction of its own."""
    alone: bool = False
    """Its statement cannot be in a transaction."""
