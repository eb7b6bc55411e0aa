"""Waiting: how long before the next attempt, and that nothing holds up a stop."""

from threading import Event, Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_embed.embed.base import CALL, Call
from cdc_embed.errors import (
    CdcEmbedError,
    EmbedderError,
    EmbedderUnavailableError,
    SourceUnavailableError,
    TargetUnavailableError,
    TextRefusedError,
)
from cdc_embed.flow.patience import (
    FIRST_DELAY,
    LONGEST_ASKED,
    LONGEST_DELAY,
    SLOW_SECONDS,
    AbandonedError,
    Patience,
    Trouble,
    delay,
)


class Waits(Event):
    """An event that notes how long it is waited for, and does not wait."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout)
        return self.is_set()


class Attempts:
    """Fails with each of ``errors`` in turn, then succeeds."""

    def __init__(self, *errors: CdcEmbedError) -> None:
        self.errors = list(errors)
        self.made = 0

    def __call__(self) -> str:
        self.made += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def ignore(_stage: str, _error: CdcEmbedError) -> None:
    pass


def away(retry_after: float | None = None) -> EmbedderUnavailableError:
    return EmbedderUnavailableError(problem="away", retry_after=retry_after)


def test_the_delay_doubles_until_it_is_the_longest() -> None:
    delays = [delay(attempt, 0.5) for attempt in range(40)]
    assert delays[0] == pytest.approx(FIRST_DELAY * 0.75)
    assert delays[1:5] == pytest.approx([2 * before for before in delays[:4]])
    assert delays == sorted(delays)
    assert delays[-1] == pytest.approx(LONGEST_DELAY * 0.75)


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_chance_moves_the_delay_between_half_and_whole(attempt: int, chance: float) -> None:
    least, drawn = delay(attempt, 0.0), delay(attempt, chance)
    assert 0 < least <= drawn <= 2 * least
    assert drawn <= LONGEST_DELAY


@given(st.integers(0, 50), st.floats(0, 1, exclude_max=True), st.floats(0, 1000))
def test_what_the_other_side_asked_for_is_the_least(
    attempt: int, chance: float, asked: float
) -> None:
    assert delay(attempt, chance, asked) == max(min(asked, LONGEST_ASKED), delay(attempt, chance))


def test_what_was_asked_for_in_error_is_not_waited_for() -> None:
    """A day in the year 9999, or milliseconds said as seconds."""
    assert delay(0, 0.5, 2.5e11) == LONGEST_ASKED


def test_a_first_success_waits_for_nothing() -> None:
    waits = Waits()
    assert Patience(waits, ignore).keep_trying("embed", Attempts()) == "done"
    assert waits.seconds == []


@pytest.mark.parametrize(
    "error",
    [away(), SourceUnavailableError(problem="away"), TargetUnavailableError(problem="away")],
)
def test_a_passing_error_is_waited_out(error: CdcEmbedError) -> None:
    waits, heard = Waits(), list[tuple[str, CdcEmbedError]]()
    attempts = Attempts(error, error, error)
    patient = Patience(waits, lambda stage, exc: heard.append((stage, exc)))
    assert patient.keep_trying("stage", attempts) == "done"
    assert attempts.made == 4
    assert len(waits.seconds) == 3
    assert heard == [("stage", error)] * 3


@pytest.mark.parametrize("error", [EmbedderError(problem="key"), TextRefusedError(problem="text")])
def test_any_other_error_is_raised_at_once(error: CdcEmbedError) -> None:
    waits, attempts = Waits(), Attempts(error)
    with pytest.raises(type(error)):
        Patience(waits, ignore).keep_trying("embed", attempts)
    assert (attempts.made, waits.seconds) == (1, [])


def test_a_wait_is_never_shorter_than_retry_after() -> None:
    waits = Waits()
    Patience(waits, ignore).keep_trying("embed", Attempts(away(100.0), away()))
    first, second = waits.seconds
    assert first == 100.0
    assert second is not None
    assert second <= 2 * FIRST_DELAY


def test_trouble_shows_while_it_lasts_and_since_when() -> None:
    patient = Patience(Waits(), ignore)
    seen: list[float] = []

    def attempt() -> None:
        seen.extend(trouble.since for trouble in patient.troubles.values())
        if len(seen) < 2:
            raise away()

    patient.keep_trying("embed", attempt)
    assert seen[0] == seen[1]
    assert patient.troubles == {}


def test_trouble_tells_the_latest_problem_and_the_first_time() -> None:
    abandon = Waits()
    seen: list[Trouble] = []

    def stop_at_third(_stage: str, _error: CdcEmbedError) -> None:
        seen.extend(patient.troubles.values())
        if len(abandon.seconds) == 2:
            abandon.set()

    patient = Patience(abandon, stop_at_third)
    attempts = Attempts(away(), TargetUnavailableError(problem="closed"), away())
    with pytest.raises(AbandonedError):
        patient.keep_trying("embed", attempts)
    assert [trouble.problem for trouble in seen] == ["embedder: away", "target database: closed"]
    assert seen[0].since == seen[1].since
    assert patient.troubles == {}, "nothing is waited for any more"


def test_success_of_one_worker_does_not_end_the_wait_of_another() -> None:
    """Reading a full disk goes well. With one note for both, the age of its trouble began anew."""
    patient = Patience(Waits(), ignore)
    seen: list[dict[str, Trouble]] = []

    def write() -> None:
        patient.keep_trying("target", Attempts())
        seen.append(patient.troubles)
        if len(seen) < 3:
            raise TargetUnavailableError(problem="disk full")

    patient.keep_trying("target", write)
    first, second, third = seen
    assert first == {}
    assert second == third
    assert second["target"].problem == "target database: disk full"


def test_attempt_that_lasts_long_shows_as_waiting() -> None:
    """A statement that waits for a lock raises nothing."""
    now = 1000.0
    patient = Patience(Waits(), ignore, clock=lambda: now)

    def attempt() -> None:
        nonlocal now
        now += SLOW_SECONDS
        assert patient.troubles == {}
        now += 2
        assert patient.troubles == {"target": Trouble("no answer for 32 s", 1000.0 + SLOW_SECONDS)}

    patient.keep_trying("target", attempt)
    assert patient.troubles == {}


def test_a_wait_for_our_own_turn_is_no_wait_for_the_service() -> None:
    """A call that our own rate limit holds back; once it is sent, its seconds count."""
    now, call = 1000.0, Call(Event())
    patient = Patience(Waits(), ignore, clock=lambda: now)

    def attempt() -> None:
        nonlocal now
        call.held = True
        now += 300.0
        assert patient.troubles == {}
        call.held, call.sent_at = False, now
        now += SLOW_SECONDS
        assert patient.troubles == {}
        now += 2
        assert patient.troubles == {"embed": Trouble("no answer for 32 s", 1300.0 + SLOW_SECONDS)}

    token = CALL.set(call)
    patient.keep_trying("embed", attempt)
    CALL.reset(token)


def test_nothing_is_tried_once_the_service_stops() -> None:
    abandon, attempts = Event(), Attempts()
    abandon.set()
    patient = Patience(abandon, ignore)
    with pytest.raises(AbandonedError):
        patient.keep_trying("embed", attempts)
    assert attempts.made == 0


def test_a_stop_ends_a_long_wait_at_once() -> None:
    abandon, failed, ended = Event(), Event(), Event()
    patient = Patience(abandon, lambda _stage, _error: failed.set(), delay=lambda *_: 3600.0)

    def keep_trying() -> None:
        with pytest.raises(AbandonedError):
            patient.keep_trying("embed", Attempts(away()))
        ended.set()

    worker = Thread(target=keep_trying, daemon=True)
    worker.start()
    assert failed.wait(10)
    abandon.set()
    assert ended.wait(10)
    worker.join(10)
