"""The loop and a scripted walsender: what is confirmed when a keepalive comes at a bad moment.

The facts behind it are T1 and T2 of CONTRIBUTING.md.
"""

import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from cdc_embed.change.knowledge import State
from cdc_embed.change.plan import Plan, one_chunk
from cdc_embed.change.transaction import Assembler
from cdc_embed.embed.hash import HashEmbedder
from cdc_embed.flow.batches import Workers
from cdc_embed.flow.confirm import RECORD_STEP
from cdc_embed.flow.embedding import EmbeddingRunner
from cdc_embed.flow.examine import Examiner
from cdc_embed.flow.lane import Lane
from cdc_embed.flow.limits import Limits
from cdc_embed.flow.patience import Patience
from cdc_embed.flow.pipeline import ChangeLog, Pipeline
from cdc_embed.flow.prepare import Preparer, StoreReader, VectorSupply
from cdc_embed.flow.telemetry import Telemetry
from cdc_embed.flow.writing import Writer
from cdc_embed.lsn import LSN, ZERO, Progress
from cdc_embed.metrics import Metrics
from cdc_embed.source.stream import Stream
from cdc_embed.wire import pgoutput
from tests.builders import checkpoint
from tests.frames import RELATION, TABLE, begin, commit, insert
from tests.site import PATIENCE, wait_until
from tests.walsender import Walsender

RECORDED = LSN(0x1000)


TYPE = b"Y" + struct.pack(">I", 99) + b"public\0mood\0"
ORIGIN = b"O" + struct.pack(">Q", 0x3000) + b"elsewhere\0"


class Target:
    """A target that commits when it is allowed to."""

    def __init__(self, recorded: LSN) -> None:
        self.may_commit = threading.Event()
        self.recorded = recorded

    def look_up(self, _: Any) -> dict[Any, State]:
        return {}

    def find_donors(self, _: Any) -> set[Any]:
        return set()

    def write(self, plan: Plan, _vectors: Any, _batch_seq: int) -> None:
        assert self.may_commit.wait(4 * PATIENCE)
        self.recorded = max(self.recorded, plan.batch.end_lsn)

    def refused_rows(self, _plan: Plan, _vectors: Any) -> dict[Any, str]:
        return {}

    def record_progress(self, lsn: LSN, _batch_seq: int) -> None:
        self.recorded = max(self.recorded, lsn)


def build(stream: Stream, target: Target, *, end_lsn: LSN = ZERO) -> Pipeline:
    """``end_lsn`` is the end of the last transaction that is recorded."""
    metrics = Metrics(slot="s", tables=[TABLE.full_name], model="hash")
    patience = Patience(threading.Event(), lambda _stage, _error: None)
    embedder = HashEmbedder()
    start = checkpoint(end_lsn=end_lsn, confirmed_lsn=target.recorded)
    store = cast(StoreReader, target)
    runner = EmbeddingRunner(embedder, embedder.describe(), patience, metrics)
    supply = VectorSupply(store, runner, patience)
    return Pipeline(
        log=ChangeLog(
            stream=stream,
            decode=pgoutput.messages,
            assembler=Assembler([TABLE], start, min(target.recorded, RECORDED)),
            progress=Progress(target.recorded),
        ),
        workers=Workers(
            preparer=Preparer(
                store=store,
                read_rows=lambda _table, _keys: {},
                cut=one_chunk,
                supply=supply,
                patience=patience,
            ),
            examiner=Examiner(store=store, cut=one_chunk, supply=supply, patience=patience),
            writer=Writer(target, patience, 0),
        ),
        telemetry=Telemetry(metrics),
        limits=Limits(memory=1 << 20, report_interval=0.05),
        lane=Lane(),
    )


class Rig:
    """The loop at one end of a connection and the script at the other."""

    def __init__(self, server: Walsender, end_lsn: LSN) -> None:
        self.server = server
        self.target = Target(max(end_lsn, RECORDED))
        self.stream = Stream(server.dsn, "s")
        self.stream.start({"proto_version": "1"})
        assert server.streaming.wait(PATIENCE)
        self._pipeline = build(self.stream, self.target, end_lsn=end_lsn)
        self._stop = threading.Event()
        self._loop = threading.Thread(target=self._pipeline.run, args=(self._stop,))

    def run(self) -> None:
        """Start the loop: what was sent until now comes in one piece."""
        self._loop.start()

    def reports(self, count: int = 20) -> list[int]:
        """The flush positions of the next status updates."""
        return [self.server.flushed.get(timeout=PATIENCE) for _ in range(count)]

    def wait_for_confirmed(self, lsn: int) -> None:
        """Until this is confirmed, and nothing on the way that was not recorded."""

        def confirmed() -> bool:
            flushed = self.server.flushed.get(timeout=PATIENCE)
            assert flushed <= self.target.recorded
            return flushed == lsn

        wait_until(confirmed, f"{lsn:X} is confirmed")

    def close(self) -> None:
        self._stop.set()
        self._pipeline.wake()
        self.target.may_commit.set()
        if self._loop.is_alive():
            self._loop.join(10)
        self.stream.close()
        self._pipeline.close()


@contextmanager
def rigged(end_lsn: LSN = ZERO) -> Iterator[Rig]:
    with Walsender() as server:
        rig = Rig(server, end_lsn)
        try:
            yield rig
        finally:
            rig.close()


def send_first_transaction(server: Walsender) -> None:
    """A: a row, its Commit at 0x2000, its end at 0x2100."""
    server.send_frame(0x1800, begin(0x2000))
    server.send_frame(0x1800, RELATION)
    server.send_frame(0x1900, insert("1", "a text that waits for its commit"))
    server.send_frame(0x2100, commit(0x2000, 0x2100))


def test_keepalive_in_older_transaction_confirms_only_the_record() -> None:
    """T1 (a): the recorded position is confirmed; A is delivered and not written; B began before.

    With one cursor for both directions psycopg2 forwards the confirmed position to the
    keepalive's, because a row of B lies before it: A would be lost.
    """
    with rigged() as rig:
        server = rig.server
        rig.run()
        server.send_keepalive(RECORDED, reply=False)
        wait_until(lambda: server.flushed.get(timeout=PATIENCE) == RECORDED, "it is confirmed")
        send_first_transaction(server)
        server.send_frame(0x0E00, begin(0x3000))
        server.send_frame(0x0F00, insert("2", "of an older transaction"))
        server.send_keepalive(0x2F00, reply=True)
        server.send_frame(0x0F80, insert("3", "of the same"))
        wait_until(lambda: rig.stream.heard == 0x0F80, "all of it was read")
        assert max(rig.reports()) <= RECORDED, "A is not committed yet"
        rig.target.may_commit.set()
        server.send_frame(0x3100, commit(0x3000, 0x3100))
        idle = 0x3100 + RECORD_STEP  # its Commit may have come after its last batch
        server.send_keepalive(idle, reply=False)
        rig.wait_for_confirmed(idle)


@pytest.mark.parametrize(
    "beginning",
    [
        [(0x1700, begin(0x3000)), (0, RELATION)],
        [(0x1700, begin(0x3000)), (0, TYPE)],
        [(0, begin(0x3000))],
    ],
    ids=["relation", "type", "begin with an origin"],
)
def test_keepalive_after_frame_without_position_confirms_no_more(
    beginning: list[tuple[int, bytes]],
) -> None:
    """T1 (b): A is delivered and not written; B begins; then the server wants a reply.

    The reading cursor forwards that keepalive to the server by itself, so it must not be read
    before A is durable and the place of the open transaction's commit is recorded.
    """
    with rigged() as rig:
        server = rig.server
        send_first_transaction(server)
        for data_start, frame in beginning:
            server.send_frame(data_start, frame)
        server.send_keepalive(0x2F00, reply=True)
        server.send_frame(0x1740, ORIGIN)
        server.send_frame(0x1750, insert("2", "of the second transaction"))
        server.send_frame(0x3100, commit(0x3000, 0x3100))
        rig.run()
        assert max(rig.reports()) <= RECORDED, "A is not committed yet"
        assert rig.target.recorded == RECORDED
        rig.target.may_commit.set()
        rig.wait_for_confirmed(0x3100)


def test_nothing_is_confirmed_before_the_recorded_commit_returns() -> None:
    """T2: the slot stands before the recorded transaction, so that has to be delivered once more.

    A source that was rolled back to an older state has another transaction there, or none: then
    what is recorded says nothing of its log, and must not move its slot.
    """
    with rigged(end_lsn=LSN(0x2100)) as rig:
        server = rig.server
        server.send_frame(0x0F00, b"M" + struct.pack(">BQ", 0, 0x0F00) + b"anchor\0" + bytes(4))
        rig.run()
        server.send_keepalive(0x1F00, reply=True)
        assert max(rig.reports()) == 0
        send_first_transaction(server)
        rig.wait_for_confirmed(0x2100)
