"""The reader of deferred rows: when it looks for some, and how many go together."""

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


def test_rows_are_looked_for_at_the_start_and_after_a_pause() -> None:
    """They were deferred by a service that was killed, or before the table was paused."""
    letters = cast(Table, SimpleNamespace(full_name="public.letters"))
    term = SimpleNamespace(ended=Event(), lane=SimpleNamespace(deferred=Event()))
    undelivered = SimpleNamespace(problems={"public.letters": "it has left the publication"})
    work = SimpleNamespace(term=term, undelivered=undelivered, tables=[letters], slices=None)
    empty = SimpleNamespace(rows=SimpleNamespace(page=lambda *_: []))
    reader = DeferredReader(work=cast(Any, work), embedding=cast(Any, empty))
    assert reader.has_work, "at the start"
    reader.turn()
    assert not reader.has_work
    undelivered.problems.clear()
    assert reader.has_work, "it is back"
    reader.turn()
    assert not reader.has_work


class Recording(DeferredReader):
    """Its embedder does not take the text of one row."""

    sizes: list[int]

    def _settle(self, _table: Table, scan: Any) -> tuple[set[Key], str]:
        self.sizes.append(len(scan.rows))
        return {key for key in scan.rows if key == ("10",)}, "500"


def test_a_row_that_is_not_taken_is_followed_by_one_alone() -> None:
    """Its neighbours are often not taken either, and are found out soonest alone."""
    read = lambda _table, part: [SimpleNamespace(rows=dict.fromkeys(part))]  # noqa: E731
    term = SimpleNamespace(ended=Event(), lane=None)
    work = SimpleNamespace(term=term, slices=SimpleNamespace(read_deferred=read))
    runner = SimpleNamespace(hangs=False)
    embedding = SimpleNamespace(supply=SimpleNamespace(runner=runner))
    reader = Recording(work=cast(Any, work), embedding=cast(Any, embedding))
    reader.sizes = []
    left, _ = reader._try(cast(Table, "t"), [(str(number),) for number in range(22)])
    assert (left, reader.sizes) == (1, [1, 2, 4, 8, 1, 2, 4])
    reader._try(cast(Table, "t"), [(str(number),) for number in range(50)])
    assert reader.sizes[7:] == [8, 16, 26], "it is known by now, and goes alone in its own call"
    runner.hangs = True
    reader._try(cast(Table, "t"), [(str(number),) for number in range(150)])
    assert reader.sizes[10:] == [128, 22], "each alone would wait for the server that hangs"
