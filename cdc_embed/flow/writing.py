"""The writer, which brings prepared batches into the target, in order, until each is committed.

Runs in the writer thread. Passing errors are waited out; a commit whose answer was lost is settled
by the batch's number, which its own transaction recorded. A batch that cannot be written as it was
prepared (a donor is gone, the database refuses a row) changes nothing. The loop has it, and all
that were prepared upon it, prepared again.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from cdc_embed.change.action import Refuse, RowRefusal
from cdc_embed.change.batch import RowId
from cdc_embed.change.plan import Plan
from cdc_embed.errors import TargetRefusedError
from cdc_embed.flow.patience import Patience
from cdc_embed.flow.supply import Prepared
from cdc_embed.lsn import LSN
from cdc_embed.postgres.side import RowRefusedError
from cdc_embed.target.write import MissingDonorError, Vectors


class Target(Protocol):
    """The part of the store that is written."""

    def write(self, plan: Plan, vectors: Vectors, batch_seq: int) -> None: ...
    def refused_rows(self, plan: Plan, vectors: Vectors) -> dict[RowId, RowRefusal]: ...
    def record_progress(self, lsn: LSN, batch_seq: int) -> None: ...


class OutdatedPlanError(Exception):
    """The batch, or one before it, cannot be written as it was prepared; nothing was written."""

    def __init__(
        self, letters: Mapping[RowId, Refuse] | None = None, embedding_table: str = ""
    ) -> None:
        super().__init__("the target is not as the plan took it to be")
        self.letters = dict(letters or {})
        """The letters of the rows that the database refuses."""
        self.embedding_table = embedding_table
        """The table that is not as the plan took it to be, if it is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A committed transaction: when, and how long it took."""

    committed_at: float
    """The Unix time of the commit."""
    seconds: float


class Writer:
    """Writes the batches of one connection, numbered from the checkpoint's ``batch_seq`` on."""

    def __init__(self, target: Target, patience: Patience, batch_seq: int) -> None:
        self._target = target
        self._patience = patience
        self._batch_seq = batch_seq
        self._outdated = 0

    def write(self, prepared: Prepared, generation: int) -> Written:
        """Commit a batch, or find that it has nothing to write.

        ``generation`` counts how often batches had to be prepared again. After a batch
        that failed, for whatever reason, all of its generation raise ``OutdatedPlanError``.
        """
        if generation <= self._outdated:
            raise OutdatedPlanError
        began = time.perf_counter()
        if prepared.plan.writes:
            try:
                self._patience.keep_trying("target", partial(self._attempt, prepared))
            except BaseException:
                self._outdated = generation  # whatever was prepared upon it rests on nothing
                raise
            self._batch_seq += 1
        return Written(committed_at=time.time(), seconds=time.perf_counter() - began)

    def record_progress(self, lsn: LSN) -> LSN:
        """Commit progress that no batch recorded."""
        self._patience.keep_trying(
            "target", lambda: self._target.record_progress(lsn, self._batch_seq)
        )
        return lsn

    def _attempt(self, prepared: Prepared) -> None:
        plan, vectors = prepared.plan, prepared.vectors
        try:
            self._target.write(plan, vectors, self._batch_seq + 1)
        except MissingDonorError as exc:
            raise OutdatedPlanError(embedding_table=exc.embedding_table) from exc
        except RowRefusedError as exc:
            refused = self._refused_rows(plan, vectors)
            if not refused:
                raise TargetRefusedError(table="batch", problem=str(exc)) from exc
            raise OutdatedPlanError(plan.letters(refused)) from exc

    def _refused_rows(self, plan: Plan, vectors: Vectors) -> dict[RowId, RowRefusal]:
        try:
            return self._target.refused_rows(plan, vectors)
        except MissingDonorError as exc:
            raise OutdatedPlanError(embedding_table=exc.embedding_table) from exc
