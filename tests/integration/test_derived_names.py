"""Names that are made of other names: cut to 63 bytes or put together, two are never the same."""

import json
from collections.abc import Callable

import pytest

from tests.cases import cases
from tests.site import RunningService, Site, wait_until

CONFIG = """
[[tables]]
name = "{name}"
text = ["body"]
embedding_table = "{vectors}"
search_view = "{view}"
"""
ALIKE = {
    "long vectors": [
        ("first", "e" * 62 + "1", "f" * 62 + "1"),
        ("other", "e" * 62 + "2", "f" * 62 + "2"),
    ],
    "one stem": [("a_b.c", "", ""), ("a.b_c", "vectors", "found")],
    "another's stem": [("a_b.c", "", ""), ("other", "a_b_c", "found")],
}


def indexed(service: RunningService) -> bool:
    tables = service.status()["tables"]
    return [t["index"]["state"] for t in tables] == ["ready", "ready"] and all(
        t["backfill_state"] == "done" for t in tables
    )


@pytest.mark.parametrize("kind", cases(ALIKE, "long vectors", "one stem"))
def test_tables_whose_derived_names_begin_alike_are_apart(
    make_site: Callable[..., Site], kind: str
) -> None:
    site = make_site(18)
    site.sql("create schema a; create schema a_b")
    config = ""
    for place, (name, vectors, view) in enumerate(ALIKE[kind]):
        site.sql(f"create table {name} (id int primary key, body text)")
        site.sql(f"insert into {name} values ({place}, 'text {place}')")
        config += CONFIG.format(name=name, vectors=vectors, view=view)
    site.configure(tables=config)
    site.cli("setup")
    with site.service() as service:
        wait_until(lambda: indexed(service), "both are indexed")
        site.cli("index", "rebuild")
        for name, *_ in ALIKE[kind]:
            site.sql(f"alter table {name} alter id type bigint")
        site.cli("setup")
        wait_until(lambda: indexed(service), "both are indexed by their new key")
        assert service.stop() == 0
    assert "nothing to do" in site.cli("setup").stderr
    for place, (name, _, view) in enumerate(ALIKE[kind]):
        found = site.cli("search", "text", "--table", name, "--json").stdout
        assert [row["key"] for row in json.loads(found)] == [{"id": place}]
        site.sql(f"delete from {name}")
        assert site.sql(f"select id from cdc_embed.{view or 'a_b_c_search'}") == []
    site.cli("teardown", "--yes")
    assert site.value("select to_regnamespace('cdc_embed') is null")
