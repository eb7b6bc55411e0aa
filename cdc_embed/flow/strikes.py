"""The failures of the service at each text, and when the text is tried again.

They tell when a text has failed for so long that a proof is worth its calls. ``blame`` counts those
that the known-good text follows, because in an outage every text fails.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from math import inf
from typing import Final, NamedTuple

from cdc_embed.errors import EmbedderUnavailableError
from cdc_embed.flow.patience import MOST_DOUBLINGS

STRIKES_SECONDS: Final = 60.0
"""The seconds over which a text must fail."""
TRIES: Final = 5
"""The times that it must fail meanwhile."""
OVERLOAD_FACTOR: Final = 60
"""The factor for these seconds if the service says that it has too much to do, because a long text
can find no room for hours while others use the service."""
LONGEST_HOLD: Final = 60.0
"""The seconds before such a text is tried again, at the most."""
MOST_REMEMBERED: Final = 10_000


class TextFailures(NamedTuple):
    """The failures of the service at one text."""

    failures: int = 0
    strikes: int = 0
    """The failures for which the text can be to blame."""
    since: float = 0.0
    """The time of the first one of these, in seconds of the clock."""
    overloads: int = 0
    """The failures because of too much to do."""
    overloaded_since: float = 0.0


class Strikes:
    """The failures of the service at each text, while it was well with another one."""

    def __init__(self, clock: Callable[[], float], seconds: float = STRIKES_SECONDS) -> None:
        """``seconds``: over so long a text must fail until it is to blame."""
        self._clock = clock
        self._seconds = seconds
        self._by_text: OrderedDict[bytes, TextFailures] = OrderedDict()
        self._held_back: OrderedDict[bytes, tuple[float, str]] = OrderedDict()
        """The time of the next try of each text that is to be tried later, and the error."""

    def failures(self, digest: bytes) -> int:
        """Return the number of failures so far."""
        return self._by_text.get(digest, TextFailures()).failures

    def are_enough(self, digest: bytes, failure: EmbedderUnavailableError) -> bool:
        """Count a failure; return whether it is time for a proof. A failure without a reason blames
        no text."""
        now = self._clock()
        before = self._by_text.pop(digest, TextFailures())
        failures, strikes, since, overloads, overloaded_since = before
        if failure.overloaded:
            overloads, overloaded_since = overloads + 1, overloaded_since if overloads else now
        elif failure.reason:
            strikes, since = strikes + 1, since if strikes else now
        after = TextFailures(failures + 1, strikes, since, overloads, overloaded_since)
        self._by_text[digest] = after
        if len(self._by_text) > MOST_REMEMBERED:
            self._by_text.popitem(last=False)
        if overloads >= TRIES and now - overloaded_since >= OVERLOAD_FACTOR * self._seconds:
            return True
        return strikes >= TRIES and now - since >= self._seconds

    def hold_back(self, digest: bytes, failure: EmbedderUnavailableError) -> None:
        """Note when a text is to be tried again after a failure at it. The time is the service's,
        or grows each time if the service has too much to do."""
        growing = min(2.0 ** min(self.failures(digest), MOST_DOUBLINGS), LONGEST_HOLD)
        if seconds := max(failure.own_pause, growing if failure.overloaded else 0.0):
            self._held_back[digest] = self._clock() + seconds, str(failure)
            if len(self._held_back) > MOST_REMEMBERED:
                self._held_back.popitem(last=False)

    def held_back(self, digests: Iterable[bytes]) -> dict[bytes, str]:
        """Return those of the texts that are to be tried later, each with the service's error."""
        found = {d: held for d in digests if (held := self._held_back.get(d))}
        now = self._clock() if found else inf
        return {digest: problem for digest, (at, problem) in found.items() if now < at}

    def begin_anew(self) -> None:
        """Forget all strikes, because an outage is no text's fault. The texts go alone as
        before."""
        for digest in list(self._by_text):
            self.clear(digest)

    def clear(self, digest: bytes) -> None:
        """Forget the strikes of a text. It goes alone as before."""
        self._by_text[digest] = TextFailures(self.failures(digest))

    def forget(self, digests: Iterable[bytes]) -> None:
        """Forget texts that were embedded."""
        for digest in digests:
            self._by_text.pop(digest, None)
            self._held_back.pop(digest, None)
