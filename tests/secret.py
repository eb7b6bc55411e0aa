"""A canary as password and key, and the servers that know it: one asks for it, one quotes it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psycopg2

from cdc_embed.demo.postgres import EmbeddedPostgres
from tests.embedding_server import vector_of
from tests.servers import Servers
from tests.site import wait_until

CANARY = "hunter2canary"
"""The core of every secret: whatever form it takes, this must not be seen."""
PASSWORD = f"p@ss/w:rd%41 '\\\"?#&=é {CANARY}"
API_KEY = f"sk-{CANARY}-key"
QUERY = f"q-{CANARY}"


@contextmanager
def guarded_server(servers: Servers) -> Iterator[EmbeddedPostgres]:
    """A server that asks ``app`` for its password and logs every statement: never the canary."""
    with servers.own(18) as server:
        admin = psycopg2.connect(server.dsn())
        admin.autocommit = True
        with admin.cursor() as cursor:
            cursor.execute("create role app superuser replication login password %s", (PASSWORD,))
            cursor.execute("alter system set log_statement = 'all'")
            cursor.execute("alter system set log_connections = 'all'")
            cursor.execute("alter system set log_replication_commands = on")
            (server.socket_dir / "data" / "pg_hba.conf").write_text(
                "host all postgres 127.0.0.1/32 trust\n"
                "host all app 127.0.0.1/32 scram-sha-256\n"
                "host replication app 127.0.0.1/32 scram-sha-256\n"
            )
            cursor.execute("select pg_reload_conf()")
        admin.close()
        wait_until(lambda: _is_refused(server), "a password is asked for")
        yield server
        assert "statement: " in server.log_text()
        assert CANARY not in server.log_text(), "the server's log"


def _is_refused(server: EmbeddedPostgres) -> bool:
    try:
        psycopg2.connect(server.dsn(user="app")).close()
    except psycopg2.OperationalError:
        return True
    return False


class Refusing(BaseHTTPRequestHandler):
    """An embedding service that quotes whatever it was given, when it is told to fail."""

    status = 200

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.status == 200:
            vectors = [vector_of(text, 8).tolist() for text in asked["input"]]
            body: Any = {"data": [{"index": i, "embedding": v} for i, v in enumerate(vectors)]}
        else:
            words = f"no such thing as {self.path}, {self.headers.get('Authorization')}"
            body = {"error": {"message": words, "type": words}}
        content = json.dumps(body).encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Quiet."""


@contextmanager
def refusing_service() -> Iterator[str]:
    """Its address."""
    Refusing.status = 200
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}/v1/embeddings?api-key={QUERY}"
        http.shutdown()
        thread.join()
