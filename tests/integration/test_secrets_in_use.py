"""A running service keeps its secrets, beside a database and an embedder that fail."""

import itertools
import json
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote

import pytest
from psycopg2.extensions import make_dsn

from cdc_embed.demo.postgres import EmbeddedPostgres
from tests.secret import API_KEY, CANARY, PASSWORD, Refusing, guarded_server, refusing_service
from tests.servers import Servers
from tests.site import RunningService, Site, wait_until

_numbers = itertools.count(1)
TABLES = '[[tables]]\nname = "documents"\ntext = ["title", "body"]\n'


@pytest.fixture(scope="module")
def server(servers: Servers) -> Iterator[EmbeddedPostgres]:
    with guarded_server(servers) as running:
        yield running


@pytest.fixture
def site(
    server: EmbeddedPostgres, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Site]:
    site = Site(server, f"s{abs(hash(request.node.name))}", tmp_path)
    site.sql("create table documents (id bigint primary key, title text, body text)")
    yield site
    site.close()


@pytest.fixture
def service_url() -> Iterator[str]:
    with refusing_service() as url:
        yield url


def test_service_shows_no_secret_in_page_log_table_or_process(site: Site, service_url: str) -> None:
    """Source by URI, target by pairs, a key for the embedder; all of them fail once on the way."""
    server = site.server
    source = f"postgresql://app:{quote(PASSWORD, safe='')}@127.0.0.1:{server.port}/{site.name}"
    pairs = {"host": "127.0.0.1", "port": server.port, "dbname": site.name, "user": "app"}
    target = make_dsn("", **pairs, password=PASSWORD)
    key_file = site.folder / "key"
    key_file.write_text(API_KEY)
    site.config_path.write_text(
        f'[source]\ndsn = {json.dumps(source)}\nslot = "{site.name}"\n'
        f"[target]\ndsn = {json.dumps(target)}\n"
        f'[embedder]\nkind = "http"\nmodel = "m"\nurl = "{service_url}"\ntimeout = "10s"\n'
        f'api_key_file = "{key_file}"\n[serve]\nport = 0\n[log]\nlevel = "debug"\n{TABLES}'
    )
    written = [site.cli("setup", process=True).stderr]
    site.sql("insert into documents select i, 't', 'text ' || i from generate_series(1, 5) i")
    with site.service(process=True) as service:
        service.settle()
        seen = look_around(service, site)
        written += [str(run(site, *command)) for command in BESIDE]
        site.close()
        server.restart("immediate")
        wait_until(lambda: "connection lost" in "".join(service.output), "the server was away")
        Refusing.status = 400
        site.sql("insert into documents values (6, 't', 'refused')")
        wait_until(lambda: "known to be good" in "".join(service.output), "it is refused")
        Refusing.status = 500
        site.sql("insert into documents values (7, 't', 'later')")
        wait_until(lambda: "500" in "".join(service.output), "the embedder is ill")
        seen += look_around(service, site)
        Refusing.status = 200
        service.settle(60)
        seen += look_around(service, site)
        assert service.stop() == 0
        written += service.output
    written.append(str(run(site, "--debug", "teardown", "--yes")))
    for text in (*written, *seen):
        assert CANARY not in text, text
    assert "ready" in written[0]


BESIDE = (
    ("--debug", "status"),
    ("--debug", "verify", "--json"),
    ("--debug", "backfill", "--json"),
    ("--debug", "search", "text 1"),
)


def run(site: Site, *arguments: str) -> "subprocess.CompletedProcess[str]":
    done = site.cli(*arguments, process=True)
    done.args = ""
    return done


def look_around(service: RunningService, site: Site) -> list[str]:
    """All that is to be seen of a running service: from the web, the database, the machine."""
    seen = []
    for path in ("/", "/status", "/metrics", "/livez", "/readyz"):
        with suppress(HTTPError):
            seen.append(service.get(path))
    tables = site.sql("select tablename from pg_tables where schemaname = 'cdc_embed'")
    seen += [
        str(row)
        for (table,) in tables
        for row in site.sql(f'select to_jsonb(t)::text from cdc_embed."{table}" t')
    ]
    seen += [str(row) for row in site.sql("select to_jsonb(a)::text from pg_stat_activity a")]
    seen += [str(row) for row in site.sql("select to_jsonb(s)::text from pg_replication_slots s")]
    for pid in (service.process.pid, *children(service.process.pid)):
        seen.append((Path("/proc") / str(pid) / "cmdline").read_text())
        seen.append((Path("/proc") / str(pid) / "environ").read_text(errors="replace"))
    assert len(tables) > 5
    return seen


def children(pid: int) -> list[int]:
    found = []
    for task in (Path("/proc") / str(pid) / "task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found
