"""A target that answers with errors: what passes is waited out, what does not stops the service."""

import subprocess
from collections.abc import Callable, Iterator

import pytest

from cdc_embed.lsn import LSN
from cdc_embed.service.tolerance import Tolerance
from tests.invariant import confirmed, recorded, watched
from tests.outages import fail, faults_met, mend
from tests.own_process import COMMAND
from tests.site import DOCUMENTS, EmbeddingServer, Site, wait_until
from tests.tcp_proxy import TcpProxy

COMMIT = b"Q\0\0\0\x0bCOMMIT\0"
RECORD = b"set commit_lsn = "
"""A part of the statement that records a batch."""

PASSING = {
    "08006": "connection failure",
    "25006": "read-only transaction",
    "40001": "serialization failure",
    "40P01": "deadlock",
    "53100": "disk full",
    "53200": "out of memory",
    "53300": "too many connections",
    "55P03": "lock not available",
    "57014": "statement cancelled",
    "57P01": "admin shutdown",
    "58030": "input/output error",
}


@pytest.fixture
def pair(make_site: Callable[..., Site], embedding_server: EmbeddingServer) -> Site:
    """A source on 18 whose target is on 16; its texts are counted."""
    source = make_site(18, target=make_site(16))
    source.sql(DOCUMENTS)
    source.configure(
        embedder=embedding_server.configuration,
        tables='[[tables]]\nname = "documents"\ntext = ["title", "body"]\n'
        "chunk = { max_tokens = 100000 }\n",
    )
    source.cli("setup")
    embedding_server.reset()
    return source


@pytest.fixture
def target(pair: Site) -> Site:
    assert pair.target is not None
    return pair.target


@pytest.fixture
def proxy(pair: Site, target: Site) -> Iterator[TcpProxy]:
    """The service reaches the target through it."""
    with TcpProxy(target.server.port) as proxy:
        pair.environment["CDC_EMBED_TARGET__DSN"] = proxy.dsn(target.dsn)
        yield proxy


def end_sessions(target: Site) -> None:
    """As an administrator, or a server that shuts down, ends them."""
    target.sql(
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where application_name like 'cdc_embed%' and datname = current_database()"
    )


def test_passing_errors_are_waited_out_without_embedding_twice(
    pair: Site, target: Site, embedding_server: EmbeddingServer
) -> None:
    with watched(pair), pair.service() as service:
        for number, state in enumerate(PASSING):
            fail(target, state, 2)
            pair.sql("insert into documents values (%s, 't', %s)", number, f"text {number}")
            service.settle()
            assert faults_met(target) == 3, f"{state} {PASSING[state]}"
        assert service.metric("cdc_embed_errors_total", stage="target") == 2 * len(PASSING)
        mend(target)
        assert pair.drift() == []
        assert set(embedding_server.counts()["by_text"].values()) == {1}
        assert service.metric("cdc_embed_reconnects_total") == 0
        assert service.stop() == 0


def test_commit_whose_answer_is_lost_takes_effect_once(
    pair: Site, target: Site, proxy: TcpProxy, embedding_server: EmbeddingServer
) -> None:
    """The connection is cut at the COMMIT: before it arrives, after it is done, while it runs.

    Without a look at the batch's number it is written twice. A COMMIT that still runs holds what it
    wrote: without a wait for it the next attempt meets its rows, and a person would have to act.
    """
    hold_commits(target)
    stored = "select count(*) from cdc_embed.documents_embedding"
    waits = "select count(*) from pg_locks where not granted and locktype <> 'advisory'"
    gate = target.connect()
    with watched(pair), pair.service() as service:
        service.wait_for("indexed")
        service.settle()
        for number, when in enumerate(("before", "after", "during")):
            seq = target.value("select batch_seq from cdc_embed.checkpoint")
            fail(target, "53100", 0)  # counts the inserts
            if when == "during":
                gate.cursor().execute("select pg_advisory_xact_lock(1)")
            lost = proxy.stall_at(b"cdc_embed writer", RECORD, COMMIT, lost=when == "before")
            pair.sql("insert into documents values (%s, 't', %s)", number, when)
            assert lost.wait(30)
            if when == "after":
                wait_until(lambda: target.value(stored) == 2, "the batch is committed")
            proxy.cut(unheard=when == "during")  # else the server would give the COMMIT up
            if when == "during":
                wait_until(lambda: target.value(waits), "another attempt waits for the first")
                gate.rollback()
            service.settle()
            assert target.value("select batch_seq from cdc_embed.checkpoint") == seq + 1
            assert faults_met(target) == (2 if when == "before" else 1), when
        assert pair.drift() == []
        assert set(embedding_server.counts()["by_text"].values()) == {1}
        assert service.stop() == 0
    gate.close()


def test_target_locks_are_waited_for_and_a_deadlock_is_survived(pair: Site, target: Site) -> None:
    """For longer than the source's patience with a silent reader, which hears of us meanwhile."""
    pair.environment["CDC_EMBED_SOURCE__DSN"] = f"{pair.dsn}?options=-c%20wal_sender_timeout%3D5s"
    waits = "select count(*) from pg_locks where not granted"
    reader = "select active_pid from pg_replication_slots where slot_name = %s"
    with watched(pair), pair.service() as service:
        pair.sql("insert into documents values (1, 't', 'text')")
        service.settle()
        stream, other = pair.value(reader, pair.name), target.connect()
        with other.cursor() as cursor:
            cursor.execute("set deadlock_timeout = '1min'")  # the writer is to be the victim
            cursor.execute("select from cdc_embed.checkpoint for update")
            pair.sql("update documents set body = 'new'")
            wait_until(lambda: target.value(waits), "the writer waits for the checkpoint")
            cursor.execute("select from cdc_embed.documents_embedding for update")
            assert "deadlock" in service.wait_for("waiting")["problem"]
            cursor.execute("select pg_sleep(7)")
        other.close()
        service.settle()
        assert pair.drift() == []
        assert pair.value(reader, pair.name) == stream
        assert service.stop() == 0


def test_killed_service_leaves_no_statement_that_holds_locks(pair: Site, target: Site) -> None:
    """The server looks whether its client is still there; by itself it would not before the end."""
    writing = (
        "select count(*) from pg_stat_activity where application_name like 'cdc_embed writer%' "
        "and wait_event_type = 'Lock' and datname = current_database()"
    )
    with pair.service(process=True) as service:
        service.settle()
        lock = target.connect()
        lock.cursor().execute("lock table cdc_embed.documents_embedding in share mode")
        pair.sql("insert into documents values (1, 't', 'text')")
        wait_until(lambda: target.value(writing), "it waits for the lock")
        service.kill()
    wait_until(lambda: target.value(writing) == 0, "its statement is given up")
    lock.close()
    with pair.service() as service:
        service.settle()
        assert pair.drift() == []
        assert service.stop() == 0


def hold_commits(target: Site) -> None:
    """A COMMIT that has written vectors waits while somebody holds lock 1."""
    target.sql(
        "create function held() returns trigger language plpgsql as "
        "$$ begin perform pg_advisory_xact_lock(1); return null; end $$"
    )
    target.sql(
        "create constraint trigger held after insert on cdc_embed.documents_embedding "
        "deferrable initially deferred for each row execute function held()"
    )


def test_read_only_target_is_written_once_it_is_writable_again(pair: Site, target: Site) -> None:
    """A session keeps the setting it began with: a new one must be tried."""
    name = target.name
    with watched(pair), pair.service() as service:
        service.settle()
        before = confirmed(pair)
        target.sql(f'alter database "{name}" set default_transaction_read_only = on')
        end_sessions(target)
        pair.sql("insert into documents values (1, 't', 'text')")
        wait_until(lambda: "read-only" in str(service.status()["waiting"]), "it says so")
        pair.sql("insert into documents values (2, 't', 'text')")
        assert confirmed(pair) <= max(before, recorded(pair))
        target.sql(f'alter database "{name}" reset default_transaction_read_only')
        service.settle()
        assert pair.drift() == []
        assert service.stop() == 0


def test_read_only_target_is_waited_for_by_name_at_the_start(pair: Site, target: Site) -> None:
    """Hosted services make it so when the disk is nearly full: that is never overridden."""
    names = {"database": target.name, "setting": "default_transaction_read_only"}
    target.sql("alter database {database} set {setting} = on".format(**names))
    pair.sql("insert into documents values (1, 't', 'text')")
    reset = "alter database {database} reset {setting}".format(**names)
    for command in ("doctor", "setup"):
        done = pair.cli(command, expect=75)
        assert reset in done.stdout + done.stderr
    with pair.service(wait=False) as service:
        service.wait_for("waiting")
        assert service.readiness() == (503, "starting, waits for: target database\n")
        said = service.status()["waiting"]["start"]
        assert "default_transaction_read_only is on for database" in said
        target.sql(reset)
        service.settle()
        assert pair.drift() == []
        assert service.stop() == 0


@pytest.fixture
def role(target: Site) -> Iterator[str]:
    """The service's user in the target: no superuser, so that something can be denied."""
    name = f"{target.name}_app"
    target.sql(f"create role {name} login")
    target.sql(f"grant usage on schema cdc_embed to {name}")
    target.sql(f"grant all on all tables in schema cdc_embed to {name}")
    yield name
    target.sql(f"drop owned by {name}")
    target.sql(f"drop role {name}")


def test_a_table_of_vectors_that_is_away_is_named_and_waited_for(pair: Site, target: Site) -> None:
    with pair.service() as service:
        service.settle()
        target.sql("alter table cdc_embed.documents_embedding rename to away")
        pair.sql("insert into documents values (1, 't', 'text')")
        end = LSN.parse(pair.value("select pg_current_wal_insert_lsn()::text"))
        wait_until(lambda: "documents_embedding" in str(service.status()), "it is named")
        assert confirmed(pair) <= recorded(pair) < end
        target.sql("alter table cdc_embed.away rename to documents_embedding")
        service.settle()
        assert pair.drift() == []
        assert service.stop() == 0


def test_a_right_that_is_taken_back_is_named_and_waited_for(
    pair: Site, target: Site, role: str
) -> None:
    """Then the service goes on from where it was."""
    pair.environment["CDC_EMBED_TARGET__DSN"] = target.server.dsn(target.name, role)
    with pair.service() as service:
        service.settle()
        target.sql(f"revoke update on cdc_embed.checkpoint from {role}")
        pair.sql("insert into documents values (2, 't', 'text')")
        end = LSN.parse(pair.value("select pg_current_wal_insert_lsn()::text"))
        wait_until(
            lambda: "grant update on cdc_embed.checkpoint to" in str(service.status()), "named"
        )
        assert confirmed(pair) <= recorded(pair) < end
        target.sql(f"grant all on cdc_embed.checkpoint to {role}")
        service.settle()
        assert pair.drift() == []
        assert service.stop() == 0


def test_index_is_made_once_the_target_has_room_for_it(pair: Site, target: Site) -> None:
    """Given up at the first error, it would be missing until the next start."""
    target.sql("create sequence indexes")
    target.sql(
        "create function full_disk() returns event_trigger language plpgsql as $$ begin "
        "if nextval('public.indexes') <= 2 then raise 'full' using errcode = '53100'; end if; "
        "end $$"
    )
    target.sql(
        "create event trigger full_disk on ddl_command_start when tag in ('CREATE INDEX') "
        "execute function full_disk()"
    )
    with pair.service() as service:
        assert "full" in service.wait_for("waiting")["problem"]
        service.wait_for("indexed")
        assert service.stop() == 0
    made = "select count(*) from pg_indexes where indexname = 'documents_embedding_hnsw'"
    assert target.value(made) == 1


def test_row_that_the_target_refuses_keeps_no_other_waiting(pair: Site, target: Site) -> None:
    """By a constraint, or because it is too large for an index: somebody else made both."""
    target.sql("create index on cdc_embed.documents_embedding (chunk_text)")
    target.sql("alter table cdc_embed.documents_embedding add check (chunk_text !~ 'forbidden')")
    large = "select string_agg(md5(i::text), '') from generate_series(1, 300) i"
    with pair.service() as service:
        pair.sql(
            "insert into documents values (1, 't', 'text'), (2, 't', 'forbidden'), "
            f"(3, null, ({large})), (4, 't', 'last')"
        )
        service.settle()
        letters = target.sql("select key->>'id', reason from cdc_embed.dead_letter order by 1")
        assert letters == [("2", "database"), ("3", "database")]
        assert pair.drift() == ["missing 2", "missing 3"]
        pair.sql("update documents set body = 'allowed' where id in (2, 3)")
        service.settle()
        assert pair.drift() == []
        assert target.value("select count(*) from cdc_embed.dead_letter") == 0
        assert service.stop() == 0


def test_an_error_that_comes_back_is_told_by_readiness(
    make_site: Callable[..., Site],
) -> None:
    """A verification that PostgreSQL refuses with a class that can pass, for as long as it is."""
    site = make_site(18)
    site.sql(DOCUMENTS)
    site.configure()
    site.cli("setup")
    site.sql(f"alter database \"{site.name}\" set restrict_nonsystem_relation_kind = 'view'")
    with site.service(tolerance=Tolerance(long_trouble=0.5)) as service:
        service.wait_for("reconciled")
        verify = subprocess.Popen(
            [*COMMAND, "-c", str(site.config_path), "verify"], stdout=subprocess.DEVNULL
        )
        try:
            wait_until(lambda: service.readiness()[0] == 503, "it is not ready")
            assert "restricted" in service.status()["waiting"]["reconcile"]
            site.sql(f'alter database "{site.name}" reset restrict_nonsystem_relation_kind')
            site.sql(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and application_name like 'cdc_embed count%'"
            )
            assert verify.wait(30) == 0
        finally:
            verify.kill()
        wait_until(lambda: service.readiness()[0] == 200, "it is ready again")
