"""The positions that psycopg2 really tells the server, seen from there (CONTRIBUTING.md, T1)."""

import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from cdc_embed.errors import ReplicationError
from cdc_embed.lsn import LSN, Progress
from cdc_embed.postgres.session import Session
from cdc_embed.postgres.side import SOURCE
from cdc_embed.rotation import Login
from cdc_embed.source.slot import SlotCatalogue
from cdc_embed.source.stream import Stream
from tests.servers import Servers
from tests.site import Site, wait_until
from tests.walsender import Walsender

BEGIN = b"B" + struct.pack(">QqI", 0x5000, 0, 7)


@contextmanager
def streaming() -> Iterator[tuple[Walsender, Stream]]:
    with Walsender() as server:
        stream = Stream(Login(server.dsn), "s")
        try:
            stream.start_replication({"proto_version": "1"})
            assert server.streaming.wait(5)
            yield server, stream
        finally:
            stream.close()


def read_all(stream: Stream, count: int) -> None:
    """Read until ``count`` frames have come."""
    seen = 0

    def arrived() -> bool:
        nonlocal seen
        seen += stream.read() is not None
        return seen == count

    wait_until(arrived, f"{count} frames")


def reported(server: Walsender) -> int:
    """The flush position of the next status update."""
    return server.flushed.get(timeout=30)


def test_keepalive_in_an_older_transaction_confirms_nothing_new() -> None:
    """T1 (a): Z is confirmed; A is delivered, not written; B is older and is being delivered.

    With one cursor for both directions psycopg2 would forward the confirmed position to the
    keepalive's: A would be lost.
    """
    confirmed, end_of_a = LSN(0x3000), LSN(0x4000)
    with streaming() as (server, stream):
        stream.report(confirmed, confirmed)
        assert reported(server) == confirmed
        server.send_frame(0x3F00, b"C" + bytes(25))  # A's Commit
        server.send_frame(0x2000, BEGIN)  # B began before Z
        server.send_keepalive(end_of_a, reply=True)
        read_all(stream, 2)
        wait_until(lambda: stream.read() is None and not server.flushed.empty(), "the reply")
        assert reported(server) <= confirmed


def test_frame_without_a_position_makes_reading_wait() -> None:
    """T1 (b): after a Relation message the reading cursor forwards even from nothing."""
    progress = Progress(LSN(0x1000))
    with streaming() as (server, stream):
        assert stream.may_read(progress), "nothing was read yet, no transaction is open"
        server.send_frame(0x2000, BEGIN)
        read_all(stream, 1)
        progress.open_commit = LSN(0x3000)
        assert stream.may_read(progress)
        server.send_frame(0, b"R" + bytes(4) + b"s\0t\0d\0\0")
        read_all(stream, 1)
        assert not stream.may_read(progress)
        assert stream.needs_record(progress)
        progress.mark_recorded(progress.open_commit)
        assert stream.may_read(progress)
        server.send_keepalive(0x4000, reply=True)
        wait_until(lambda: stream.read() is None and not server.flushed.empty(), "the reply")
        assert reported(server) == 0x4000, "psycopg2 confirms behind our back here: so we wait"
        progress.open_commit = None
        assert stream.needs_record(progress), "until that position is recorded"
        progress.mark_recorded(LSN(0x4000))
        assert not stream.needs_record(progress)


def test_the_anchor_comes_before_any_new_position(servers: Servers, tmp_path: Path) -> None:
    """T1 (b): the driver would answer it. One can come before that tells of no new position.

    The server's own writer of the log is too slow to flush the anchor.
    """
    with servers.own(18, {"wal_writer_delay": "10s"}) as server:
        site = Site(server, "anchored", tmp_path)
        site.sql("create table documents (id bigint primary key, title text, body text)")
        site.configure()
        site.cli("setup")
        stream = Stream(Login(site.dsn), site.name)
        with closing(stream), closing(Session(SOURCE, Login(site.dsn), "test")) as session:
            SlotCatalogue(session, site.name).anchor()
            stream.start_replication(
                {"proto_version": "1", "publication_names": "cdc_embed", "messages": "true"}
            )
            told = [LSN(0)]
            first = None
            while first is None:
                first = stream.read()
                told.append(stream.heard)
            assert first.data_start
            slot = site.value("select confirmed_flush_lsn::text from pg_replication_slots")
            assert max(told[:-1]) <= LSN.parse(slot), "a keepalive tells what is confirmed already"
        site.close()


def test_closed_stream_is_noticed() -> None:
    with streaming() as (server, stream):
        server.__exit__()

        def noticed() -> bool:
            try:
                stream.read()
            except ReplicationError:
                return True
            return False

        wait_until(noticed, "the connection is dead", 15)


def test_ended_sentinel_means_that_the_server_stops() -> None:
    with streaming() as (server, stream):
        stream.check_sentinel()
        server.__exit__()

        def noticed() -> bool:
            try:
                stream.check_sentinel()
            except ReplicationError as exc:
                return "stopping" in str(exc)
            return False

        wait_until(noticed, "the sentinel was ended")


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with Walsender() as server:
        dsn = server.dsn
    with pytest.raises(ReplicationError):
        Stream(Login(dsn), "s")
