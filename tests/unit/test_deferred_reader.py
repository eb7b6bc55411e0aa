"""The reader of deferred rows: when it looks for some."""

from collections.abc import Sequence
from threading import Event
from types import SimpleNamespace
from typing import Any, cast

from cdc_embed.change.batch import RowId
from cdc_embed.change.document import Key, Table
from cdc_embed.reconcile.deferred import DeferredReader
from cdc_embed.target.deferred import Note

ROW = cast(RowId, ("letters", ("1",)))


class NeverTaken(DeferredReader):
    """Its embedder takes no text."""

    def _try(self, table: Table, keys: Sequence[Key]) -> tuple[int, str]:
        self._delay(table, keys)
        return len(keys), "500"


def test_a_deferred_row_that_is_gone_is_looked_for_no_more() -> None:
    """Its delay would be over for ever: two questions a second of an idle target."""
    rows, now = [Note(1, ROW)], [0.0]
    page = lambda _tables, after, _limit: [row for row in rows if row.id > after]  # noqa: E731
    term = SimpleNamespace(ended=Event(), lane=SimpleNamespace(deferred=Event()))
    undelivered = SimpleNamespace(problems={})
    work = SimpleNamespace(term=term, undelivered=undelivered, tables=[], slices=None)
    reader = NeverTaken(
        work=cast(Any, work),
        embedding=cast(Any, SimpleNamespace(rows=SimpleNamespace(page=page))),
        clock=lambda: now[0],
    )
    reader.turn()
    now[0] = 100.0
    assert reader.has_work
    rows.clear()
    reader.turn()
    now[0] = 200.0
    assert not reader.has_work
    assert not reader.problem
