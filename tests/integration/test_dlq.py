"""``dlq list``, ``show``, ``retry`` and ``drop``, beside a running service and without one."""

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.own_process import COMMAND
from tests.site import (
    DOCUMENTS,
    EmbeddingServer,
    RunningService,
    Site,
    columns,
    wait_until,
)

CONTRACT = {"id", "table", "key", "reason", "error", "attempts", "last_at"}


@pytest.fixture
def site(make_site: Callable[..., Site], embedding_server: EmbeddingServer) -> Site:
    """A site whose model refuses texts with "bad" in them."""
    site = make_site(18)
    site.sql(DOCUMENTS)
    site.configure(
        embedder=f"{embedding_server.configuration}\ntimeout = '1s'",
        tables='[[tables]]\nname = "documents"\ntext = ["title", "body"]\nmetadata = ["views"]\n',
    )
    site.cli("setup")
    embedding_server.reset()
    embedding_server.faults(refuse=["bad"])
    return site


def dlq(site: Site, *arguments: str, expect: int = 0) -> "subprocess.CompletedProcess[str]":
    return site.cli("dlq", *arguments, expect=expect)


def answer(site: Site, *arguments: str) -> Any:
    return json.loads(dlq(site, *arguments, "--json").stdout)


def retried(site: Site, *arguments: str, expect: int = 0) -> Any:
    return json.loads(dlq(site, "retry", *arguments, "--json", expect=expect).stdout)


def listed(site: Site) -> dict[int, dict[str, Any]]:
    """The letters by the id of their rows."""
    return {letter["key"]["id"]: letter for letter in answer(site, "list")}


def compared(service: RunningService) -> None:
    """The first comparison is over: nothing is embedded by itself any more."""

    def done() -> bool:
        tables = service.status()["tables"]
        return bool(tables) and all(table["backfill_state"] == "done" for table in tables)

    wait_until(done, "compared")


def insert(site: Site, *texts: str) -> None:
    for number, text in enumerate(texts, start=1):
        site.sql("insert into documents values (%s, 't', %s)", number, text)


def test_letters_are_tried_again_by_the_running_service(
    site: Site, embedding_server: EmbeddingServer
) -> None:
    server = embedding_server
    with site.service() as service:
        assert answer(site, "list") == []
        assert "no dead letters" in dlq(site, "list").stderr
        assert retried(site, "--all") == {"tables": [], "retried": 0, "refused": 0, "paused": {}}
        insert(site, "bad one", "good", "bad two", "bad three")
        service.settle()
        letters = answer(site, "list")
        assert [set(letter) for letter in letters] == [CONTRACT] * 3
        assert [letter["id"] for letter in letters] == sorted(letter["id"] for letter in letters)
        first = letters[0]
        assert (first["table"], first["key"]) == ("public.documents", {"id": 1})
        assert (first["reason"], first["attempts"]) == ("refused", 1)
        ids = {letter["key"]["id"]: str(letter["id"]) for letter in letters}
        plain = dlq(site, "list", "--table", "documents").stdout
        assert all(number in plain for number in ids.values())
        assert "a text is refused" in plain

        found = retried(site, ids[1], expect=1)
        counts = {"retried": 1, "refused": 1}
        tables = [{"name": "public.documents", **counts}]
        assert found == {"tables": tables, **counts, "paused": {}}
        again = listed(site)[1]
        assert (again["id"], again["attempts"]) == (first["id"], 2)
        assert again["last_at"] > first["last_at"]
        assert listed(site)[3] == letters[1], "the others are left alone"

        site.sql("update documents set body = 'good by now' where id = 3")
        service.settle()
        server.faults(refuse=["bad three"])
        said = site.cli("dlq", "retry", "--table", "public.documents", expect=1).stdout
        assert "2 retried, 1 refused again" in said
        assert set(listed(site)) == {4}
        assert listed(site)[4]["attempts"] == 2
        server.faults()
        assert retried(site, ids[4])["refused"] == 0
        assert answer(site, "list") == []
        assert site.drift() == []
        assert site.value("select count(*) from cdc_embed.request where state <> 'done'") == 0
        assert service.stop() == 0


def test_letters_are_tried_again_without_a_service(
    site: Site, embedding_server: EmbeddingServer
) -> None:
    """The command takes the slot; what waits in the log is done as well."""
    with site.service() as service:
        insert(site, "bad one", "bad two")
        service.settle()
        assert service.stop() == 0
    insert_late = "insert into documents values (9, 't', 'late')"
    site.sql(insert_late)
    site.sql("delete from documents where id = 2")
    assert len(answer(site, "list")) == 2, "nobody reads the log"
    assert retried(site, "--all", expect=1)["refused"] == 1
    assert listed(site)[1]["attempts"] == 2
    embedding_server.faults()
    assert retried(site, "--all") == {
        "tables": [{"name": "public.documents", "retried": 1, "refused": 0}],
        "retried": 1,
        "refused": 0,
        "paused": {},
    }
    assert answer(site, "list") == []
    assert site.cli("verify").returncode == 0
    assert site.drift() == []
    site.wait_for_free_slot()


def test_a_retry_of_many_letters_that_are_refused_again_ends(
    site: Site,
) -> None:
    with site.service() as service:
        for part in range(3):
            site.sql(
                "insert into documents select i, 't', 'bad ' || i from generate_series(%s, %s) i",
                *(100 * part, 100 * part + 19),
            )
            service.settle()
        assert retried(site, "--all", expect=1)["refused"] == 60
        assert {letter["attempts"] for letter in answer(site, "list")} == {2}
        assert service.alive
        assert [e for e in service.log if e["event"] == "retried"][-1]["retried"] == 60


def test_show_has_the_text_that_the_row_has_now(site: Site) -> None:
    with site.service() as service:
        insert(site, "bad one", "bad two", "bad three")
        service.settle()
        assert service.stop() == 0
    ids = {key: str(letter["id"]) for key, letter in listed(site).items()}
    site.sql("update documents set body = 'good by now', views = 7 where id = 2")
    site.sql("delete from documents where id = 3")
    whole = answer(site, "show", ids[1])
    assert whole.keys() > CONTRACT
    assert (whole["text"], whole["row"]) == ("t\n\nbad one", "as it was refused")
    assert (whole["model"], whole["metadata"]) == ("http:test", {"views": "0"})
    assert whole["first_at"] == whole["last_at"]
    changed = answer(site, "show", ids[2])
    assert (changed["text"], changed["row"]) == ("t\n\ngood by now", "changed since")
    gone = answer(site, "show", ids[3])
    assert (gone["text"], gone["row"]) == (None, "gone")
    plain = dlq(site, "show", ids[1]).stdout
    assert "as it was refused" in plain
    assert plain.endswith("t\n\nbad one\n")


def test_verify_reports_a_dropped_letter_missing_until_retried(
    site: Site, embedding_server: EmbeddingServer
) -> None:
    """Were the service to remember the letter, the next change of the row would be skipped."""
    with site.service() as service:
        compared(service)
        insert(site, "bad one", "bad two", "bad three", "good")
        service.settle()
        ids = {key: str(letter["id"]) for key, letter in listed(site).items()}
        assert answer(site, "drop", ids[1], ids[2]) == {"dropped": 2}
        assert set(listed(site)) == {3}
        asked = embedding_server.counts()["requests"]
        service.settle()
        assert embedding_server.counts()["requests"] == asked, "nothing is tried by itself"
        found = site.verify(expect=1)
        (table,) = found["tables"]
        assert (table["missing"], table["dead_letters"]) == (2, 1)

        site.sql("update documents set views = 1 where id = 1")
        service.settle()
        assert set(listed(site)) == {1, 3}, "any change of the row tries it again"
        assert listed(site)[1]["attempts"] == 1
        found = json.loads(site.cli("verify", "--repair", "--json").stdout)
        (table,) = found["tables"]
        assert (table["missing"], table["repaired"], found["remaining"]) == (1, 1, 0)
        assert set(listed(site)) == {1, 2, 3}, "tried and refused again"
        assert "3 dropped; verify counts" in dlq(site, "drop", "--all").stderr
        embedding_server.faults()
        site.cli("verify", "--repair")
        assert site.drift() == []


def test_a_value_can_be_retried_once_the_database_accepts_it(
    site: Site,
) -> None:
    site.sql("alter table cdc_embed.documents_embedding add constraint low check (views < 5)")
    with site.service() as service:
        site.sql("insert into documents select i, 't', 'x' || i, i from generate_series(1, 6) i")
        service.settle()
        letters = listed(site)
        assert set(letters) == {5, 6}
        assert {letter["reason"] for letter in letters.values()} == {"metadata"}
        assert "violates check constraint" in letters[5]["error"]
        assert answer(site, "show", str(letters[5]["id"]))["metadata"] == {"views": "5"}
        assert retried(site, "--all", expect=1)["refused"] == 2
        assert listed(site)[5]["attempts"] == 2
        site.sql("alter table cdc_embed.documents_embedding drop constraint low")
        assert retried(site, "--all")["retried"] == 2
        assert site.drift() == []
        assert columns(site.sql("select views from cdc_embed.documents_embedding order by 1")) == [
            *range(1, 7)
        ]


def test_a_retry_waits_out_an_outage_and_can_be_called_off(
    site: Site, embedding_server: EmbeddingServer
) -> None:
    server = embedding_server
    with site.service() as service:
        insert(site, "bad one")
        service.settle()
        server.faults(fail_next=1_000_000, status=500)
        command = [*COMMAND, "-c", str(site.config_path), "dlq", "retry", "--all"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asked:
            wait_until(lambda: service.status()["waiting"].get("embed"), "it is tried")
            assert set(listed(site)) == {1}, "an outage changes nothing of it"
            asked.terminate()
        assert listed(site)[1]["attempts"] == 1
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asked:
            server.faults()
            assert asked.wait(60) == 0
        service.settle()
        assert answer(site, "list") == []
        assert site.drift() == []


def test_a_wrong_choice_is_a_usage_error(site: Site) -> None:
    for arguments, said in (
        (["retry"], "name some by their ids"),
        (["drop"], "name some by their ids"),
        (["retry", "1", "--all"], "name some by their ids"),
        (["show", "4711"], "there is no dead letter 4711"),
        (["drop", "4711"], "there is no dead letter 4711"),
        (["retry", "4711", "4712"], "there is no dead letter 4711, 4712"),
        (["list", "--table", "others"], "the configuration has public.documents"),
    ):
        stderr = dlq(site, *arguments, expect=2).stderr
        assert said in " ".join(stderr.replace("\u2502", " ").split())
    site.cli("teardown", "--yes")
    assert "run: cdc-embed setup" in site.cli("dlq", "list", expect=4).stderr


TWO = """
[[tables]]
name = "documents"
text = ["title", "body"]
[[tables]]
name = '"Notes"'
text = ["body"]
"""


def test_a_table_that_pauses_is_not_retried_and_stops_no_other(
    make_site: Callable[..., Site], embedding_server: EmbeddingServer
) -> None:
    """By its name another table may be read, or none: what was read would prove nothing."""
    target = make_site(16)
    site = make_site(18, target=target)
    site.sql(DOCUMENTS)
    site.sql(
        'create table "Notes" ("the name" text, n integer, body text, primary key ("the name", n))'
    )
    site.configure(embedder=embedding_server.configuration, tables=TWO)
    site.cli("setup")
    embedding_server.faults(refuse=["bad"])
    with site.service() as service:
        site.sql("insert into documents values (1, 't', 'bad document')")
        site.sql("""insert into "Notes" values ('it''s', 7, 'bad note')""")
        service.settle()
        note = answer(site, "list", "--table", '"Notes"')[0]
        assert (note["table"], note["key"]) == ("public.Notes", {"the name": "it's", "n": 7})
        assert answer(site, "show", str(note["id"]))["text"] == "bad note"
        assert retried(site, "--table", '"Notes"', expect=1)["refused"] == 1
        site.sql("alter table documents rename to old")
        wait_until(lambda: service.status()["tables"][0]["problem"], "it is noticed")
        asked = embedding_server.counts()["requests"]
        failed = site.cli("dlq", "retry", "--table", "documents", expect=4)
        assert "public.documents" in failed.stderr
        assert embedding_server.counts()["requests"] == asked
        others = site.cli("dlq", "retry", "--all", expect=1)
        assert "not retried, it is paused: public.documents" in others.stderr
        assert "1 retried, 1 refused again" in others.stdout
        asked = embedding_server.counts()["requests"]
        verified = site.cli("verify", expect=1)
        assert "not verified, it is paused: public.documents" in verified.stderr
        assert embedding_server.counts()["requests"] == asked
        embedding_server.faults()
        found = retried(site, "--all", expect=1)
        assert (found["retried"], found["refused"]) == (1, 0)
        assert list(found["paused"]) == ["public.documents"]
        assert len(target.sql('select n from cdc_embed."Notes_embedding"')) == 1
        assert service.alive


def test_a_retry_does_not_wait_for_a_backfill_to_end(
    site: Site, embedding_server: EmbeddingServer
) -> None:
    more = site.config_path.read_text() + "[backfill]\nrows_per_second = 5\n"
    site.config_path.write_text(more)
    with site.service() as service:
        insert(site, "bad one", "bad two")
        service.settle()
        compared(service)
        assert service.stop() == 0
    site.sql("insert into documents select i, 't', 'text ' || i from generate_series(10, 900) i")
    with site.service() as service:
        service.settle()
        site.sql("update cdc_embed.reconcile set state = 'running', stage = 'rows', cursor = null")
        service.wait_for("table is compared")
        embedding_server.faults()
        assert retried(site, "--all")["refused"] == 0
        running = "select state, stage from cdc_embed.reconcile"
        assert site.sql(running) == [("running", "rows")], "three minutes of work"
        assert answer(site, "list") == []
