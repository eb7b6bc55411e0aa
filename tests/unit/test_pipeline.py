"""The loop on a scripted stream: what is read, what is recorded, what is confirmed."""

import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from threading import Event, Lock, Thread
from typing import NamedTuple

import pytest

from cdc_embed.embed.base import ModelCard, Vectors
from cdc_embed.embed.hash import HashEmbedder
from cdc_embed.errors import EmbedderUnavailableError
from cdc_embed.flow.confirm import RECORD_STEP
from cdc_embed.flow.limits import Limits
from cdc_embed.lsn import LSN, ZERO, Progress
from cdc_embed.source.stream import Frame
from tests.frames import RELATION, begin, commit, insert, update
from tests.loop import RECORDED, Target, make_pipeline, make_runner
from tests.site import wait_until

SECONDS = 10.0


class Report(NamedTuple):
    received: LSN
    confirmed: LSN
    recorded: LSN
    """The position that the target had recorded when it was reported."""


class Model:
    """An embedder that answers when it is allowed to."""

    def __init__(self) -> None:
        self._hash = HashEmbedder(dimensions=4)
        self.may_answer = Event()
        self.may_answer.set()
        self.asked = Event()
        self.away = False
        self.texts: list[str] = []

    def describe(self) -> ModelCard:
        return self._hash.describe()

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.asked.set()
        assert self.may_answer.wait(SECONDS)
        if self.away:
            raise EmbedderUnavailableError(problem="it is away", reason="server_error")
        self.texts += texts
        return self._hash.embed(texts)

    def embed_query(self, text: str) -> Vectors:
        return self._hash.embed_query(text)

    def close(self) -> None:
        pass


class Script:
    """A stream whose frames the test queues and whose reports it reads."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.frames: deque[tuple[bytes, LSN]] = deque()
        self._lock = Lock()
        self._readable, self._feed = socket.socketpair()
        self.sentinel, self._other_end = socket.socketpair()
        for end in (self._readable, self._feed):
            end.setblocking(False)
        self.heard = RECORDED
        self.read_frames = 0
        self.reports: list[Report] = []

    def fileno(self) -> int:
        return self._readable.fileno()

    def queue(self, heard: int, *payloads: bytes) -> None:
        """Frames that arrive together: one turn of the loop reads all that it may."""
        with self._lock:
            self.frames.extend((payload, LSN(heard)) for payload in payloads)
        self._stir()

    def receive(self, lsn: LSN) -> None:
        """The server sent something up to ``lsn``, with or without a frame."""
        with self._lock:
            self.heard = max(self.heard, lsn)
        self._stir()

    def _stir(self) -> None:
        with suppress(BlockingIOError):  # full, so it is readable anyway
            self._feed.send(b"\0")

    def transaction(self, at: int, *rows: bytes) -> LSN:
        """Queue a whole transaction that commits at ``at``; its end."""
        self.queue(at + 8, begin(at), *rows, commit(at, at + 8))
        return LSN(at + 8)

    def read(self) -> Frame | None:
        with self._lock:
            if not self.frames:
                with suppress(BlockingIOError):
                    self._readable.recv(4096)
                return None
            payload, heard = self.frames.popleft()
        self.receive(heard)
        self.read_frames += 1
        return Frame(payload, heard)

    def may_read(self, _: Progress) -> bool:
        return True

    def needs_record(self, _: Progress) -> bool:
        return False

    def report(self, received: LSN, confirmed: LSN) -> None:
        self.reports.append(Report(received, confirmed, self._target.recorded))

    def check_sentinel(self) -> None:
        raise AssertionError("the sentinel is never readable here")

    @property
    def last(self) -> Report:
        return self.reports[-1] if self.reports else Report(ZERO, ZERO, ZERO)

    def close(self) -> None:
        for end in (self._readable, self._feed, self.sentinel, self._other_end):
            end.close()


class Rig:
    """A pipeline between a script, a model and a target, with its loop in a thread."""

    def __init__(self, memory: int = 1 << 20) -> None:
        self.target, self.model = Target(), Model()
        self.target.may_commit.set()
        self.stream = Script(self.target)
        self.runner = make_runner(self.model)
        limits = Limits(memory=memory, report_interval=0.01)
        self.pipeline = make_pipeline(self.stream, self.target, self.runner, limits)
        self._stop = Event()
        self._loop = Thread(target=self.pipeline.run, args=(self._stop,), daemon=True)
        self.stream.queue(RECORDED, RELATION)
        self._loop.start()

    def stop(self) -> None:
        self._stop.set()
        self.pipeline.wake()
        self._loop.join(SECONDS)
        assert not self._loop.is_alive()

    def wait_for_confirmed(self, lsn: LSN) -> None:
        wait_until(lambda: self.stream.last.confirmed >= lsn, f"{lsn} is confirmed", SECONDS)

    def wait_for_reports(self, more: int) -> list[Report]:
        """The next ``more`` reports."""
        seen = len(self.stream.reports)
        wait_until(lambda: len(self.stream.reports) >= seen + more, "reports go on", SECONDS)
        return self.stream.reports[seen:]

    def wait_until_all_is_read(self) -> None:
        wait_until(lambda: not self.stream.frames, "every frame is read", SECONDS)
        self.wait_for_reports(2)

    def close(self) -> None:
        self.target.may_commit.set()
        self.model.may_answer.set()
        self.model.away = False
        self.stop()
        self.pipeline.close()
        self.runner.close()
        self.stream.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    built = Rig()
    yield built
    built.close()


def test_nothing_is_reported_above_what_is_recorded(rig: Rig) -> None:
    rig.target.may_commit.clear()
    ends = [rig.stream.transaction(0x2000 + 0x100 * n, insert(n, f"{n}")) for n in range(30)]
    rig.wait_until_all_is_read()
    assert {report.confirmed for report in rig.stream.reports} == {RECORDED}
    assert max(report.received for report in rig.stream.reports) == ends[-1]
    rig.target.may_commit.set()
    rig.wait_for_confirmed(ends[-1])
    assert all(report.confirmed <= report.recorded for report in rig.stream.reports)
    confirmed = [report.confirmed for report in rig.stream.reports]
    assert confirmed == sorted(confirmed)
    assert sorted(rig.target.keys, key=int) == [str(number) for number in range(30)]


def test_a_transaction_is_not_confirmed_before_its_commit_came(rig: Rig) -> None:
    rig.stream.queue(0x2000, begin(0x2000), insert(1, "written early"))
    wait_until(lambda: rig.target.keys, "the row is written", SECONDS)
    assert {report.confirmed for report in rig.wait_for_reports(3)} == {RECORDED}
    rig.stream.queue(0x2008 + RECORD_STEP, commit(0x2000, 0x2008))
    rig.wait_for_confirmed(LSN(0x2008))
    assert all(report.confirmed <= report.recorded for report in rig.stream.reports)


def test_idle_progress_is_recorded_in_steps_and_then_reported(rig: Rig) -> None:
    below = LSN(RECORDED + RECORD_STEP - 1)
    rig.stream.receive(below)
    wait_until(lambda: rig.stream.last.received == below, "it is heard", SECONDS)
    assert {report.confirmed for report in rig.wait_for_reports(3)} == {RECORDED}
    assert rig.target.recorded == RECORDED
    rig.stream.receive(LSN(below + 1))
    rig.wait_for_confirmed(LSN(below + 1))
    assert rig.target.recorded == below + 1
    assert all(report.confirmed <= report.recorded for report in rig.stream.reports)


def test_pending_bytes_bound_what_is_read_and_reports_go_on() -> None:
    with closing(Rig(memory=20_000)) as rig:
        rig.model.may_answer.clear()
        end = rig.stream.transaction(0x2000, *(insert(n, f"{n}") for n in range(200)))
        wait_until(lambda: rig.stream.read_frames >= 20, "the memory is full", SECONDS)
        reports = rig.wait_for_reports(5)
        assert {report.confirmed for report in reports} == {RECORDED}
        assert rig.stream.read_frames <= 2 + 20_000 // 1024 + 1
        rig.model.may_answer.set()
        wait_until(lambda: len(rig.target.keys) == 200, "every row is written", SECONDS)
        rig.stream.receive(LSN(end + RECORD_STEP))  # its commit may have come after its last batch
        rig.wait_for_confirmed(end)


def test_a_drain_finishes_batches_and_leaves_others_unconfirmed(rig: Rig) -> None:
    rig.model.may_answer.clear()
    first = rig.stream.transaction(0x2000, insert(1, "in flight"))
    assert rig.model.asked.wait(SECONDS)
    last = rig.stream.transaction(0x3000, insert(2, "pending"))
    rig.wait_until_all_is_read()
    rig.stop()
    rig.model.may_answer.set()
    deadline = time.monotonic() + SECONDS
    assert rig.pipeline.drain(lambda: time.monotonic() > deadline)
    assert rig.target.keys == ["1"]
    assert rig.stream.last == Report(last, first, first)


def test_a_drain_past_its_deadline_says_so_and_confirms_nothing(rig: Rig) -> None:
    rig.model.may_answer.clear()
    rig.stream.transaction(0x2000, insert(1, "in flight"))
    assert rig.model.asked.wait(SECONDS)
    rig.stop()
    assert not rig.pipeline.drain(lambda: True)
    assert rig.stream.last.confirmed <= RECORDED


def test_a_drain_records_idle_progress_below_the_step(rig: Rig) -> None:
    rig.stream.receive(LSN(RECORDED + 16))
    wait_until(lambda: rig.stream.last.received > RECORDED, "it is heard", SECONDS)
    rig.stop()
    deadline = time.monotonic() + SECONDS
    assert rig.pipeline.drain(lambda: time.monotonic() > deadline)
    assert rig.stream.last == Report(*[LSN(RECORDED + 16)] * 3)


def test_a_lost_connection_waits_for_no_embedder(rig: Rig) -> None:
    """Nobody knows what waits in the log: the text in flight is deferred within seconds."""
    rig.model.away = True
    end = rig.stream.transaction(0x2000, insert(1, "in flight"))
    assert rig.model.asked.wait(SECONDS)
    rig.stop()
    deadline = time.monotonic() + SECONDS
    assert rig.pipeline.drain(lambda: time.monotonic() > deadline, connected=False)
    assert (rig.target.recorded, rig.target.keys) == (end, ["1"])
    assert rig.model.texts == []


def test_quick_updates_of_one_row_cost_at_most_two_embeddings(rig: Rig) -> None:
    rig.model.may_answer.clear()
    rig.stream.transaction(0x2000, insert(1, "version 0"))
    assert rig.model.asked.wait(SECONDS)
    for version in range(1, 21):
        end = rig.stream.transaction(0x2000 + 0x100 * version, update(1, f"version {version}"))
    rig.wait_until_all_is_read()
    rig.model.may_answer.set()
    rig.wait_for_confirmed(end)
    assert rig.model.texts[0] == "version 0"
    assert rig.model.texts[-1] == "version 20"
    assert len(rig.model.texts) <= 1 + 2
