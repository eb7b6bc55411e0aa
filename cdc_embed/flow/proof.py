"""The proof that one text is to blame, by Fisher's exact test.

The text and known-good ones that no cache has are sent in an order that is drawn by lot, as often
each. A good text would be taken where a known-good one is, whichever servers are broken, at random,
in turns or all the time. So the chance that known-good ones alone are taken falls with each of
them, however many calls fail. The text is to blame once that chance is below one in a million, and
good once it is taken. If the known-good text fails time after time, it is an outage, and proves
nothing.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from math import comb
from threading import Event
from typing import Final

from cdc_embed.embed.base import PROBE, SERVER_ERROR, Vectors
from cdc_embed.errors import CdcEmbedError, EmbedderUnavailableError, TextRefusedError
from cdc_embed.flow.texts import Refusal

CHANCE: Final = 1e-6
"""The chance of a letter for a good text."""
LOTS: Final = (True, False) * 12
"""The draws of known-good texts and of the other one that prove it if nothing else fails."""
MOST_ROUNDS: Final = 8
"""The rounds of draws after which the service fails too often for a proof."""
MOST_IN_A_ROW: Final = 8
"""The failures in a row of the known-good text that are an outage."""
MOST_AT_FIRST: Final = 3
"""These failures if none was taken before."""
LONGEST_SECONDS: Final = 3600.0
"""The seconds for which it is remembered how long a text the service took."""

REFUSED: Final = "refused"


class RefusedCallError(Exception):
    """A call was refused, of several texts or of one alone."""

    def __init__(self, texts: int, error: CdcEmbedError, reason: str = REFUSED) -> None:
        super().__init__(str(error))
        self.texts = texts
        self.refusal: Refusal = (reason, str(error))


@dataclass(slots=True)
class Evidence:
    """The calls so far, none of which has taken the text."""

    failed: int = 0
    """The calls that failed with the text."""
    taken: int = 0
    """The calls that took a known-good text."""
    good_failed: int = 0
    """The calls that failed with a known-good text."""
    in_a_row: int = 0
    """The last ones of these without a success."""

    @property
    def chance(self) -> float:
        """The chance that all calls that are taken have a known-good text, if both are as good."""
        known_good = self.taken + self.good_failed
        return comb(known_good, self.taken) / comb(known_good + self.failed, self.taken)

    @property
    def is_outage(self) -> bool:
        """Whether the known-good text fails time after time."""
        return self.in_a_row >= (MOST_IN_A_ROW if self.taken else MOST_AT_FIRST)

    def note_known_good(self, *, taken: bool) -> None:
        """Note a call with a known-good text."""
        self.taken += taken
        self.good_failed += not taken
        self.in_a_row = 0 if taken else self.in_a_row + 1


class KnownGood:
    """Makes known-good texts that no cache has. Each is about as long as another text, because a
    service that is back can take short texts before long ones; but not longer than one that was
    taken not long ago, because too long a text is to blame."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._longest = 0
        self._taken_at = 0.0

    def took(self, characters: int) -> None:
        """Note the length of a text that was taken."""
        now = self._clock()
        if characters >= self._longest or now - self._taken_at > LONGEST_SECONDS:
            self._longest, self._taken_at = characters, now

    def make(self, characters: int = 0) -> str:
        """Return another text each time, of about so many characters."""
        words = PROBE.split()
        text, most = PROBE, max(2 * len(PROBE), min(characters, self._longest))
        while len(text) < most:
            random.shuffle(words)
            text = " ".join([text, *words])
        return text[:most]


class Prover:
    """Makes the calls of a proof."""

    def __init__(self, known_good: KnownGood, ask: Callable[[str], None]) -> None:
        """``ask`` raises ``EmbedderUnavailableError`` if a known-good text is not taken."""
        self._known_good = known_good
        self._ask = ask

    def prove(
        self,
        text: str,
        failure: EmbedderUnavailableError,
        call: Callable[[], Vectors],
        over: Event,
    ) -> Vectors:
        """Return the vectors of ``call`` if it takes the text after all.

        Raises RefusedCallError if the text is to blame, and ``EmbedderUnavailableError`` if that
        cannot be proven now, or nobody waits for it any more.
        """
        evidence = Evidence()
        for _ in range(MOST_ROUNDS):
            for is_known_good in random.sample(LOTS, len(LOTS)):
                if evidence.is_outage or over.is_set():
                    raise failure
                if is_known_good:
                    evidence.note_known_good(taken=self._is_taken(len(text)))
                    continue
                try:
                    return call()
                except (TextRefusedError, EmbedderUnavailableError) as exc:
                    evidence.failed += is_alike(exc, failure)
                    last = exc
            if evidence.chance <= CHANCE:
                raise RefusedCallError(1, last, failure.reason or SERVER_ERROR)
        raise failure

    def _is_taken(self, characters: int) -> bool:
        try:
            self._ask(self._known_good.make(characters))
        except EmbedderUnavailableError as exc:
            if exc.retry_after:
                raise
            return False
        return True


def is_alike(error: CdcEmbedError, failure: EmbedderUnavailableError) -> bool:
    """Return whether an error blames a text as a failure before; raise it if it asks all calls for
    time."""
    if not isinstance(error, EmbedderUnavailableError):
        return True
    if error.retry_after:
        raise error
    return error.overloaded == failure.overloaded and bool(error.overloaded or error.reason)
