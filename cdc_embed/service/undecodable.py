"""The way out for a stream that ends at one position again and again."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from cdc_embed.errors import CdcEmbedError

TOO_LARGE: Final = (
    "invalid memory alloc request size",
    "out of memory",
    "cannot enlarge string buffer",
    "string buffer exceeds maximum allowed length",
)
"""The words of PostgreSQL for a row whose text form is larger than 1 GB."""

FindWide = Callable[[], Mapping[str, Sequence[str]]]
"""A function that finds the columns of followed tables that the log carries and we do not need, by
table."""


def way_out(problem: str, slot: str, find_wide: FindWide) -> str:
    """Return what a person can do; the log up to there must not be lost unasked."""
    skip = (
        f"stop the service, then: select pg_drop_replication_slot('{slot}'); and: "
        "cdc-embed setup --rebuild, which compares every row and embeds only what differs"
    )
    if not any(words in problem for words in TOO_LARGE):
        return (
            "see what lies between the service and the server (a proxy, a firewall), and the "
            f"server's log; to skip what cannot be decoded, {skip}"
        )
    wide: Mapping[str, Sequence[str]] = {}
    with suppress(CdcEmbedError):
        wide = find_wide()
    places = ", ".join(f"{table} ({', '.join(columns)})" for table, columns in wide.items())
    where = f"one of {places}, which " if places else ""
    cure = 'set source.publish = "columns", ' if places else ""
    return f"the text of a row is larger than 1 GB: {where}cannot be decoded; {cure}{skip}"
