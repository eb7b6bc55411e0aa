"""A site whose texts are embedded by the misbehaving server, and what must be true of it."""

from cdc_embed.lsn import LSN
from tests.invariant import confirmed, recorded
from tests.site import DOCUMENTS, EmbeddingServer, RunningService, Site, wait_until

ALWAYS = 1_000_000_000
"""Of a fault that counts down: until it is taken away."""


def ready(site: Site, server: EmbeddingServer, embedder: str = "", more: str = "") -> Site:
    site.sql(DOCUMENTS)
    site.configure(embedder=f'{server.configuration}\ntimeout = "1s"\n{embedder}', more=more)
    site.cli("setup")
    server.reset()
    return site


def insert(site: Site, first: int, count: int, text: str = "text") -> LSN:
    """Rows of distinct texts; the end of the log after their commit."""
    site.sql(
        "insert into documents select i, 't', %s || ' ' || i from generate_series(%s, %s) i",
        text,
        first,
        first + count - 1,
    )
    return LSN.parse(site.value("select pg_current_wal_lsn()::text"))


def letters(site: Site) -> int:
    return int(site.value("select count(*) from cdc_embed.dead_letter"))


def stored(site: Site) -> int:
    return int(site.value("select count(*) from cdc_embed.documents_embedding"))


def wait_for_trouble(service: RunningService) -> str:
    problem: str = wait_until(lambda: service.status()["waiting"].get("embed"), "status tells")
    return problem


def expect_nothing_beyond(site: Site, end: LSN) -> None:
    """The slot waits: nothing of what is not embedded is confirmed, or even recorded.

    Unless each such row is deferred: on a slow machine a comparison can still wait with it.
    """
    assert confirmed(site) <= recorded(site)
    vectors = "select id from cdc_embed.documents_embedding"
    bare = site.sql(f"select id from documents where id not in ({vectors})")
    assert recorded(site) < end or {key for (key,) in bare} <= set(site.deferred())
