"""The blame for a failure: the service's, the size of the call, or one text's.

A text is to blame only if it fails alone while known-good texts are taken, so often that no bad
server of several is why (``proof``). Such a proof is made at once for a text that is refused, but
not if the service contradicted itself a short while ago, when a text or the known-good one failed
that it takes. A text must be refused for a minute then. It must also fail for a minute if the
service fails instead of refusing, and for an hour if the service has too much to do (429, 503),
because its other clients can be why a long text finds no room. ``embedding`` gives the functions
that call.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from math import inf
from typing import Final

import structlog

from cdc_embed.embed.base import SERVER_ERROR, TIMEOUT, Vectors
from cdc_embed.errors import EmbedderUnavailableError, TextRefusedError, UnauthorizedError
from cdc_embed.flow.call_size import CallSize
from cdc_embed.flow.proof import REFUSED, KnownGood, Prover, RefusedCallError
from cdc_embed.flow.strikes import STRIKES_SECONDS, Strikes
from cdc_embed.flow.texts import Embedded, Run, Wanted

MOST_LETTERS_IN_A_ROW: Final = 25
"""The refusals without one success after which the log tells how to look for another cause."""
CONTRADICTION_SECONDS: Final = 600.0
"""The seconds for which it is remembered that the service contradicted itself."""
PROOFS: Final = (1, 2, 1, 1)
"""The numbers of known-good texts after each failure of a text, before it is tried again. They vary
because of servers that answer in turns; more often while the service contradicts itself."""

MOST_TOGETHER: Final = 2
"""The failures of a text after which it still goes with others if one server of several hangs."""

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
        self._known_good = KnownGood(clock)
        self._prover = Prover(self._known_good, self._ask)
        self._known_good_failed = False
        """Whether a known-good text failed, and none was taken since."""
        self._contradicted_at = -inf
        """The time of the last contradiction, in seconds of the clock."""
        self._hung_at = -inf
        self._letters_in_a_row = 0
        self.contradictions = 0
        """The number of times that it refused a text that it takes."""

    @property
    def contradicts_itself(self) -> bool:
        """Whether a text failed, not long ago, that the service takes."""
        return self._clock() - self._contradicted_at < CONTRADICTION_SECONDS

    @property
    def hangs(self) -> bool:
        """Whether one server of several hung not long ago."""
        return self._clock() - self._hung_at < CONTRADICTION_SECONDS

    def expect_well(self) -> None:
        """Raise ``EmbedderUnavailableError`` if a known-good text is not embedded, as in an outage,
        which is no text's fault."""
        try:
            self._ask(self._known_good.make())
        except EmbedderUnavailableError:
            if not self.contradicts_itself:
                self._strikes.begin_anew()
            raise

    def going_together(self, head: Sequence[Wanted]) -> Sequence[Wanted]:
        """Return the first of the texts, as many as go into one call. A text at which the service
        has failed goes alone, because it would spoil the call of the others; but not at once if one
        server hangs, because each text alone would wait for it."""
        for place, each in enumerate(head):
            failures = self._strikes.failures(each.digest)
            if failures > MOST_TOGETHER or (failures and not self.hangs):
                return head[: max(1, place)]
        return head

    def held_back(self, digests: Iterable[bytes]) -> dict[bytes, str]:
        """Return those of the texts that are to be tried later, each with the service's error."""
        return self._strikes.held_back(digests)

    def is_well(self) -> bool:
        """Return whether a text that is known to be good is embedded now."""
        try:
            self.expect_well()
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
                return self._judge_refused_text(head, run, refusal, call)
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
        self._ask(self._known_good.make())
        return call()

    def _judge_refused_text(
        self,
        head: Sequence[Wanted],
        run: Run,
        refusal: TextRefusedError,
        call: Callable[[], Vectors],
    ) -> Vectors:
        """Blame one text at once, or after a minute if the service contradicts itself."""
        failure = EmbedderUnavailableError(problem=str(refusal), reason=REFUSED)
        if self.contradicts_itself:
            return self._judge_text(head, run, failure, call)
        self.expect_well()
        return self._prove(head[0], run, failure, call)

    def _prove(
        self,
        wanted: Wanted,
        run: Run,
        failure: EmbedderUnavailableError,
        call: Callable[[], Vectors],
    ) -> Vectors:
        """Return the vectors of a text that is good; raise what ``Prover.prove`` raises."""
        run.failing = False  # a proof is waited for, if nothing else waits
        vectors = self._prover.prove(wanted.text, failure, call, run.over)
        self._mistrust_refusals()
        self._contradicted_at = self._clock()
        return vectors

    def _ask(self, known_good: str) -> None:
        """Raise ``EmbedderUnavailableError`` if a text that is known to be good is not embedded,
        and what an unauthorized call is to raise."""
        try:
            self._call([known_good])
        except EmbedderUnavailableError:
            self._known_good_failed = True
            raise
        except TextRefusedError as exc:
            self._known_good_failed = True
            self._mistrust_refusals()
            if isinstance(exc, UnauthorizedError):
                raise exc.for_all_texts from exc
            raise EmbedderUnavailableError(
                problem=f"it refuses even a text that is known to be good: {exc}"
            ) from exc
        self._note_success()

    def _note_success(self) -> None:
        if self._known_good_failed:
            self._known_good_failed, self._contradicted_at = False, self._clock()

    def _mistrust_refusals(self) -> None:
        """Note that the service refused a text that it takes, so that a refusal tells of no
        size."""
        self.contradictions += 1
        self._size.forget()

    def judge_failure(
        self,
        head: Sequence[Wanted],
        run: Run,
        failure: EmbedderUnavailableError,
        call: Callable[[], Vectors],
    ) -> Vectors:
        """Find out whether a failure is that of the service, of the call's size, or of a text.

        Returns the vectors if ``call`` has them after all; raises RefusedCallError,
        FailsAloneError, or the failure: to be waited out. If the service wants all calls later, no
        call is made before, and nothing more is found out.
        """
        run.mark_failed(failure)
        if not (failure.retry_after or failure.of_known_good):
            if len(head) == 1:
                return self._judge_text(head, run, failure, call)
            if not self._is_chance(head, run, failure) and (failure.reason or self.is_well()):
                self._size.mark_failed([each.text for each in head])
        raise failure

    def _is_chance(
        self, head: Sequence[Wanted], run: Run, failure: EmbedderUnavailableError
    ) -> bool:
        """Return whether a call is to be tried once more as it is, because the call before was a
        good one, and another server can answer the next one."""
        if failure.hangs:
            self._hung_at = self._clock()
            return not run.fails_again(head)
        slow = failure.reason == TIMEOUT
        return not (slow or self._size.is_failing or run.fails_again(head))

    def _judge_text(
        self,
        head: Sequence[Wanted],
        run: Run,
        failure: EmbedderUnavailableError,
        call: Callable[[], Vectors],
    ) -> Vectors:
        """Blame one text, or go on without it, if the service is well."""
        digest, text = head[0].digest, head[0].text
        before = self._strikes.failures(digest)
        well = self.is_well()
        # servers in turns must not give the text the same turn each time
        proofs = PROOFS[:2] if self.contradicts_itself else PROOFS
        still = well and all(self.is_well() for _ in range(proofs[before % len(proofs)] - 1))
        if not (still or (well and self.contradicts_itself)):
            if failure.reason in (TIMEOUT, SERVER_ERROR):
                self._size.mark_failed([text])
            raise failure
        self._size.blamed(text)
        if self._strikes.are_enough(digest, failure):
            try:
                return self._prove(head[0], run, failure, call)
            except RefusedCallError:
                self._strikes.forget([digest])
                raise
            except EmbedderUnavailableError as exc:
                if not run.over.is_set():
                    self._strikes.clear(digest)
                raise FailsAloneError(str(exc)) from exc
        if still and (run.fails_again(head) or before):
            self._strikes.hold_back(digest, failure)
            raise FailsAloneError(str(failure)) from failure
        raise failure

    def forget_failures(self, head: Sequence[Wanted], run: Run) -> None:
        """Forget the failures at texts that were embedded. Forget also the learned sizes, if the
        same call has failed before."""
        self._note_success()
        self._strikes.forget(each.digest for each in head)
        self._known_good.took(max(len(each.text) for each in head))
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


class FailsAloneError(Exception):
    """The service failed at one text again, and is well."""
