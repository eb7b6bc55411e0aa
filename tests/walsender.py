"""A scripted walsender: speaks enough of the protocol to send any frame at any moment.

It shows what a client really reports: the flush positions of its standby status updates. Real
servers do the same things, but not on command.
"""

import socket
import struct
import threading
from queue import Queue
from typing import Final

START: Final = b"START_REPLICATION"
PARAMETERS: Final = {
    "server_version": "18.0",
    "server_encoding": "UTF8",
    "client_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "integer_datetimes": "on",
    "standard_conforming_strings": "on",
}


class Walsender:
    """Accepts connections on a free port; one of them will stream."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.streaming = threading.Event()
        self.flushed: Queue[int] = Queue()
        """The flush position of every status update, in order."""
        self._stream: socket.socket | None = None
        self._peers: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def __enter__(self) -> "Walsender":
        return self

    def __exit__(self, *_: object) -> None:
        for peer in (self._listener, *self._peers):
            try:
                peer.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        for peer in (self._listener, *self._peers):
            peer.close()
        self._thread.join(5)

    @property
    def dsn(self) -> str:
        return f"host=127.0.0.1 port={self.port} user=u dbname=d sslmode=disable"

    def send_frame(self, data_start: int, payload: bytes) -> None:
        """One XLogData message."""
        self._copy_data(b"w" + struct.pack(">QQq", data_start, data_start, 0) + payload)

    def send_keepalive(self, wal_end: int, *, reply: bool) -> None:
        self._copy_data(b"k" + struct.pack(">QqB", wal_end, 0, reply))

    def _copy_data(self, body: bytes) -> None:
        assert self._stream is not None, "nobody streams yet"
        self._stream.sendall(_message(b"d", body))

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            self._peers.append(peer)
            threading.Thread(target=self._talk, args=(peer,), daemon=True).start()

    def _talk(self, peer: socket.socket) -> None:
        try:
            startup = _read(peer, struct.unpack(">I", _read(peer, 4))[0] - 4)
            words = startup[4:].split(b"\0")
            name_of_peer = dict(zip(words[::2], words[1::2], strict=False))[b"application_name"]
            answer = _message(b"R", struct.pack(">I", 0))
            for name, value in PARAMETERS.items():
                answer += _message(b"S", f"{name}\0{value}\0".encode())
            peer.sendall(answer + _message(b"K", struct.pack(">II", 1, 1)) + _message(b"Z", b"I"))
            while True:
                kind = _read(peer, 1)
                body = _read(peer, struct.unpack(">I", _read(peer, 4))[0] - 4)
                if kind == b"Q":
                    self._answer(peer, body, name_of_peer)
                elif kind == b"d" and body[:1] == b"r":
                    self.flushed.put(struct.unpack(">Q", body[9:17])[0])
                elif kind == b"X":
                    return
        except (OSError, ConnectionError):
            return

    def _answer(self, peer: socket.socket, query: bytes, name: bytes) -> None:
        if query.startswith(START):
            self._stream = peer
            peer.sendall(_message(b"W", struct.pack(">bh", 0, 0)))
            self.streaming.set()
        else:
            rows = _row(b"1", name) if b"pg_backend_pid" in query else b""
            peer.sendall(rows + _message(b"C", b"SET\0") + _message(b"Z", b"I"))


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack(">I", len(body) + 4) + body


def _row(number: bytes, *texts: bytes) -> bytes:
    """A result of one row: an integer, then texts."""
    types = [(23, 4)] + [(25, -1)] * len(texts)
    columns = b"".join(b"c\0" + struct.pack(">IhIhih", 0, 0, *kind, -1, 0) for kind in types)
    values = b"".join(struct.pack(">I", len(value)) + value for value in (number, *texts))
    count = struct.pack(">h", len(types))
    return _message(b"T", count + columns) + _message(b"D", count + values)


def _read(peer: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = peer.recv(size - len(data))
        if not part:
            raise ConnectionError
        data += part
    return data
