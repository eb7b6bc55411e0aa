"""An embedding service that misbehaves, before a whole service: what passes is waited out.

The embedding service is a process of its own, and so is ours. Nothing that passes may become a
dead letter, be confirmed before it is durable, or need a person.
"""

import time
from collections.abc import Callable
from threading import Thread
from typing import Any
from urllib.error import HTTPError

import httpx2
import pytest
from structlog.testing import capture_logs

from cdc_embed.cli import run
from cdc_embed.config import load
from cdc_embed.lsn import LSN
from tests.site import DOCUMENTS, PATIENCE, EmbeddingServer, RunningService, Site, wait_until

ALWAYS = 1_000_000_000
"""Of a fault that counts down: until it is taken away."""
EVERY_TEXT = [""]
PASSING: list[dict[str, Any]] = [
    {"hang": 30.0},
    {"fail_next": ALWAYS, "status": 429, "retry_after": 0.2},
    {"fail_next": ALWAYS, "status": 500},
    {"fail_next": ALWAYS, "status": 503},
    {"drop_connection": ALWAYS},
    {"reset_connection": ALWAYS},
    {"garbage": True},
    {"wrong_dimensions": True},
    {"fewer": True},
    {"nan": EVERY_TEXT},
    {"refuse": EVERY_TEXT},
]


def ready(site: Site, server: EmbeddingServer, embedder: str = "", more: str = "") -> Site:
    site.sql(DOCUMENTS)
    site.configure(embedder=f'{server.configuration}\ntimeout = "1s"\n{embedder}', more=more)
    site.cli("setup")
    server.reset()
    return site


@pytest.fixture
def faulty(make_site: Callable[..., Site], embedding_server: EmbeddingServer) -> Site:
    return ready(make_site(18), embedding_server)


def insert(site: Site, first: int, count: int, text: str = "text") -> LSN:
    """Rows of distinct texts; the end of the log after their commit."""
    site.sql(
        "insert into documents select i, 't', %s || ' ' || i from generate_series(%s, %s) i",
        text,
        first,
        first + count - 1,
    )
    return LSN.parse(site.value("select pg_current_wal_lsn()::text"))


def letters(site: Site) -> int:
    return int(site.value("select count(*) from cdc_embed.dead_letter"))


def stored(site: Site) -> int:
    return int(site.value("select count(*) from cdc_embed.documents_embedding"))


def confirmed(site: Site) -> LSN:
    statement = "select confirmed_flush_lsn::text from pg_replication_slots where slot_name = %s"
    return LSN.parse(site.value(statement, site.name))


def recorded(site: Site) -> LSN:
    checkpoint = site.checkpoint()
    return max(LSN.parse(checkpoint[name]) for name in ("end_lsn", "confirmed_lsn"))


def wait_for_trouble(service: RunningService) -> str:
    problem: str = wait_until(lambda: service.status()["waiting"].get("embed"), "status tells")
    return problem


def expect_nothing_beyond(site: Site, end: LSN) -> None:
    """The slot waits: nothing of what is not embedded is confirmed, or even recorded."""
    first = confirmed(site)
    assert first <= recorded(site) < end


def test_whatever_passes_is_waited_out_with_nothing_confirmed_and_nothing_refused(
    faulty: Site, embedding_server: EmbeddingServer
) -> None:
    """Each fault begins while a request is in flight. Without the known-good probe the answers
    that look like refusals would become dead letters."""
    site, server = faulty, embedding_server
    with site.service() as service:
        for number, fault in enumerate(PASSING):
            before = stored(site)
            server.faults(hang=30.0)
            end = insert(site, 100 * number, 10)
            wait_until(lambda: server.counts()["in_flight"], "a request is in flight")
            server.faults(**fault)
            end = insert(site, 100 * number + 10, 30, "more text")
            problem = wait_for_trouble(service)
            expect_nothing_beyond(site, end)
            assert stored(site) < before + 40, fault
            assert letters(site) == 0, fault
            assert service.status()["state"] == "streaming"
            assert LSN.parse(service.status()["lsn"]["durable"]) < end
            assert service.status()["oldest_pending_age_seconds"] > 0
            server.faults()
            service.settle()
            assert site.drift() == [], (fault, problem)
            assert letters(site) == 0, (fault, problem)
            assert service.status()["waiting"] == {}
        assert len([e for e in service.log if e["event"] == "streaming"]) == 1, "it stays connected"
        assert service.stop() == 0
    assert confirmed(site) == recorded(site)


def test_a_service_that_says_when_to_come_back_is_not_asked_before(
    make_site: Callable[..., Site], embedding_server: EmbeddingServer
) -> None:
    site, server = ready(make_site(18), embedding_server, "concurrency = 1"), embedding_server
    with site.service() as service:
        server.faults(fail_next=1, status=429, retry_after=3.0)
        insert(site, 1, 1)
        wait_until(lambda: server.counts()["requests"] == 1, "the first request")
        asked = time.monotonic()
        assert "429" in wait_for_trouble(service)
        service.settle()
        assert time.monotonic() - asked > 2.5, "without its Retry-After it is a tenth of a second"
        assert server.counts()["requests"] == 2
        assert site.drift() == []


@pytest.mark.parametrize("seconds", [5, pytest.param(60, marks=pytest.mark.long)])
def test_an_outage_under_load_loses_nothing_and_keeps_the_connection(
    faulty: Site, embedding_server: EmbeddingServer, seconds: int
) -> None:
    """The connection outlives several of the server's timeouts (10 s) in the long version. Not
    ready after half a minute, ready again by itself."""
    site, server = faulty, embedding_server
    with site.service() as service:
        insert(site, 1, 50)
        service.settle()
        server.faults(fail_next=ALWAYS, status=500)
        until, number = time.monotonic() + seconds, 0
        readiness = set()
        while time.monotonic() < until:
            number += 1
            end = insert(site, 100 * number, 20)
            site.sql("update documents set body = body || '!' where id % 7 = 1")
            site.sql("delete from documents where id % 100 = 19")
            expect_nothing_beyond(site, end)
            readiness.add(ready_code(service))
            time.sleep(0.2)
        assert readiness == ({200} if seconds < 30 else {200, 503})
        assert letters(site) == 0
        server.faults()
        service.settle(60)
        assert site.drift() == []
        assert letters(site) == 0
        assert ready_code(service) == 200
        assert service.metric("cdc_embed_reconnects_total") == 0
        assert service.metric("cdc_embed_dead_letters_total") == 0


def test_a_long_outage_is_told_by_readiness_until_it_is_over(
    faulty: Site, embedding_server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, so that half a minute can be a moment; the real one has the long test."""
    monkeypatch.setattr(run, "LONG_TROUBLE_SECONDS", 0.5)
    with capture_logs() as logs, run.running(load(faulty.config_path)) as service:
        thread = Thread(target=service.run)
        thread.start()
        port = next(entry["port"] for entry in logs if entry["event"] == "serving")

        def ready() -> int:
            return httpx2.get(f"http://127.0.0.1:{port}/readyz").status_code

        try:
            wait_until(lambda: ready() == 200, "it leads")
            embedding_server.faults(fail_next=ALWAYS, status=500)
            insert(faulty, 1, 1)
            wait_until(lambda: ready() == 503, "it is not ready")
            assert httpx2.get(f"http://127.0.0.1:{port}/livez").status_code == 200
            embedding_server.faults()
            wait_until(lambda: ready() == 200, "it is ready again")
        finally:
            service.stop()
            thread.join(PATIENCE)
    assert faulty.drift() == []


def ready_code(service: RunningService) -> int:
    try:
        service.get("/readyz")
    except HTTPError as exc:
        return exc.code
    return 200


def test_an_embedder_that_dies_with_requests_in_flight_and_comes_back(
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
    with site.service() as service:
        insert(site, 1, 5)
        service.settle()
        embedding_server.faults(**fault)
        end = insert(site, 6, 100)
        wait_until(lambda: embedding_server.counts()["requests"] > 1, "it is asked")
        assert service.stop() == 0
    assert stored(site) == 5
    expect_nothing_beyond(site, end)
    assert site.value("select not active from pg_replication_slots where slot_name = %s", site.name)
    embedding_server.faults()
    with site.service() as service:
        service.settle()
        assert site.drift() == []
        assert letters(site) == 0


def test_what_is_in_flight_is_finished_when_the_embedder_is_back_before_the_drain_ends(
    faulty: Site, embedding_server: EmbeddingServer
) -> None:
    site, server = faulty, embedding_server
    with site.service() as service:
        server.faults(fail_next=ALWAYS, status=503)
        insert(site, 1, 20)
        wait_for_trouble(service)
        service.process.terminate()
        wait_until(lambda: service.status()["state"] == "draining", "it drains")
        server.faults()
        assert service.wait() == 0
    assert site.drift() == []
    assert confirmed(site) == recorded(site)


def test_a_key_that_is_refused_stops_with_what_to_do_and_the_slot_waits(
    faulty: Site, embedding_server: EmbeddingServer
) -> None:
    site, server = faulty, embedding_server
    with site.service() as service:
        insert(site, 1, 5)
        service.settle()
        server.faults(fail_next=ALWAYS, status=401)
        end = insert(site, 6, 5)
        assert service.wait() == 4
    said = "".join(service.output)
    assert "answers 401" in said
    assert "check the key in embedder.api_key_env" in said
    assert "Traceback" not in said
    assert letters(site) == 0
    expect_nothing_beyond(site, end)
    server.faults()
    with site.service() as service:
        service.settle()
        assert site.drift() == []
