"""The exit code of ``run`` after a signal: 130 for an interrupt, 0 for a request to end."""

import signal
import urllib.error

import pytest

from tests.site import EmbeddingServer, RunningService, Site, wait_until

CODES = [(signal.SIGINT, 130), (signal.SIGTERM, 0)]


@pytest.mark.parametrize(("number", "code"), CODES)
def test_a_signal_has_its_exit_code(site: Site, number: int, code: int) -> None:
    with site.service(process=True) as service:
        site.sql("insert into documents values (1, 'a')")
        service.process.send_signal(number)
        assert service.wait() == code
    assert "Traceback" not in "".join(service.output)


def has_heard(service: RunningService) -> bool:
    """Whether the service drains, or has ended already: it waits for no call that tries it out."""
    try:
        return bool(service.status()["state"] == "draining")
    except urllib.error.URLError:
        return True


@pytest.mark.parametrize("tried", [pytest.param(True, marks=pytest.mark.long), False])
@pytest.mark.parametrize(("number", "code"), CODES)
def test_a_second_signal_keeps_the_exit_code_of_the_first(
    site: Site, embedding_server: EmbeddingServer, number: int, code: int, *, tried: bool
) -> None:
    """A batch hangs, or the call that tries the embedder out before it."""
    site.configure(embedder=f"{embedding_server.configuration}\ndimensions = 384\ntimeout = '60s'")
    site.cli("setup", "--rebuild")
    embedding_server.faults(hang=0 if tried else 60)
    with site.service(process=True) as service:
        embedding_server.faults(hang=60)
        site.sql("insert into documents values (1, 'a')")
        wait_until(lambda: embedding_server.counts()["in_flight"], "a call hangs")
        service.process.send_signal(number)
        wait_until(lambda: has_heard(service), "it heard the first")
        service.process.send_signal(signal.SIGTERM)
        assert service.wait() == code
