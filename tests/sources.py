"""The kinds of source that every row image is tested with: an output plugin, a version."""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from cdc_embed.demo.postgres import EmbeddedPostgres
from tests.installed import INSTALLED
from tests.site import Site

Kind = tuple[str, int]


def kinds(*names: str, long: Sequence[str] = ()) -> list[Any]:
    """Parameters of a test: kinds of source, those that come with ``--long`` only at the end."""
    often = [pytest.param(_kind(name), id=name) for name in names]
    return often + [pytest.param(_kind(name), id=name, marks=pytest.mark.long) for name in long]


def _kind(name: str) -> Kind:
    plugin, _, version = name.partition("-")
    return plugin, int(version)


OLDER: Final = ("pgoutput-16", "pgoutput-15")
SOURCES: Final = kinds("pgoutput-18", "wal2json-15", long=OLDER)
PUBLISHED: Final = kinds("pgoutput-18", long=OLDER)
"""Those that read a publication: partitioned tables, column lists and row filters need one."""

_numbers = itertools.count(1)


@contextmanager
def sites(
    servers: Callable[[int], EmbeddedPostgres], folder: Path
) -> Iterator[Callable[..., Site]]:
    """Makes databases with names of their own; they are dropped at the end."""
    made: list[Site] = []

    def make(version: int = 18, target: Site | None = None) -> Site:
        site = Site(servers(version), f"t{os.getpid()}_{next(_numbers)}", folder, target)
        made.append(site)
        return site

    yield make
    for site in made:
        site.drop()


def make_source(make_site: Callable[..., Site], kind: Kind) -> Site:
    """A database of this kind; one whose server has no pgvector gets a target of its own."""
    plugin, version = kind
    site = make_site(version, target=make_site(18) if version == INSTALLED else None)
    site.environment["CDC_EMBED_SOURCE__PLUGIN"] = plugin
    return site
