"""The comparison on simulated databases: it gets on only when the schedule says so."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from greenlet import getcurrent, greenlet

from cdc_embed.change.action import Row as Read
from cdc_embed.change.compare import KeyColumn
from cdc_embed.change.document import Key, Table
from cdc_embed.change.snapshot import Snapshot
from cdc_embed.reconcile.slices import ReadingPace, StoppedError
from cdc_embed.source.rows import Scan
from cdc_embed.target.deferred import Note
from cdc_embed.target.leaves import PendingWork
from cdc_embed.target.ledger import DONE, RUNNING, Comparison, Request
from cdc_embed.target.letters import Letter
from tests.builders import NOW
from tests.unit.simulation.data import TABLES, Row
from tests.unit.simulation.source import Source, as_found
from tests.unit.simulation.target import Target

if TYPE_CHECKING:
    from tests.unit.simulation.world import World


KEY: Final = [KeyColumn("id", "bigint", 20, -1)]


class Actor:
    """Work that gets on only when the schedule says so, from one rest to the next.

    It has a stack of its own and no thread, because threads take far longer to switch.
    """

    def __init__(self) -> None:
        self.ended = False
        """Its connection is over."""
        self.idle = False
        """It found nothing to do."""
        self._work = greenlet(lambda: None)

    def start(self, work: Callable[[], None]) -> None:
        self._work = greenlet(work)

    def step(self) -> None:
        self._work.parent = getcurrent()
        self._work.switch()

    def end(self) -> None:
        self.ended = True
        while not self._work.dead:
            self.step()

    def rest(self) -> None:
        """For the work itself: let others get on."""
        assert self._work.parent is not None
        self._work.parent.switch()
        if self.ended:
            raise StoppedError

    # -- as the event of the connection's end ------------------------------------------------------

    def is_set(self) -> bool:
        return self.ended

    def wait(self, seconds: float) -> bool:
        self.idle = self.idle or seconds >= ReadingPace().rounds
        try:
            self.rest()
        except StoppedError:
            return True
        return False


class Reader:
    """Rows of one snapshot, as ``source/rows.py`` reads them; anything may happen meanwhile."""

    def __init__(self, source: Source, actor: Actor) -> None:
        self.rows_read = 0
        self._source = source
        self._actor = actor
        self._part = 0

    def snapshot(self) -> Snapshot:
        self._actor.idle = False
        self._actor.rest()
        return self._source.snapshot()

    def next_xid(self) -> int:
        """An id that no transaction had yet, as ``pg_current_xact_id`` gives it."""
        self._actor.idle = False
        self._actor.rest()
        return self._source.other_transaction()

    def running_before(self, _xid: int) -> list[str]:
        return ["somebody"]

    def scan(self, source: Table, after: Key | None, most: int, leaf: int | None) -> Scan | None:
        def fetch(rows: Mapping[str, Row]) -> tuple[dict[Key, Read | None], bool]:
            own = [key for key in sorted(rows) if self._source.is_in(key, leaf)]
            keys = [key for key in own if after is None or (key,) > after][:most]
            return {(key,): as_found(source, rows[key]) for key in keys}, len(keys) == most

        return self._read(source, fetch)

    def scan_keys(self, source: Table, keys: Collection[Key]) -> Scan | None:
        """A part holds one row more each time, then one again."""
        self._part = self._part % 3 + 1
        part, rest = list(keys)[: self._part], tuple(keys)[self._part :]

        def fetch(rows: Mapping[str, Row]) -> tuple[dict[Key, Read | None], bool]:
            return {key: as_found(source, rows.get(key[0])) for key in part}, False

        found = self._read(source, fetch)
        return found and replace(found, rest=rest)

    def count(self, source: Table, _: Sequence[Key]) -> tuple[int, int]:
        self._actor.rest()
        rows = len(self._source.seen[source])
        return rows, rows

    def close(self) -> None: ...

    def key_columns(self, _: Table) -> list[KeyColumn]:
        return KEY

    def scan_missing(self, source: Table, keys: Collection[Key]) -> Scan | None:
        found = self.scan_keys(source, keys)
        if found is None:
            return None
        gone: dict[Key, Read | None] = {k: None for k, row in found.rows.items() if row is None}
        return replace(found, rows=gone)

    def _read(
        self,
        source: Table,
        fetch: Callable[[Mapping[str, Row]], tuple[dict[Key, Read | None], bool]],
    ) -> Scan | None:
        world = self._source
        files = world.files[source]
        self._actor.rest()
        snapshot, rows, then = world.snapshot(), dict(world.seen[source]), world.files[source]
        self._actor.rest()
        while world.is_closed(source):
            self._actor.rest()
        found, more = fetch(rows if world.files[source] == then else {})
        if world.files[source] != files:
            return None
        self.rows_read += len(found)
        return Scan(rows=found, snapshot=snapshot, more=more)


class Notes:
    """The ledger and the desk: how far each comparison is, and what is asked for."""

    def __init__(self, world: "World", actor: Actor) -> None:
        self._world = world
        self._target = world.target
        self._actor = actor

    # -- the ledger --------------------------------------------------------------------------------

    def comparisons(self) -> dict[str, Comparison]:
        self._actor.rest()
        return {t.full_name: replace(c) for t, c in self._target.comparisons.items()}

    def save(
        self, comparison: Comparison, _epoch: int, *, looks_for_orphans: bool = False
    ) -> str | None:
        self._actor.rest()
        source = _named(comparison.table_name)
        noted, saved = self._target.noted[source], replace(comparison)
        if saved.state == DONE and noted.left:
            saved.state, saved.stage, saved.cursor = RUNNING, "leaves", None
        noted.orphans = noted.orphans and not looks_for_orphans
        self._target.comparisons[source] = saved
        if saved.state == DONE:
            self._world.compared(source)
        return saved.state

    def pending(self, table_name: str) -> PendingWork:
        self._actor.rest()
        return self._target.noted[_named(table_name)].pending()

    def compared(self, table_name: str, _run: int, leaf: int, token: str) -> None:
        self._actor.rest()
        self._target.noted[_named(table_name)].compared(leaf, token)

    def stored_keys(self, source: Table, after: Key | None, limit: int) -> list[Key]:
        self._actor.rest()
        keys = self._target.keys(source)
        return [key for key in keys if after is None or key < after][:limit]

    def stored_key_columns(self, _: Table) -> list[KeyColumn]:
        return KEY

    def count_shown(self, source: Table) -> tuple[int, int]:
        stored = len(self._target.keys(source))
        return stored, stored

    def close(self) -> None: ...

    def letter_keys(self, source: Table) -> list[Key]:
        self._actor.rest()
        return [key for t, key in self._target.now.letters if t is source]

    def delete_other_spaces(self, _source: Table, _space: int, _epoch: int) -> tuple[int, ...]:
        return ()

    def reply(
        self,
        number: int,
        state: str,
        *,
        progress: dict[str, Any],
        result: dict[str, Any] | None = None,
    ) -> bool:
        assert progress
        self._actor.rest()
        if state == DONE:
            (request,) = (r for r in self._world.requests if r.id == number)
            self._world.requests.remove(request)
            self._world.answered(request, result or {})
        return True

    # -- the desk ----------------------------------------------------------------------------------

    def open_comparisons(self) -> None:
        self._actor.rest()

    def refuse_unknown(self, known: Collection[str]) -> None:
        assert all(request.kind in known for request in self._world.requests)

    def take_in_requests(self) -> None:
        self._actor.rest()
        for request in [r for r in self._world.requests if r.kind == "backfill"]:
            self._world.requests.remove(request)
            source = TABLES[request.arguments["table"]]
            if self._target.comparisons[source].state != RUNNING:
                fresh = Comparison(table_name=source.full_name, state=RUNNING)
                self._target.comparisons[source] = fresh
                self._target.noted[source].begin(self._world.source.tokens(source))
                self._world.comparing(source)

    def close_backfills(self) -> None: ...

    def say_waiting(self, _holders: str) -> None: ...

    def asked(self, *kinds: str) -> list[Request]:
        return [request for request in self._world.requests if request.kind in kinds]


class Deferrals:
    """``target/deferred.py``'s: the rows that wait for the embedder."""

    def __init__(self, target: Target, actor: Actor) -> None:
        self._target = target
        self._actor = actor

    def page(self, tables: Collection[Table], after: int, limit: int) -> list[Note]:
        self._actor.rest()
        deferred = self._target.now.deferred
        found = [Note(t.oid * 10 + int(k[0]), (t, k)) for t, k in deferred if t in tables]
        return [note for note in sorted(found, key=lambda n: n.id) if note.id > after][:limit]


class DeadLetters:
    """``target/letters.py``'s: what a retry is about."""

    def __init__(self, target: Target, actor: Actor) -> None:
        self._target = target
        self._actor = actor

    def find(self, tables: Collection[str], ids: Collection[int] | None = None) -> list[Letter]:
        self._actor.rest()
        found = [
            Letter(
                id=t.oid * 10 + int(key[0]),
                table=t.full_name,
                key={"id": key[0]},
                fingerprint=digest,
                model="m",
                reason="refused",
                error="why",
                attempts=1,
                first_at=NOW,
                last_at=NOW,
            )
            for (t, key), digest in self._target.now.letters.items()
            if t.full_name in tables
        ]
        return [letter for letter in found if ids is None or letter.id in ids]


def _named(full_name: str) -> Table:
    (source,) = (table for table in TABLES if table.full_name == full_name)
    return source
