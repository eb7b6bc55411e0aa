"""``setup`` and ``teardown``: what they make, what they leave, what the application notices."""

import json
import os
import signal
import socket
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import psycopg2
import pytest

from tests.own_process import COMMAND
from tests.site import DOCUMENTS, Site, wait_until

STATEMENTS = (
    "insert into documents values (1, 'one', 'text'), (2, 'two', null) returning id, title",
    "insert into documents values (3, 'three', repeat('long ', 2000)) returning id, views",
    "update documents set views = views + 1 where id = 1 returning id, views",
    "update documents set body = 'new' where id = 2 returning id, body",
    "update documents set id = 10 where id = 1 returning id, title",
    "update documents set extra = 'x' where id = 3 returning id, extra",
    "delete from documents where id = 2 returning id, title, body",
    "select count(*), sum(views), max(length(body)) from documents",
    "truncate documents",
    "select count(*) from documents",
)


def outcomes(site: Site) -> list[object]:
    """Run each statement of the application; return its rows, or the error's code."""
    results: list[object] = []
    for statement in STATEMENTS:
        try:
            results.append(site.sql(statement))
        except psycopg2.Error as exc:
            results.append(exc.pgcode)
    return results


@pytest.mark.parametrize("identity", ["default", "full"])
@pytest.mark.parametrize("publish", ["columns", "rows"])
def test_no_application_statement_ends_otherwise_after_setup(
    make_site: Callable[..., Site], version: int, identity: str, publish: str
) -> None:
    site = make_site(version)
    site.sql(DOCUMENTS)
    site.sql("alter table documents add extra text")
    site.sql(f"alter table documents replica identity {identity}")
    before = outcomes(site)
    site.configure(source=f'publish = "{publish}"')
    site.cli("setup")
    after = outcomes(site)
    assert after == before
    assert not any(isinstance(outcome, str) for outcome in after)
    with site.service() as service:
        again = outcomes(site)
        assert again == before
        site.sql("insert into documents values (7, 'seven', 'text')")
        service.settle()
        assert site.drift() == []


def test_dry_run_and_sql_change_nothing_and_the_script_sets_up(
    make_site: Callable[..., Site],
) -> None:
    site = make_site(18)
    site.sql(DOCUMENTS)
    site.configure(source='publish = "columns"')
    shown = site.cli("setup", "--dry-run").stdout
    assert "create publication" in shown
    assert "will refuse to drop or retype" in shown
    assert "UPDATE and DELETE will fail while" in shown
    site.configure()
    assert "note:" not in site.cli("setup", "--dry-run").stdout
    script = site.cli("setup", "--sql").stdout
    assert site.value("select to_regnamespace('cdc_embed') is null")
    assert site.value("select count(*) from pg_publication") == 0
    psql = site.server.binaries / "psql"
    subprocess.run(
        [psql, "-q", "-v", "ON_ERROR_STOP=1", site.dsn], input=script, text=True, check=True
    )
    rest = site.cli("setup").stderr
    assert "nothing to do" in rest
    with site.service() as service:
        site.sql("insert into documents values (1, 't', 'text')")
        service.settle()
        assert site.drift() == []


def test_setup_can_be_run_again_and_adds_a_new_table(site: Site) -> None:
    slot = site.sql("select slot_name, confirmed_flush_lsn from pg_replication_slots")
    assert "nothing to do" in site.cli("setup").stderr
    assert site.sql("select slot_name, confirmed_flush_lsn from pg_replication_slots") == slot
    site.sql("create table notes (id int primary key, title text, body text)")
    site.configure(
        tables='[[tables]]\nname = "documents"\ntext = ["title", "body"]\n'
        '[[tables]]\nname = "notes"\ntext = ["title", "body"]\n'
    )
    site.cli("setup")
    with site.service() as service:
        site.sql("insert into notes values (1, 'note', 'text')")
        site.sql("insert into documents values (1, 'doc', 'text')")
        service.settle()
        assert site.drift() == []
        assert site.drift("notes") == []


def test_a_new_slot_says_whose_transaction_it_waits_for(make_site: Callable[..., Site]) -> None:
    site = make_site(18)
    site.sql(DOCUMENTS)
    site.configure()
    blocker = site.connect()
    with blocker.cursor() as cursor:
        cursor.execute("set application_name = 'long report'")
        cursor.execute("insert into documents values (1, 't', 'open')")
    setup = subprocess.Popen(
        [*COMMAND, "-c", str(site.config_path), "setup"], stderr=subprocess.PIPE, text=True
    )
    assert setup.stderr is not None
    lines: list[str] = []
    for line in setup.stderr:
        lines.append(line)
        if "waits for transactions" in line:
            break
    assert "long report" in lines[-1]
    blocker.rollback()
    blocker.close()
    setup.stderr.read()
    assert setup.wait(30) == 0
    setup.stderr.close()


def test_a_setup_that_waits_can_be_interrupted_and_run_again(
    make_site: Callable[..., Site],
) -> None:
    site = make_site(18)
    site.sql(DOCUMENTS)
    site.configure()
    busy = site.connect()
    with busy.cursor() as cursor:
        cursor.execute("insert into documents values (1, 'not', 'committed')")
    setup = subprocess.Popen(
        [*COMMAND, "-c", str(site.config_path), "setup"],
        stderr=subprocess.PIPE,
        text=True,
        # what runs in the background of a shell inherits that it ignores the signal
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert setup.stderr is not None
    while "waits for transactions" not in setup.stderr.readline():
        assert setup.poll() is None
    setup.send_signal(signal.SIGINT)
    assert setup.wait(30) == 130
    setup.stderr.close()
    slot = "select 1 from pg_replication_slots where slot_name = %s"
    wait_until(lambda: not site.sql(slot, site.name), "the server has heard of it")
    busy.close()
    site.cli("setup")
    site.cli("doctor")


def test_teardown_drops_what_setup_made_and_nothing_else(site: Site) -> None:
    site.sql("create table cdc_embed.mine (x int)")
    site.sql("drop publication cdc_embed")
    site.sql("create publication cdc_embed for table documents")
    done = site.cli("teardown", "--yes")
    assert "publication cdc_embed was not made by setup for this slot" in done.stderr
    assert "mine" in done.stderr
    assert site.value("select count(*) from pg_publication") == 1
    left = site.sql("select relname from pg_class where relnamespace = 'cdc_embed'::regnamespace")
    assert left == [("mine",)]
    assert (
        site.value("select count(*) from pg_replication_slots where slot_name = %s", site.name) == 0
    )


@pytest.mark.parametrize(
    "mine",
    ["function {}.mine() returns int language sql as 'select 1'", "type {}.mine as enum ('a')"],
    ids=["function", "type"],
)
@pytest.mark.parametrize("schema", ["vectors", "public"])
def test_teardown_leaves_what_is_no_table_too(
    make_site: Callable[..., Site], schema: str, mine: str
) -> None:
    """With the schema everything in it would go, in "public" the extension itself."""
    site = make_site(18)
    site.sql(DOCUMENTS)
    site.configure(more=f'[target]\nschema = "{schema}"\n')
    site.cli("setup")
    site.sql("create " + mine.format(schema))
    done = site.cli("teardown", "--yes")
    assert f"schema {schema} stays, it has other objects: " in done.stderr
    assert "mine" in done.stderr
    assert site.value("select count(*) from pg_extension where extname = 'vector'") == 1
    kind, name = mine.split("(")[0].split()[:2]
    site.sql(f"drop {kind} {name.format(schema)}")
    left = "select relname from pg_class where relnamespace = %s::regnamespace and relkind = 'r'"
    assert site.sql(left, schema) == ([] if schema == "vectors" else [("documents",)])
    if schema == "vectors":  # nothing of ours is left in it
        site.sql("drop schema vectors")
    site.cli("setup")
    site.cli("teardown", "--yes")
    assert (site.value("select to_regnamespace(%s)", schema) is None) == (schema == "vectors")


def test_teardown_of_the_target_is_done_wholly_or_not_at_all(site: Site) -> None:
    """Half of it would leave a schema that no command understands."""
    site.sql("create view watched as select * from cdc_embed.checkpoint")
    refused = site.cli("teardown", "--yes", expect=4).stderr
    assert "view public.watched depends on table cdc_embed.checkpoint" in refused
    assert "drop the dependent objects" in refused
    site.sql("drop view watched")
    site.cli("teardown", "--yes")
    assert site.value("select to_regnamespace('cdc_embed') is null")
    site.cli("setup")


def test_teardown_asks_and_refuses_while_the_service_runs(site: Site) -> None:
    done = subprocess.run(
        [*COMMAND, "-c", str(site.config_path), "teardown"],
        input="n\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert site.value("select to_regnamespace('cdc_embed') is not null")
    with site.service():
        done = site.cli("teardown", "--yes", expect=75)
        assert "is active for PID" in done.stderr


def test_doctor_tells_each_check_and_its_fix_as_json(site: Site) -> None:
    checks = json.loads(site.cli("doctor", "--json").stdout)["checks"]
    assert {check["id"] for check in checks} >= {
        *("server_version", "wal_level", "replication_role", "free_slot", "publication", "slot"),
        *("slot_free", "table", "pgvector", "migrations", "model", "space"),
    }
    assert all(set(check) == {"id", "severity", "ok", "message", "fix"} for check in checks)
    assert all(check["ok"] for check in checks if check["severity"] == "error")
    site.sql("drop publication cdc_embed")
    checks = json.loads(site.cli("doctor", "--json", expect=4).stdout)["checks"]
    (failed,) = [check for check in checks if not check["ok"] and check["severity"] == "error"]
    assert failed["id"] == "publication"
    assert "cdc-embed setup" in failed["fix"]


def test_status_keeps_its_contract_with_the_service_up_and_down(site: Site) -> None:
    keys = {
        *("state", "role", "epoch", "space", "slot", "lsn", "lag_bytes"),
        *("oldest_pending_age_seconds", "oldest_transaction_seconds", "tables", "embedding"),
    }
    stopped = json.loads(site.cli("status", "--json").stdout)
    assert set(stopped) >= keys
    assert stopped["state"] == "stopped"
    with site.service() as service:
        site.sql("insert into documents select i, 't', 'text ' || i from generate_series(1,9) i")
        service.settle()
        wait_until(lambda: service.status()["tables"], "the first look at both databases")
        text = site.config_path.read_text()
        site.config_path.write_text(text.replace("port = 0", f"port = {service.port}"))
        site.environment["ALL_PROXY"] = "socks5h://127.0.0.1:1"
        running = json.loads(site.cli("status", "--json").stdout)
        site.config_path.write_text(text)
    assert set(running) >= keys
    assert (running["state"], running["role"]) == ("streaming", "leader")
    assert set(running["slot"]) == {
        *("name", "active", "wal_status", "retained_bytes", "safe_wal_bytes"),
    }
    assert set(running["lsn"]) == {"current", "received", "durable", "confirmed"}
    assert set(running["tables"][0]) == {
        *("name", "rows_embedded", "rows_source_estimate", "backfill_state", "backfill_done"),
        *("dead_letters", "deferred", "problem", "index"),
    }
    stopped = json.loads(site.cli("status", "--json").stdout)
    assert stopped["tables"][0]["rows_embedded"] == 9
    assert stopped["space"] == running["space"]


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


HOSTS = ["0.0.0.0", "127.0.0.1", *(["::1", "::"] if has_ipv6() else [])]


@pytest.mark.parametrize("host", HOSTS)
def test_status_finds_the_service_on_any_address_it_listens_on(site: Site, host: str) -> None:
    text = site.config_path.read_text()
    listening = text.replace("[serve]", f'[serve]\nhost = "{host}"')
    site.config_path.write_text(listening)
    with site.service() as service:
        site.config_path.write_text(listening.replace("port = 0", f"port = {service.port}"))

        def state() -> str:
            found: str = json.loads(site.cli("status", "--json").stdout)["state"]
            return found

        wait_until(lambda: state() == "streaming", "its first look at both databases")


def test_health_and_metrics_answer(site: Site) -> None:
    with site.service() as service:
        service.wait_for("reconciled")  # else a comparison may be what brings the row
        site.sql("insert into documents values (1, 't', 'text')")
        service.settle()
        assert service.get("/livez") == "ok\n"
        assert service.get("/readyz") == "ok\n"
        metrics = service.get("/metrics")
        for name in (
            *("replication_connected", "reconnects_total", "received_bytes_total"),
            *("changes_received_total", "changes_skipped_total", "heartbeat_timestamp_seconds"),
            *("slot_active", "slot_retained_wal_bytes", "slot_lag_bytes", "slot_safe_wal_bytes"),
            *("slot_wal_status", "oldest_pending_age_seconds", "pending_documents"),
            *("pending_bytes", "backpressure_active", "backpressure_seconds_total"),
            *("embed_requests_total", "embed_request_duration_seconds", "embed_batch_documents"),
            *("embed_texts_total", "embed_tokens_total", "rows_written_total"),
            *("write_duration_seconds", "end_to_end_latency_seconds", "errors_total"),
            *("dead_letters_total", "dead_letters_pending", "deferred_documents"),
            *("confirmed_beyond_durable_total", "build_info", "phase", "leader"),
            "backfill_pending_tokens",
        ):
            assert f"# HELP cdc_embed_{name} " in metrics, name
        assert service.metric("cdc_embed_end_to_end_latency_seconds_count") == 1
        assert service.metric("cdc_embed_confirmed_beyond_durable_total") == 0


@pytest.mark.timeout(300)
def test_the_wheel_carries_the_sql_and_sets_up_from_elsewhere(
    make_site: Callable[..., Site], tmp_path: Path
) -> None:
    site = make_site(18)
    site.sql(DOCUMENTS)
    site.configure()
    root = Path(__file__).parents[2]
    wheels = tmp_path / "wheels"
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(wheels), str(root)],
        check=True,
        capture_output=True,
    )
    (wheel,) = wheels.glob("*.whl")
    venv.create(tmp_path / "elsewhere", system_site_packages=False, with_pip=True)
    python = tmp_path / "elsewhere" / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "--no-deps", str(wheel)],
        check=True,
        capture_output=True,
    )
    # everything but the package itself comes from the environment that runs the tests
    (packages,) = (tmp_path / "elsewhere" / "lib").glob("python*/site-packages")
    others = next(path for path in sys.path if path.endswith("site-packages"))
    (packages / "others.pth").write_text(others)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    program = "import cdc_embed; print(cdc_embed.__file__)"
    where = subprocess.run(
        [python, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert "elsewhere" in where
    done = subprocess.run(
        [python, "-m", "cdc_embed.cli", "-c", str(site.config_path), "setup"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert site.value("select to_regclass('cdc_embed.documents_embedding') is not null")
