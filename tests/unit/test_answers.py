"""When a service that fails is called again: one call for all batches, after delays that double."""

from threading import Event

import pytest

from cdc_embed.embed.base import Call
from cdc_embed.errors import EmbedderUnavailableError, QuotaSpentError
from cdc_embed.flow.answers import GO_ON_SECONDS, Answers
from cdc_embed.flow.call_size import CallSize
from cdc_embed.flow.going_on import Decision, Waiting
from cdc_embed.flow.patience import LONGEST_ASKED, delay
from cdc_embed.flow.pauses import DOUBT_SECONDS
from cdc_embed.flow.texts import Embedded, Run, Wanted


class Service:
    """Answers at a time that the test sets; the delays have no chance in them."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.answers = Answers(lambda: self.now, lambda tries, asked: delay(tries, 1.0, asked))

    def fail(self, failure: EmbedderUnavailableError | None = None, *texts: str) -> None:
        self.answers.mark_failed(failure or away(), self.now, texts)

    def pause(self, seconds: float, *texts: str) -> None:
        """Have the service ask for time, and after it take the known-good text."""
        self.fail(away(seconds), *texts)
        self.now += seconds
        self.answers.took(self.now)

    def wait(self) -> float | None:
        """Call if it is time; else the seconds until then."""
        try:
            self.answers.expect_time()
        except EmbedderUnavailableError as failure:
            return failure.retry_after
        return None


def away(retry_after: float | None = None) -> EmbedderUnavailableError:
    return EmbedderUnavailableError(
        problem="away", retry_after=retry_after, reason="server_error", overloaded=True
    )


@pytest.fixture
def service() -> Service:
    return Service()


def test_the_delay_doubles_while_a_service_fails(service: Service) -> None:
    waits = []
    for _ in range(10):
        service.fail()
        waits.append(service.wait() or 0.0)
        service.now += waits[-1] + 1e-6
        assert service.wait() is None
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 6.4, 6.4, 6.4])


def test_one_call_asks_for_all_whether_the_service_is_back(service: Service) -> None:
    service.fail()
    service.now += 1.0
    assert service.wait() is None
    assert service.wait() == pytest.approx(0.1), "it looks again whether that call is answered"
    service.answers.took(service.now)
    assert service.wait() is service.wait() is None


def test_a_call_that_hangs_is_followed_by_another(service: Service) -> None:
    service.fail()
    service.now += 1.0
    assert service.wait() is None
    service.now += GO_ON_SECONDS - 0.01
    assert service.wait() is not None
    service.now += 0.02
    assert service.wait() is None


def test_calls_that_fail_together_are_one_failure(service: Service) -> None:
    began = service.now - 2.0
    for _ in range(4):
        service.answers.mark_failed(away(), began)
    assert service.wait() == pytest.approx(0.1)
    assert service.answers.away_since == began


def test_a_success_ends_no_pause_that_is_asked_for(service: Service) -> None:
    service.fail(away(20.0))
    service.answers.took(service.now)
    assert service.wait() == pytest.approx(20.0)
    service.now += 20.0
    assert service.wait() is service.wait() is None


def test_a_pause_has_an_end_whatever_is_asked_for(service: Service) -> None:
    service.fail(away(1e9))
    assert service.wait() == LONGEST_ASKED


def test_what_one_answer_asks_for_is_proven_after_a_minute(service: Service) -> None:
    """Texts were taken just before."""
    service.answers.took(service.now)
    service.fail(away(500.0))
    assert service.wait() == 60.0
    service.now += 60.0
    assert service.wait() is None
    service.fail(away(500.0))
    assert service.wait() == 500.0


@pytest.mark.parametrize(("seconds", "texts"), [(1.0, ("new",)), (300.0, ("old", "new"))])
def test_a_service_that_contradicts_its_pause_stops_no_others(
    service: Service, seconds: float, texts: tuple[str, ...]
) -> None:
    """It takes the known-good text after it, and asks for time at once, or at the same text."""
    service.pause(20.0, "old", "good")
    service.now += seconds
    failure = away(20.0)
    service.fail(failure, *texts)
    assert (failure.retry_after, failure.own_pause) == (None, 20.0)
    assert service.wait() == pytest.approx(0.1)


@pytest.mark.parametrize(("seconds", "texts"), [(6.0, ("new",)), (300.0, ("taken",))])
def test_a_service_is_left_alone_again_when_it_asks_for_it(
    service: Service, seconds: float, texts: tuple[str, ...]
) -> None:
    """Later, and not at texts that it did not take since."""
    service.pause(20.0, "taken")
    service.answers.took(service.now, ["taken"])
    service.now += seconds
    service.fail(away(20.0), *texts)
    assert service.wait() == pytest.approx(20.0)


def test_a_service_that_contradicts_itself_is_doubted_for_long(service: Service) -> None:
    """For minutes after the last time."""
    service.pause(20.0)
    for _ in range(3):
        service.now += 1.0
        service.fail(away(20.0), "a text")
        assert service.wait() == pytest.approx(0.1)
        service.now += DOUBT_SECONDS - 2.0
        service.answers.took(service.now, ["a text"])
    service.now += 3.0
    service.fail(away(20.0), "a text")
    assert service.wait() == pytest.approx(20.0)


def test_a_doubted_service_that_takes_nothing_is_left_alone(service: Service) -> None:
    service.pause(20.0)
    for _ in range(20):
        service.fail(away(20.0))
        if (seconds := service.wait() or 0.0) >= 20.0:
            break
        service.now += seconds + 1e-6
        assert service.wait() is None
    assert 15.0 < service.now - 1020.0 < 25.0
    assert service.wait() == pytest.approx(20.0)


def test_no_money_is_never_doubted(service: Service) -> None:
    service.pause(20.0)
    service.fail(QuotaSpentError(problem="402", retry_after=60.0))
    assert service.wait() == pytest.approx(60.0)


def test_an_older_success_in_a_pause_ends_no_outage(service: Service) -> None:
    """Its call was sent before the one that the service answered with a time."""
    began = service.now
    service.now += 1.0
    service.fail(away(600.0))
    service.now += 1.0
    service.answers.took(began)
    assert service.answers.away_since == began + 1.0
    service.now += 10.0
    assert service.answers.outage
    assert service.wait() == pytest.approx(589.0)


def test_a_call_that_our_own_limit_holds_is_followed_by_none(service: Service) -> None:
    """It asks for all, and will be sent."""
    service.fail()
    service.now += 1.0
    assert service.wait() is None
    call = Call(Event())
    service.answers.begin(call)
    call.held = True
    service.now += 60.0
    assert service.wait() == pytest.approx(0.1)
    call.held = False
    assert service.wait() is None


def test_a_call_that_is_called_off_leaves_its_time_to_others(service: Service) -> None:
    service.fail()
    service.now += 1.0
    assert service.wait() is None
    service.answers.not_sent()
    assert service.wait() is None


def test_a_refusal_lets_the_next_call_find_the_text(service: Service) -> None:
    """It is bisected; that the service is well only a text that it takes can tell."""
    service.fail()
    service.now += 1.0
    for _ in range(3):
        assert service.wait() is None
        service.answers.refused()


def test_who_waits_hears_the_failure_and_blames_no_text(service: Service) -> None:
    service.fail(QuotaSpentError(problem="402", retry_after=60.0, reason="server_error"))
    with pytest.raises(QuotaSpentError, match="quota") as caught:
        service.answers.expect_time()
    failure = caught.value
    assert (failure.reason, failure.lasts, failure.untried) == ("", True, True)


def test_no_known_good_text_asks_in_a_pause(service: Service) -> None:
    run = Run([Wanted(b"1", "text", 1)], Embedded(), CallSize(1), workers=1, most_tokens=None)
    waiting = Waiting(run, lambda: False, service.now)
    service.fail(away(20.0))
    assert waiting.look(service.now + 19.9, service.answers) is Decision.WAIT
    assert waiting.look(service.now + 20.1, service.answers) is Decision.ASK
