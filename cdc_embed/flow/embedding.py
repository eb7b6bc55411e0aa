"""The way from texts to vectors, through every failure of the embedder.

Takes the distinct texts of a batch and returns for each a vector, a refusal, or that it is not
taken now. Transient failures are waited out, with fewer texts if they can be too many; a refused
call is bisected until the text that can be to blame stands alone (``blame``).

Nothing else waits for a text for more than 5 s. A text at which the service fails alone, while it
is well, is left at the second failure. The texts of a batch that makes no progress are left if the
service takes others meanwhile. In an outage they are left if something else waits or can, in the
batch or behind it. A batch of nothing but texts, with nothing but new rows behind it, waits for as
long as it takes, because the log is the better queue. The texts that are left are deferred
(``reconcile/deferred.py``).
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from functools import partial
from math import inf
from threading import get_ident
from typing import Final

from cdc_embed.embed.base import Embedder, ModelCard, Vectors, check_vectors
from cdc_embed.errors import EmbedderUnavailableError, TextRefusedError
from cdc_embed.flow.blame import Blame, FailsAloneError, RefusedCallError
from cdc_embed.flow.call_size import CallSize
from cdc_embed.flow.going_on import GO_ON_SECONDS, Answers, OthersWait, Step, Waiting
from cdc_embed.flow.patience import AbandonedError, Patience
from cdc_embed.flow.rate import Rate
from cdc_embed.flow.texts import Embedded, Kept, Run, Wanted
from cdc_embed.metrics import Metrics

POLL_SECONDS: Final = 0.05
"""The time between two looks whether something else waits for the texts of a batch."""

TOO_LONG: Final = "too_long"


class EmbeddingRunner:
    """Runs one embedder for one service."""

    def __init__(
        self,
        embedder: Embedder,
        card: ModelCard,
        patience: Patience,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._embedder = embedder
        self._card = card
        self._patience = patience
        self._metrics = metrics
        # one more: what is deferred is embedded beside the stream
        self._executor = ThreadPoolExecutor(card.concurrency + 1, thread_name_prefix="embed")
        self._clock = clock
        self._size = CallSize(card.max_texts, clock=clock)
        self._blame = Blame(self._call, self._size, clock)
        self._answers = Answers(clock)
        self.kept = Kept(card.dimensions)
        self.rate = Rate()

    @property
    def least_texts(self) -> int:
        """The number of texts that a batch can always hold: fewer would not make a call quicker."""
        return 16 if self._card.concurrency == 1 else self._card.concurrency * 64

    @property
    def outage(self) -> bool:
        """The embedder takes nothing, for so long that it is not only slow."""
        return self._answers.outage

    def close(self) -> None:
        """Release the workers; the owner closes the embedder."""
        self._executor.shutdown(wait=False, cancel_futures=True)

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
        result.vectors |= self.kept.take(texts.keys() - result.untaken.keys())
        known = result.vectors.keys() | result.untaken.keys()
        wanted = self._refuse_long({d: t for d, t in texts.items() if d not in known}, result)
        if not wanted:
            return result
        run = Run(wanted, result, self._size, self._card)
        began = self._clock()
        workers = 1 if others_wait is None else min(run.calls, self._card.concurrency)
        futures = [self._executor.submit(self._work, run) for _ in range(workers)]
        self._wait_for(run, futures, others_wait)
        characters = sum(len(each.text) for each in wanted if each.digest in result.vectors)
        self.rate.measured(characters, self._clock() - began)
        self._blame.count(result)
        return result

    def _wait_for(
        self, run: Run, futures: Sequence[Future[None]], others_wait: OthersWait | None
    ) -> None:
        """Wait until every text is settled, or until it is time to go on without some."""
        waiting = Waiting(run, others_wait, self._clock())
        while wait(futures, POLL_SECONDS, FIRST_EXCEPTION).not_done:
            if self._patience.abandoned or any(f.done() and f.exception() for f in futures):
                run.give_up(away=True)
                break
            step = waiting.look(self._clock(), self._answers)
            if step is Step.LEAVE:
                self._leave(run, away=waiting.away)
                return
            if step is Step.ASK:
                self._executor.submit(self._blame.is_well)
        for future in futures:
            if future.done():
                future.result()
        if run.over.is_set():
            raise AbandonedError

    def _leave(self, run: Run, *, away: bool) -> None:
        """Leave what is not settled; calls that are too slow become smaller."""
        run.give_up(away=away)
        if away:  # its calls can hang without a failure
            self._answers.away(GO_ON_SECONDS)
        for texts in list(run.calling.values()):
            if len(texts) > 1:
                self._size.failed(texts)

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
        while part := run.take():
            self._embed_part(part, run)

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
            vectors = self._patience.keep_trying("embed", attempt, run.over)
        except RefusedCallError as refused:
            if refused.texts == 1:
                run.refuse(wanted[0].digest, refused.refusal)
            else:
                self._embed_halves(wanted[: refused.texts], run)
            return refused.texts
        except FailsAloneError as exc:
            run.leave(wanted[0].digest, str(exc))
            return 1
        except EmbedderUnavailableError:  # nobody waits for it any more
            return len(wanted)
        embedded = {each.digest: vector for each, vector in zip(wanted, vectors, strict=False)}
        if not run.embedded(embedded):
            self.kept.keep(embedded)
        return len(vectors)

    def _embed_halves(self, wanted: Sequence[Wanted], run: Run) -> None:
        """Find out whether one of these texts was refused, or their number; not while the service
        refuses what it takes."""
        contradictions = self._blame.contradictions
        middle = len(wanted) // 2
        self._embed_part(wanted[:middle], run)
        self._embed_part(wanted[middle:], run)
        taken = all(each.digest in run.result.vectors for each in wanted)
        if taken and self._blame.contradictions == contradictions:
            texts = [each.text for each in wanted]
            self._size.refused(texts, in_doubt=self._blame.is_of_two_minds)

    def _attempt(self, wanted: Sequence[Wanted], run: Run) -> Vectors:
        """Try the first of some texts once, or more often if that tells who is to blame."""
        head = wanted[: self._size.head([each.text for each in wanted])]
        self._expect_no_pause(run)
        call = partial(self._call_for, run, head)
        try:
            vectors = call()
        except TextRefusedError as exc:
            vectors = self._blame.judge_refusal(head, run, exc, call)
        except EmbedderUnavailableError as exc:
            self._blame.judge_failure(head, run, exc)
            raise
        self._size.succeeded([each.text for each in head])
        self._blame.acquit(head, run)
        return vectors

    def _expect_no_pause(self, run: Run) -> None:
        """Raise while the service asks not to be called: that says nothing of these texts."""
        try:
            self._answers.expect_no_pause()
        except EmbedderUnavailableError as exc:
            run.failed(exc)
            raise

    def _call_for(self, run: Run, head: Sequence[Wanted]) -> Vectors:
        """Call the embedder with these texts, and have it known meanwhile that they are in it."""
        texts = [each.text for each in head]
        run.failing = False
        run.calling[get_ident()] = texts
        try:
            return self._call(texts)
        finally:
            run.calling.pop(get_ident(), None)

    def _call(self, texts: list[str]) -> Vectors:
        """Call the embedder once; measure and check the answer."""
        began = time.perf_counter()
        outcome = "failed"
        asked_at = self._answers.asked()
        try:
            vectors = self._embedder.embed(texts)
            check_vectors(vectors, len(texts), self._card.dimensions)
            outcome = "ok"
            self._answers.took(asked_at)
        except EmbedderUnavailableError as exc:
            outcome = "unavailable"
            self._answers.failed(exc)
            raise
        except TextRefusedError:
            outcome = "refused"
            raise
        finally:
            self._metrics.embed_requests.labels(outcome).inc()
            self._metrics.embed_request_duration.observe(time.perf_counter() - began)
            self._metrics.embed_batch_documents.observe(len(texts))
        self._metrics.embed_texts.labels("model").inc(len(texts))
        return vectors
