"""The delays and sizes that a service accepts before it reports a problem or gives up, and the
intervals between its looks.

They need no configuration, because each default is right for every service that runs for real.
"""

from dataclasses import dataclass, field
from typing import Final

from cdc_embed.flow.strikes import STRIKES_SECONDS
from cdc_embed.rotation import ROTATION_SECONDS
from cdc_embed.service.refusing import SHORTEST_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervals:
    """The intervals of one service, in seconds."""

    catalogue: float = 6.0
    """The seconds between two looks at the catalogue. A table that leaves the publication is named
    as soon."""
    requests: float = 1.5
    """The seconds between two looks for requests of the command line, in the database."""
    rounds: float = 0.5
    """The seconds between two looks at whether rows are to be read; they ask nobody."""
    trouble: float = 2.0
    """The seconds before rows are read again, after a database did not answer."""
    counts: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
    """The seconds between the tries of a count for which statements of others wait."""
    standby: float = 1.0
    """The seconds between two looks at whether the slot is free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """The limits of one service."""

    away_at_start: bool = False
    """Whether ``Service.run`` waits for a database or a secret that is missing at the start;
    otherwise ``running`` raises its error."""
    dead_loop: float = 60.0
    """The seconds without a turn of the loop that count as a hang; a turn takes less than a
    second."""
    long_trouble: float = 30.0
    """The seconds for which an outage of a database or the embedder does not count as unready."""
    least_silence: float = 10.0
    """The seconds without an answer that the source is given at the least, because a busy server
    can answer late, whatever its own timeout is."""
    failing_text: float = STRIKES_SECONDS
    """The seconds over which one text must fail until it is a dead letter."""
    refused_secret: float = ROTATION_SECONDS
    """The seconds for which a secret that is refused can still be replaced in its file."""
    slow_trial: float = 5.0
    """The seconds that the embedder's trial can take at the start, until the service begins without
    it."""
    short_lived_slot: float = 60.0
    """The seconds that a new slot must last. If one lasted less, another one would be of no use
    either."""
    refusing_table: float = SHORTEST_SECONDS
    """The seconds until a table that fails is tried again, at first; they double each time."""
    idle_connection: float = 10.0
    """The seconds that a connection of the web side has to make a request."""
    waiting_rows: int = 100_000
    """The rows that can wait for slow listeners, about 50 MB. The rows of further commits are
    dropped."""
    hanging_listener: float = 1.0
    """The seconds that a call of a listener has to return at the end."""
    intervals: Intervals = field(default_factory=Intervals)


USUAL: Final = Tolerance()
"""The limits of a service that names no others."""
