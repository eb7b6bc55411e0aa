"""The replication connection: frames in, positions out. One thread owns it.

psycopg2 can confirm an LSN that we never gave it. A cursor remembers the LSN that it was told to
flush. On a keepalive it raises this LSN to the keepalive's ``wal_end``, if the LSN is at or beyond
the ``data_start`` of the last message; and ``data_start`` neither grows steadily nor is always set.
So two cursors of one connection are used, because each has its own such fields. The reading cursor
is never told an LSN, so its own replies carry flush 0, which the server ignores. The reporting
cursor only reports, on our clock.

A stopping server waits until the clients of its walsenders have flushed everything, and keeps their
connections open meanwhile. We confirm only recorded positions, and a stopping server can refuse to
record them, so both sides would wait for ever. But it ends ordinary sessions at once. So one
ordinary session is kept beside the stream, the ``sentinel``: when the server ends it, the stream
ends too.

An idle server sends nothing for hours, so silence alone proves nothing. After a while of silence a
report requests a reply, as PostgreSQL's own subscribers do (``wal_receiver_timeout``). TCP notices
a peer that vanished, but not a proxy whose other side is gone and that acknowledges every byte.

One case remains: a frame with ``data_start`` 0 (the first of all, a Relation, a Type, the Begin of
a transaction with an origin). After it the reading cursor forwards any keepalive. ``Guard`` (in
``guard``) decides when the next read is safe. No other module knows of frames.
"""

import array
import fcntl
import math
import re
import socket
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Timer
from typing import Any, Final

import psycopg2
from psycopg2 import sql

from cdc_embed.errors import (
    AuthenticationError,
    CdcEmbedError,
    HistoryGapError,
    PreflightError,
    ReplicationError,
)
from cdc_embed.lsn import LSN, Identity, Progress
from cdc_embed.postgres.connect import (
    answer_limit,
    connect,
    connect_for_replication,
    parameters_of,
    readable,
    shut_down,
)
from cdc_embed.postgres.side import SOURCE, translated
from cdc_embed.postgres.words import describe
from cdc_embed.rotation import Login
from cdc_embed.source.guard import Guard
from cdc_embed.source.timing import SILENT_SECONDS, ServerTimes
from cdc_embed.sql import queries

NEVER: Final = 2**31 - 1
"""The seconds between reports of the reading cursor, counted from 1970 and held in a C int, because
this cursor must never report on its own clock."""

SILENCE_LIMIT: Final = 10.0
"""The seconds for which a readable connection can yield no message before it is given up."""

SLOT_BUSY: Final = "55006"
UNDEFINED_OBJECT: Final = "42704"
MISSING_FILE: Final = "58P01"
LOST_SLOT_WORDS: Final = ("can no longer", "exceeded the maximum", "invalidated")


@dataclass(frozen=True, slots=True)
class Frame:
    """One CopyData payload of the change log, with its place as the server gave it."""

    payload: bytes
    data_start: LSN


class SlotIsActiveError(Exception):
    """Another session reads the slot; the caller decides whether to wait."""


class Stream:
    """A connected replication session; make a new one after any error.

    Every method raises ``ReplicationError`` when the connection is gone, ``HistoryGapError`` when
    the slot or its log is, ``AuthenticationError`` or ``PreflightError`` when a person must act.
    """

    def __init__(self, login: Login, slot: str) -> None:
        self._slot = slot
        self._silence_limit = SILENT_SECONDS
        self._longest_silence = math.inf
        self.application_name = stream_name(slot)
        self._streaming = False
        self._silent_since: float | None = None
        self._unread = -1
        with self._translated():
            self._connection = connect_for_replication(login, self.application_name)
            self._answer_limit = answer_limit(parameters_of(login.dsn))
            try:
                self.sentinel = connect(SOURCE, login, f"cdc_embed sentinel {slot}")
            except BaseException:
                self._connection.close()
                raise
            self.sentinel.autocommit = True
        self._reader = self._connection.cursor()
        self._reporter = self._connection.cursor()
        self._guard = Guard()
        self._heard_at = self._told_at = time.monotonic()
        self._asked_at: float | None = None
        self._spoken_at = self._reader.io_timestamp
        self.frames = 0
        """The number of frames read."""
        self.unanswered = False
        """Whether the server was given up because it did not answer."""

    def read_times(self) -> ServerTimes:
        """Return the server's timeout and clock, as they are for this connection.

        They can be others than those of the connection before, after a reload or on another server.
        """
        with self._answered(self.sentinel), self.sentinel.cursor() as cursor:
            before = time.time()
            cursor.execute(queries("source/slot")["times"])
            timeout, now, next_xid = cursor.fetchone()
            clock_ahead = now - (before + time.time()) / 2
        return ServerTimes(wal_sender_timeout=timeout, clock_ahead=clock_ahead, next_xid=next_xid)

    def limit_silence(self, silence_limit: float, longest_silence: float) -> None:
        """Give the server up after ``silence_limit`` seconds of its silence; ask it after half.

        ``longest_silence``: seconds of our silence after which the server requests a reply.
        """
        self._silence_limit = silence_limit
        self._longest_silence = longest_silence

    def identify(self) -> Identity:
        """Return the server, database and timeline at the other end."""
        with self._answered():
            self._reader.execute("IDENTIFY_SYSTEM")
            system_identifier, timeline, _, database = self._reader.fetchone()
        return Identity(system_identifier=system_identifier, database=database, timeline=timeline)

    def timeline_history(self, timeline: int) -> list[tuple[int, LSN]]:
        """Return (ancestor, switch point) of every timeline that ``timeline`` descends from."""
        if timeline == 1:
            return []
        with self._answered():
            self._reader.execute(sql.SQL("TIMELINE_HISTORY {}").format(sql.Literal(timeline)))
            found = self._reader.fetchone()[1]
        content = found if isinstance(found, str) else bytes(found).decode()
        lines = (line.split("\t") for line in content.splitlines() if line.strip())
        return [(int(parts[0]), LSN.parse(parts[1])) for parts in lines if parts[0].isdigit()]

    def start_replication(self, options: dict[str, str]) -> None:
        """Stream from the slot's position; ``SlotIsActiveError`` when another session does."""
        command = sql.SQL("START_REPLICATION SLOT {} LOGICAL 0/0 ({})").format(
            sql.Identifier(self._slot),
            sql.SQL(", ").join(
                sql.SQL("{} {}").format(sql.Identifier(name), sql.Literal(value))
                for name, value in options.items()
            ),
        )
        self._told_at = time.monotonic()
        with self._answered():
            self._reader.start_replication_expert(command, decode=False, status_interval=NEVER)
        self._streaming = True

    def fileno(self) -> int:
        fd: int = self._connection.fileno()
        return fd

    def may_read(self, progress: Progress) -> bool:
        """Return whether the next read can tell the server nothing that is not recorded.

        Raises ``ReplicationError`` when no report was sent for so long that the server is about to
        request a reply. The driver would reply with the highest position that it forwarded.
        """
        at_risk = self._guard.forwards or self._guard.forwarded_beyond(progress)
        if at_risk and time.monotonic() - self._told_at > self._longest_silence:
            raise ReplicationError(problem="no report was sent for so long that a read is unsafe")
        return self._guard.may_read(progress)

    def needs_record(self, progress: Progress) -> bool:
        """Return whether the log may be read on only after the durable position is recorded."""
        return self._guard.needs_record(progress)

    @property
    def heard(self) -> LSN:
        """The position of the last frame or keepalive; it goes back and forth."""
        return LSN(self._reader.wal_end)

    def read(self) -> Frame | None:
        """Return the next frame, or None when there is none at the moment; never wait."""
        if self._guard.forwards:
            # a stopping server first ends the sentinel, then requests a reply, which would
            # forward its position
            self.check_sentinel()
        if self._asked_at is not None and _is_readable(self._connection):
            self._hear()  # a part of a large message is an answer, too
        with self._translated():
            message = self._reader.read_message()
        data_start = None if message is None else LSN(message.data_start)
        self._guard.mark_read(self.heard, data_start)
        if data_start is None:
            self._watch_silence()
            return None
        self._silent_since = None
        self._hear()
        self.frames += 1
        return Frame(message.payload, data_start)

    def report(self, received: LSN, confirmed: LSN) -> None:
        """Report the received and the confirmed position to the server."""
        now = self._told_at = time.monotonic()
        ask = self._asked_at is None and now - self._heard_at > self._silence_limit / 2
        with self._translated():
            self._reporter.send_feedback(
                write_lsn=received, flush_lsn=confirmed, reply=ask, force=True
            )
        if ask:
            self._asked_at = now

    def check_sentinel(self) -> None:
        """Raise when the server has ended the session beside the stream, because it is stopping."""
        if _is_readable(self.sentinel):
            raise ReplicationError(problem="the server ends its sessions; it seems to be stopping")

    def close(self) -> None:
        self.sentinel.close()
        self._connection.close()

    def _watch_silence(self) -> None:
        """Raise if the connection is readable but yields nothing, because the server has
        stopped."""
        now = time.monotonic()
        if not _is_readable(self._connection):
            self._silent_since = None
            self._expect_answer(now)
            return
        unread = _unread_bytes(self.fileno())
        if unread == 0:
            raise ReplicationError(problem="the server closed it")
        if self._silent_since is None or unread != self._unread:
            self._silent_since, self._unread = now, unread
        elif now - self._silent_since > SILENCE_LIMIT:
            raise ReplicationError(problem="it is readable but yields no message")

    def _expect_answer(self, now: float) -> None:
        """Raise if the last ping has been unanswered for half the silence limit."""
        spoken_at = self._reader.io_timestamp  # a keepalive is no message, but moves this
        if spoken_at != self._spoken_at:
            self._spoken_at = spoken_at
            self._hear()
        elif self._asked_at is not None and now - self._asked_at > self._silence_limit / 2:
            self.unanswered = True
            raise ReplicationError(problem="the server does not answer any more")

    def _hear(self) -> None:
        self._heard_at, self._asked_at = time.monotonic(), None

    @contextmanager
    def _answered(self, connection: Any = None) -> Iterator[None]:
        """Run a command that is answered at once, or never; then close the connection."""
        limit = Timer(self._answer_limit, shut_down, [connection or self._connection])
        limit.daemon = True
        limit.start()
        try:
            with self._translated():
                yield
        finally:
            limit.cancel()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            with translated(SOURCE, "replication"):
                yield
        except AuthenticationError:
            raise
        except CdcEmbedError as exc:
            cause = exc.__cause__
            if not isinstance(cause, psycopg2.Error):
                raise
            raise self._error(cause) from cause

    def _error(self, exc: psycopg2.Error) -> Exception:
        state, problem = exc.pgcode, describe(exc)
        if state == SLOT_BUSY:
            return SlotIsActiveError(problem)
        lost = state == MISSING_FILE and self._streaming
        if lost or any(words in problem for words in LOST_SLOT_WORDS):
            return HistoryGapError(slot=self._slot, problem=problem)
        if state == UNDEFINED_OBJECT and not self._streaming:
            return HistoryGapError(slot=self._slot, problem=problem)
        if state is not None and (state[:2] in {"42", "22", "0A"} or state == "55000"):
            return PreflightError(where=f"slot {self._slot}", problem=problem)
        return ReplicationError(problem=problem, lsn=_associated_lsn(exc))


def stream_name(slot: str) -> str:
    """Return the ``application_name`` of a slot's stream, as much of it as the server keeps."""
    return f"cdc_embed stream {slot}"[:63]


def _associated_lsn(exc: psycopg2.Error) -> LSN | None:
    """Return the position of the change that the server could not decode, if its error says so."""
    found = re.search("associated LSN ([0-9A-F]+/[0-9A-F]+)", exc.diag.context or "")
    return LSN.parse(found[1]) if found else None


def _is_readable(connection: Any) -> bool:
    return bool(readable([connection], 0))


def _unread_bytes(fd: int) -> int:
    """Return the bytes that the kernel holds for a socket; 0 on a readable one that was closed."""
    with socket.socket(fileno=socket.dup(fd)) as peer:
        unread = array.array("i", [0])
        fcntl.ioctl(peer, termios.FIONREAD, unread)
    return unread[0]
