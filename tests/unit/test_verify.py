"""Proof of freshness: suspicion, a second look, and what counts as drift."""

from collections.abc import Callable, Collection, Iterator, Sequence
from threading import Event
from typing import Any, cast

import pytest

from cdc_embed.change.action import Annotate, Row, Write
from cdc_embed.change.compare import NOTHING, KeyColumn, Stored, Verdict, compare, repair
from cdc_embed.change.document import Key, Table, TableColumn, fingerprint
from cdc_embed.change.event import Op
from cdc_embed.change.knowledge import ABSENT, READ, Known, Refused
from cdc_embed.change.plan import one_chunk
from cdc_embed.change.snapshot import Snapshot
from cdc_embed.flow.lane import Examined, Lane
from cdc_embed.metrics import Metrics
from cdc_embed.reconcile.counts import TableCounter
from cdc_embed.reconcile.slices import ReadingPace, Scope, SliceReader, Term, Work
from cdc_embed.reconcile.verify import Tally, Verifier
from cdc_embed.source.coverage import Undelivered
from cdc_embed.source.rows import RowReader, Scan
from cdc_embed.target.leaves import Leaves
from cdc_embed.target.ledger import DONE, RUNNING, Ledger, Request
from cdc_embed.target.stored import StoredDocuments
from tests.builders import table, touch

KEY = [KeyColumn("id", "bigint", 20, -1)]
TABLE = table("t", TableColumn("views", "integer"), text=("body",))
SNAPSHOT = Snapshot(xmin=10, xmax=10, running=frozenset())


def row(text: str | None, views: str = "1") -> Row:
    return Row((text,), (views,))


def stored(text: str, views: str = "1") -> Stored:
    return Stored(Known(fingerprint(text), TABLE.hash_metadata((views,)) or b""))


class World:
    """The source, the target and the log, in place of a ``SliceReader`` and its ledger."""

    def __init__(self) -> None:
        self.rows: dict[Key, Row] = {}
        self.stored: dict[Key, Stored] = {}
        self.other_vectors: set[Key] = set()
        """Documents whose stored vector is not that of their text."""
        self.hidden: list[set[Key]] = []
        """For each look, the rows that its snapshot is too old about."""
        self.meanwhile: list[Callable[[], None]] = []
        """Acts while the target catches up, one for each wait."""
        self.broken: set[Key] = set()
        """Rows that no repair mends."""
        self.pace = ReadingPace()
        self.lane = Lane()
        self.lane.remember_touched()
        self.replies: list[tuple[str, dict[str, Any]]] = []
        self.called_off = False
        self.unread = 0
        """Rows that no scan finds."""
        self.key = KEY
        self.stored_key = KEY
        self.unshown = 0
        self.in_no_part = 0
        """Documents that the search view does not show."""

    # -- what the test does --------------------------------------------------------------------

    def fill(self, *names: str) -> None:
        for name in names:
            self.rows[name,] = row(f"text {name}")
            self.stored[name,] = stored(f"text {name}")

    def commit(self, name: str, text: str | None) -> None:
        """The application changes a row, and the log brings it to the target."""
        op = Op.UPDATE if (name,) in self.rows else Op.INSERT
        if text is None:
            self.rows.pop((name,), None)
            self.stored.pop((name,), None)
        else:
            self.rows[name,], self.stored[name,] = row(text), stored(text)
        self.note(name, Op.DELETE if text is None else op)

    def note(self, name: str, op: Op = Op.UPDATE) -> None:
        self.lane.mark_touched(touch(10, name, op=op, of=TABLE))

    # -- the slices ----------------------------------------------------------------------------

    def scan(self, _: Table, __: Key | None) -> Iterator[tuple[Scan, Key | None]]:
        names = sorted(self.rows)
        for start in range(0, len(names), self.pace.slice_rows):
            part = names[start : start + self.pace.slice_rows]
            yield self._scan(part), part[-1]

    def orphans(self, _: Table, __: Key | None) -> Iterator[tuple[Scan, Key | None]]:
        gone = sorted(self.stored.keys() - self.rows.keys())
        if gone:
            yield self._scan(gone), gone[-1]

    def read_keys(self, _: Table, keys: Collection[Key]) -> Iterator[Scan]:
        """Two rows at a time, as if more would take too much memory."""
        listed = list(keys)
        for start in range(0, len(listed), 2):
            yield self._scan(listed[start : start + 2])

    def count(self, _: Table, __: Sequence[Key]) -> tuple[int, int]:
        rows = len(self.rows) + self.unread
        return rows, rows - self.in_no_part

    def close(self) -> None: ...

    def key_columns(self, _: Table) -> list[KeyColumn]:
        return self.key

    def _scan(self, keys: Collection[Key]) -> Scan:
        return Scan(rows={key: self.rows.get(key) for key in keys}, snapshot=SNAPSHOT)

    def hand_over(
        self, table: Table, scan: Scan, *, repair: bool, sample: bool = False
    ) -> Iterator[Examined]:
        hidden = (self.hidden.pop(0) if self.hidden else set()) & scan.rows.keys()
        rows = {key: found for key, found in scan.rows.items() if key not in hidden}
        if rows:
            verdicts = {key: self._judge(table, key, found, sample) for key, found in rows.items()}
            if repair:
                for key in rows.keys() - self.broken:
                    self._mend(table, key, rows[key], verdicts[key], sample)
            yield Examined(verdicts=verdicts, hidden=frozenset(hidden))
        else:
            yield Examined(hidden=frozenset(hidden))

    hand_over_all = hand_over

    def _judge(self, table: Table, key: Key, found: Row | None, sample: bool) -> Verdict:
        verdict = compare(table, found, self.stored.get(key, NOTHING))
        if sample and verdict is Verdict.FRESH and key in self.other_vectors:
            return Verdict.STALE
        return verdict

    def _mend(
        self, table: Table, key: Key, found: Row | None, verdict: Verdict, sample: bool
    ) -> None:
        match repair(table, found, self.stored.get(key, NOTHING), verdict, one_chunk):
            case Write(document, metadata):
                self.stored[key] = Stored(Known(document.fingerprint, metadata.hash, READ))
                if sample:
                    self.other_vectors.discard(key)
            case Annotate(_, state):
                self.stored[key] = Stored(state)
            case None:
                pass
            case _:
                self.stored.pop(key, None)

    def wait_until_durable(self) -> None:
        if self.meanwhile:
            self.meanwhile.pop(0)()

    # -- the ledger ----------------------------------------------------------------------------

    def reply(
        self,
        number: int,
        state: str,
        *,
        progress: dict[str, Any] | None = None,
        result: dict[str, Any] | None = None,
    ) -> bool:
        assert number == 3
        self.replies.append((state, (result if state == DONE else progress) or {}))
        return not self.called_off

    def stored_key_columns(self, _: Table) -> list[KeyColumn]:
        return self.stored_key

    def count_shown(self, _: Table) -> tuple[int, int]:
        return len(self.stored) - self.unshown, len(self.stored)

    def sample_keys(self, _: Table, __: int, size: int) -> list[Key]:
        return sorted(key for key, found in self.stored.items() if found.state is not ABSENT)[:size]


@pytest.fixture
def world() -> World:
    return World()


METRICS = Metrics(slot="s", tables=[TABLE.full_name], model="m")


def verified(world: World, metrics: Metrics = METRICS, **arguments: Any) -> dict[str, Any]:
    """The result's counts that are not zero, with ``drift`` and ``remaining``."""
    verifier = Verifier(
        work=Work(
            term=Term(lane=world.lane, epoch=1, ended=Event()),
            slices=cast(SliceReader, world),
            scopes=[Scope(table=TABLE, space=1)],
            ledger=cast(Ledger, world),
            stored=cast(StoredDocuments, world),
            leaves=cast(Leaves, world),
            undelivered=Undelivered(),
            metrics=metrics,
            pace=world.pace,
            counts=TableCounter(
                source=cast(RowReader, world),
                target=cast(StoredDocuments, world),
                make_room=lambda: None,
                pause=lambda _: None,
                pauses=(),
            ),
        )
    )
    verifier.answer(Request(id=3, kind="verify", arguments=arguments, state=RUNNING))
    state, result = world.replies[-1]
    assert state == DONE
    (table,) = result["tables"]
    assert table.pop("name") == "public.t"
    total = sum(table[kind] for kind in ("missing", "stale", "metadata_stale", "orphan"))
    assert result["drift"] == total
    shown = {name: count for name, count in table.items() if count}
    return {**shown, "remaining": result["remaining"]}


def drifting(world: World) -> None:
    """One of each kind beside two that are right."""
    world.fill("1", "2", "3", "4", "5", "6", "7")
    del world.stored["3",]
    world.stored["4",] = stored("an older text")
    world.stored["5",] = stored("text 5", views="0")
    del world.rows["6",]
    world.stored["7",] = Stored(Refused(fingerprint("text 7")))


def test_what_is_right_is_fresh_and_nothing_drifts(world: World) -> None:
    world.fill("1", "2", "3")
    world.rows["4",] = row(" ")
    assert verified(world) == {"checked": 4, "fresh": 4, "remaining": 0}


def test_an_empty_table_is_right(world: World) -> None:
    assert verified(world) == {"remaining": 0}


def test_every_kind_of_drift_is_counted_once(world: World) -> None:
    drifting(world)
    assert verified(world) == {
        "checked": 6,
        "fresh": 2,
        "missing": 1,
        "stale": 1,
        "metadata_stale": 1,
        "orphan": 1,
        "dead_letters": 1,
        "remaining": 4,
    }
    assert world.stored["4",] == stored("an older text"), "nothing is mended unasked"


def test_a_document_of_a_row_that_lost_its_text_is_an_orphan(world: World) -> None:
    world.fill("1", "2")
    world.rows["1",] = row(None)
    assert verified(world) == {"checked": 2, "fresh": 1, "orphan": 1, "remaining": 1}


def test_a_repair_mends_everything_and_says_how_much_it_was(world: World) -> None:
    drifting(world)
    found = verified(world, repair=True)
    assert found["repaired"] == 4
    assert (found["fresh"], found["stale"], found["remaining"]) == (2, 1, 0)
    again = verified(world)
    assert again == {"checked": 6, "fresh": 5, "dead_letters": 1, "remaining": 0}


def test_what_a_repair_does_not_mend_remains(world: World) -> None:
    drifting(world)
    world.broken = {("4",), ("5",)}
    found = verified(world, repair=True)
    assert (found["repaired"], found["remaining"]) == (2, 2)


# -- beside the log ---------------------------------------------------------------------------


def test_a_target_that_was_only_behind_is_fresh_at_a_second_look(world: World) -> None:
    world.fill("1", "2")
    world.rows["1",] = row("newer")
    world.meanwhile = [lambda: world.commit("1", "newer")]
    assert verified(world) == {"checked": 2, "fresh": 2, "remaining": 0}


def test_a_suspect_touched_between_the_looks_is_pending(world: World) -> None:
    world.fill("1", "2")
    world.stored["1",] = world.stored["2",] = stored("an older text")
    world.meanwhile = [lambda: world.note("1")]
    found = verified(world)
    assert found == {"checked": 2, "pending": 1, "stale": 1, "remaining": 1}


def test_a_suspect_touched_after_the_second_look_is_pending(world: World) -> None:
    """That look saw a change in the source before the log brought it."""
    world.fill("1", "2")
    world.stored["1",] = world.stored["2",] = stored("an older text")
    world.meanwhile = [lambda: None, lambda: world.note("1")]
    found = verified(world)
    assert found == {"checked": 2, "pending": 1, "stale": 1, "remaining": 1}


def test_a_truncate_makes_every_suspect_pending(world: World) -> None:
    world.fill("1", "2", "3")
    world.stored["1",] = world.stored["2",] = stored("an older text")
    world.meanwhile = [lambda: world.note("", Op.TRUNCATE)]
    assert verified(world) == {"checked": 3, "fresh": 1, "pending": 2, "remaining": 0}


def test_what_was_touched_before_it_was_suspected_is_no_excuse(world: World) -> None:
    world.fill("1")
    world.stored["1",] = stored("an older text")
    world.note("1")
    assert verified(world) == {"checked": 1, "stale": 1, "remaining": 1}


def test_a_row_the_first_look_is_too_old_for_is_looked_at_again(world: World) -> None:
    world.fill("1", "2")
    world.hidden = [{("1",)}]
    assert verified(world) == {"checked": 2, "fresh": 2, "remaining": 0}
    world.stored["1",] = stored("an older text")
    world.hidden = [{("1",)}]
    assert verified(world) == {"checked": 2, "fresh": 1, "stale": 1, "remaining": 1}


def test_a_row_that_both_looks_are_too_old_about_is_pending(world: World) -> None:
    world.fill("1", "2")
    world.stored["1",] = stored("an older text")
    world.hidden = [{("1",)}, {("1",)}]
    assert verified(world) == {"checked": 2, "fresh": 1, "pending": 1, "remaining": 0}


def test_a_suspect_that_was_deleted_is_pending(world: World) -> None:
    world.fill("1", "2")
    world.stored["1",] = stored("an older text")
    world.meanwhile = [lambda: world.commit("1", None)]
    assert verified(world) == {"checked": 2, "fresh": 1, "pending": 1, "remaining": 0}


def test_an_orphan_whose_row_came_back_is_not_counted(world: World) -> None:
    world.fill("1", "2")
    del world.rows["1",]
    world.meanwhile = [lambda: world.commit("1", "back again")]
    assert verified(world) == {"checked": 1, "fresh": 1, "remaining": 0}


def test_pending_rows_are_not_mended(world: World) -> None:
    world.fill("1", "2")
    world.stored["1",] = world.stored["2",] = stored("an older text")
    world.meanwhile = [lambda: world.note("1")]
    found = verified(world, repair=True)
    assert found == {"checked": 2, "pending": 1, "stale": 1, "repaired": 1, "remaining": 0}
    assert world.stored["1",] == stored("an older text")


def test_suspects_are_judged_in_parts_when_they_are_many(world: World) -> None:
    world.pace = ReadingPace(slice_rows=2, suspects=3)
    world.fill(*(str(number) for number in range(11)))
    for key in world.stored:
        world.stored[key] = stored("an older text")
    for name in ("x", "y", "z", "w", "v"):
        world.stored[name,] = stored("an orphan")
    waits = []
    world.meanwhile = [lambda: waits.append(1)] * 50
    found = verified(world, repair=True)
    assert found == {"checked": 11, "stale": 11, "orphan": 5, "repaired": 16, "remaining": 0}
    assert len(waits) > 4, "several second looks"
    assert verified(world) == {"checked": 11, "fresh": 11, "remaining": 0}


# -- the proof --------------------------------------------------------------------------------


def unproven(world: World) -> str:
    """The reason why the table has no result; nothing is said to be fresh then."""
    found = verified(world)
    problem = found.pop("problem")
    assert found == {"remaining": 0}
    return str(problem)


def test_rows_that_no_scan_finds_are_an_error(world: World) -> None:
    world.fill("1", "2")
    world.unread = 1
    assert unproven(world) == "2 rows were read, it has 3"


def test_rows_that_came_and_went_meanwhile_are_no_error(world: World) -> None:
    world.fill("1", "2")
    world.stored["1",] = stored("an older text")
    world.meanwhile = [lambda: world.commit("3", "new"), lambda: world.commit("2", None)]
    world.unread = 1
    world.note("4", Op.INSERT)
    assert verified(world)["checked"] == 2
    world.unread = 4
    assert "rows were read" in unproven(world)


def test_a_row_that_no_part_has_is_lost_whatever_the_log_brings(world: World) -> None:
    world.fill("1", "2")
    world.note("4", Op.INSERT)
    world.in_no_part = 1
    assert unproven(world) == "1 rows are in the parts that were read, it has 2"


def test_a_key_that_is_not_the_stored_one_is_an_error(world: World) -> None:
    world.fill("1")
    world.key = [*KEY, KeyColumn("rev", "integer", 23, -1)]
    assert unproven(world) == (
        "its key is (id bigint, rev integer), its vectors are stored by (id bigint)"
    )
    world.stored_key = world.key
    assert unproven(world) == "its key has changed since this service began"


@pytest.mark.parametrize(
    ("real", "stored", "holds"),
    [
        (KeyColumn("id", "integer", 23, -1), KeyColumn("id", "integer", 23, -1), True),
        (KeyColumn("id", "bigint", 20, -1), KeyColumn("id", "integer", 23, -1), False),
        (KeyColumn("id", "bigint", 20, -1), KeyColumn("number", "bigint", 20, -1), False),
        (KeyColumn("id", "mood", 16400, -1), KeyColumn("id", "text", 25, -1), True),
        (KeyColumn("id", "mood", 16400, -1), KeyColumn("id", "integer", 23, -1), False),
        (KeyColumn("id", "varchar(9)", 1043, 13), KeyColumn("id", "varchar(9)", 1043, 13), True),
        (KeyColumn("id", "varchar(9)", 1043, 13), KeyColumn("id", "varchar", 1043, -1), True),
        (KeyColumn("id", "varchar(9)", 1043, 13), KeyColumn("id", "varchar(5)", 1043, 9), False),
    ],
)
def test_a_stored_key_holds_every_value_of_its_own(
    real: KeyColumn, stored: KeyColumn, holds: bool
) -> None:
    assert stored.holds(real) is holds


def test_documents_that_the_search_view_hides_are_an_error(world: World) -> None:
    world.fill("1", "2")
    world.unshown = 1
    assert unproven(world) == "the search view shows 1 documents, 2 are stored"


def test_a_row_without_a_verdict_is_an_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.fill("1", "2")
    monkeypatch.setattr(Tally, "settle", lambda *_, **__: None)
    world.stored["1",] = stored("an older text")
    assert unproven(world) == "its counts do not add up"


# -- samples ----------------------------------------------------------------------------------


def test_a_sample_of_right_vectors_changes_no_count(world: World) -> None:
    world.fill("1", "2", "3")
    found = verified(world, sample=2)
    assert found == {"checked": 3, "fresh": 3, "sampled": 2, "remaining": 0}


def test_a_stored_vector_of_another_text_is_counted_stale_once(world: World) -> None:
    world.fill("1", "2", "3")
    world.other_vectors = {("2",)}
    assert verified(world) == {"checked": 3, "fresh": 3, "remaining": 0}, "hashes do not tell it"
    found = verified(world, sample=10)
    assert found == {"checked": 3, "fresh": 2, "stale": 1, "sampled": 3, "remaining": 1}


def test_documents_that_drift_anyway_are_not_sampled(world: World) -> None:
    drifting(world)
    world.other_vectors = {("1",), ("4",)}
    found = verified(world, sample=10)
    assert (found["sampled"], found["fresh"], found["stale"]) == (2, 1, 2)
    assert found["remaining"] == 5


def test_a_wrong_vector_is_mended_by_a_repair(world: World) -> None:
    world.fill("1", "2")
    world.other_vectors = {("2",)}
    found = verified(world, sample=10, repair=True)
    assert found.pop("repaired") == 1
    assert found == {"checked": 2, "fresh": 1, "stale": 1, "sampled": 2, "remaining": 0}
    assert verified(world, sample=10) == {"checked": 2, "fresh": 2, "sampled": 2, "remaining": 0}


def test_a_sampled_document_touched_meanwhile_is_no_drift(world: World) -> None:
    world.fill("1", "2")
    world.other_vectors = {("2",)}
    world.meanwhile = [lambda: world.note("2")]
    found = verified(world, sample=10)
    assert found == {"checked": 2, "fresh": 2, "sampled": 2, "remaining": 0}


def test_a_count_has_the_connection_in_which_rows_are_read() -> None:
    steps: list[str] = []

    class Rows:
        def count(self, _: Table, __: Sequence[Key]) -> tuple[int, int]:
            steps.append("rows")
            return 1, 1

        def count_shown(self, _: Table) -> tuple[int, int]:
            steps.append("documents")
            return 1, 1

        def close(self) -> None:
            steps.append("closed")

    counts = TableCounter(
        source=cast(RowReader, Rows()),
        target=cast(StoredDocuments, Rows()),
        make_room=lambda: steps.append("room"),
        pause=lambda _: None,
        pauses=(),
    )
    counts.rows(TABLE, [])
    counts.documents(TABLE)
    assert steps == ["room", "rows", "closed", "room", "documents", "closed"]


# -- what is shown ----------------------------------------------------------------------------


def test_progress_is_told_after_each_slice(world: World) -> None:
    world.pace = ReadingPace(slice_rows=2)
    world.fill("1", "2", "3", "4", "5")
    verified(world)
    running = [reply["tables"][0]["checked"] for state, reply in world.replies if state == RUNNING]
    assert running == [2, 4, 5]


def shown(metrics: Metrics, kind: str) -> float | None:
    labels = {"table": "public.t", "kind": kind}
    return metrics.registry.get_sample_value("cdc_embed_drift_rows", labels)


def test_what_drifts_is_shown_until_it_is_mended(world: World) -> None:
    metrics = Metrics(slot="s", tables=[TABLE.full_name], model="m")
    drifting(world)
    verified(world, metrics)
    assert [shown(metrics, kind) for kind in ("missing", "stale", "orphan")] == [1, 1, 1]
    verified(world, metrics, repair=True)
    assert [shown(metrics, kind) for kind in ("missing", "stale", "orphan")] == [0, 0, 0]


def test_a_request_that_was_called_off_is_left_and_mends_nothing(world: World) -> None:
    world.rows[("1",)] = Row(("a",))
    world.called_off = True
    with pytest.raises(AssertionError, match="running"):
        verified(world, repair=True)
    assert not world.stored
    assert all(state == RUNNING for state, _ in world.replies)
