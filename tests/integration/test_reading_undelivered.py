"""A followed table that cannot be read: what passes, and what a person must mend."""

from typing import cast

import pytest

from cdc_embed.errors import PreflightError, SourceUnavailableError
from cdc_embed.postgres.side import SOURCE, translated
from cdc_embed.source.coverage import Coverage, undelivered_is_outage
from cdc_embed.source.observed import Observed
from tests.site import Site


class Found:
    """A coverage that finds these tables after the read has failed."""

    def __init__(self, undelivered: dict[str, str]) -> None:
        self._undelivered = undelivered

    def observe(self, _: object) -> Observed:
        return Observed(
            undelivered=self._undelivered, altered={}, shapes={}, digests={}, estimates={}
        )


def read(site: Site, statement: str, undelivered: dict[str, str]) -> None:
    with (
        undelivered_is_outage(cast(Coverage, Found(undelivered)), []),
        translated(SOURCE, "public.documents"),
    ):
        site.sql(statement)


def test_table_that_left_passes_and_is_named(site: Site) -> None:
    with pytest.raises(SourceUnavailableError, match=r"public\.documents is not in it"):
        read(site, "select other from documents", {"public.documents": "is not in it"})


def test_table_that_is_back_when_it_is_looked_passes(site: Site) -> None:
    """Renamed there and back: the next attempt finds it."""
    with pytest.raises(SourceUnavailableError, match="was altered"):
        read(site, "select other from documents", {})


@pytest.mark.parametrize("other", [{}, {"public.notes": "is not in it"}])
def test_what_does_not_pass_is_left_to_a_person(site: Site, other: dict[str, str]) -> None:
    with pytest.raises(PreflightError, match="does not exist"):
        read(site, "select no_such_function(id) from documents", other)
