"""Two instances on one slot: exactly one writes, whatever happens to either of them.

The target keeps a diary of every write of the checkpoint row. Each batch updates that row in its
own transaction, so the diary is in the order of the commits.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import pairwise

import pytest

from tests.invariant import watched
from tests.pressure import expect_equal, load, sessions
from tests.site import DOCUMENTS, RunningService, Site, wait_until

DIARY = """
create table diary (
  entry bigint generated always as identity, epoch bigint, batch_seq bigint, pid integer
);
create function note() returns trigger language plpgsql as $$ begin
  insert into public.diary (epoch, batch_seq, pid)
  values (new.epoch, new.batch_seq, pg_backend_pid());
  return null;
end $$;
create trigger note after update on cdc_embed.checkpoint for each row execute function note();
"""
HOLD = 4243
HOLDING = f"""
create function hold() returns trigger language plpgsql as $$ begin
  perform pg_advisory_xact_lock({HOLD}); return null;
end $$;
create constraint trigger hold after update on cdc_embed.checkpoint
  deferrable initially deferred for each row
  when (new.batch_seq > old.batch_seq) execute function hold();
"""
STANDBY = "standby, the slot is in use"


@pytest.fixture
def pair(make_site: Callable[..., Site]) -> Site:
    """A site for two instances, whose server gives a silent reader of the slot up soon."""
    site = make_site(18)
    site.sql(DOCUMENTS)
    site.sql(f"alter database {site.name} set wal_sender_timeout = '3s'")
    site.configure()
    site.cli("setup")
    site.sql(DIARY)
    return site


def expect_one_writer(site: Site, epochs: int) -> None:
    """Epochs never go back, each batch has its number once, one session writes in each epoch."""
    diary = site.sql("select epoch, batch_seq from diary order by entry")
    assert diary == sorted(diary)
    assert {epoch for epoch, _ in diary} == set(range(1, epochs + 1))
    batches = [seq for (_, before), (_, seq) in pairwise(diary) if seq > before]
    assert batches == list(range(1, len(batches) + 1))
    writers = site.sql(
        "select epoch from (select epoch, pid, batch_seq > lag(batch_seq) over (order by entry) "
        "as is_batch from diary) as d where is_batch group by epoch having count(distinct pid) > 1"
    )
    assert writers == []


def at_least(site: Site, epochs: int) -> int:
    """Return the number of epochs: more, if one was starved for as long as the server waits."""
    epoch: int = site.checkpoint()["epoch"]
    assert epoch >= epochs
    return epoch


@contextmanager
def two(site: Site) -> Iterator[tuple[RunningService, RunningService]]:
    """A leader and a standby."""
    with site.service(process=True) as leader, site.service(wait=False, process=True) as standby:
        standby.wait_for(STANDBY)
        yield leader, standby


def test_killed_leader_is_followed_by_the_standby_under_load(pair: Site) -> None:
    with watched(pair), two(pair) as (leader, standby):
        with load(pair) as pace:
            before = pace.transactions
            wait_until(lambda: pace.transactions > before + 50, "the load goes on")
            leader.kill()
            killed = time.monotonic()
            standby.wait_for("streaming")
            assert time.monotonic() - killed < 10, "it looks every second"
        expect_equal(pair, standby)
        expect_one_writer(pair, at_least(pair, 2))
        assert standby.stop() == 0


def test_paused_leader_loses_the_slot_and_waits_when_it_goes_on(pair: Site) -> None:
    """The server gives it up, the standby leads; then the other way round."""
    with watched(pair), two(pair) as (first, second):
        with load(pair):
            leader, standby = first, second
            for _ in range(2):
                epoch = pair.checkpoint()["epoch"]
                leader.process.send_signal(signal.SIGSTOP)
                try:
                    standby.wait_for("streaming")
                    assert pair.checkpoint()["epoch"] > epoch
                finally:
                    leader.process.send_signal(signal.SIGCONT)
                leader.wait_for(STANDBY)
                leader, standby = standby, leader
        expect_equal(pair, leader)
        expect_one_writer(pair, at_least(pair, 3))
        assert [first.stop(), second.stop()] == [0, 0]


def test_leader_that_is_paused_in_its_commit_writes_no_more(pair: Site) -> None:
    """Its transaction holds the checkpoint row: it is ended by who takes over.

    The epoch in the last statement of a batch is what keeps the old leader, once it goes on, from
    repeating the batch over what the new one has written since.
    """
    site = pair
    # taking over waits for the old transaction, longer than the server's patience is here
    site.sql(f"alter database {site.name} reset wal_sender_timeout")
    with watched(site), two(site) as (old, new):
        site.sql("insert into documents values (1, 't', 'text 1')")
        old.settle()
        site.sql(HOLDING)
        with closing(site.connect()) as holder, holder.cursor() as cursor:
            cursor.execute("select pg_advisory_lock(%s)", (HOLD,))
            holder.commit()
            site.sql("update documents set body = 'text 2'")
            waiting = "select count(*) from pg_stat_activity where wait_event = 'advisory'"
            wait_until(lambda: site.value(waiting), "the batch is being committed")
            (writer,) = sessions(site, "writer")
            old.process.send_signal(signal.SIGSTOP)
            try:
                for pid in sessions(site, "stream"):
                    site.sql("select pg_terminate_backend(%s)", pid)
                wait_until(lambda: sessions(site, "writer") != [writer], "its session is ended")
                site.sql("drop function hold cascade")
                new.wait_for("streaming")
                site.sql("update documents set body = 'text 3'")
                new.settle()
            finally:
                old.process.send_signal(signal.SIGCONT)
        old.wait_for(STANDBY)
        expect_equal(site, new)
        expect_one_writer(site, site.checkpoint()["epoch"])
        new.kill()
        old.wait_for("streaming")
        site.sql("update documents set body = 'text 4'")
        expect_equal(site, old)
        expect_one_writer(site, site.checkpoint()["epoch"])
        assert old.stop() == 0


def test_standby_that_comes_and_goes_is_not_felt(pair: Site) -> None:
    # a leader that is starved for a while is to be given up by nobody here
    pair.sql(f"alter database {pair.name} set wal_sender_timeout = '1min'")
    with watched(pair), pair.service(process=True) as leader, load(pair):
        streaming = sessions(pair, "stream")
        for end in (RunningService.stop, RunningService.kill):
            with pair.service(wait=False, process=True) as standby:
                standby.wait_for(STANDBY)
                end(standby)
        assert sessions(pair, "stream") == streaming
        assert pair.checkpoint()["epoch"] == 1
        assert leader.metric("cdc_embed_reconnects_total") == 0
    expect_one_writer(pair, 1)


def test_both_restarted_at_once_agree_on_one_leader(pair: Site) -> None:
    with watched(pair), load(pair):
        for _ in range(2):
            with ExitStack() as stack:
                databases = [
                    stack.enter_context(pair.service(wait=False, process=True)) for _ in range(2)
                ]
                wait_until(lambda: both_settled(databases), "one leads and one waits")  # noqa: B023
                for service in sorted(databases, key=role):  # the standby first: else it may lead
                    service.process.kill()
    with pair.service() as service:
        expect_equal(pair, service)
        expect_one_writer(pair, at_least(pair, 3))


def role(service: RunningService) -> str:
    """The last that it said of it; nothing so far is an empty string."""
    said = [entry["event"] for entry in service.log if entry["event"] in {STANDBY, "streaming"}]
    return said[-1] if said else ""


def both_settled(services: list[RunningService]) -> bool:
    """Whether one leads and the other one waits."""
    return sorted(map(role, services)) == [STANDBY, "streaming"]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_leadership_changes_hands_a_hundred_times(pair: Site) -> None:
    with watched(pair):
        with load(pair), ExitStack() as stack:
            leader = stack.enter_context(pair.service(process=True))
            for _ in range(100):
                standby = stack.enter_context(pair.service(wait=False, process=True))
                standby.wait_for(STANDBY)
                leader.kill()
                standby.wait_for("streaming")
                leader = standby
        with pair.service() as service:
            expect_equal(pair, service)
            expect_one_writer(pair, 102)
