"""The loop between a scripted stream and a target in memory, for tests of what it confirms."""

from threading import Event
from typing import Any, Final, cast

from cdc_embed.change.action import RowRefusal
from cdc_embed.change.knowledge import State
from cdc_embed.change.plan import Plan, one_chunk
from cdc_embed.change.transaction import Assembler
from cdc_embed.embed.base import Embedder
from cdc_embed.flow.batches import Workers
from cdc_embed.flow.embedding import EmbeddingRunner
from cdc_embed.flow.examine import Examiner
from cdc_embed.flow.lane import Lane
from cdc_embed.flow.limits import Limits
from cdc_embed.flow.patience import Patience
from cdc_embed.flow.pipeline import ChangeLog, Frames, Pipeline
from cdc_embed.flow.prepare import Preparer
from cdc_embed.flow.supply import StoreReader, VectorSupply
from cdc_embed.flow.telemetry import Telemetry
from cdc_embed.flow.writing import Writer
from cdc_embed.lsn import LSN, ZERO, Progress
from cdc_embed.metrics import Metrics
from cdc_embed.wire import pgoutput
from tests.builders import checkpoint
from tests.frames import TABLE

RECORDED: Final = LSN(0x1000)
"""The position of the slot at the start."""
COMMIT_SECONDS: Final = 120.0
"""Seconds after which a commit that may not end fails its test."""


class Target:
    """A target that commits when it is allowed to."""

    def __init__(self, recorded: LSN = RECORDED) -> None:
        self.may_commit = Event()
        self.recorded = recorded
        self.keys: list[str] = []

    def look_up(self, _: Any) -> dict[Any, State]:
        return {}

    def find_donors(self, _: Any) -> set[Any]:
        return set()

    def write(self, plan: Plan, _vectors: Any, _batch_seq: int) -> None:
        assert self.may_commit.wait(COMMIT_SECONDS)
        self.keys += [key[0] for _, key in plan.actions]
        self.record_progress(plan.batch.end_lsn)

    def refused_rows(self, _plan: Plan, _vectors: Any) -> dict[Any, RowRefusal]:
        return {}

    def record_progress(self, lsn: LSN, _batch_seq: int = 0) -> None:
        self.recorded = max(self.recorded, lsn)


def make_runner(embedder: Embedder) -> EmbeddingRunner:
    """Make the runner of a model; the caller closes it."""
    return EmbeddingRunner(embedder, _patience(), _metrics())


def make_pipeline(
    stream: Frames,
    target: Target,
    runner: EmbeddingRunner,
    limits: Limits,
    *,
    end_lsn: LSN = ZERO,
) -> Pipeline:
    """Make the loop of one connection; ``end_lsn`` ends the last transaction that is recorded."""
    patience = _patience()
    store = cast(StoreReader, target)
    supply = VectorSupply(store, runner, patience)
    start = checkpoint(end_lsn=end_lsn, confirmed_lsn=target.recorded)
    return Pipeline(
        log=ChangeLog(
            stream=stream,
            decode=pgoutput.messages,
            assembler=Assembler([TABLE], start, RECORDED),
            progress=Progress(target.recorded),
        ),
        workers=Workers(
            preparer=Preparer(
                store=store,
                read_rows=lambda _table, _keys: {},
                cut=one_chunk,
                supply=supply,
            ),
            examiner=Examiner(store=store, cut=one_chunk, supply=supply, patience=patience),
            writer=Writer(target, patience, 0),
        ),
        telemetry=Telemetry(_metrics()),
        limits=limits,
        lane=Lane(),
    )


def _patience() -> Patience:
    return Patience(Event(), lambda _stage, _error: None)


def _metrics() -> Metrics:
    return Metrics(slot="s", tables=[TABLE.full_name], model="hash")
