"""The way from texts to vectors, through every failure of the embedder.

Takes the distinct texts of a batch and returns for each a vector, a refusal, or that it is not
taken now. Transient failures are waited out, with fewer texts if they can be too many; a refused
call is bisected until the text that can be to blame stands alone (``blame``).

Nothing else waits for a text for more than 5 s. A text at which the service fails alone, while it
is well, is left at the second failure, or at once if it has failed before. The texts of a batch
that makes no progress are left if the service takes others meanwhile. In an outage they are left if
something else waits or can, in the batch or behind it. A batch of nothing but texts, with nothing
but new rows behind it, waits for as long as it takes, because the log is the better queue. The
texts that are left are deferred (``reconcile/deferred.py``).
"""

import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import inf
from threading import Event
from typing import Final

from cdc_embed.embed.base import CALL, Call, CalledOffError, Embedder, Vectors
from cdc_embed.errors import EmbedderUnavailableError, TextRefusedError
from cdc_embed.flow.answers import Answers
from cdc_embed.flow.blame import Blame, FailsAloneError
from cdc_embed.flow.call_size import CallSize
from cdc_embed.flow.calls import Calls
from cdc_embed.flow.going_on import ASK_SECONDS, Decision, OthersWait, Waiting
from cdc_embed.flow.patience import AbandonedError, Patience
from cdc_embed.flow.proof import RefusedCallError
from cdc_embed.flow.rate import Rate
from cdc_embed.flow.strikes import STRIKES_SECONDS
from cdc_embed.flow.texts import Embedded, Kept, Run, Wanted
from cdc_embed.metrics import Metrics

POLL_SECONDS: Final = 0.05
"""The time between two looks whether something else waits for the texts of a batch."""
DOUBLINGS: Final = 2
"""The delay before a call is repeated grows up to 0.4 s, because it comes with fewer texts, and
while the service takes nothing at all, another delay holds for all (``answers``)."""

TOO_LONG: Final = "too_long"


def _make_workers(most: int, name: str) -> Executor:
    return ThreadPoolExecutor(most, thread_name_prefix=name)


def _wait(futures: Sequence[Future[None]], seconds: float) -> Collection[Future[None]]:
    return wait(futures, seconds, FIRST_EXCEPTION).not_done


@dataclass(frozen=True, slots=True, kw_only=True)
class Threads:
    """The clock and the threads of a runner."""

    clock: Callable[[], float] = time.monotonic
    workers: Callable[[int, str], Executor] = _make_workers
    """A function that makes an executor of so many threads, by their name."""
    wait: Callable[[Sequence[Future[None]], float], Collection[Future[None]]] = _wait
    """A function that waits until all are done or one has failed, at most for so many seconds, and
    returns those that are not done."""


THREADS: Final = Threads()
"""The threads of the operating system."""


class EmbeddingRunner:
    """Runs one embedder for one service."""

    def __init__(
        self,
        embedder: Embedder,
        patience: Patience,
        metrics: Metrics,
        *,
        threads: Threads = THREADS,
        strikes_seconds: float = STRIKES_SECONDS,
    ) -> None:
        """``strikes_seconds``: over so long a text must fail until it is to blame."""
        self._embedder = embedder
        self._card = card = embedder.describe()
        self._patience = patience
        self._metrics = metrics
        # what hangs in one of them lets the others go on
        self._stream = threads.workers(card.concurrency + 1, "embed")
        self._deferred = threads.workers(card.concurrency, "embed-deferred")
        self._known_good = threads.workers(1, "embed-known-good")
        self._wait = threads.wait
        self._clock = clock = threads.clock
        self._size = CallSize(card.max_texts, clock=clock)
        self._answers = Answers(clock, patience.delay)
        self._calls = Calls(embedder, card, self._answers, metrics, clock)
        self._blame = Blame(self._calls.make, self._size, clock, strikes_seconds)
        self._asking: Future[None] | None = None
        """The last call with a known-good text beside the stream."""
        self.kept = Kept(card.dimensions)
        self.rate = Rate()

    @property
    def least_texts(self) -> int:
        """The number of texts that a batch can always hold, because fewer would not make a call
        quicker."""
        return 16 if self._card.concurrency == 1 else self._card.concurrency * 64

    @property
    def outage(self) -> bool:
        """Whether the embedder takes nothing, for so long that it is not only slow."""
        return self._answers.outage

    @property
    def hangs(self) -> bool:
        """Whether one server of several hangs, so that texts that failed are not to go alone."""
        return self._blame.hangs

    def close(self) -> None:
        """Release the workers; the owner closes the embedder."""
        for workers in (self._stream, self._deferred, self._known_good):
            workers.shutdown(wait=False, cancel_futures=True)

    def give_up(self) -> None:
        """Make calls that hang return with an error, by closing the embedder."""
        self.close()
        self._embedder.close()

    def embed(
        self,
        texts: dict[bytes, str],
        *,
        others_wait: OthersWait | None = None,
    ) -> Embedded:
        """Return a vector or a refusal for each text, by its hash, or leave it.

        ``others_wait``: whether something waits for more than texts; None: nothing ever waits, and
        a call that hangs is waited for.

        Raises ``EmbedderError`` when a person must act, ``AbandonedError`` when the service stops.
        """
        # nothing is in a hurry to have the same embedded twice
        coming = self.kept.coming(texts) if others_wait is None else []
        result = Embedded(untaken=dict.fromkeys(coming, "a call with it is not answered yet"))
        result.untaken |= self._blame.held_back(texts)
        result.vectors |= self.kept.pop_vectors(texts.keys() - result.untaken.keys())
        known = result.vectors.keys() | result.untaken.keys()
        wanted = self._refuse_long({d: t for d, t in texts.items() if d not in known}, result)
        if not wanted:
            return result
        calls = self._calls.at_once
        most = self._card.max_tokens
        run = Run(wanted, result, self._size, workers=calls, most_tokens=most)
        executor = self._deferred if others_wait is None else self._stream
        began = self._clock()
        futures = [executor.submit(self._work, run) for _ in range(min(run.calls, calls))]
        self._wait_for(run, futures, others_wait)
        characters = sum(len(each.text) for each in wanted if each.digest in result.vectors)
        self.rate.measured(characters, self._clock() - began)
        self._blame.warn_of_many(result)
        return result

    def _wait_for(
        self, run: Run, futures: Sequence[Future[None]], others_wait: OthersWait | None
    ) -> None:
        """Wait until every text is settled, or until it is time to go on without some."""
        waiting = Waiting(run, others_wait, self._clock())
        asked = Event()
        while self._wait(futures, POLL_SECONDS):
            if self._patience.abandoned or self._failed(futures):
                run.give_up(away=True)
                break
            step = waiting.look(self._clock(), self._answers)
            if step is Decision.LEAVE:
                self._leave(run, futures, away=waiting.away)
                break
            if step is Decision.ASK:
                self._ask(asked)
        asked.set()
        if not waiting.held:
            self._answers.held_since = None
        if failed := self._failed(futures):
            failed.result()
        if self._patience.abandoned:
            raise AbandonedError

    def _failed(self, futures: Sequence[Future[None]]) -> Future[None] | None:
        """Return the work that ended with an error, of a batch or of the known-good text."""
        for future in filter(None, [*futures, self._asking]):
            if future.done() and not future.cancelled() and future.exception():
                return future
        return None

    def _ask(self, over: Event) -> None:
        """Ask with a known-good text whether the service is well, until ``over``; one at a time."""
        if self._asking is None or self._asking.done():
            self._asking = self._known_good.submit(self._ask_until_well, Call(over))

    def _ask_until_well(self, call: Call) -> None:
        CALL.set(call)
        attempt = partial(self._expect_well, self._clock())
        with suppress(EmbedderUnavailableError, CalledOffError):
            self._patience.keep_trying("embed", attempt, call.over)

    def _expect_well(self, asked_at: float) -> None:
        if self._answers.taken_at >= asked_at:
            return
        self._calls.expect_time()
        if not self._blame.is_well():
            failure = EmbedderUnavailableError(problem="it takes no text that is known to be good")
            failure.untried = True  # it was told
            raise failure

    def _leave(self, run: Run, futures: Sequence[Future[None]], *, away: bool) -> None:
        """Leave what is not settled; calls that are too slow become smaller."""
        now = self._clock()
        run.give_up(away=away)
        for future in futures:
            future.cancel()
        for call in list(run.calling):
            texts = call.texts  # it can be answered meanwhile, and has none then
            if call.held or not texts:
                continue
            if away:  # it can hang without a failure
                problem = f"no answer for {now - call.sent_at:.0f} s"
                failure = EmbedderUnavailableError(problem=problem)
                self._answers.mark_failed(failure, call.sent_at)
            slow = now - call.sent_at > ASK_SECONDS and not self._calls.is_hanging(call, now)
            if len(texts) > 1 and slow:
                self._size.mark_failed(texts)

    def _refuse_long(self, texts: dict[bytes, str], result: Embedded) -> list[Wanted]:
        """Refuse texts that are longer than the window, because the model would cut them, or than
        a call can be; return the others."""
        counts = self._card.count_tokens(list(texts.values()))
        if self._card.meter is None:
            self._metrics.embedded_tokens(sum(counts))
        most = min(self._card.window or inf, self._card.max_tokens or inf)
        wanted = []
        for (digest, text), tokens in zip(texts.items(), counts, strict=True):
            if tokens > most:
                problem = f"{tokens} tokens, at most {most} are taken; nothing was cut off"
                result.refused[digest] = (TOO_LONG, problem)
            else:
                wanted.append(Wanted(digest, text, tokens))
        return wanted

    def _work(self, run: Run) -> None:
        """Embed one part after the other, as long as so many calls at once are taken."""
        call = Call(run.over)
        run.calling.append(call)
        CALL.set(call)
        try:
            while run.place() < self._calls.at_once and (part := run.next_texts()):
                self._embed_part(part, run)
        finally:
            run.calling.remove(call)

    def _embed_part(self, wanted: Sequence[Wanted], run: Run) -> None:
        """Embed texts in one call, or in more if it turns out that they are too many."""
        while wanted and not run.over.is_set():
            digests = [each.digest for each in wanted]
            self.kept.expect(digests)
            try:
                wanted = wanted[self._embed_head(wanted, run) :]
            finally:
                self.kept.ended(digests)

    def _embed_head(self, wanted: Sequence[Wanted], run: Run) -> int:
        """Embed the first texts; return for how many it is settled."""
        attempt = partial(self._attempt, wanted, run)
        try:
            vectors = self._patience.keep_trying("embed", attempt, run.over, doublings=DOUBLINGS)
        except RefusedCallError as refused:
            if refused.texts == 1:
                run.refuse(wanted[0].digest, refused.refusal)
            else:
                self._embed_halves(wanted[: refused.texts], run)
            return refused.texts
        except FailsAloneError as exc:
            run.leave(wanted[0].digest, str(exc))
            return 1
        except (EmbedderUnavailableError, CalledOffError):  # nobody waits for it any more
            return len(wanted)
        embedded = {each.digest: vector for each, vector in zip(wanted, vectors, strict=False)}
        if not run.embedded(embedded):
            self.kept.keep(embedded)
        return len(vectors)

    def _embed_halves(self, wanted: Sequence[Wanted], run: Run) -> None:
        """Find out whether one of these texts was refused, or their number, unless the service
        contradicts itself meanwhile."""
        contradictions = self._blame.contradictions
        middle = len(wanted) // 2
        self._embed_part(wanted[:middle], run)
        self._embed_part(wanted[middle:], run)
        taken = all(each.digest in run.result.vectors for each in wanted)
        if taken and self._blame.contradictions == contradictions:
            texts = [each.text for each in wanted]
            self._size.refused(texts, in_doubt=self._blame.contradicts_itself)

    def _attempt(self, wanted: Sequence[Wanted], run: Run) -> Vectors:
        """Try the first of some texts once, or more often if that tells who is to blame."""
        head = self._blame.going_together(wanted[: self._size.head([each.text for each in wanted])])
        texts = [each.text for each in head]
        try:
            self._calls.expect_time(run.place())
            if self._answers.is_unproven:
                self._blame.expect_well()
        except EmbedderUnavailableError as exc:
            run.mark_failed(exc)
            raise
        run.failing = False
        call = partial(self._calls.make, texts)
        try:
            vectors = call()
        except TextRefusedError as exc:
            vectors = self._blame.judge_refusal(head, run, exc, call)
        except EmbedderUnavailableError as exc:
            if not (exc.retry_after or exc.own_pause) and self._calls.can_be_fewer(exc):
                run.mark_failed(exc)
                raise
            vectors = self._blame.judge_failure(head, run, exc, call)
        self._size.succeeded(texts)
        self._blame.forget_failures(head, run)
        return vectors
