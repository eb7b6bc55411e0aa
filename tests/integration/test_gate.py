"""The loop and a scripted walsender: what is confirmed when a keepalive comes at a bad moment.

The facts behind it are T1 and T2 of CONTRIBUTING.md.
"""

import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cdc_embed.embed.hash import HashEmbedder
from cdc_embed.flow.confirm import RECORD_STEP
from cdc_embed.flow.limits import Limits
from cdc_embed.lsn import LSN, ZERO
from cdc_embed.rotation import Login
from cdc_embed.source.stream import Stream
from tests.frames import RELATION, begin, commit, insert
from tests.loop import RECORDED, Target, make_pipeline, make_runner
from tests.site import PATIENCE, wait_until
from tests.walsender import Walsender

TYPE = b"Y" + struct.pack(">I", 99) + b"public\0mood\0"
ORIGIN = b"O" + struct.pack(">Q", 0x3000) + b"elsewhere\0"


class Rig:
    """The loop at one end of a connection and the script at the other."""

    def __init__(self, server: Walsender, end_lsn: LSN) -> None:
        self.server = server
        self.target = Target(max(end_lsn, RECORDED))
        self.stream = Stream(Login(server.dsn), "s")
        self.stream.start_replication({"proto_version": "1"})
        assert server.streaming.wait(PATIENCE)
        self._runner = make_runner(HashEmbedder())
        limits = Limits(memory=1 << 20, report_interval=0.05)
        self._pipeline = make_pipeline(
            self.stream, self.target, self._runner, limits, end_lsn=end_lsn
        )
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
        self._runner.close()


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
