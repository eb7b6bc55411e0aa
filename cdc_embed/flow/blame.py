"""The blame for a failure: the service's, the call's size, or one text's.

A text is to blame only if a known-good one is taken. The calls are made by the function that
``embedding`` gives.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from cdc_embed.embed.base import PROBE, Vectors
from cdc_embed.errors import (
    CdcEmbedError,
    EmbedderError,
    EmbedderUnavailableError,
    TextRefusedError,
)
from cdc_embed.flow.call_size import CallSize
from cdc_embed.flow.texts import Embedded, Refusal, Run, Wanted

MOST_LETTERS_IN_A_ROW: Final = 25
"""After so many refusals without one success it is the configuration, not the texts."""
STRIKES: Final = 3
STRIKES_SECONDS: Final = 60.0
"""So often, over so long, the service must fail at a text, and be well with a known-good one."""
MOST_STRUCK: Final = 10_000

REFUSED: Final = "refused"


class Blame:
    """Finds out, for one service, whose fault a failure is."""

    def __init__(
        self, call: Callable[[list[str]], Vectors], size: CallSize, strikes: "Strikes"
    ) -> None:
        self._call = call
        self._size = size
        self._strikes = strikes
        self._letters_in_a_row = 0
        self.outages = 0
        """The number of times that even the known-good text was refused."""

    def is_well(self) -> bool:
        """Return whether a text that is known to be good is embedded now."""
        try:
            self._call([PROBE])
        except (EmbedderUnavailableError, TextRefusedError):
            return False
        return True

    def expect_well(self) -> None:
        """Raise ``EmbedderUnavailableError`` if a text that is known to be good is refused, too."""
        try:
            self._call([PROBE])
        except TextRefusedError as exc:
            self.outages += 1
            raise EmbedderUnavailableError(
                problem=f"it refuses even a text that is known to be good: {exc}"
            ) from exc

    def judge(self, head: Sequence[Wanted], run: Run, failure: EmbedderUnavailableError) -> None:
        """Find out whether a failure is that of the service, of the call's size, or of a text."""
        if len(head) == 1 and self.is_well():
            digest = head[0].digest
            self._size.blamed(head[0].text)
            if self._strikes.out(digest):
                raise RefusedCallError(1, failure, failure.reason) from failure
            if run.fails_alone_again(digest):
                raise FailsAloneError(str(failure)) from failure
            return
        self._size.failed([each.text for each in head])
        if len(head) == 1:
            self._strikes.begin_anew()

    def forget(self, digests: Iterable[bytes]) -> None:
        """Forget the failures at texts that were embedded."""
        self._strikes.forget(digests)

    def count(self, result: Embedded, *, again: bool) -> None:
        """Raise after many letters without one success: that is the configuration's fault.

        In which order a batch was tried says nothing: bad texts can be alike, in length as well.
        """
        errors = [error for reason, error in result.refused.values() if reason == REFUSED]
        if result.vectors:
            self._letters_in_a_row = 0
        elif not again:
            self._letters_in_a_row += len(errors)
        if self._letters_in_a_row > MOST_LETTERS_IN_A_ROW:
            raise EmbedderError(
                problem=f"it refused {self._letters_in_a_row} texts in a row, "
                f"the last one so: {errors[-1]}",
                hint="correct the [embedder] section, then run: cdc-embed doctor\n"
                "or, if the texts are to blame, change or delete their rows",
            )


class Strikes:
    """The failures of the service at each text, while it was well with another one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._struck: OrderedDict[bytes, tuple[int, float]] = OrderedDict()

    def out(self, digest: bytes) -> bool:
        """Count a failure; return whether the text is to blame."""
        now = self._clock()
        count, since = self._struck.pop(digest, (0, now))
        if count + 1 >= STRIKES and now - since >= STRIKES_SECONDS:
            return True
        self._struck[digest] = count + 1, since
        if len(self._struck) > MOST_STRUCK:
            self._struck.popitem(last=False)
        return False

    def begin_anew(self) -> None:
        """Forget every failure: an outage says nothing of texts."""
        self._struck.clear()

    def forget(self, digests: Iterable[bytes]) -> None:
        """Forget texts that were embedded."""
        for digest in digests:
            self._struck.pop(digest, None)


class RefusedCallError(Exception):
    """So many texts were refused together, or one alone."""

    def __init__(self, texts: int, error: CdcEmbedError, reason: str = REFUSED) -> None:
        super().__init__(str(error))
        self.texts = texts
        self.refusal: Refusal = (reason, str(error))


class FailsAloneError(Exception):
    """The service failed at one text again, and is well."""
