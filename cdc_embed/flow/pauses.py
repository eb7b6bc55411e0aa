"""The pauses that the service asks for (Retry-After): of all calls, or of one text's alone.

No call is made within a pause, and after it the known-good text goes first. A service can take that
text and ask for time again, at once or for the same texts. It contradicts itself then, because of
one text, or one server of several. For some minutes such a pause holds back only the texts of the
call that it answers, unless no text at all is taken for a while.
"""

from collections import OrderedDict
from collections.abc import Sequence
from math import inf
from typing import Final

from cdc_embed.errors import EmbedderUnavailableError
from cdc_embed.flow.patience import LONGEST_ASKED

LONGEST_UNPROVEN: Final = 60.0
"""The most seconds of a pause that one answer asks for all, if texts were taken within the same
time before. Afterwards the known-good text proves whether a longer one is needed."""
AT_ONCE_SECONDS: Final = 5.0
"""A service that asks for time so soon after the pause that it asked for contradicts itself."""
DOUBT_SECONDS: Final = 600.0
PROOF_SECONDS: Final = 15.0
"""The seconds without a text taken after which it is an outage all the same. Some ten calls failed
by then."""
MOST_ASKING: Final = 10_000


class Pauses:
    """Decides for whom a pause is; ``Answers`` holds the lock."""

    def __init__(self) -> None:
        self.until = -inf
        """The end of the last pause of all calls."""
        self.unproven = False
        """Whether nothing was taken since it ended."""
        self._doubted_until = -inf
        self._asking: OrderedDict[int, None] = OrderedDict()
        """The texts, by their hash, of calls that were asked for time, and were not taken since."""

    def ask(
        self,
        failure: EmbedderUnavailableError,
        texts: Sequence[str],
        *,
        now: float,
        taken_at: float,
        away_since: float,
    ) -> None:
        """Take in a failure. The asked seconds are left in ``retry_after`` if all calls must wait,
        and in ``own_pause`` if only the texts of the call must.

        ``taken_at``: when the service last took a text; ``away_since``: when it failed first since.
        """
        asked = min(failure.retry_after or 0.0, LONGEST_ASKED)
        if not asked:
            return
        doubted = now < self._doubted_until or self._is_denied(texts, now)
        if doubted and now - away_since < PROOF_SECONDS and not failure.lasts:
            self._doubted_until, self.until = now + DOUBT_SECONDS, min(self.until, now)
            failure.retry_after, failure.own_pause = None, min(asked, LONGEST_UNPROVEN)
            return
        if now - taken_at < LONGEST_UNPROVEN and not self.unproven:
            asked = min(asked, LONGEST_UNPROVEN)
        failure.retry_after = asked
        self.until, self.unproven = max(self.until, now + asked), True
        self._doubted_until = -inf
        self._asking |= dict.fromkeys(map(hash, texts))
        while len(self._asking) > MOST_ASKING:
            self._asking.popitem(last=False)

    def _is_denied(self, texts: Sequence[str], now: float) -> bool:
        """Return whether the texts taken since the last pause deny that all calls must wait."""
        if self.unproven or self.until == -inf:
            return False
        at_once = now - self.until < AT_ONCE_SECONDS
        return at_once or any(hash(text) in self._asking for text in texts)

    def took(self, texts: Sequence[str], asked_at: float) -> None:
        """Note texts that were taken, in a call that was made then."""
        for text in texts:
            self._asking.pop(hash(text), None)
        self.unproven = self.unproven and asked_at < self.until
