"""Ready batches into the target, in order, until each is committed.

Runs in the writer thread. Passing errors are waited out; a commit whose answer was lost is settled
by the batch's number, which its own transaction recorded. Data that the database refuses becomes
dead letters, row by row, so that one row never stops the others.
"""

import time
from dataclasses import dataclass
from typing import Final, Protocol

from cdc_embed.change.batch import RowId
from cdc_embed.change.plan import Action, Annotate, Move, Plan, Refuse, Write
from cdc_embed.errors import TargetRefusedError
from cdc_embed.flow.patience import Patience
from cdc_embed.flow.prepare import Ready
from cdc_embed.lsn import LSN
from cdc_embed.postgres.side import RowRefusedError
from cdc_embed.target.write import Vectors


class Target(Protocol):
    """The part of the store that this room needs."""

    def write(self, plan: Plan, vectors: Vectors, batch_seq: int) -> None: ...
    def refused_rows(self, plan: Plan, vectors: Vectors) -> dict[RowId, str]: ...
    def record(self, lsn: LSN, batch_seq: int) -> None: ...


REFUSED_BY_DATABASE: Final = "database"


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A batch whose effect is committed, and how long its transaction took."""

    ready: Ready
    committed_at: float
    """Unix time."""
    seconds: float


class Writer:
    """Writes the batches of one connection, numbered from the checkpoint's ``batch_seq`` on."""

    def __init__(self, target: Target, patience: Patience, batch_seq: int) -> None:
        self._target = target
        self._patience = patience
        self._batch_seq = batch_seq

    def write(self, ready: Ready) -> Written:
        """Commit a batch, or find that it has nothing to write."""
        began = time.perf_counter()
        if ready.plan.writes:
            self._batch_seq += 1
            self._patience.keep_trying("target", lambda: self._attempt(ready))
        return Written(ready=ready, committed_at=time.time(), seconds=time.perf_counter() - began)

    def record(self, lsn: LSN) -> LSN:
        """Commit progress that no batch recorded."""
        self._patience.keep_trying("target", lambda: self._target.record(lsn, self._batch_seq))
        return lsn

    def _attempt(self, ready: Ready) -> None:
        try:
            self._target.write(ready.plan, ready.vectors, self._batch_seq)
        except RowRefusedError as exc:
            if not self._refuse_rows(ready):
                raise TargetRefusedError(table="batch", problem=str(exc)) from exc
            self._target.write(ready.plan, ready.vectors, self._batch_seq)

    def _refuse_rows(self, ready: Ready) -> bool:
        refused = self._target.refused_rows(ready.plan, ready.vectors)
        for row, error in refused.items():
            fingerprint = _fingerprint(ready.plan.actions[row])
            ready.plan.actions[row] = Refuse(fingerprint, REFUSED_BY_DATABASE, error)
        return bool(refused)


def _fingerprint(action: Action) -> bytes:
    """Of the document whose row the database refuses, with its metadata: it may be either."""
    match action:
        case Write(document, metadata):
            return document.fingerprint + metadata.hash
        case Move(_, fingerprint, metadata):
            return fingerprint + metadata.hash
        case Annotate(metadata, state):
            return state.fingerprint + metadata.hash
    raise AssertionError("only rows with values can be refused")
