"""However large a transaction and however slow the target: memory is bounded by bytes."""

from pathlib import Path

import pytest

from tests.site import RunningService, Site, wait_until

MIB = 1 << 20
GROWTH = 300 * MIB
UNINDEXED = '[index]\nkind = "none"\n'

SLOW = """
create function slow() returns trigger language plpgsql as
  $$ begin perform pg_sleep(0.2); return null; end $$;
create trigger slow after insert on cdc_embed.documents_embedding
  for each statement execute function slow();
"""
SMALL = "insert into documents (id, title) select n, 'row ' || n from generate_series(1, {}) n"
LARGE = (
    "insert into documents (id, body) select n, repeat(md5(n::text) || ' ', 31776) "
    "from generate_series(1, {}) n"
)


def memory(service: RunningService, name: str) -> int:
    """A value of ``/proc/PID/status``, in bytes."""
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(name)).split()[1]) << 10


def grown(site: Site, insert: str, rows: int, seconds: float) -> int:
    """Bytes by which the service's memory grew at the most, over one transaction.

    Without a search index, into which so many rows would go one by one, for minutes.
    """
    site.sql(SLOW)
    with site.service(process=True) as service:
        wait_until(lambda: service.status()["tables"], "the first look at both databases")
        before = memory(service, "VmRSS")
        site.sql(insert.format(rows))
        count = "select count(*) from cdc_embed.documents_embedding where chunk = 0"
        wait_until(lambda: site.value(count) == rows, f"{rows} documents", seconds)
        peak = memory(service, "VmHWM")
        assert service.stop() == 0
    return peak - before


@pytest.mark.parametrize(
    ("insert", "rows"),
    [
        pytest.param(SMALL, 30_000, id="rows"),
        pytest.param(LARGE, 150, id="bytes", marks=pytest.mark.long),
    ],
)
def test_transaction_larger_than_the_limit_is_cut_into_batches(
    site: Site, insert: str, rows: int
) -> None:
    """150 MB of texts with 32 MB of pending changes."""
    site.configure(more='[limits]\nmemory = "32MB"\n' + UNINDEXED)
    assert grown(site, insert, rows, 120) < GROWTH


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("insert", "rows"), [(SMALL, 1_000_000), (LARGE, 2_000)], ids=["rows", "bytes"]
)
def test_huge_transaction_needs_no_more_memory_than_a_large_one(
    site: Site, insert: str, rows: int
) -> None:
    site.configure(more=UNINDEXED)
    assert grown(site, insert, rows, 1500) < GROWTH
