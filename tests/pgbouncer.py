"""PgBouncer in front of a server, in each of its modes."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import create_connection
from urllib.parse import urlsplit

from cdc_embed.demo.postgres import _ACCOUNT, _free_port
from tests.binaries import require_binary
from tests.site import wait_until


@contextmanager
def pgbouncer(dsn: str, mode: str) -> Iterator[str]:
    """Run one in front of the server of a DSN; give the DSN that goes through it."""
    program = require_binary("pgbouncer", "pgbouncer")
    server, port = urlsplit(dsn), _free_port()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        config = folder / "pgbouncer.ini"
        config.write_text(
            f"[databases]\n* = host={server.hostname} port={server.port} user={server.username}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\n"
            f"pool_mode = {mode}\nunix_socket_dir =\n"
        )
        running = subprocess.Popen([program, "-q", "-u", _ACCOUNT, config])
        try:
            wait_until(lambda: _answers(port), "PgBouncer listens")
            yield server._replace(netloc=f"{server.username}@127.0.0.1:{port}").geturl()
        finally:
            running.terminate()
            running.wait()


def _answers(port: int) -> bool:
    try:
        create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
