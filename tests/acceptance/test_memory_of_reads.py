"""Rows that are read take memory by their bytes, whatever their lengths and the order of these.

The memory of a real process, beside what it takes when idle: at most ``limits.memory`` and four
times the largest row. Without the limits each of these reads took more than all its rows have.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.site import RunningService, Site, wait_until

MIB: int = 1 << 20
LIMIT = 32
"""``limits.memory`` in MB."""
LONG_ROW = 300_000
TABLE = "create table documents (id bigint primary key, title text, body text, views int)"
STORED = "select count(*) from cdc_embed.documents_embedding where chunk = 0"


def memory(service: RunningService, name: str) -> int:
    """A value of ``/proc/PID/status``, in bytes."""
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(name)).split()[1]) << 10


class Growth:
    """The memory that a service took at the most, beside what it had before."""

    def __init__(self, service: RunningService) -> None:
        self._service = service
        Path(f"/proc/{service.process.pid}/clear_refs").write_text("5")
        self._before = memory(service, "VmRSS")

    def expect(self, largest_row: int) -> None:
        grown = memory(self._service, "VmHWM") - self._before
        sys.stderr.write(f"grown by {grown / MIB:.0f} MB\n")
        assert grown < LIMIT * MIB + 4 * largest_row, f"{grown / MIB:.0f} MB"


@contextmanager
def idle(site: Site) -> Iterator[RunningService]:
    """A service that compared another table, so that all of its code is loaded."""
    with site.service(process=True) as service:
        wait_until(lambda: service.status()["tables"], "the first look at both databases")
        site.cli("backfill", "--table", "public.warm")
        yield service
        assert service.stop() == 0


def configure(site: Site, text: str) -> None:
    site.sql("create table warm (id bigint primary key, title text, body text)")
    site.sql("insert into warm select n, 'title', 'body ' || n from generate_series(1, 1000) n")
    tables = [f'[[tables]]\nname = "{name}"\ntext = {text}\n' for name in ("documents", "warm")]
    more = f'[limits]\nmemory = "{LIMIT}MB"\n[backfill]\nstart = "manual"\n[index]\nkind = "none"\n'
    site.configure(tables="".join(tables), more=more)
    site.cli("setup")


def fill(site: Site, short: int, long: int, kept: str = "extended") -> None:
    """Short rows, then long ones; they are repetitive, so they need little of the disk."""
    site.sql(TABLE)
    site.sql(f"alter table documents alter body set storage {kept}")
    site.sql(
        "insert into documents select n, 'title ' || n, case when n <= %s then 'short' "
        "else repeat(md5(n::text) || ' ', %s) end, 0 from generate_series(1, %s) n",
        short,
        LONG_ROW // 33,
        short + long,
    )


def test_few_short_rows_before_long_ones_take_no_more_memory(
    make_site: Callable[..., Site],
) -> None:
    """The first rows say nothing of those after them."""
    site = make_site()
    fill(site, 4, 396)
    configure(site, '["body"]')
    with idle(site) as service:
        growth = Growth(service)
        site.cli("backfill", "--table", "public.documents", process=True)
        growth.expect(LONG_ROW)
        assert site.value(STORED) == 400


@pytest.mark.long
def test_rows_compared_again_take_no_more_memory(make_site: Callable[..., Site]) -> None:
    """Every row is a suspect of verify, and differs still at its second look."""
    site = make_site()
    fill(site, 4, 296)
    configure(site, '["body"]')
    with idle(site) as service:
        site.cli("backfill", "--table", "public.documents", process=True)
        site.sql("update cdc_embed.documents_embedding set document_hash = '\\x00'")
        growth = Growth(service)
        found = site.cli("verify", "--repair", "--json", process=True)
        assert '"repaired": 300' in found.stdout
        growth.expect(LONG_ROW)


@pytest.mark.parametrize(
    "statement", ["title = upper(title)", pytest.param("views = views + 1", marks=pytest.mark.long)]
)
def test_long_texts_the_log_leaves_out_take_no_more_memory(
    make_site: Callable[..., Site], statement: str
) -> None:
    site = make_site()
    fill(site, 0, 250, kept="external")
    configure(site, '["title", "body"]')
    with idle(site) as service:
        site.cli("backfill", "--table", "public.documents", process=True)
        growth = Growth(service)
        site.sql(f"update documents set {statement}")
        service.settle(60)
        growth.expect(LONG_ROW)
    assert site.cli("verify", process=True).returncode == 0
