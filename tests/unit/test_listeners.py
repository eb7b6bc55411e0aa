"""Listeners: called in order, from one thread, and never in the way."""

import threading
from collections.abc import Iterator, Sequence
from threading import Event

import pytest

from cdc_embed.flow.telemetry import Committed
from cdc_embed.metrics import Metrics
from cdc_embed.service.listeners import Listeners
from cdc_embed.service.tolerance import Tolerance

SECONDS = 10.0


def rows(*names: str) -> list[Committed]:
    return [
        Committed(
            table="public.t",
            key={"id": name},
            op="write",
            commit_lsn=None,
            committed_at=None,
            seconds=None,
        )
        for name in names
    ]


def names(committed: Sequence[Committed]) -> str:
    return "".join(str(row.key["id"]) for row in committed)


class Slow:
    """A listener that returns when it may."""

    def __init__(self) -> None:
        self.heard = ""
        self.called = Event()
        self.may_return = Event()

    def __call__(self, committed: Sequence[Committed]) -> None:
        self.called.set()
        assert self.may_return.wait(SECONDS)
        self.heard += names(committed)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(slot="s", tables=[], model="m")


@pytest.fixture
def slow() -> Iterator[Slow]:
    listener = Slow()
    yield listener
    listener.may_return.set()


def dropped(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("cdc_embed_listener_rows_dropped_total")


def test_without_a_listener_there_is_no_thread(metrics: Metrics) -> None:
    before = threading.active_count()
    listeners = Listeners([], metrics)
    listeners.tell(rows("1"))
    assert listeners.told
    assert threading.active_count() == before
    listeners.close()


def test_every_listener_hears_every_commit_in_order(metrics: Metrics) -> None:
    heard: list[str] = []
    first = lambda committed: heard.append(f"first {names(committed)}")  # noqa: E731
    second = lambda committed: heard.append(f"second {names(committed)}")  # noqa: E731
    listeners = Listeners([first, second], metrics)
    listeners.tell(rows("1", "2"))
    listeners.tell(rows("3"))
    assert listeners.wait(SECONDS)
    assert heard == ["first 12", "second 12", "first 3", "second 3"]
    listeners.close()


def test_a_listener_that_wants_the_process_to_end_ends_no_thread(metrics: Metrics) -> None:
    """``sys.exit`` in a thread ends it without a word, and then nobody hears of anything."""
    heard: list[str] = []

    def leave(_: Sequence[Committed]) -> None:
        raise SystemExit(1)

    listeners = Listeners([leave, lambda committed: heard.append(names(committed))], metrics)
    for name in ("1", "2"):
        listeners.tell(rows(name))
    assert listeners.wait(SECONDS)
    assert heard == ["1", "2"]
    assert metrics.registry.get_sample_value("cdc_embed_listener_errors_total") == 2
    listeners.close()


def test_telling_waits_for_no_listener(metrics: Metrics, slow: Slow) -> None:
    listeners = Listeners([slow], metrics)
    for name in "123":
        listeners.tell(rows(name))
    assert not listeners.told
    assert listeners.problem == ""
    slow.may_return.set()
    assert listeners.wait(SECONDS)
    assert slow.heard == "123"
    listeners.close()


def test_rows_beyond_the_bound_are_dropped_until_there_is_room(
    metrics: Metrics, slow: Slow
) -> None:
    listeners = Listeners([slow], metrics, Tolerance(waiting_rows=2))
    listeners.tell(rows("1"))
    assert slow.called.wait(SECONDS)
    listeners.tell(rows("2", "3"))
    listeners.tell(rows("4", "5"))
    assert dropped(metrics) == 2
    assert "too slow" in listeners.problem
    slow.may_return.set()
    assert listeners.wait(SECONDS)
    assert listeners.problem == ""
    listeners.tell(rows("6"))
    assert listeners.wait(SECONDS)
    assert slow.heard == "1236"
    assert dropped(metrics) == 2
    listeners.close()


def test_a_listener_that_hangs_does_not_hold_the_end(metrics: Metrics, slow: Slow) -> None:
    listeners = Listeners([slow], metrics, Tolerance(hanging_listener=0.01))
    listeners.tell(rows("1"))
    assert slow.called.wait(SECONDS)
    listeners.close()
    assert not listeners.told
    assert listeners._thread.daemon
