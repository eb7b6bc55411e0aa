"""A table that stays locked while it is compared: the others do not wait for it."""

import subprocess
from collections.abc import Callable
from contextlib import closing

from tests.own_process import COMMAND
from tests.site import Site, columns, wait_until

DONE = "select table_name from cdc_embed.reconcile where state = 'done' order by 1"


def test_a_locked_table_delays_no_comparison_of_others(make_site: Callable[..., Site]) -> None:
    site = make_site(18)
    for name in ("first", "second", "third"):
        site.sql(f"create table {name} (id int primary key, body text)")
        site.sql(f"insert into {name} select i, 'text ' || i from generate_series(1, 9) i")
    entries = [f'[[tables]]\nname = "{name}"\ntext = ["body"]\n' for name in ("first", "second")]
    third = '[[tables]]\nname = "third"\ntext = ["body"]\n[backfill]\nrows_per_second = 3\n'
    site.configure(tables="".join([*entries, third]))
    site.cli("setup")
    with site.service() as service, closing(site.connect()) as holder:
        service.logged("table is compared")
        with holder.cursor() as cursor:  # between two slices, so no transaction came before them
            cursor.execute("lock table first in access exclusive mode")
        wait_until(lambda: len(site.sql(DONE)) == 2, "the others are compared", 60)
        assert columns(site.sql(DONE)) == ["public.second", "public.third"]
        assert "the lock on public.first" in service.status()["waiting"]["reconcile"]
        holder.rollback()
        wait_until(lambda: len(site.sql(DONE)) == 3, "it is compared", 60)
        wait_until(lambda: "reconcile" not in service.status()["waiting"], "nothing is locked")
        service.settle()
        for name in ("first", "second", "third"):
            assert site.value(f"select count(*) from cdc_embed.{name}_embedding") == 9
        assert service.stop() == 0


def test_verify_says_which_locked_table_it_waits_for(make_site: Callable[..., Site]) -> None:
    site = make_site(18)
    for name in ("first", "second"):
        site.sql(f"create table {name} (id int primary key, body text)")
    entries = [f'[[tables]]\nname = "{name}"\ntext = ["body"]\n' for name in ("first", "second")]
    site.configure(tables="".join(entries), more="[backfill]\nrows_per_second = 3\n")
    site.cli("setup")
    with site.service() as service, closing(site.connect()) as holder:
        service.logged("reconciled", 2)
        for name in ("first", "second"):  # by the log, which has no limit
            site.sql(f"insert into {name} select i, 'text ' || i from generate_series(1, 9) i")
        service.settle()
        asked = subprocess.Popen(
            [*COMMAND, "-c", str(site.config_path), "verify"], stderr=subprocess.PIPE, text=True
        )
        assert asked.stderr is not None
        progress = "select 1 from cdc_embed.request where progress::text like '%first%'"
        wait_until(lambda: site.sql(progress), "the first table is read")
        with holder.cursor() as cursor:  # no transaction came before the rows that are read
            cursor.execute("lock table second in access exclusive mode")
        said = next(line for line in asked.stderr if "waiting for" in line)
        assert said.startswith("verify: waiting for ")
        assert "public.second" in said
        assert "lock" in said
        holder.rollback()
        rest = asked.stderr.read()
        assert asked.wait(60) == 0, rest
        asked.stderr.close()
        assert service.stop() == 0
