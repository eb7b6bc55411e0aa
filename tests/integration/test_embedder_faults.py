"""An embedding service that misbehaves, before a whole service: what passes is waited out.

The embedding service is a process of its own, and so is ours. Nothing that passes may become a
dead letter, be confirmed before it is durable, or need a person.
"""

import time
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from cdc_embed.lsn import LSN
from cdc_embed.service.tolerance import Tolerance
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
    EmbeddingServer,
    Site,
    columns,
    wait_until,
)

EVERY_TEXT = [""]
HANGING: dict[str, Any] = {"hang": 30.0}
FAILURES: list[dict[str, Any]] = [
    HANGING,
    {"fail_next": ALWAYS, "status": 429, "retry_after": 0.2},
    {"fail_next": ALWAYS, "status": 500},
    {"fail_next": ALWAYS, "status": 503},
    {"drop_connection": ALWAYS},
    {"reset_connection": ALWAYS},
]
REFUSALS: list[dict[str, Any]] = [
    {"garbage": True},
    {"wrong_dimensions": True},
    {"fewer": True},
    {"nan": EVERY_TEXT},
    {"refuse": EVERY_TEXT},
]
"""These look as if the texts were to blame."""
PASSING = [*FAILURES, *REFUSALS]


@pytest.fixture
def faulty(make_site: Callable[..., Site], embedding_server: EmbeddingServer) -> Site:
    return ready(make_site(18), embedding_server)


def test_passing_faults_confirm_nothing_and_refuse_nothing(
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
            assert "embed" not in service.status()["waiting"]
        assert service.times("streaming") == 1, "it stays connected"
        assert service.stop() == 0
    # the server takes in the last report in its own time
    wait_until(lambda: confirmed(site) == recorded(site), "all that is recorded is confirmed")


def test_a_service_that_says_when_to_retry_is_not_asked_before(
    make_site: Callable[..., Site], embedding_server: EmbeddingServer
) -> None:
    site, server = ready(make_site(18), embedding_server, "concurrency = 1"), embedding_server
    # a request that is given up is sent again: these may take their time
    site.config_path.write_text(site.config_path.read_text().replace('"1s"', '"30s"'))
    with site.service() as service:
        server.faults(fail_next=1, status=429, retry_after=3.0)
        insert(site, 1, 1)
        assert "429" in service.wait_for("waiting")["problem"]
        service.settle()
        times = server.counts()["times"]
        assert len(times) in {2, 3}, "the text again, and perhaps the known-good one"
        assert all(at - times[0] > 2.5 for at in times[1:]), (
            "without its Retry-After it is a tenth of a second"
        )
        assert site.drift() == []


@pytest.mark.parametrize("seconds", [6, pytest.param(120, marks=pytest.mark.long)])
def test_faults_that_come_and_go_blame_exactly_the_bad_texts(
    faulty: Site, embedding_server: EmbeddingServer, seconds: int
) -> None:
    """Between two faults a bad text is refused for good. Were the known-good text tried only at the
    beginning of such an episode, the next fault would make letters of good texts. A service that
    refused everything for a moment contradicts itself, so each letter takes a while.
    """
    site, server, random = faulty, embedding_server, Random(4)
    well: dict[str, Any] = {"refuse": ["poison"]}
    with site.service(tolerance=Tolerance(failing_text=4.0)) as service:
        until, number = time.monotonic() + seconds, 0
        while time.monotonic() < until:
            server.faults(**(well | random.choice([*PASSING, *[{}] * len(PASSING)])))
            for _ in range(3):
                number += 10
                insert(site, number, random.choice((1, 1, 9)), "good")
                insert(site, number + 9, random.random() < 0.3, "poison")
                let_pass(random.uniform(0.01, 0.15))
        server.faults(**well)
        service.settle(60)
        poison = columns(site.sql("select id from documents where body like 'poison%' order by 1"))
        found = columns(
            site.sql("select (key ->> 'id')::int from cdc_embed.dead_letter order by 1")
        )
        assert found == poison
        assert site.drift() == sorted(f"missing {key}" for key in poison)
        server.faults()
        site.cli("dlq", "retry", "--all")
        assert site.drift() == []


def test_a_refused_key_stops_the_service_and_the_slot_waits(
    faulty: Site, embedding_server: EmbeddingServer
) -> None:
    site, server = faulty, embedding_server
    with site.service(tolerance=Tolerance(refused_secret=2.0)) as service:
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
