"""The loop and a scripted walsender: what is confirmed around a frame without a position."""

import struct
import threading
from typing import Any, cast

import pytest

from cdc_embed.change.document import Table, TableColumn
from cdc_embed.change.knowledge import State
from cdc_embed.change.plan import Plan, one_chunk
from cdc_embed.change.transaction import Assembler
from cdc_embed.embed.hash import HashEmbedder
from cdc_embed.flow.embedding import EmbeddingRunner
from cdc_embed.flow.lane import Lane
from cdc_embed.flow.patience import Patience
from cdc_embed.flow.pipeline import Limits, Pipeline
from cdc_embed.flow.prepare import Preparer, Stock
from cdc_embed.flow.telemetry import Telemetry
from cdc_embed.flow.writing import Writer
from cdc_embed.lsn import LSN, START, ZERO, Checkpoint, Identity, Progress
from cdc_embed.metrics import Metrics
from cdc_embed.source.stream import Stream
from cdc_embed.wire import pgoutput
from tests.site import wait_until
from tests.walsender import Walsender

TABLE = Table(
    schema="public",
    name="t",
    oid=5,
    key=(TableColumn("id", "bigint"),),
    text_columns=("body",),
    template=None,
    embedding_table="t_embedding",
)
HERE = Identity(system_identifier="1", database="d", timeline=1)
RECORDED = LSN(0x1000)
RELATION = (
    b"R" + struct.pack(">I", 5) + b"public\0t\0d" + struct.pack(">H", 2)
    + b"\x01id\0" + struct.pack(">Ii", 20, -1)
    + b"\x00body\0" + struct.pack(">Ii", 25, -1)
)  # fmt: skip


def begin(final: int) -> bytes:
    return b"B" + struct.pack(">QqI", final, 0, 7)


def insert(key: str, body: str) -> bytes:
    values = b"".join(b"t" + struct.pack(">I", len(v)) + v.encode() for v in (key, body))
    return b"I" + struct.pack(">I", 5) + b"N" + struct.pack(">H", 2) + values


def commit(at: int, end: int) -> bytes:
    return b"C" + struct.pack(">BQQq", 0, at, end, 0)


class Target:
    """A target that commits when it is allowed to."""

    def __init__(self) -> None:
        self.may_commit = threading.Event()
        self.recorded = RECORDED

    def look_up(self, _: Any) -> dict[Any, State]:
        return {}

    def find_donors(self, _: Any) -> set[Any]:
        return set()

    def write(self, plan: Plan, _vectors: Any, _batch_seq: int) -> None:
        assert self.may_commit.wait(20)
        self.recorded = max(self.recorded, plan.batch.end_lsn)

    def refused_rows(self, _plan: Plan, _vectors: Any) -> dict[Any, str]:
        return {}

    def record(self, lsn: LSN, _batch_seq: int) -> None:
        self.recorded = max(self.recorded, lsn)


@pytest.fixture
def target() -> Target:
    return Target()


def build(stream: Stream, target: Target) -> Pipeline:
    metrics = Metrics(slot="s", tables=[TABLE.full_name], model="hash")
    patience = Patience(threading.Event(), lambda _stage, _error: None)
    embedder = HashEmbedder()
    checkpoint = Checkpoint(
        slot="s",
        source=HERE,
        target=HERE,
        position=START,
        end_lsn=ZERO,
        confirmed_lsn=RECORDED,
        batch_seq=0,
        epoch=1,
    )
    return Pipeline(
        stream=stream,
        decode=pgoutput.messages,
        assembler=Assembler([TABLE], checkpoint, RECORDED),
        preparer=Preparer(
            stock=cast(Stock, target),
            read_rows=lambda _table, _keys: {},
            cut=one_chunk,
            runner=EmbeddingRunner(embedder, embedder.describe(), patience, metrics),
            patience=patience,
        ),
        writer=Writer(target, patience, 0),
        progress=Progress(RECORDED),
        telemetry=Telemetry(metrics),
        limits=Limits(memory=1 << 20, report_interval=0.05),
        lane=Lane(),
    )


def test_keepalive_after_a_relation_message_confirms_nothing_that_is_not_recorded(
    target: Target,
) -> None:
    """T1 b: A is delivered and not written; a Relation follows; then the server wants a reply.

    The reading cursor forwards that keepalive to the server by itself, so it must not be read
    before A is durable and the place of the open transaction's commit is recorded.
    """
    with Walsender() as server:
        stream = Stream(server.dsn, "s")
        stream.start({"proto_version": "1"})
        assert server.streaming.wait(5)
        pipeline = build(stream, target)
        stop = threading.Event()
        loop = threading.Thread(target=pipeline.run, args=(stop,))
        server.send_frame(0x1800, begin(0x2000))
        server.send_frame(0x1800, RELATION)
        server.send_frame(0x1900, insert("1", "a text that waits for its commit"))
        server.send_frame(0x2100, commit(0x2000, 0x2100))
        server.send_frame(0x1700, begin(0x3000))
        server.send_frame(0, RELATION)
        server.send_keepalive(0x2F00, reply=True)
        server.send_frame(0x1750, insert("2", "of the second transaction"))
        server.send_frame(0x3100, commit(0x3000, 0x3100))
        loop.start()
        reports = [server.flushed.get(timeout=5) for _ in range(20)]
        assert max(reports) <= RECORDED, "A is not committed yet"
        assert target.recorded == RECORDED
        target.may_commit.set()

        def confirmed() -> bool:
            flushed = server.flushed.get(timeout=5)
            assert flushed <= target.recorded
            return flushed == 0x3100

        wait_until(confirmed, "everything is confirmed", 10)
        stop.set()
        pipeline.wake()
        loop.join(10)
        stream.close()
        pipeline.close()
