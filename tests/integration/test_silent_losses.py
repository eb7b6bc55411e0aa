"""Ways to lose data without noticing, each met with a real service.

They are T2, T3, T4 and T7 of CONTRIBUTING.md, which names the tests of the others.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cdc_embed.lsn import LSN
from tests.conftest import ready
from tests.hanging import hanging_commit
from tests.invariant import confirmed
from tests.servers import Servers
from tests.site import DOCUMENTS, Site, columns, wait_until

# -- T2: positions -----------------------------------------------------------------------------


def test_wrong_position_is_refused_and_moves_nothing(site: Site) -> None:
    """The server takes any position; one that is wrong would skip what it passes.

    Each row of the checkpoint is a forgery of the right one, by as little as can be.
    """
    with site.service() as service:
        site.sql("insert into documents values (1, 't', 'first')")
        service.settle()
        assert service.stop() == 0
    slot = confirmed(site)
    site.sql("insert into documents values (2, 't', 'second')")
    between = LSN(LSN.parse(site.value("select pg_current_wal_insert_lsn()::text")) + 1)
    site.sql("insert into documents values (3, 't', 'third')")
    site.sql("create table kept as select * from cdc_embed.checkpoint")
    behind = LSN(slot - 1)
    forgeries = {
        f"end_lsn = least(end_lsn, '{behind}'), confirmed_lsn = '{behind}'": (
            5,
            "beyond the recorded",
        ),
        "confirmed_lsn = pg_current_wal_lsn() + 16777216": (5, "ahead of the server's log"),
        f"end_lsn = '{between}'": (5, "no longer holds the transaction"),
        "source_system_identifier = '1'": (4, "another source's slot of that name"),
    }
    for forgery, (code, problem) in forgeries.items():
        site.sql(f"update cdc_embed.checkpoint set {forgery}")
        done = site.cli("run", expect=code)
        assert problem in done.stderr, forgery
        assert "cdc-embed setup --rebuild" in done.stderr
        assert confirmed(site) == slot, forgery
        site.sql("delete from cdc_embed.checkpoint")
        site.sql("insert into cdc_embed.checkpoint select * from kept")
    site.sql(f"update cdc_embed.checkpoint set confirmed_lsn = '{slot}'")
    with site.service() as service:
        service.settle()
        assert site.drift() == []
        assert service.stop() == 0


# -- T3: visibility ----------------------------------------------------------------------------


def test_row_that_is_not_visible_yet_is_no_orphan(
    servers: Servers, make_site: Callable[..., Site], tmp_path: Path
) -> None:
    """The log has brought it, the source does not show it: its vector must not be deleted."""
    target = make_site(16)
    stored = "select count(*) from cdc_embed.documents_embedding"
    with servers.own(18) as server:
        site = Site(server, "hanging", tmp_path, target)
        site.sql(DOCUMENTS)
        site.configure(more="[backfill]\nrows_per_second = 30\n")
        site.cli("setup")
        with site.service() as service, ThreadPoolExecutor(1) as executor:
            service.wait_for("reconciled")  # the table is empty, so this takes no time
            site.sql("insert into documents select i, 't', 'text' from generate_series(1, 300) i")
            service.settle()
            verifying = executor.submit(site.cli, "verify", "--repair", "--json")
            begun = "select count(*) from cdc_embed.request where state = 'running'"
            wait_until(lambda: target.value(begun), "it is under way")
            with hanging_commit(site, "insert into documents values (301, 't', 'not yet')"):
                wait_until(lambda: target.value(stored) == 301, "the log brought it")
                found = json.loads(verifying.result(60).stdout)
                assert site.value("select count(*) from documents") == 300
                (table,) = found["tables"]
                assert (table["orphan"], table["pending"], table["repaired"]) == (0, 0, 0)
                assert (table["checked"], table["fresh"]) == (300, 300)
                assert target.value(stored) == 301
            service.settle()
            assert site.drift() == []
            assert service.stop() == 0
        site.close()


# -- T4: replica identity ----------------------------------------------------------------------


def test_identity_other_than_the_key_stops_before_a_misreading(
    each_site: Site,
) -> None:
    """With another identity an update of the key has no old key: row 1 would stay for ever."""
    site = each_site
    site.configure(source='publish = "rows"')
    site.cli("setup")
    site.sql("alter table documents alter views set not null")
    site.sql("create unique index another on documents (views)")
    with site.service() as service:
        service.wait_for("reconciled")  # or the next service would end this comparison, too
        site.sql("insert into documents values (1, 't', 'text')")
        service.settle()
        site.sql("alter table documents replica identity using index another")
        site.sql("update documents set id = 100")
        service.logged("table is paused")
        assert "its replica identity (views) is not its primary key (id)" in "".join(service.output)
        service.settle()
        assert service.stop() == 0
    assert columns(site.sql("select id from cdc_embed.documents_embedding")) == [1]
    assert "stored with (id bigint)" in site.cli("run", expect=4).stderr
    site.sql("alter table documents replica identity default")
    with site.service() as service:  # what the log has of that time is of no use for ever
        service.wait_for("reconciled")
        service.settle()
        assert site.drift() == []
        site.sql("update documents set id = 7")
        service.settle()
        assert site.drift() == []
        assert service.stop() == 0


# -- T7: rows that a read does not show --------------------------------------------------------


@pytest.fixture
def filtered(make_site: Callable[..., Site]) -> Iterator[Site]:
    """A source that is read by a role without rights beyond what it needs, and its target."""
    site = ready(make_site(18, target=make_site(16)))
    role = f"reader_{site.name}"
    site.sql(f"create role {role} login replication")
    site.sql(f"grant select on documents to {role}")
    site.sql(f"grant execute on function pg_control_system() to {role}")
    config = site.config_path.read_text()
    dsn = site.server.dsn(site.name, role)
    site.config_path.write_text(config.replace(f'dsn = "{site.dsn}"', f'dsn = "{dsn}"', 1))
    yield site
    site.sql(f"drop owned by {role}")
    site.sql(f"drop role {role}")


@pytest.mark.parametrize("service_runs", [True, False])
def test_row_security_is_an_error_and_never_an_empty_table(
    filtered: Site, service_runs: bool
) -> None:
    """A role that policies apply to sees no row, and "delete what was not found" deletes all."""
    site = filtered
    assert site.target is not None
    site.sql("insert into documents select i, 't', 'text ' || i from generate_series(1, 20) i")
    with site.service() as service:
        service.settle()
        wait_until(lambda: site.drift() == [], "all is embedded")
        if not service_runs:
            assert service.stop() == 0
        site.sql("alter table documents enable row level security")
        assert site.sql("select count(*) from documents") == [(20,)], "an owner sees them all"
        done = site.cli("verify", "--repair", expect=1)
        assert "row-level security" in done.stderr
        if service_runs:
            paused = service.logged("table is paused")
            assert "row-level security applies to role" in paused["problem"]
    assert site.target.value("select count(*) from cdc_embed.documents_embedding") == 20
