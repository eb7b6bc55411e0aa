"""A table whose changes do not arrive: noticed, the others go on, compared when it is back."""

import subprocess
from collections.abc import Callable
from contextlib import closing

import pytest

from tests.cases import cases
from tests.own_process import COMMAND
from tests.site import RunningService, Site, wait_until

NOTES = "create table notes (id bigint primary key, title text, body text)"
TABLES = """
[[tables]]
name = "documents"
text = ["title", "body"]
[[tables]]
name = "notes"
text = ["title", "body"]
"""


@pytest.fixture(params=["pgoutput", "wal2json"])
def two(request: pytest.FixtureRequest, make_site: Callable[..., Site]) -> Site:
    """Two tables, followed through either output plugin."""
    wal2json = request.param == "wal2json"
    site = make_site(15, target=make_site(18)) if wal2json else make_site(18)
    site.sql("create table documents (id bigint primary key, title text, body text)")
    site.sql(NOTES)
    site.sql("insert into documents values (1, 'first', 'document')")
    site.sql("insert into notes values (1, 'first', 'note')")
    site.configure(tables=TABLES, source=f'plugin = "{request.param}"')
    site.cli("setup")
    return site


def problem_of(service: RunningService, table: str) -> str | None:
    found = {entry["name"]: entry["problem"] for entry in service.status()["tables"]}
    problem: str | None = found.get(f"public.{table}")
    return problem


def said(service: RunningService, words: str) -> bool:
    return any(words in entry["event"] for entry in service.log)


def backfilled(service: RunningService) -> bool:
    tables = service.status()["tables"]
    return len(tables) == 2 and all(entry["backfill_state"] == "done" for entry in tables)


def test_renamed_table_pauses_alone_and_is_compared_after_setup(two: Site) -> None:
    """Rename-swap, as tools for online changes of a table do it."""
    with two.service() as service:
        wait_until(lambda: backfilled(service), "backfill")
        two.transaction(
            "create table new (like documents including all)",
            "insert into new select id, title, 'swapped' from documents",
            "alter table documents rename to old",
            "alter table new rename to documents",
        )
        two.sql("insert into documents values (2, 'never', 'in the log')")
        wait_until(lambda: problem_of(service, "documents"), "noticed", 30)
        assert "public.documents" in service.readiness()[1]
        assert service.metric("cdc_embed_table_followed", table="public.documents") == 0
        assert service.metric("cdc_embed_table_followed", table="public.notes") == 1
        two.sql("insert into notes values (2, 'goes', 'on')")
        service.settle()
        assert two.drift("notes") == []
        done = two.cli("backfill", "--table", "documents", expect=4)
        assert "public.documents" in done.stderr
        assert service.stop() == 0
    assert two.drift()
    two.cli("setup")
    with two.service() as service:
        wait_until(lambda: backfilled(service), "compared")
        two.sql("update documents set title = 'followed again'")
        service.settle()
        assert two.drift() == two.drift("notes") == []
        assert problem_of(service, "documents") is None


@pytest.mark.parametrize("two", ["pgoutput"], indirect=True)
@pytest.mark.parametrize("noticed", [True, False])
def test_setup_gives_a_running_service_the_table_of_the_name(two: Site, noticed: bool) -> None:
    """The swapped table is another one; the service must not wait for the first one for ever."""
    with two.service() as service:
        wait_until(lambda: backfilled(service), "backfill")
        two.transaction(
            "create table new (like documents including all)",
            "insert into new select id, title, 'swapped' from documents",
            "alter table documents rename to old",
            "alter table new rename to documents",
        )
        if noticed:
            wait_until(lambda: problem_of(service, "documents"), "noticed", 30)
        two.cli("setup")
        wait_until(lambda: not two.drift(), "compared", 30)
        two.sql("insert into documents values (2, 'followed', 'again')")
        wait_until(lambda: not two.drift(), "followed", 30)
        wait_until(lambda: service.readiness()[1] == "ok\n", "ready", 30)
        assert service.stop() == 0


def test_locked_table_hides_no_other(two: Site) -> None:
    """No look at the catalogue waits for a lock, and no read of rows waits long."""
    with two.service() as service, closing(two.connect()) as other, other.cursor() as cursor:
        wait_until(lambda: backfilled(service), "backfill")
        cursor.execute("lock table documents in access exclusive mode")
        two.sql("alter table notes rename to papers")
        wait_until(lambda: problem_of(service, "notes"), "the other one is paused", 10)
        two.sql("alter table papers rename to notes")
        wait_until(lambda: not problem_of(service, "notes"), "it is delivered again", 10)
        two.sql("insert into notes values (2, 'second', 'note')")
        wait_until(lambda: not two.drift("notes"), "it is compared, and followed", 30)
        assert problem_of(service, "documents") is None
        other.rollback()
        assert service.stop() == 0


@pytest.mark.parametrize("two", ["pgoutput"], indirect=True)
def test_table_republished_by_hand_is_compared_by_the_service(
    two: Site,
) -> None:
    with two.service() as service:
        wait_until(lambda: backfilled(service), "backfill")
        two.sql("alter publication cdc_embed drop table documents")
        two.sql("update documents set body = 'missed'")
        two.sql("insert into documents values (3, 'missed', 'too')")
        wait_until(lambda: problem_of(service, "documents"), "noticed", 30)
        # what is trusted of a table must not outlive its absence: an update that leaves a
        # text out of the log would else be taken for one that changes nothing
        two.sql("alter publication cdc_embed add table documents (id, title, body)")
        wait_until(lambda: backfilled(service) and not two.drift(), "compared", 30)
        wait_until(lambda: problem_of(service, "documents") is None, "back")
        service.logged("table is delivered again, every row is compared")
        assert service.stop() == 0


@pytest.mark.parametrize(
    "leaves",
    cases(
        ["drop column body cascade", "rename to another", "rename column body to other"],
        "drop column body cascade",
        "rename to another",
    ),
)
def test_table_that_leaves_while_it_is_compared_pauses_alone(two: Site, leaves: str) -> None:
    """Its rows cannot be read any more, a while before anybody has looked why."""
    two.sql("insert into documents select i, 't', 'text ' || i from generate_series(2, 200) i")
    two.configure(
        tables=TABLES,
        source=f'plugin = "{"wal2json" if two.target else "pgoutput"}"',
        more="[backfill]\nrows_per_second = 10\n",
    )
    with two.service() as service:
        service.wait_for("table is compared")
        asked = subprocess.Popen(
            [*COMMAND, "-c", str(two.config_path), "backfill", "--table", "documents"],
            stderr=subprocess.DEVNULL,
        )
        two.sql(f"alter table documents {leaves}")
        wait_until(lambda: problem_of(service, "documents"), "noticed", 30)
        assert asked.wait(30) == 4
        two.sql("insert into notes values (2, 'goes', 'on')")
        wait_until(lambda: not two.drift("notes"), "the other one is compared, and goes on")
        assert service.stop() == 0


@pytest.mark.parametrize("two", ["pgoutput"], indirect=True)
def test_row_to_be_read_again_of_a_table_that_left(two: Site) -> None:
    """Every column is published: the row comes without its text, and the source has none either."""
    two.configure(tables=TABLES, source='publish = "rows"')
    two.cli("setup")
    with two.service() as service:
        wait_until(lambda: backfilled(service), "backfill")
        two.transaction(
            "alter table documents drop column body", "update documents set title = 'other'"
        )
        two.sql("insert into notes values (2, 'goes', 'on')")
        service.settle()
        assert two.drift("notes") == []
        wait_until(lambda: "correct tables.text" in str(problem_of(service, "documents")), "shown")
        assert service.times("one table is paused, the others go on") == 0, "they never stopped"
        assert service.stop() == 0
    two.sql("alter table documents add column body text default 'again'")
    two.cli("setup")
    with two.service() as service:
        wait_until(lambda: backfilled(service) and not two.drift(), "compared")


@pytest.mark.parametrize("two", ["pgoutput"], indirect=True)
def test_a_pause_is_told_with_its_way_out(two: Site) -> None:
    """A column that is virtual now, and a view over the table under its former name."""
    with two.service() as service:
        wait_until(lambda: backfilled(service), "backfill")
        two.sql(
            "alter table documents drop body, add body text generated always as (title) virtual"
        )
        wait_until(
            lambda: "is made of, with tables.template" in service.readiness()[1], "its way out"
        )
        wait_until(lambda: "tables.template" in str(problem_of(service, "documents")), "status")
        two.sql("alter table notes rename to notes_v1")
        two.sql("create view notes as select * from notes_v1")
        wait_until(lambda: "notes_v1" in str(problem_of(service, "notes")), "its name now")
        assert service.stop() == 0


def leave_and_come_back(two: Site) -> None:
    wal2json = two.target is not None
    two.sql(
        "alter table documents replica identity nothing"
        if wal2json
        else "alter publication cdc_embed drop table documents"
    )
    two.sql("update documents set body = 'missed'")
    two.sql(
        "alter table documents replica identity default"
        if wal2json
        else "alter publication cdc_embed add table documents (id, title, body)"
    )


def test_table_that_left_and_came_back_unseen_is_compared(two: Site) -> None:
    """Between two looks, and while no service runs: the catalogue's rows are others than before."""
    with two.service() as service:
        wait_until(lambda: backfilled(service), "backfill")
        leave_and_come_back(two)
        service.settle()
        drift = two.drift()
        wait_until(lambda: not two.drift(), "compared")
        if drift != ["stale 1"]:  # the look came first
            wait_until(lambda: said(service, "every row is compared"), "it says why")
        assert service.stop() == 0
    two.sql("update documents set body = 'followed'")
    leave_and_come_back(two)
    with two.service() as service:
        wait_until(lambda: not two.drift(), "compared")
        assert two.drift("notes") == []


@pytest.mark.parametrize("two", ["wal2json"], indirect=True)
def test_primary_key_that_was_away_unseen_means_a_comparison(two: Site) -> None:
    """Without it wal2json leaves updates out; the table's own row in the catalogue is the same."""
    with two.service() as service:
        wait_until(lambda: backfilled(service), "backfill")
        assert service.stop() == 0
    two.sql("alter table documents drop constraint documents_pkey")
    two.sql("update documents set body = 'missed'")
    two.sql("alter table documents add primary key (id)")
    with two.service() as service:
        wait_until(lambda: not two.drift(), "compared")


def test_identity_that_was_taken_away_stops_the_table(two: Site) -> None:
    """Without one wal2json leaves updates and deletes out, and says nothing."""
    with two.service() as service:
        wait_until(lambda: backfilled(service), "backfill")
        if two.target is None:
            two.sql("alter table documents drop column body cascade")
        else:
            two.sql("alter table documents replica identity nothing")
        wait_until(lambda: problem_of(service, "documents"), "noticed", 30)
        two.sql("insert into notes values (5, 'goes', 'on')")
        service.settle()
        assert two.drift("notes") == []
    problem = "no column body" if two.target is None else "replica identity is nothing"
    with two.service() as service:
        wait_until(lambda: problem in (problem_of(service, "documents") or ""), "at the start, too")
        two.sql("insert into notes values (6, 'goes', 'on')")
        service.settle()
        assert two.drift("notes") == []
        if two.target is None:
            two.sql("alter table documents add body text")
            two.sql("update documents set body = 'another'")
            two.cli("setup")
        else:
            two.sql("update documents set body = 'missed'")
            two.sql("alter table documents replica identity default")
        service.logged("streaming", times=2)
        wait_until(lambda: backfilled(service) and not two.drift(), "compared")
