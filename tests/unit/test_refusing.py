"""The knowledge of which tables fail though every check is good."""

import pytest

from cdc_embed.config.table import TableConfig
from cdc_embed.errors import CdcEmbedError, TargetRefusedError
from cdc_embed.service.refusing import Refusing

TABLES = [TableConfig(name=name, text=("body",)) for name in ("one", "two")]


def refused(table: str) -> CdcEmbedError:
    """An error with the name that the target's statements have."""
    return TargetRefusedError(table=table, problem="permission denied")


def test_two_tables_that_fail_in_turn_are_both_left_out() -> None:
    found = Refusing(TABLES, clock=lambda: 0.0)
    said = [found.note(refused(name)) for name in ("one_embedding", "two_search") * 2]
    assert said == [False, False, True, True]
    assert list(found.findings) == ["public.one", "public.two"]


def test_a_table_that_still_fails_is_tried_more_rarely() -> None:
    now = 0.0
    found = Refusing(TABLES, clock=lambda: now)
    found.note(refused("one_embedding"))
    tries = []
    for _ in range(9):
        assert found.note(refused("one_embedding")), "at once, once it is known"
        began = now
        while found.findings:
            now += 10
        tries.append(now - began)
    assert tries == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]


def test_an_error_of_no_table_is_raised_when_it_comes_again() -> None:
    found = Refusing(TABLES, clock=lambda: 0.0)
    assert not found.note(refused("checkpoint"))
    with pytest.raises(TargetRefusedError):
        found.note(refused("checkpoint"))
