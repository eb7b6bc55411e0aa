"""Commits that hang: they are in the log, and nobody sees them, because no standby answers."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.site import Site, wait_until


@contextmanager
def hanging_commit(site: Site, statement: str) -> Iterator[None]:
    """A change whose commit is in the log, and which nobody sees until the block is left."""
    writer = threading.Thread(target=site.transaction, args=(statement,))
    try:
        with standby_awaited(site):
            writer.start()
            yield
    finally:
        if writer.ident is not None:
            writer.join(30)


@contextmanager
def standby_awaited(site: Site) -> Iterator[None]:
    """Every commit waits for a standby that does not exist, until the block is left."""
    try:
        _await_standbys(site, "set synchronous_standby_names = 'nobody'", "nobody")
        yield
    finally:
        _await_standbys(site, "reset synchronous_standby_names", "")


def _await_standbys(site: Site, change: str, expected: str) -> None:
    site.sql(f"alter system {change}")
    site.sql("select pg_reload_conf()")
    wait_until(lambda: site.value("show synchronous_standby_names") == expected, "reload")
