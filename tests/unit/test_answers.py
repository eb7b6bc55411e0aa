"""When a service that fails is called again: one call for all batches, after delays that double."""

import pytest

from cdc_embed.errors import EmbedderUnavailableError, QuotaSpentError
from cdc_embed.flow.answers import GO_ON_SECONDS, Answers
from cdc_embed.flow.call_size import CallSize
from cdc_embed.flow.going_on import Decision, Waiting
from cdc_embed.flow.patience import LONGEST_ASKED, delay
from cdc_embed.flow.texts import Embedded, Run, Wanted


class Service:
    """Answers at a time that the test sets; the delays have no chance in them."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.answers = Answers(lambda: self.now, lambda tries, asked: delay(tries, 1.0, asked))

    def fail(self, failure: EmbedderUnavailableError | None = None) -> None:
        self.answers.failed(failure or away(), self.now)

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
        service.answers.failed(away(), began)
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
