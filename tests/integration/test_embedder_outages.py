"""An embedding service that is away for a while: nothing is lost, and nobody has to help."""

import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from structlog.testing import capture_logs

from cdc_embed.service import Tolerance, load_config, running
from tests.embedder_site import (
    ALWAYS,
    expect_nothing_beyond,
    insert,
    letters,
    ready,
    stored,
    wait_for_trouble,
)
from tests.invariant import confirmed, recorded
from tests.quiet import let_pass
from tests.site import (
    DOCUMENTS,
    EmbeddingServer,
    Site,
    wait_until,
)


@pytest.fixture
def faulty(make_site: Callable[..., Site], embedding_server: EmbeddingServer) -> Site:
    return ready(make_site(18), embedding_server)


@pytest.mark.parametrize("seconds", [5, pytest.param(60, marks=pytest.mark.long)])
def test_an_outage_under_load_loses_no_change_and_no_connection(
    faulty: Site, embedding_server: EmbeddingServer, seconds: int
) -> None:
    """The connection outlives several of the server's timeouts (10 s) in the long version. Not
    ready after half a minute, ready again by itself. Deletes wait for nothing, so after 5 s the
    texts beside them are deferred."""
    site, server = faulty, embedding_server
    with site.service() as service:
        insert(site, 1, 50)
        service.settle()
        server.faults(fail_next=ALWAYS, status=500)
        until, number = time.monotonic() + seconds, 0
        readiness = set()
        while time.monotonic() < until:
            number += 1
            insert(site, 100 * number, 20)
            site.sql("update documents set body = body || '!' where id % 7 = 1")
            site.sql("delete from documents where id % 100 = 19")
            assert confirmed(site) <= recorded(site)
            readiness.add(service.readiness()[0])
            let_pass(0.2)
        assert readiness == ({200} if seconds < 30 else {200, 503})
        assert letters(site) == 0
        server.faults()
        service.settle(60)
        assert site.drift() == []
        assert letters(site) == 0
        assert service.readiness()[0] == 200
        assert service.metric("cdc_embed_reconnects_total") == 0
        assert service.metric("cdc_embed_dead_letters_total") == 0


@pytest.mark.long
def test_a_call_hanging_three_timeouts_loses_no_connection(
    make_site: Callable[..., Site], embedding_server: EmbeddingServer
) -> None:
    """With the server's usual timeout; a short case of it always runs:
    ``test_embedder_hanging_three_timeouts_costs_no_connection``."""
    site = ready(make_site(18), embedding_server)
    site.config_path.write_text(site.config_path.read_text().replace('"1s"', '"2m"'))
    with site.service() as service:
        embedding_server.faults(hang=32.0)
        end = insert(site, 1, 100)
        wait_until(lambda: embedding_server.counts()["in_flight"], "it hangs")
        for _ in range(30):
            expect_nothing_beyond(site, end)
            let_pass(1)
        service.settle(60)
        assert service.metric("cdc_embed_reconnects_total") == 0
        assert site.drift() == []


def test_a_long_outage_is_told_by_readiness_until_it_is_over(
    faulty: Site, embedding_server: EmbeddingServer
) -> None:
    """In this process, so that half a minute can be a moment; the real one has the long test."""
    half_a_second = Tolerance(long_trouble=0.5)
    with (
        capture_logs() as logs,
        running(load_config(faulty.config_path), serve=True, tolerance=half_a_second) as service,
        service.background(),
    ):
        port = next(entry["port"] for entry in logs if entry["event"] == "serving")

        def ready() -> int:
            return httpx2.get(f"http://127.0.0.1:{port}/readyz").status_code

        wait_until(lambda: ready() == 200, "it leads")
        embedding_server.faults(fail_next=ALWAYS, status=500)
        insert(faulty, 1, 1)
        wait_until(lambda: ready() == 503, "it is not ready")
        # whoever asks is told the stage; the words of the service are for /status
        assert httpx2.get(f"http://127.0.0.1:{port}/readyz").text == "waiting: embed\n"
        assert "500" in httpx2.get(f"http://127.0.0.1:{port}/status").json()["waiting"]["embed"]
        assert httpx2.get(f"http://127.0.0.1:{port}/livez").status_code == 200
        embedding_server.faults()
        wait_until(lambda: ready() == 200, "it is ready again")
    assert faulty.drift() == []


def test_a_start_goes_on_without_a_slow_embedder(
    faulty: Site, embedding_server: EmbeddingServer
) -> None:
    """Vectors are stored, so a delete need not wait for the trial."""
    with faulty.service() as service:
        insert(faulty, 1, 2)
        service.settle()
        assert service.stop() == 0
    embedding_server.faults(hang=30.0)
    with faulty.service(tolerance=Tolerance(slow_trial=0.3)) as service:
        assert "no answer for" in service.logged("waiting")["problem"]
        faulty.sql("delete from documents where id = 1")
        wait_until(lambda: stored(faulty) == 1, "the delete does not wait")
        embedding_server.faults()
        insert(faulty, 3, 1)
        service.settle(60)
        assert faulty.drift() == []
        assert service.stop() == 0


def test_an_embedder_that_dies_and_returns_loses_no_request(
    make_site: Callable[..., Site],
) -> None:
    with EmbeddingServer() as first:
        site = ready(make_site(18), first)
        running = site.service()
        service = running.__enter__()
        first.faults(hang=30.0)
        end = insert(site, 1, 100)
        wait_until(lambda: first.counts()["in_flight"], "a request is in flight")
    try:
        wait_for_trouble(service)
        expect_nothing_beyond(site, end)
        with EmbeddingServer("--port", str(first.port)):
            service.settle()
            assert site.drift() == []
            assert letters(site) == 0
            assert service.stop() == 0
    finally:
        running.__exit__(None, None, None)


@pytest.mark.parametrize(
    "fault", [{"fail_next": ALWAYS, "retry_after": 3600.0}, {"hang": 3600.0}], ids=["500", "hang"]
)
def test_a_stop_within_an_outage_ends_in_time_and_loses_nothing(
    make_site: Callable[..., Site], embedding_server: EmbeddingServer, fault: dict[str, Any]
) -> None:
    """Without giving up the call that hangs the stop would take its ten minutes."""
    limits = '[limits]\ndrain_timeout = "2s"\n'
    site = ready(make_site(18), embedding_server, more=limits)
    site.config_path.write_text(site.config_path.read_text().replace('"1s"', '"10m"'))
    with site.service(process=True) as service:
        insert(site, 1, 5)
        service.settle()
        asked = embedding_server.counts()["requests"]
        embedding_server.faults(**fault)
        end = insert(site, 6, 100)
        wait_until(lambda: embedding_server.counts()["requests"] > asked, "it is asked")
        assert service.stop() == 0
    assert stored(site) == 5
    expect_nothing_beyond(site, end)
    site.wait_for_free_slot()
    embedding_server.faults()
    with site.service() as service:
        service.settle()
        assert site.drift() == []
        assert letters(site) == 0


def test_a_drain_finishes_requests_if_the_embedder_returns(
    make_site: Callable[..., Site], embedding_server: EmbeddingServer
) -> None:
    together = 'linger = "1s"'  # one batch: what is not in flight stays behind
    site, server = ready(make_site(18), embedding_server, together), embedding_server
    with site.service() as service:
        service.wait_for("reconciled")
        server.faults(fail_next=ALWAYS, status=503)
        insert(site, 1, 20)
        wait_for_trouble(service)
        service.ask_to_stop()
        wait_until(lambda: service.status()["state"] == "draining", "it drains")
        server.faults()
        assert service.wait() == 0
    assert site.drift() == []
    # the server takes in the last report in its own time
    wait_until(lambda: confirmed(site) == recorded(site), "all that is recorded is confirmed")


def test_an_outage_allows_reconnecting_and_a_stop_ends_in_time(
    make_site: Callable[..., Site], embedding_server: EmbeddingServer
) -> None:
    limits = '[limits]\ndrain_timeout = "2s"\n'
    site, server = ready(make_site(18), embedding_server, more=limits), embedding_server
    end_walsender = (
        "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = %s"
    )
    with site.service() as service:
        for number, stop in enumerate((False, True)):
            server.faults(fail_next=ALWAYS, status=500)
            end = insert(site, 100 * number, 50)
            wait_for_trouble(service)
            site.sql(end_walsender, site.name)
            wait_until(lambda: service.status()["state"] == "reconnecting", "it notices")
            assert "administrator" in service.status()["waiting"]["stream"]
            expect_nothing_beyond(site, end)
            if stop:
                assert service.stop() == 0
                break
            server.faults()
            service.settle()
            assert site.drift() == []
    server.faults()
    with site.service() as service:
        service.settle()
        assert site.drift() == []
        assert letters(site) == 0


def test_the_service_starts_while_the_embedder_is_away(make_site: Callable[..., Site]) -> None:
    """The width of the vectors is stored, so nothing need be asked; ``setup`` has to ask."""
    site = make_site(18)
    with EmbeddingServer() as first:
        site.sql(DOCUMENTS)
        site.configure(embedder=first.configuration)
        first.faults(fail_next=1, status=401)
        refused = site.cli("setup", expect=4)
        assert "check the key in embedder.api_key_env" in refused.stderr
        first.faults(fail_next=2, status=500)
        away = site.cli("setup", expect=75)
        assert "check the embedding service" in away.stderr
        assert "Traceback" not in refused.stderr + away.stderr
        site.cli("setup")
    with site.service() as service:
        end = insert(site, 1, 10)
        wait_for_trouble(service)
        expect_nothing_beyond(site, end)
        with EmbeddingServer("--port", str(first.port)):
            service.settle()
            assert site.drift() == []


def test_what_waits_in_an_outage_is_bounded_in_memory(
    make_site: Callable[..., Site], embedding_server: EmbeddingServer
) -> None:
    """The log is the queue: what does not fit is not read, and the connection stays."""
    more = '[limits]\nmemory = "4MB"\n[index]\nkind = "none"\n'
    site, server = ready(make_site(18), embedding_server, more=more), embedding_server
    with site.service() as service:
        server.faults(fail_next=ALWAYS, status=500)
        for number in range(3):
            site.sql(
                "insert into documents select i, 't', repeat(md5(i::text), 1500) "
                "from generate_series(%s, %s) i",
                *(100 * number, 100 * number + 99),
            )
        wait_until(lambda: service.metric("cdc_embed_backpressure_active") == 1, "it is full")
        assert service.metric("cdc_embed_pending_bytes") < 4_500_000, "of 14 MB"
        assert service.metric("cdc_embed_reconnects_total") == 0
        server.faults()
        service.settle(60)
        assert letters(site) == 0
        assert site.value("select count(distinct id) from cdc_embed.documents_embedding") == 300
