"""The blame for a failure: the service's, the size of the call, or one text's.

A text is to blame only if its calls fail, each for it alone, while a known-good text is taken. One
bad server of several behind an address fails at any text. In strict turns it could get the text
each time and the known-good text never, so the number of known-good calls between two tries varies.
A refusal is believed at once, but not if the service contradicted itself a short while ago, when it
refused a text that it takes. A text must be refused for a minute then. It must also fail for a
minute if the service fails instead of refusing, and for an hour if the service has too much to do
(429, 503), because its other clients can be why a long text finds no room. ``embedding`` gives the
functions that call.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from math import inf
from typing import Final, NamedTuple

import structlog

from cdc_embed.embed.base import PROBE, SERVER_ERROR, TIMEOUT, Vectors
from cdc_embed.errors import (
    CdcEmbedError,
    EmbedderUnavailableError,
    TextRefusedError,
    UnauthorizedError,
)
from cdc_embed.flow.call_size import CallSize
from cdc_embed.flow.patience import MOST_DOUBLINGS
from cdc_embed.flow.texts import Embedded, Refusal, Run, Wanted

MOST_LETTERS_IN_A_ROW: Final = 25
"""The refusals without one success after which the log tells how to look for another cause."""
STRIKES_SECONDS: Final = 60.0
"""The seconds over which a text must fail."""
CONTRADICTION_SECONDS: Final = 600.0
"""The seconds for which it is remembered that the service contradicted itself."""
OVERLOAD_FACTOR: Final = 60
"""The factor for these seconds if the service says that it has too much to do, because a long text
can find no room for hours while others use the service."""
LONGEST_HOLD: Final = 60.0
"""The seconds before such a text is tried again, at the most."""
PROOFS: Final = (1, 2, 1, 1)
"""The numbers of known-good texts that must be taken after each failure of a text, before it is
tried again."""
TRIES: Final = len(PROOFS) + 1
"""The times that a text must be refused, or fail."""
MOST_REMEMBERED: Final = 10_000

REFUSED: Final = "refused"

log = structlog.get_logger()


class Blame:
    """Finds out, for one service, whose fault a failure is."""

    def __init__(
        self,
        call: Callable[[list[str]], Vectors],
        size: CallSize,
        clock: Callable[[], float],
        strikes_seconds: float = STRIKES_SECONDS,
    ) -> None:
        self._call = call
        self._size = size
        self._clock = clock
        self._strikes = Strikes(clock, strikes_seconds)
        self._contradicted_at = -inf
        """The time at which it last refused a text that it takes, in seconds of the clock."""
        self._letters_in_a_row = 0
        self.contradictions = 0
        """The number of times that it refused a text that it takes."""

    @property
    def contradicts_itself(self) -> bool:
        """Whether the service refused a text, not long ago, that it takes."""
        return self._clock() - self._contradicted_at < CONTRADICTION_SECONDS

    def expect_well(self) -> None:
        """Raise ``EmbedderUnavailableError`` if a known-good text is not embedded, as in an
        outage."""
        try:
            self._expect_well(1)
        except EmbedderUnavailableError:
            self._strikes.begin_anew()
            raise

    def going_together(self, head: Sequence[Wanted]) -> Sequence[Wanted]:
        """Return the first of the texts, as many as go into one call. A text at which the service
        has failed goes alone, because it would spoil the call of the others."""
        for place, each in enumerate(head):
            if self._strikes.failures(each.digest):
                return head[: max(1, place)]
        return head

    def held_back(self, digests: Iterable[bytes]) -> dict[bytes, str]:
        """Return those of the texts that are to be tried later, each with the service's error."""
        return self._strikes.held_back(digests)

    def is_well(self, calls: int = 1) -> bool:
        """Return whether a text that is known to be good is embedded now, so often in a row."""
        try:
            self._expect_well(calls)
        except EmbedderUnavailableError:
            return False
        return True

    def judge_refusal(
        self,
        head: Sequence[Wanted],
        run: Run,
        refusal: TextRefusedError,
        call: Callable[[], Vectors],
    ) -> Vectors:
        """Return the vectors if ``call`` has them after all.

        Raises RefusedCallError, FailsAloneError, or EmbedderUnavailableError: to be waited out.
        """
        try:
            if len(head) == 1:
                return self._prove(head, run, refusal, call)
            if self.contradicts_itself and self._size.has_taken(len(head)):
                return self._repeat(call)
        except EmbedderUnavailableError as exc:
            run.mark_failed(exc)
            raise
        except TextRefusedError as exc:
            refusal = exc
        raise RefusedCallError(len(head), refusal) from refusal

    def _repeat(self, call: Callable[[], Vectors]) -> Vectors:
        """Make a call that was refused once more, or twice, because it can meet another server."""
        with suppress(TextRefusedError):
            return call()
        self._expect_well(1)
        return call()

    def _prove(
        self,
        head: Sequence[Wanted],
        run: Run,
        refusal: TextRefusedError,
        call: Callable[[], Vectors],
    ) -> Vectors:
        """Blame one text, if it is refused each time and the known-good one never."""
        for known_good_calls in PROOFS:
            if self.contradicts_itself:
                failure = EmbedderUnavailableError(problem=str(refusal), reason=REFUSED)
                self._judge_text(head, run, failure)
                raise failure
            self._expect_well(known_good_calls)
            try:
                vectors = call()
            except TextRefusedError as exc:
                refusal = exc
            else:
                self._contradict()
                return vectors
        raise RefusedCallError(1, refusal) from refusal

    def _expect_well(self, calls: int) -> None:
        """Raise ``EmbedderUnavailableError`` if a text that is known to be good is not embedded,
        and what an unauthorized call is to raise."""
        try:
            for _ in range(calls):
                self._call([PROBE])
        except TextRefusedError as exc:
            self._contradict()
            if isinstance(exc, UnauthorizedError):
                raise exc.for_all_texts from exc
            raise EmbedderUnavailableError(
                problem=f"it refuses even a text that is known to be good: {exc}"
            ) from exc

    def _contradict(self) -> None:
        """Note that the service refused a text that it takes, so that a refusal tells of no size
        either."""
        self.contradictions += 1
        self._contradicted_at = self._clock()
        self._size.forget()

    def judge_failure(
        self, head: Sequence[Wanted], run: Run, failure: EmbedderUnavailableError
    ) -> None:
        """Find out whether a failure is that of the service, of the call's size, or of a text.

        If the service wants all calls later, no call is made before, and nothing more is found out.
        """
        run.mark_failed(failure)
        if failure.retry_after or failure.of_known_good:
            return
        if len(head) == 1:
            self._judge_text(head, run, failure)
        elif not self._is_chance(head, run, failure) and (failure.reason or self.is_well()):
            self._size.mark_failed([each.text for each in head])

    def _is_chance(
        self, head: Sequence[Wanted], run: Run, failure: EmbedderUnavailableError
    ) -> bool:
        """Return whether a call is to be tried once more as it is, because the call before was a
        good one, and another server can answer the next one."""
        slow = failure.reason == TIMEOUT
        return not (slow or self._size.is_failing or run.fails_again(head))

    def _judge_text(
        self, head: Sequence[Wanted], run: Run, failure: EmbedderUnavailableError
    ) -> None:
        """Blame one text, or go on without it, if the service is well."""
        digest, text = head[0].digest, head[0].text
        again = self._strikes.failures(digest) > 0
        if not self.is_well(PROOFS[self._strikes.failures(digest) % len(PROOFS)]):
            self._strikes.begin_anew()
            if failure.reason in (TIMEOUT, SERVER_ERROR):
                self._size.mark_failed([text])
            return
        self._size.blamed(text)
        if self._strikes.out(digest, failure):
            raise RefusedCallError(1, failure, failure.reason or SERVER_ERROR) from failure
        if run.fails_again(head) or again:
            self._strikes.hold_back(digest, failure)
            raise FailsAloneError(str(failure)) from failure

    def forget_failures(self, head: Sequence[Wanted], run: Run) -> None:
        """Forget the failures at texts that were embedded. Forget also the learned sizes, if the
        same call has failed before."""
        self._strikes.forget(each.digest for each in head)
        if run.has_failed(head):
            self._size.forget()

    def warn_of_many(self, result: Embedded) -> None:
        """Tell once of many letters without one success, because the configuration can be wrong.

        The order of the texts in a batch does not matter, because bad texts can be alike, in length
        as well.
        """
        before = self._letters_in_a_row
        errors = [error for reason, error in result.refused.values() if reason == REFUSED]
        self._letters_in_a_row = 0 if result.vectors else before + len(errors)
        if before <= MOST_LETTERS_IN_A_ROW < self._letters_in_a_row:
            log.warning(
                "many texts refused in a row",
                texts=self._letters_in_a_row,
                last=errors[-1],
                hint="if the texts are good, correct the [embedder] section: cdc-embed doctor; "
                "then: cdc-embed dlq retry --all",
            )


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

    def out(self, digest: bytes, failure: EmbedderUnavailableError) -> bool:
        """Count a failure; return whether the text is to blame. A failure without a reason blames
        no text."""
        now = self._clock()
        before = self._by_text.pop(digest, TextFailures())
        failures, strikes, since, overloads, overloaded_since = before
        if failure.overloaded:
            overloads, overloaded_since = overloads + 1, overloaded_since if overloads else now
        elif failure.reason:
            strikes, since = strikes + 1, since if strikes else now
        if strikes >= TRIES and now - since >= self._seconds:
            return True
        if overloads >= TRIES and now - overloaded_since >= OVERLOAD_FACTOR * self._seconds:
            return True
        after = TextFailures(failures + 1, strikes, since, overloads, overloaded_since)
        self._by_text[digest] = after
        if len(self._by_text) > MOST_REMEMBERED:
            self._by_text.popitem(last=False)
        return False

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
        for digest, found in list(self._by_text.items()):
            self._by_text[digest] = TextFailures(found.failures)

    def forget(self, digests: Iterable[bytes]) -> None:
        """Forget texts that were embedded."""
        for digest in digests:
            self._by_text.pop(digest, None)
            self._held_back.pop(digest, None)


class RefusedCallError(Exception):
    """A call was refused, of several texts or of one alone."""

    def __init__(self, texts: int, error: CdcEmbedError, reason: str = REFUSED) -> None:
        super().__init__(str(error))
        self.texts = texts
        self.refusal: Refusal = (reason, str(error))


class FailsAloneError(Exception):
    """The service failed at one text again, and is well."""
