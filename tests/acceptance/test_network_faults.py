"""The network between the service and its databases: cut, stalled, gone, and back again.

What notices what: a reset is an error at once; a peer that no longer acknowledges is TCP's to see
(keepalives when idle, ``tcp_user_timeout`` when something is on its way); a peer whose kernel
acknowledges while nothing comes through any more is noticed by asking.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

import pytest

from cdc_embed.service.tolerance import Tolerance
from tests.invariant import watched
from tests.pressure import expect_equal, load, sessions
from tests.quiet import let_pass, watch_for
from tests.site import DOCUMENTS, RunningService, Site, wait_until
from tests.tcp_proxy import TcpProxy

QUICK = {
    "connect_timeout": 2,
    "keepalives_idle": 1,
    "keepalives_interval": 1,
    "keepalives_count": 2,
    "tcp_user_timeout": 3000,
}
"""Options that tell of a lost peer within seconds; the defaults take half a minute."""
SERVER_PATIENCE = 2
"""``wal_sender_timeout`` in seconds."""


@dataclass
class Net:
    """A site, and the networks between the service and its two sides."""

    site: Site
    source: TcpProxy
    target: TcpProxy

    def side(self, name: str) -> TcpProxy:
        return self.source if name == "source" else self.target

    def connect(self, **parameters: int) -> None:
        dsn = self.site.dsn
        self.site.environment |= {
            "CDC_EMBED_SOURCE__DSN": self.source.dsn(dsn, **parameters),
            "CDC_EMBED_TARGET__DSN": self.target.dsn(dsn, **parameters),
        }


@pytest.fixture
def net(make_site: Callable[..., Site]) -> Iterator[Net]:
    site = make_site(18)
    site.sql(DOCUMENTS)
    site.sql(f"alter database {site.name} set wal_sender_timeout = '{SERVER_PATIENCE}s'")
    site.configure(more='[limits]\ndrain_timeout = "2s"\n')
    site.cli("setup")
    with TcpProxy(site.server.port) as source, TcpProxy(site.server.port) as target:
        net = Net(site, source, target)
        net.connect(**QUICK)
        yield net


def insert(site: Site, number: int) -> None:
    site.sql("insert into documents values (%s, 't', %s)", number, f"text {number}")


def stop(service: RunningService, seconds: float = 15) -> int:
    service.ask_to_stop()
    return service.wait(seconds)


def suffer(site: Site, proxy: TcpProxy, outages: Iterable[Callable[[], None]], long: float) -> None:
    """One outage after another, under load; resets are short, the others last ``long`` seconds."""
    with watched(site), site.service() as service:
        for fail in outages:
            with load(site) as pace:
                fail()
                before = pace.transactions
                let_pass(0.3 if fail in {proxy.cut, proxy.refuse} else long)
                wait_until(lambda: pace.transactions > before, "the load goes on")  # noqa: B023
                proxy.resume()
            service.settle(60)
            assert site.drift() == []
        expect_equal(site, service)
        assert stop(service) == 0


@pytest.mark.parametrize("side", ["source", "target"])
def test_network_that_comes_back_loses_nothing(net: Net, side: str) -> None:
    """The source is away for longer than its server waits for us: the slot is taken anew."""
    proxy = net.side(side)
    long = SERVER_PATIENCE + 1 if side == "source" else 1
    suffer(net.site, proxy, [proxy.cut, proxy.refuse, proxy.stall, proxy.vanish], long)


@pytest.mark.parametrize(
    "long", [False, pytest.param(True, marks=pytest.mark.long)], ids=["short", "long"]
)
@pytest.mark.parametrize("way", [{"up": False}, {"down": False}], ids=["answers", "questions"])
@pytest.mark.parametrize("side", ["source", "target"])
def test_network_that_is_stalled_in_one_direction_loses_nothing(
    net: Net, side: str, way: dict[str, bool], *, long: bool
) -> None:
    proxy = net.side(side)
    for seconds in (0.5, SERVER_PATIENCE + 1, 4 * SERVER_PATIENCE) if long else (1,):
        suffer(net.site, proxy, [lambda: proxy.stall(**way)], seconds)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("side", ["source", "target"])
def test_network_outage_beyond_any_patience_loses_nothing(net: Net, side: str) -> None:
    """Of TCP, of the servers with us, of an idle transaction: all of them are over in 70 s."""
    net.connect()
    proxy = net.side(side)
    suffer(net.site, proxy, [proxy.stall, proxy.vanish], 70)


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize(
    "parameters", [QUICK, pytest.param({}, marks=pytest.mark.long)], ids=["quick", "default"]
)
def test_peer_that_vanished_is_noticed_by_tcp(
    net: Net, side: str, parameters: dict[str, int]
) -> None:
    """The host of the database is gone, and another one has its address; nobody says so.

    Without ``DEAD_PEER_OPTIONS`` this takes two hours when idle, a quarter of an hour when not.
    """
    site, proxy = net.site, net.side(side)
    net.connect(**parameters)
    patience = 20 if parameters else 80
    with watched(site), site.service() as service:
        insert(site, 1)
        service.settle()
        proxy.strand(silently=True)
        insert(site, 2)
        if side == "source":
            service.wait_for("connection lost", patience)
        service.settle(patience)
        expect_equal(site, service)
        assert stop(service) == 0


@pytest.mark.parametrize("limit", [5.0, pytest.param(10.0, marks=pytest.mark.long)])
def test_stalled_stream_is_noticed_by_asking(net: Net, limit: float) -> None:
    """Every byte is acknowledged, by a proxy whose other side is gone: TCP sees nothing wrong.

    An idle server says nothing for hours, so silence alone means nothing: for longer than it may
    last without an answer, the connection stays. Not to answer does mean something.
    """
    site = net.site
    site.sql(f"alter database {site.name} set wal_sender_timeout = '5s'")
    with watched(site), site.service(tolerance=Tolerance(least_silence=limit)) as service:
        service.settle()
        streaming = sessions(site, "stream")
        watch_for(1.2 * limit, lambda: sessions(site, "stream") == streaming, "it stays", every=0.5)
        assert service.metric("cdc_embed_reconnects_total") == 0
        net.source.strand()
        insert(site, 1)
        service.wait_for("connection lost", 60)
        service.wait_for("streaming", 60)
        expect_equal(site, service)
        assert stop(service) == 0


ANSWERS = (
    ("target", (b"cdc_embed reader", b"where t.chunk_hash = any"), False),
    ("target", (b"cdc_embed writer", b"set commit_lsn", b"COMMIT"), False),
    ("target", (b"cdc_embed writer", b"set commit_lsn", b"COMMIT"), True),
    ("source", (b"cdc_embed rows", b"pg_current_snapshot"), False),
)


@pytest.mark.parametrize(
    "answers",
    [ANSWERS[::2], pytest.param(ANSWERS[1::2], marks=pytest.mark.long)],
    ids=["reader and a lost commit", "commit and source"],
)
def test_statement_whose_answer_never_comes_is_noticed_by_asking(
    net: Net, answers: tuple[tuple[str, tuple[bytes, ...], bool], ...]
) -> None:
    """The server is done with it, or never heard of it; a session of its own tells.

    What the lost session holds, it would hold for a minute more: it is ended.
    """
    site = net.site
    site.sql("alter table documents alter body set storage external")
    with watched(site), site.service() as service:
        service.wait_for("reconciled")  # its questions are others than those of the log's rows
        service.wait_for("indexed")  # until then rows are looked up in the writer's session
        for number, (side, steps, lost) in enumerate(answers, 1):
            site.sql("insert into documents values (%s, 't', %s)", number, f"b{number}" * 3000)
            service.settle()
            reached = net.side(side).stall_at(*steps, lost=lost)
            # the body is not in the log, so the row is read again
            site.sql("update documents set title = 'other' where id = %s", number)
            assert reached.wait(30), steps
            service.settle(45)
        expect_equal(site, service)
        assert stop(service) == 0


def test_statement_that_takes_long_is_not_taken_for_a_lost_one(net: Net) -> None:
    """It waits for a lock, for longer than an answer may be missing: nothing is begun anew."""
    site = net.site
    # whoever asks meanwhile whether it is lost must be answered in time
    asked_after = 6
    net.connect(**QUICK | {"connect_timeout": 10, "tcp_user_timeout": 1000 * asked_after})
    with site.service() as service, closing(site.connect()) as other, other.cursor() as cursor:
        cursor.execute("lock table cdc_embed.documents_embedding in share mode")
        insert(site, 1)
        wait_until(lambda: sessions(site, "writer"), "the batch is written")
        writers = sessions(site, "writer")
        watch_for(
            2 * asked_after + 2,
            lambda: sessions(site, "writer") == writers,
            "the writer stays",
            every=0.5,
        )
        other.rollback()
        service.settle()
        assert sessions(site, "writer") == writers
        assert service.metric("cdc_embed_errors_total", stage="target") == 0


CONNECTING = (
    (b"cdc_embed stream",),
    (b"cdc_embed sentinel", b"set "),
    (b"cdc_embed stream", b"IDENTIFY_SYSTEM"),
    (b"cdc_embed stream", b"START_REPLICATION"),
)


@pytest.mark.parametrize(
    "places",
    [CONNECTING[::3], pytest.param(CONNECTING[1:3], marks=pytest.mark.long)],
    ids=["first and last", "between"],
)
def test_stall_while_connecting_is_noticed(net: Net, places: tuple[tuple[bytes, ...], ...]) -> None:
    """Somebody accepts, and then says nothing, at each step until the stream has begun."""
    site = net.site
    with watched(site), site.service() as service:
        for number, place in enumerate(places):
            reached = net.source.stall_at(*place)
            net.source.cut()
            assert reached.wait(30), place
            insert(site, number)
            service.wait_for("streaming", 45)
        expect_equal(site, service)
        assert stop(service) == 0


@pytest.mark.parametrize("side", [pytest.param("source", marks=pytest.mark.long), "target"])
def test_stop_ends_in_time_whatever_does_not_answer(net: Net, side: str) -> None:
    """A batch is on its way, the watch looks, and nothing comes through any more."""
    site, proxy = net.site, net.side(side)
    net.connect()
    with site.service(process=True) as service:
        service.settle()
        proxy.stall()
        insert(site, 1)
        wait_until(proxy.unanswered, "the batch waits")
        let_pass(6.5)  # so the watch does, which looks every six seconds
        assert stop(service) == 0
    proxy.resume()
    with watched(site), site.service() as service:
        expect_equal(site, service)


@pytest.mark.parametrize(
    "place",
    [
        CONNECTING[0],
        *(pytest.param(place, marks=pytest.mark.long) for place in CONNECTING[1:3]),
        CONNECTING[3],
    ],
    ids=["connect", "settings", "identify", "start"],
)
def test_stop_while_connecting_ends_in_time(net: Net, place: tuple[bytes, ...]) -> None:
    """The main thread is in the driver, where no signal handler of Python's runs."""
    site = net.site
    net.connect()
    with site.service(wait=False, process=True) as service:
        reached = net.source.stall_at(*place)
        assert reached.wait(30)
        assert stop(service) == 0


@pytest.mark.parametrize(
    "command",
    ["status", *(pytest.param(name, marks=pytest.mark.long) for name in ("setup", "verify"))],
)
def test_command_on_a_stalled_network_ends_in_time_and_says_why(net: Net, command: str) -> None:
    """Nobody answers at connect time; then somebody does, and is lost during the first question."""
    site = net.site
    net.source.stall()
    done = site.cli(command, expect=75)
    assert "source database" in done.stderr
    net.source.resume()
    reached = net.source.stall_at(b"cdc_embed", b"select ")
    done = site.cli(command, expect=75)
    assert reached.is_set()
    assert "source database" in done.stderr
