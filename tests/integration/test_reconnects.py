"""Connections that end as soon as they are made, and the way out where they end at one place."""

import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from threading import Event, Thread
from typing import Any

import pytest

from cdc_embed.errors import ReplicationError
from cdc_embed.lsn import LSN
from cdc_embed.rotation import Login
from cdc_embed.source.stream import Frame, Stream
from tests.conftest import ready
from tests.quiet import watch_for
from tests.site import DOCUMENTS, RunningService, Site, wait_until
from tests.tcp_proxy import TcpProxy

CUT_SECONDS = 0.1
LOST = "cdc_embed_reconnects_total"
UNDECODABLE = "invalid memory alloc request size 1258291249"


@contextmanager
def cutting(proxy: TcpProxy, service: RunningService) -> Iterator[None]:
    """Every connection is cut as soon as it streams."""
    ended = Event()

    def cut() -> None:
        while not ended.wait(CUT_SECONDS):
            if service.status()["state"] == "streaming":
                proxy.cut()

    thread = Thread(target=cut)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.mark.timeout(120)
def test_a_proxy_that_cuts_at_once_is_not_hammered(make_site: Callable[..., Site]) -> None:
    site = ready(make_site(18))
    with TcpProxy(int(site.value("show port"))) as proxy:
        site.environment["CDC_EMBED_SOURCE__DSN"] = proxy.dsn(site.dsn)
        site.environment["CDC_EMBED_TARGET__DSN"] = site.dsn
        with site.service() as service:
            with cutting(proxy, service):
                wait_until(lambda: "the stream ended" in service.unready(), "it is unready", 60)
                problem = service.unready()
                assert re.search(r"at [0-9A-F]+/[0-9A-F]+; see what lies between", problem)
                assert "pg_drop_replication_slot" in service.status()["waiting"]["stream"]
                most = service.metric(LOST) + 5
                watch_for(5, lambda: service.metric(LOST) <= most, "one a second", every=0.5)
            site.sql("insert into documents values (1, 'one', 'text')")
            wait_until(lambda: not service.unready(), "it is ready again", 60)
            assert "stream" not in service.status()["waiting"]
            service.settle()
            assert site.drift() == []
            assert service.stop() == 0


@pytest.mark.timeout(120)
def test_a_row_that_cannot_be_decoded_is_named_with_the_way_out(
    make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its text form is too large ("A server has limits of its own" in CONTRIBUTING.md)."""
    site = make_site(18)
    site.sql(DOCUMENTS)
    site.sql("alter table documents add scan bytea")
    site.configure(source='publish = "rows"')
    site.cli("setup")
    read: Any = Stream.read
    broken = Event()

    def read_until_the_row(stream: Stream) -> Frame | None:
        frame: Frame | None = read(stream)
        if frame is not None and b"undecodable" in frame.payload:
            broken.set()
            raise ReplicationError(problem=UNDECODABLE, lsn=LSN(0xABC))
        return frame

    with site.service() as service:
        monkeypatch.setattr(Stream, "read", read_until_the_row)
        site.sql("insert into documents values (1, 'one', 'undecodable')")
        assert broken.wait(30)
        wait_until(lambda: "the stream ended" in service.unready(), "it is unready")
        problem = service.unready()
        assert "at 0/ABC; the text of a row is larger than 1 GB" in problem
        assert "one of public.documents (scan)" in problem
        assert 'source.publish = "columns"' in problem
        assert UNDECODABLE in service.status()["waiting"]["stream"]
        monkeypatch.undo()
        wait_until(lambda: not service.unready(), "it is ready again", 60)
        service.settle()
        assert site.drift() == []


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_row_of_600_megabytes_is_skipped_by_the_way_out(make_site: Callable[..., Site]) -> None:
    """Its text form is larger than 1 GB: no client ever gets it, and no publication mends the past.

    What ``/readyz`` says to do is done, to the letter.
    """
    site = make_site(18)
    site.sql(DOCUMENTS)
    site.sql("alter table documents add scan bytea")
    site.configure(source='publish = "rows"')
    site.cli("setup")
    with site.service() as service:
        site.sql("insert into documents values (1, 'one', 'before')")
        service.settle()
        part = "select decode(repeat('00', 100000000), 'hex') as x from generate_series(1, 6)"
        huge = "insert into documents select 2, 'two', 'beside it', 0, string_agg(x, ''::bytea)"
        site.sql(f"{huge} from ({part}) parts")
        wait_until(lambda: "the stream ended" in service.unready(), "it is unready", 300)
        problem = service.unready()
        assert "one of public.documents (scan)" in problem, problem
        assert service.stop() == 0
    site.wait_for_free_slot()
    site.configure(source='publish = "columns"')
    site.sql("select pg_drop_replication_slot(%s)", site.name)
    site.cli("setup", "--rebuild")
    with site.service() as service:
        service.wait_for("reconciled", 120)
        site.sql("insert into documents values (3, 'three', 'after')")
        service.settle(120)
        assert site.drift() == []
        assert service.stop() == 0


def test_the_servers_times_are_asked_with_each_connection(site: Site) -> None:
    for timeout in ("7s", "3s"):
        site.sql(f"alter database {site.name} set wal_sender_timeout = '{timeout}'")
        with closing(Stream(Login(site.dsn), site.name)) as stream:
            times = stream.read_times()
        assert f"{times.wal_sender_timeout:.0f}s" == timeout
        assert abs(times.clock_ahead) < 5


def test_a_request_of_an_unknown_kind_is_refused_with_a_hint(site: Site) -> None:
    asked = "insert into cdc_embed.request (slot, kind) values (%s, 'dance') returning id"
    with site.service() as service:
        number = site.value(asked, site.name)
        answer = "select state, error from cdc_embed.request where id = %s"
        wait_until(lambda: site.sql(answer, number)[0][0] == "failed", "it is answered")
        assert "of another version than this command" in site.sql(answer, number)[0][1]
        assert service.stop() == 0
