"""The promise: whatever happens, the target ends as the source is.

Every interleaving is drawn, on the simulated source and target of ``simulation``.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from random import Random
from typing import Any, Final

import pytest

from cdc_embed.change import plan
from cdc_embed.change.knowledge import Known
from cdc_embed.change.unseen import Unseen
from cdc_embed.errors import TargetRefusedError
from cdc_embed.flow.telemetry import Committed
from cdc_embed.reconcile.slices import SliceReader
from tests.unit.simulation.data import FIRST, KEYS, LARGE, SMALL, TABLES, Row
from tests.unit.simulation.source import KINDS, Op
from tests.unit.simulation.world import Setting, World, run, simulated

# -- the promises ----------------------------------------------------------------------------------


Steps = list[tuple[str, Any]]

SEEDS: Final = 2000
"""Schedules that are tried: a few seconds. One in three hundred met the first bug found so."""
COMPARING_SEEDS: Final = 300


def schedule(
    seed: int,
    *,
    crashes: bool,
    compares: bool = False,
    damages: bool = False,
    partitions: bool = False,
    defers: bool = False,
) -> tuple[Setting, Steps]:
    """A setting and what happens in it. Few keys and few texts, so that they meet."""
    random = Random(seed)
    setting = Setting(
        full=random.random() < 0.1,
        leaves_out=seed % 4 == 3,
        least_texts=random.choice((1, 1, 2, 16)),
        take=random.choice((1, 1, 2, 3, 64)),
        memory=random.choice((3000, 8000, 1 << 20, 1 << 20)),
        interruptions=tuple(random.random() < 0.3 for _ in range(random.randrange(40))),
        in_pieces=random.random() < 0.3,
        slice_rows=random.choice((1, 1, 2, 1000)),
        parted=partitions,
    )
    values = random.choice(((*SMALL, *LARGE), ("A", "B", "C", "a"), ("A", "B"), ("A", "a", "b")))
    keys, tables = random.choice((2, 2, 3)), random.choice(((0,), (1,), (1,), (0, 1)))
    crashing = random.choice((0.1, 0.6)) if crashes else 0.0
    comparing, working, unseen, damaging, moving = 0.0, 0.0, 0.0, 0.0, 0.0
    if compares:
        working = random.choice((0.0, 0.5, 2.0))
        comparing, unseen = random.choice((1, 5, 15)), random.choice((0.0, 0.5, 2.0))
    if damages:
        damaging = random.choice((0.3, 1.5))
    if partitions:
        moving, tables = random.choice((0.5, 1.5, 3.0)), random.choice(((1,), (1,), (0, 1)))

    deferring, embedding = 0.0, 0.0
    if defers:
        deferring, embedding = random.choice((0.5, 2.0)), random.choice((0.5, 2.0, 8.0))

    def op() -> Op:
        return Op(
            kind=random.choices(tuple(KINDS), tuple(KINDS.values()))[0],
            key=random.randrange(keys),
            other=random.randrange(keys),
            a=random.choice(values),
            b=random.choice(values),
            table=random.choice(tables),
            m=random.choice(values),
        )

    def ops() -> list[Op]:
        return [op() for _ in range(random.choice((1, 1, 1, 2, 3, 5)))]

    def request() -> tuple[str, int]:
        kind = random.choice(("backfill", "backfill", "verify", "retry"))
        return kind, random.choice(tables)

    def damage() -> tuple[str, int, int, str]:
        what = random.choice(("lose", "age", "age", "break_off"))
        text = "\n\n".join(random.choices(("A", "B", "a"), k=random.choice((1, 2, 2))))
        return what, random.choice(tables), random.randrange(keys), text

    def leaf() -> tuple[bool, dict[str, Row]]:
        rows = {key: (random.choice(values), random.choice(values), "m") for key in KEYS[1:]}
        filled = random.sample(sorted(rows), random.choice((0, 1, 1, 2)))
        return random.random() < 0.5, {key: rows[key] for key in filled}

    happenings: dict[str, tuple[float, Callable[[], Any]]] = {
        "commit": (6, ops),
        "commit_unseen": (unseen, ops),
        "show": (unseen / 2, lambda: random.randrange(5)),
        "begin": (unseen / 4, lambda: None),
        "other_transaction": (unseen / 4, lambda: None),
        "turn": (7, lambda: random.choice((0, 1, 2, 3, 5, 10, 30, 100))),
        "prepare": (5, lambda: None),
        "write": (random.choice((1, 4)), lambda: None),
        "compare": (2 * comparing, lambda: random.choice((1, 2, 3, 5, 10, 20))),
        "work": (working, lambda: random.choice((2, 5, 10, 30))),
        "ask": (0.3 * comparing, request),
        "damage": (damaging, damage),
        "take_no": (deferring, lambda: random.choice((None, "", "A", "B", "Aa", "ABCab"))),
        "embed_deferred": (embedding, lambda: random.choice((1, 2, 3, 5, 10))),
        "attach": (moving, leaf),
        "detach": (moving / 2, lambda: None),
        "drop": (moving / 4, lambda: None),
        "empty": (moving / 4, lambda: None),
        "look": (moving, lambda: None),
        "crash": (crashing, lambda: random.random() < 0.3),
        "reconnect": (crashing / 3, lambda: None),
        "persist": (0.3, lambda: None),
        "ping": (0.5, lambda: None),
        "pass_time": (0.3, lambda: 3.0),
        "other_work": (0.3, lambda: random.choice((100, 2 << 20))),
        "lose_answer": (0.3, lambda: None),
    }
    weights = [weight for weight, _ in happenings.values()]
    names = random.choices(list(happenings), weights, k=random.randrange(5, 80))
    return setting, [(name, happenings[name][1]()) for name in names]


def shortest(setting: Setting, steps: Steps) -> Steps:
    """As few of these steps as still fail."""

    def fails(fewer: Steps) -> bool:
        try:
            run(setting, fewer)
        except AssertionError:
            return True
        return False

    place = 0
    while place < len(steps):
        fewer = steps[:place] + steps[place + 1 :]
        if fails(fewer):
            steps, place = fewer, 0
        else:
            place += 1
    return steps


def try_all(seeds: Iterable[int], **kinds: bool) -> None:
    for seed in seeds:
        setting, steps = schedule(seed, **kinds)
        try:
            run(setting, steps)
        except AssertionError as exc:
            pytest.fail(f"seed {seed}, {setting}: {shortest(setting, steps)}: {exc}")


@pytest.mark.parametrize("crashes", [True, False])
def test_whatever_happens_the_target_ends_as_the_source_is(*, crashes: bool) -> None:
    try_all(range(SEEDS // 2), crashes=crashes)


def test_comparing_rows_meanwhile_causes_no_drift() -> None:
    try_all(range(COMPARING_SEEDS), crashes=True, compares=True)


def test_verify_finds_damage_and_comparing_mends_it() -> None:
    try_all(range(COMPARING_SEEDS), crashes=True, compares=True, damages=True)


def test_partitions_that_come_and_go_end_as_the_source_is() -> None:
    try_all(range(COMPARING_SEEDS), crashes=True, compares=True, partitions=True)


@pytest.mark.parametrize("compares", [False, True])
def test_deferred_rows_end_as_the_source_is(*, compares: bool) -> None:
    seeds = COMPARING_SEEDS if compares else SEEDS // 2
    try_all(range(seeds), crashes=True, defers=True, compares=compares)


def test_deferred_rows_survive_damage_and_partitions() -> None:
    kinds = {"crashes": True, "compares": True, "defers": True}
    try_all(range(COMPARING_SEEDS // 2), damages=True, **kinds)
    try_all(range(COMPARING_SEEDS // 2), partitions=True, **kinds)


ONE_BY_ONE: Final = Setting(take=1)
ROW_BY_ROW: Final = Setting(take=1, slice_rows=1)

RENUMBERED_AND_REPLACED: Final = (
    # the text is read again when the row has left the key and another one has come
    Op("insert", key=0, a="A", b="C"),
    Op("write_a", key=0, a="B"),
    Op("move", key=0, other=1),
)


def commits(changes: Iterable[Op]) -> Steps:
    """Each change in a transaction of its own."""
    return [("commit", [op]) for op in changes]


@pytest.mark.parametrize("rounds", range(12))
@pytest.mark.parametrize("newcomer", ["A", "D"])
def test_a_row_never_takes_the_text_of_the_one_that_took_its_key(
    newcomer: str, rounds: int
) -> None:
    """``newcomer`` "A": read again, the row looks like what is stored. A crash at any point."""
    steps = commits((*RENUMBERED_AND_REPLACED, Op("insert", key=0, a=newcomer, b="C")))
    steps += [("turn", 1000), ("prepare", None), ("write", None)] * rounds
    run(ONE_BY_ONE, [*steps, ("crash", False)])


def test_rows_that_swapped_their_keys_keep_their_own_texts() -> None:
    steps = commits(
        [
            Op("insert", key=0, a="A", b="C"),
            Op("insert", key=1, a="a", b="C"),
            Op("write_a", key=0, a="B"),
            Op("swap", key=0, other=1),
        ]
    )
    run(ONE_BY_ONE, steps)


def test_a_row_that_passed_a_filter_keeps_its_text_when_it_moves() -> None:
    steps = commits(
        [
            Op("appear", key=0, a="A", b="A"),
            Op("insert", key=1, a="C", b="C"),
            Op("swap", key=0, other=1),
        ]
    )
    run(ONE_BY_ONE, steps)


def test_moving_rows_costs_no_embedding() -> None:
    changes = [
        *(Op("insert", key=0, a="A", b="B"), Op("insert", key=1, a="B", b="C")),
        *(Op("move", key=0, other=2), Op("swap", key=1, other=2), Op("move", key=1, other=0)),
    ]
    world = run(ONE_BY_ONE, commits(changes))
    assert world.model.embedded.total() == 2
    assert world.reread == 0


def test_a_row_whose_text_stays_costs_no_embedding() -> None:
    changes = [Op("insert", key=0, a="A", b="B"), *[Op("touch", key=0)] * 5]
    world = run(ONE_BY_ONE, commits(changes))
    assert world.model.embedded.total() == 1


# -- batches that are prepared again ---------------------------------------------------------------

INTERLEAVINGS: Final = [
    [("turn", 1), *moves]
    for moves in product((("turn", 3), ("prepare", None), ("write", None)), repeat=6)
]


def test_a_text_that_loses_its_donor_is_embedded_once_more() -> None:
    """A batch deletes the row whose vector the next one takes, and then the same again."""
    away = [Op("delete", key=0), Op("insert", key=1, a="A")]
    back = [Op("delete", key=1), Op("insert", key=0, a="A")]
    steps = [*commits([Op("insert", key=0, a="A")]), REST, *commits([*away, *back])]
    embedded = set()
    for moves in INTERLEAVINGS:
        world = run(ONE_BY_ONE, [*steps, *moves])
        assert not world.restarted
        embedded.add(world.model.embedded.total())
    assert max(embedded) in {2, 3}, "a donor was lost, and each loss cost one embedding"


def test_whatever_was_embedded_for_a_refused_batch_is_kept() -> None:
    """The database refuses one row of it; the batch behind it took that row for stored."""
    refused = [Op("insert", key=0, a="z"), Op("insert", key=1, a="A")]
    behind = [Op("touch", key=0), Op("write_a", key=1, a="B")]
    for moves in INTERLEAVINGS:
        world = run(Setting(take=2), [("commit", refused), *commits(behind), *moves])
        assert not world.restarted
        assert max(world.model.embedded.values()) == 1


def test_a_refusal_belongs_to_the_text_that_was_refused() -> None:
    """The row is read again for the second attempt, and has another text by then."""
    compared = [("ask", ("backfill", 1)), ("compare", 5)]
    before = Op("insert", key=1, table=1, a="b", b="A", m="A")
    refused = Op("write_both", key=1, table=1, a="a", b="z")
    later = Op("write_both", key=1, table=1, a="X", b="B")
    steps = [("commit", [before]), ("work", 30), ("commit", [refused]), ("turn", 3)]
    run(ROW_BY_ROW, [*compared, *steps, ("commit", [later])])


def test_a_row_that_the_rest_of_a_range_needs_is_not_left_out() -> None:
    """The range is cut before the move that carries the text on, and then prepared again."""
    range_ = [
        *(Op("write_both", key=0, a="B", b="A"), Op("insert", key=2, a="z")),
        *(Op("move", key=0, other=1), Op("insert", key=0, a="C", b="C")),
    ]
    steps = [*commits([Op("insert", key=0, a="A", b="C")]), REST, *commits(range_)]
    run(Setting(take=3, least_texts=1), steps)


@pytest.mark.parametrize("rounds", range(1, 8))
def test_a_row_read_before_its_table_was_trusted_proves_nothing(rounds: int) -> None:
    """It is equal to what is stored by the log, and must not count as that after a restart."""
    first, second, third, *_ = RENUMBERED_AND_REPLACED
    other = Op("insert", key=2, a="a", b="b")
    work = [("turn", 1000), ("prepare", None), ("turn", 0), ("write", None)]
    run(
        Setting(take=2),
        [
            *(*commits([first]), REST, ("crash", False)),
            *commits([second, other, third, Op("insert", key=0, a="A", b="C")]),
            *(*work * rounds, ("crash", False), ("compare", 10), ("turn", 0), REST),
        ],
    )


@contextmanager
def two_batches_of_which_one_fails(failing: int) -> Iterator[tuple[World, list[Committed]]]:
    """Both are prepared and with the writer; the target refuses one's table until it is mended."""
    setting = Setting(take=1)
    with simulated():
        world = World(setting)
        rows = [Op("insert", key=0, table=0), Op("insert", key=2, table=1)]
        world.play([*commits(rows), REST])
        written, told = world.target._write, list[Committed]()

        def write(after: Any, plan: Any, source: Any, actions: Any, vectors: Any) -> None:
            if source is TABLES[failing]:
                raise TargetRefusedError(table=source.name, problem="permission denied")
            written(after, plan, source, actions, vectors)

        world.target._write = write  # type: ignore[method-assign]
        world.pipeline._telemetry._on_committed = told.extend
        changes = [Op("write_both", key=0, a="B", table=0), Op("insert", key=1, table=1)]
        world.play([*commits(changes), *[("turn", 1000), ("prepare", None)] * 5])
        world.play([("write", None)] * 2)
        with pytest.raises(TargetRefusedError):
            world.turn(0)
        world.target._write = written  # type: ignore[method-assign]
        world.pipeline._telemetry._on_committed = None
        yield world, told
        world.close()


def test_nothing_is_written_behind_a_batch_that_failed() -> None:
    """The writer takes the next one at once, before the loop knows of the failure."""
    with two_batches_of_which_one_fails(0) as (world, told):
        assert told == []
        world.crash(False)  # somebody grants the privilege, and starts the service again
        world.settle()
        world.check()


def test_commits_before_a_batch_that_failed_are_told() -> None:
    with two_batches_of_which_one_fails(1) as (world, told):
        assert [row.key for row in told] == [{"id": 1}]
        world.crash(False)
        world.settle()
        world.check()


def test_a_deferred_row_that_loses_its_donor_is_embedded() -> None:
    """Its text is stored when the row is read; its vector is gone when the row has its turn."""
    setting = Setting(least_texts=2, take=1, in_pieces=True, slice_rows=1)
    interruptions = (False, False, True, False, False, True, False)
    rows = [
        *(Op("insert", key=0, a="b", b="a"), Op("move_and_write", key=0, other=0, a="A")),
        Op("write_both", key=0, a="b", b="A"),
    ]
    steps: Steps = [
        ("commit", [Op("appear", key=1), Op("write_m", key=1, a="a", b="a", m="b")]),
        *(("turn", 100), ("write", None), ("turn", 2), ("prepare", None), ("commit", rows)),
        *(("turn", 0), ("take_no", "ABCab"), ("prepare", None)),
        *(("commit", [Op("insert", key=0, a="a", b="A")]), ("embed_deferred", 10)),
    ]
    run(replace(setting, interruptions=interruptions, memory=8000), steps)


# -- rows compared beside the log ------------------------------------------------------------------

REST: Final = ("work", 20)
"""Long enough for all that was begun, if nothing is waited for."""


def comparing(rounds: int) -> Steps:
    """Let the comparison get on by small steps, beside the log."""
    return [("compare", 1), ("work_on_log", 100)] * rounds


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param([], id="its first version"),
        pytest.param([Op("insert", key=0, a="a")], id="a later version"),
    ],
)
def test_a_row_of_the_log_that_is_not_yet_visible_is_not_undone(changes: list[Op]) -> None:
    """The newest commit of all waits for its standby when a comparison begins.

    No later transaction has ended, so its id is not below the ``xmax`` of a snapshot taken then.
    """
    before = [*commits(changes), REST]
    unseen = ("commit_unseen", [Op("insert", key=0, a="b")])
    run(Setting(), [*before, unseen, REST, ("ask", ("backfill", 0)), REST])


@pytest.mark.parametrize("unfinished", [19, 20, 21])
@pytest.mark.parametrize("steps", range(4))
def test_a_resumed_comparison_trusts_no_row_not_compared_yet(unfinished: int, steps: int) -> None:
    """A stale row moves to a key that was compared before: it must not take its text along."""
    rows = [
        Op("insert", key=0, a="b"),
        Op("insert", key=1, a="C"),
        Op("insert", key=2, a="A", b="C"),
    ]
    stale = ("damage", ("age", 0, 2, "B"))
    ask = ("ask", ("backfill", 0))
    moved = commits([Op("delete", key=0), Op("move", key=2, other=0)])
    run(
        Setting(slice_rows=1),
        [
            *(*commits(rows), REST, stale, ask, *comparing(unfinished)),
            *(("crash", False), ("compare", steps), *moved, *[("work_on_log", 100)] * 2),
        ],
    )


@pytest.mark.parametrize("steps", range(5, 20))
def test_a_comparison_ends_the_trust_in_rows_from_before(steps: int) -> None:
    """A stale row was looked up, and is remembered, before somebody asks for the comparison."""
    before = [*commits([Op("insert", key=1, a="C"), Op("insert", key=2, a="A", b="C")]), REST]
    stale = [("damage", ("age", 0, 2, "B")), REST, *commits([Op("touch", key=2)]), REST]
    ask = ("ask", ("backfill", 0))
    move = commits([Op("move", key=2, other=0)])
    run(Setting(slice_rows=1), [*before, *stale, ask, *comparing(steps), *move])


def test_a_comparison_ends_only_once_the_log_reached_what_it_saw() -> None:
    """A stale row looks right, because another row with that text has taken its key since."""
    before = [*commits([Op("insert", key=0, a="A", b="C")]), REST]
    stale = [("damage", ("age", 0, 0, "B")), REST]
    ahead = commits([Op("move", key=0, other=1), Op("insert", key=0, a="B", b=None)])
    slowly = [("compare", 1), ("work_on_log", 0)] * 60
    for begun in range(12):
        asked = [("ask", ("backfill", 0)), *[("compare", 1)] * begun]
        run(ROW_BY_ROW, [*before, *stale, *asked, *ahead, *slowly])


@pytest.mark.parametrize(
    "then",
    [
        pytest.param([], id="it is gone"),
        pytest.param([("attach", (True, {KEYS[1]: ("b", "b", "m")}))], id="it is back"),
    ],
)
def test_a_partition_is_compared_after_what_the_log_has_of_it(then: Steps) -> None:
    """It goes, or comes back with another text, while the log is late and a comparison is on."""
    slowly = [("compare", 1), ("work_on_log", 0)]
    before, rows = (commits([Op("insert", key=key, table=1)]) for key in (2, 1))
    for begun in range(40):
        asked = [*before, REST, ("look", None), ("ask", ("backfill", 1)), *slowly * begun]
        steps = [*asked, *rows, ("detach", None), *then, ("look", None), *slowly * 40]
        run(Setting(parted=True), steps)


def test_a_comparison_comes_after_what_the_log_has_before_it() -> None:
    """A partition is replaced, which is not in the log: an older row would come later, and stay."""
    with simulated():
        world = World(Setting())
        world.play(commits([Op("insert", key=0), Op("insert", key=1)]))
        for rows in (world.source.rows, world.source.seen):
            rows[FIRST] = dict.fromkeys(rows[FIRST], ("b", "b", "m"))
        world.play([("ask", ("backfill", 0)), *[("compare", 1)] * 40])
        world.settle()
        assert world.differences(FIRST) == []
        world.close()


def test_a_read_that_a_truncate_emptied_deletes_nothing() -> None:
    """Its snapshot is from before the TRUNCATE, it gets no row: what came after must stay."""
    before = [*commits([Op("insert", key=0), Op("insert", key=1)]), REST]
    for steps in range(30):
        emptied = commits([Op("truncate"), Op("insert", key=0, a="b")])
        asked = [("ask", ("backfill", 0)), *comparing(steps)]
        run(Setting(), [*before, *asked, *emptied, ("work_on_log", 100)])


# -- without its protections -----------------------------------------------------------------------


def stays(setting: Setting, steps: Steps) -> bool:
    """Whether the target ends as the source is."""
    try:
        run(setting, steps)
    except AssertionError:
        return False
    return True


def written_unseen(rounds: int) -> Steps:
    """A commit that nobody sees yet is written while a comparison is so far."""
    begun = [*commits([Op("insert", key=0, a="a")]), REST, ("ask", ("backfill", 0))]
    unseen = [("commit_unseen", [Op("write_a", key=0, a="b")]), ("other_transaction", None)]
    return [*begun, *comparing(rounds), *unseen, *[("work_on_log", 100)] * 3, REST]


def test_without_hidden_rows_an_older_version_replaces_a_newer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    schedules = [written_unseen(rounds) for rounds in range(20)]
    assert all(stays(Setting(), steps) for steps in schedules)
    monkeypatch.setattr(Unseen, "hidden", lambda *_: frozenset())
    assert not all(stays(Setting(), steps) for steps in schedules)


def test_without_its_first_wait_a_comparison_undoes_unseen_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unseen = [("commit_unseen", [Op("insert", key=0, a="b")]), ("other_transaction", None)]
    steps = [*unseen, REST, ("ask", ("backfill", 0)), REST]
    assert stays(Setting(), steps)
    monkeypatch.setattr(SliceReader, "begin", lambda slices, _: slices._lane.remember_touched())
    assert not stays(Setting(), steps)


def test_without_marks_on_reread_rows_a_row_takes_anothers_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = commits((*RENUMBERED_AND_REPLACED, Op("insert", key=0, a="D", b="C")))
    monkeypatch.setattr(plan, "proof", lambda state: state if isinstance(state, Known) else None)
    assert not stays(ONE_BY_ONE, steps)
