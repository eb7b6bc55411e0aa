"""A connection pooler is refused before a setting of ours stays on the application's sessions."""

from collections.abc import Callable
from contextlib import closing

import psycopg2
import pytest

from cdc_embed.errors import PreflightError
from cdc_embed.postgres.connect import connect
from cdc_embed.postgres.session import Session
from cdc_embed.postgres.side import SOURCE
from cdc_embed.rotation import Login
from tests.pgbouncer import pgbouncer
from tests.site import Site

MODES = ("session", "transaction", "statement")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("side", ["source", "target"])
def test_any_pooler_is_refused_before_anything_is_set(
    site: Site, make_site: Callable[..., Site], side: str, mode: str
) -> None:
    server = site
    if side == "target":
        server = site.target = make_site(18)
    with pgbouncer(server.dsn, mode) as dsn:
        name = f"CDC_EMBED_{side.upper()}__DSN"
        site.environment = {"CDC_EMBED_TARGET__DSN": make_site(18).dsn, name: dsn}
        for command in ("doctor", "setup", "run"):
            done = site.cli(command, expect=4)
            assert f"{side} database: a connection pooler" in done.stdout + done.stderr
            assert f"{side}.dsn" in done.stdout + done.stderr
        with closing(psycopg2.connect(dsn)) as application:
            application.autocommit = True
            with application.cursor() as cursor:
                for setting, value in (("row_security", "on"), ("search_path", '"$user", public')):
                    cursor.execute(f"show {setting}")
                    assert cursor.fetchone() == (value,)


def test_pooler_that_refuses_a_parameter_is_named(site: Site) -> None:
    with pgbouncer(site.dsn, "transaction") as dsn:
        session = Session(SOURCE, Login(f"{dsn}?options=-cwork_mem%3D1MB"), "cdc_embed test")
        with pytest.raises(PreflightError, match="pooler"), session.transaction():
            pass


class _Elsewhere(psycopg2.extensions.connection):  # type: ignore[misc]
    """A connection whose proxy gives it another process id than the server process has."""

    backend = 0

    class info:  # noqa: N801  the driver's name
        backend_pid = -1


def test_proxy_with_a_server_process_for_each_client_is_accepted(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdc_embed.postgres.connect.Connection", _Elsewhere)
    connection = connect(SOURCE, Login(site.dsn), "cdc_embed test")
    with closing(connection), connection.cursor() as cursor:
        cursor.execute("select pg_backend_pid(), current_setting('row_security')")
        assert cursor.fetchone() == (connection.backend, "off")
