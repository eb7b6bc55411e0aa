"""The delay before the next connection, and connections that end at one place."""

from cdc_embed.errors import PreflightError
from cdc_embed.lsn import LSN
from cdc_embed.service.failures import LONGEST_SECONDS, MOST_FAILURES, Failures
from cdc_embed.service.undecodable import way_out

PLACE = LSN(0x1000)


def failed(times: int, seconds: float = 0.0) -> Failures:
    """Connections that ended at one place, one after the other."""
    failures = Failures()
    for time in range(times):
        failures.streaming_failed(PLACE, "it broke", "do this", now=time * seconds)
    return failures


def test_a_few_failures_are_an_outage_and_many_are_a_place() -> None:
    assert failed(MOST_FAILURES - 1).stuck(now=1.0) is None
    stuck = failed(MOST_FAILURES).stuck(now=1.0)
    assert str(stuck) == "the stream ended 3 times at 0/1000; do this"


def test_two_failures_for_long_are_a_place() -> None:
    failures = failed(2, seconds=LONGEST_SECONDS)
    assert failures.stuck(now=LONGEST_SECONDS) is None
    assert failures.stuck(now=LONGEST_SECONDS + 1) is not None


def test_progress_begins_the_count_anew() -> None:
    failures = failed(MOST_FAILURES)
    failures.attempt = 7
    failures.forget()
    assert failures.stuck(now=LONGEST_SECONDS * 2) is None
    assert failures.attempt == 0


def test_a_row_too_large_names_the_tables_that_can_hold_it() -> None:
    text = way_out("invalid memory alloc request size 1", "s", lambda: {"public.files": ["data"]})
    assert "one of public.files (data)" in text
    assert 'source.publish = "columns"' in text
    assert "cdc-embed setup --rebuild" in text


def test_a_source_that_is_away_still_has_a_way_out() -> None:
    def away() -> dict[str, list[str]]:
        raise PreflightError(where="source", problem="away")

    assert "pg_drop_replication_slot('s')" in way_out("out of memory", "s", away)
    assert "a proxy" in way_out("connection reset", "s", away)
