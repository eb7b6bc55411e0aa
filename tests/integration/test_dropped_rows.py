"""A trigger or rule that drops our rows without an error: its table is paused, and nothing is lost.

Nobody would raise; only the number of rows tells.
"""

from collections.abc import Callable

import pytest

from cdc_embed.service.tolerance import Tolerance
from tests.cases import cases
from tests.site import Site, wait_until

TABLES = """
[[tables]]
name = "healthy"
text = ["body"]
[[tables]]
name = "dropped"
text = ["body"]
metadata = ["kind"]
"""
TRIGGER = """
create function public.drop_it() returns trigger language plpgsql as 'begin return null; end';
create trigger silent before {} on cdc_embed.dropped_embedding
  for each row execute function public.drop_it()
"""
RULE = "create rule silent as on {} to cdc_embed.dropped_embedding do instead nothing"
MEND = {
    TRIGGER: "drop function public.drop_it cascade",
    RULE: "drop rule silent on cdc_embed.dropped_embedding",
}
CHANGES = {
    "insert": "insert into dropped values (2, 'two', 'b')",
    "update": "update dropped set kind = 'c' where id = 1",
    "delete": "delete from dropped where id = 1",
    "truncate": "truncate dropped",
}
WAYS = {
    "an inserted row by a trigger": (TRIGGER, "insert"),
    "an updated row by a trigger": (TRIGGER, "update"),
    "a deleted row by a trigger": (TRIGGER, "delete"),
    "a truncated table by a trigger": (TRIGGER, "truncate"),
    "an inserted row by a rule": (RULE, "insert"),
    "a deleted row by a rule": (RULE, "delete"),
}


@pytest.mark.parametrize(
    "name",
    cases(
        WAYS,
        "an inserted row by a trigger",
        "an updated row by a trigger",
        "a deleted row by a rule",
    ),
)
def test_no_row_is_lost_that_the_target_drops_silently(
    make_site: Callable[..., Site], name: str
) -> None:
    drops, change = WAYS[name]
    site = make_site(18)
    for table in ("healthy", "dropped"):
        site.sql(f"create table {table} (id int primary key, body text, kind text)")
        site.sql(f"insert into {table} values (1, 'one', 'a')")
    site.configure(tables=TABLES)
    site.cli("setup")
    with site.service(tolerance=Tolerance(refusing_table=1.0)) as service:
        service.logged("reconciled", 2)
        service.settle()
        site.sql(drops.format("delete" if change == "truncate" else change))
        site.sql(CHANGES[change])
        site.sql("insert into healthy values (2, 'two', 'b')")

        def reason() -> str:
            found = {entry["name"]: entry["problem"] for entry in service.status()["tables"]}
            return found.get("public.dropped") or ""

        wait_until(lambda: "drops changes" in reason(), "the table is paused")
        healthy = "select count(*) from cdc_embed.healthy_embedding"
        wait_until(lambda: site.value(healthy) == 2, "the other one is followed")
        site.sql(MEND[drops])
        wait_until(lambda: not reason(), "it is followed again")
        wait_until(lambda: service.status()["state"] == "streaming", "it goes on")
        service.settle()
        found = site.verify()
        assert (found["drift"], found["paused"]) == (0, {})
        assert service.stop() == 0
