"""The target's one transaction: all of it or nothing, and only from the one writer."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from cdc_embed.change.action import Action, Defer, Forget, Move, Refuse, Remove, Skip, Write
from cdc_embed.change.batch import Batch
from cdc_embed.change.document import Chunk, Document, fingerprint
from cdc_embed.change.event import Op
from cdc_embed.change.knowledge import ABSENT, UNKNOWN, Deferred, Known, Refused
from cdc_embed.change.plan import Plan
from cdc_embed.errors import (
    FencedError,
    HistoryGapError,
    TargetRefusedError,
    TargetUnavailableError,
)
from cdc_embed.lsn import LSN
from cdc_embed.postgres.side import RowRefusedError
from cdc_embed.rotation import Login
from cdc_embed.target.statements import Statements
from cdc_embed.target.store import Store
from cdc_embed.target.write import MissingDonorError
from tests.builders import change, table
from tests.oracle import hash_vector
from tests.site import Site, wait_until

TABLE = table("documents", text=("body",))


def text(content: str) -> Write:
    return Write(Document.whole(content))


def chunks(letters: str) -> Write:
    """A document with a chunk for each letter."""
    pieces = [Chunk(c, n, n + 1, fingerprint(c)) for n, c in enumerate(letters)]
    return Write(Document(fingerprint(letters), tuple(pieces)))


def plan(actions: dict[str, Action], *, at: int = 1, truncate: bool = False) -> Plan:
    """A plan of one batch, with the images that its actions come from."""
    changes = [
        change(Op.INSERT, (key,), ("x",), table=TABLE, at=(0x1000 + at, place))
        for place, key in enumerate(actions)
    ]
    if truncate:
        changes.insert(0, change(Op.TRUNCATE, table=TABLE, at=(0x1000 + at, 0)))
    return Plan(Batch.of(changes), {(TABLE, (key,)): a for key, a in actions.items()})


def vectors(*contents: str) -> dict[bytes, np.ndarray]:
    return {Document.whole(c).fingerprint: hash_vector(c, 384) for c in contents}


@pytest.fixture
def make_store(site: Site) -> Iterator[Callable[[], Store]]:
    stores: list[Store] = []

    def make() -> Store:
        statements = Statements("cdc_embed", TABLE, space=1, vector_type="public.vector(384)")
        store = Store(
            Login(site.dsn), schema="cdc_embed", slot=site.name, tables=[statements], half=False
        )
        stores.append(store)
        store.take_epoch(store.identity())
        return store

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def store(make_store: Callable[[], Store]) -> Store:
    return make_store()


def stored(site: Site) -> dict[int, str]:
    return dict(site.sql("select id, chunk_text from cdc_embed.documents_embedding"))


def test_vectors_and_position_commit_together_or_not_at_all(site: Site, store: Store) -> None:
    """With the position in a transaction of its own, a crash in between replays a key change."""
    before = site.checkpoint()
    site.sql(
        "create function refuse() returns trigger language plpgsql as "
        "$$ begin raise exception 'no' using errcode = '42501'; end $$"
    )
    site.sql(
        "create trigger refuse before update on cdc_embed.checkpoint "
        "for each row execute function refuse()"
    )
    with pytest.raises(TargetRefusedError):
        store.write(plan({"1": text("a")}), vectors("a"), 1)
    assert stored(site) == {}
    site.sql("drop trigger refuse on cdc_embed.checkpoint")
    assert site.checkpoint() == before
    store.write(plan({"1": text("a")}), vectors("a"), 1)
    assert stored(site) == {1: "a"}
    assert site.checkpoint()["batch_seq"] == 1


def test_batch_whose_answer_was_lost_is_not_written_twice(site: Site, store: Store) -> None:
    store.write(plan({"1": text("a")}), vectors("a"), 1)
    site.sql("update cdc_embed.documents_embedding set chunk_text = 'untouched'")
    store.write(plan({"1": text("a")}), vectors("a"), 1)
    assert stored(site) == {1: "untouched"}


def test_target_that_went_back_is_noticed(site: Site, store: Store) -> None:
    store.write(plan({"1": text("a")}), vectors("a"), 1)
    site.sql("update cdc_embed.checkpoint set batch_seq = 0")
    with pytest.raises(HistoryGapError, match="older state"):
        store.write(plan({"2": text("b")}), vectors("b"), 2)


def test_older_writer_cannot_commit_even_when_overtaken_midway(
    site: Site, make_store: Callable[[], Store]
) -> None:
    old = make_store()
    with ThreadPoolExecutor(1) as executor:
        lock = site.connect()
        with lock.cursor() as cursor:
            cursor.execute("lock table cdc_embed.documents_embedding in share mode")
        writing = executor.submit(old.write, plan({"1": text("late")}), vectors("late"), 1)
        waiting = "select count(*) from pg_locks where not granted"
        wait_until(lambda: site.value(waiting), "the old writer is past its first look")
        # as where the new one may not end the old one's session
        site.sql("update cdc_embed.checkpoint set epoch = epoch + 1")
        lock.rollback()
        lock.close()
        with pytest.raises(FencedError):
            writing.result(20)
    assert stored(site) == {}
    new = make_store()
    new.write(plan({"1": text("new")}), vectors("new"), 1)
    assert stored(site) == {1: "new"}
    with pytest.raises(FencedError):
        old.record_progress(LSN(0x9000), 0)


def test_a_slot_of_another_source_fences_nobody(site: Site, store: Store) -> None:
    """One name on two servers: who takes an epoch must be of the source that has the position."""
    other = replace(store.identity(), database="another one")
    with pytest.raises(HistoryGapError, match="another one"):
        store.take_epoch(other)
    store.write(plan({"1": text("a")}), vectors("a"), 1)
    assert stored(site) == {1: "a"}


def test_fenced_writer_that_is_in_doubt_ends_nobody(
    site: Site, make_store: Callable[[], Store]
) -> None:
    """It was paused, another leads now, and its own last attempt has no answer."""
    old = make_store()
    waiting = "select pid from pg_locks where not granted"
    lock = site.connect()
    with ThreadPoolExecutor(1) as executor, lock.cursor() as cursor:
        cursor.execute("lock table cdc_embed.documents_embedding in share mode")
        writing = executor.submit(old.write, plan({"1": text("late")}), vectors("late"), 1)
        ((pid,),) = wait_until(lambda: site.sql(waiting), "the old writer waits")
        site.sql("select pg_terminate_backend(%s)", pid)
        with pytest.raises(TargetUnavailableError):
            writing.result(20)
        new = make_store()
        writing = executor.submit(new.write, plan({"1": text("new")}), vectors("new"), 1)
        wait_until(lambda: site.sql(waiting), "the new writer waits")
        with pytest.raises(FencedError):
            old.write(plan({"1": text("late")}), vectors("late"), 1)
        lock.rollback()
        writing.result(20)
    lock.close()
    assert stored(site) == {1: "new"}


def test_swapped_and_shifted_keys_keep_their_own_vectors(site: Site, store: Store) -> None:
    store.write(plan({k: text(f"t{k}") for k in "123"}), vectors("t1", "t2", "t3"), 1)
    moves: dict[str, Action] = {
        "1": Move(("2",), Document.whole("t2").fingerprint),
        "2": Move(("1",), Document.whole("t1").fingerprint),
        "4": Move(("3",), Document.whole("t3").fingerprint),
        "3": Remove(),
    }
    store.write(plan(moves, at=2), {}, 2)
    assert stored(site) == {1: "t2", 2: "t1", 4: "t3"}


def chunks_of(site: Site) -> dict[int, str]:
    """The chunks of each document, in their order; each with its own vector."""
    rows = site.sql(
        "select id, chunk_text, embedding::text from cdc_embed.documents_embedding "
        "order by id, chunk"
    )
    for _, content, vector in rows:
        found = np.fromstring(vector[1:-1], np.float32, sep=",")
        assert np.allclose(found, hash_vector(content, 384), atol=1e-5), content
    return {key: "".join(c for k, c, _ in rows if k == key) for key, *_ in rows}


def test_chunks_that_are_kept_follow_their_text(site: Site, store: Store) -> None:
    """Texts with chunks in common, written over one another and swapped."""
    store.write(plan({"1": chunks("abc"), "2": chunks("cda")}), vectors(*"abcd"), 1)
    assert chunks_of(site) == {1: "abc", 2: "cda"}
    store.write(plan({"1": chunks("cda"), "2": chunks("abx")}, at=2), vectors("x"), 2)
    assert chunks_of(site) == {1: "cda", 2: "abx"}
    swap: dict[str, Action] = {
        "1": Move(("2",), chunks("abx").document.fingerprint),
        "2": chunks("aacdcd"),
    }
    store.write(plan(swap, at=3), {}, 3)
    assert chunks_of(site) == {1: "abx", 2: "aacdcd"}
    store.write(plan({"2": chunks("dc")}, at=4), {}, 4)
    assert chunks_of(site) == {1: "abx", 2: "dc"}
    assert not site.sql(
        "select from cdc_embed.documents_embedding group by id having max(chunk_row) >= count(*)"
    )


def test_vector_in_hand_replaces_the_stored_one(site: Site, store: Store) -> None:
    store.write(plan({"1": chunks("abc")}), vectors(*"abc"), 1)
    site.sql("update cdc_embed.documents_embedding set embedding = embedding * embedding")
    store.write(plan({"1": chunks("cba")}, at=2), vectors(*"abc"), 2)
    assert chunks_of(site) == {1: "cba"}


def test_kept_chunk_that_is_gone_writes_nothing(site: Site, store: Store) -> None:
    store.write(plan({"1": chunks("abc")}), vectors(*"abc"), 1)
    site.sql(
        "create function leave() returns trigger language plpgsql as $$ begin return null; end $$"
    )
    site.sql(
        "create trigger leave before update on cdc_embed.documents_embedding "
        "for each row when (old.chunk = 1) execute function leave()"
    )
    with pytest.raises(MissingDonorError):
        store.write(plan({"1": chunks("abx")}, at=2), vectors("x"), 2)
    assert chunks_of(site) == {1: "abc"}


def test_missing_donor_writes_nothing(site: Site, store: Store) -> None:
    with pytest.raises(MissingDonorError):
        store.write(plan({"1": text("nowhere")}), {}, 1)
    with pytest.raises(MissingDonorError):
        store.write(plan({"1": Move(("9",), b"x" * 16)}), {}, 1)
    assert stored(site) == {}
    assert site.checkpoint()["batch_seq"] == 0


def test_equal_text_takes_the_vector_even_of_a_deleted_row(site: Site, store: Store) -> None:
    store.write(plan({"1": text("same")}), vectors("same"), 1)
    store.write(plan({"1": Remove(), "2": text("same"), "3": text("same")}, at=2), {}, 2)
    assert stored(site) == {2: "same", 3: "same"}


def test_look_up_tells_known_refused_forgotten_and_absent_apart(store: Store) -> None:
    digest = Document.whole("a").fingerprint
    actions: dict[str, Action] = {
        "1": text("a"),
        "2": Refuse(b"f" * 16, "refused", "why"),
        "3": text("a"),
    }
    store.write(plan(actions), vectors("a"), 1)
    store.write(plan({"3": Forget()}, at=2), {}, 2)
    rows = [(TABLE, (key,)) for key in "1234"]
    found = store.look_ups.look_up(rows)
    assert [found[row] for row in rows] == [Known(digest), Refused(b"f" * 16), UNKNOWN, ABSENT]
    assert store.look_ups.find_donors([(TABLE, digest), (TABLE, b"n" * 16)]) == {(TABLE, digest)}


def deferred(site: Site) -> dict[int, int | None]:
    return dict(site.sql("select (key ->> 'id')::int, xid from cdc_embed.deferred order by 1"))


def test_a_deferred_row_is_noted_and_keeps_its_chunks(site: Site, store: Store) -> None:
    store.write(plan({"1": text("a")}), vectors("a"), 1)
    store.write(plan({"1": Defer(7), "2": Defer(7), "3": text("c")}, at=2), vectors("c"), 2)
    assert deferred(site) == {1: 7, 2: 7}
    assert stored(site) == {1: "a", 3: "c"}
    rows = [(TABLE, (key,)) for key in "123"]
    found = store.look_ups.look_up(rows)
    assert [found[row] for row in rows[:2]] == [Deferred(7), Deferred(7)]
    assert {row: whole.state for row, whole in store.look_ups.look_up_whole(rows).items()} == found
    assert store.look_ups.find_donors([(TABLE, Document.whole("a").fingerprint)])


@pytest.mark.parametrize(
    ("action", "left"),
    [
        (text("b"), {}),
        (Remove(), {}),
        (Refuse(b"f" * 16, "refused", "why"), {}),
        (Forget(), {}),
        (Defer(9), {1: 9}),
        (Skip("unchanged", Deferred(7)), {1: 7}),
    ],
)
def test_what_settles_a_row_makes_it_deferred_no_more(
    site: Site, store: Store, action: Action, left: dict[int, int | None]
) -> None:
    store.write(plan({"1": text("a")}), vectors("a"), 1)
    store.write(plan({"1": Defer(7), "2": Defer(None)}, at=2), {}, 2)
    since = site.value("select max(committed_at) from cdc_embed.deferred")
    store.write(plan({"1": action, "3": text("a")}, at=3), vectors("a", "b"), 3)
    assert deferred(site) == {**left, 2: None}
    assert site.value("select max(committed_at) from cdc_embed.deferred") == since


def test_truncate_clears_the_deferred_rows_of_its_table(site: Site, store: Store) -> None:
    other = "insert into cdc_embed.deferred (table_name, key, committed_at) "
    site.sql(other + """values ('public.other', '{"id": "1"}', now())""")
    store.write(plan({"1": Defer(7)}), {}, 1)
    store.write(plan({"2": Defer(8)}, at=2, truncate=True), {}, 2)
    assert site.sql("select table_name, xid from cdc_embed.deferred order by 2") == [
        ("public.documents", 8),
        ("public.other", None),
    ]


def test_truncate_comes_before_what_the_batch_writes(site: Site, store: Store) -> None:
    actions: dict[str, Action] = {"1": text("a"), "2": Refuse(b"f" * 16, "refused", "why")}
    store.write(plan(actions), vectors("a"), 1)
    store.write(plan({"3": text("a")}, at=2, truncate=True), {}, 2)
    assert stored(site) == {3: "a"}
    assert site.value("select count(*) from cdc_embed.dead_letter") == 0


def test_row_that_the_database_refuses_is_named(store: Store) -> None:
    bad = plan({"1": text("good"), "2": text("bad")})
    broken = vectors("good", "bad")
    broken[Document.whole("bad").fingerprint] = np.full(384, np.nan, np.float32)
    refused = store.refused_rows(bad, broken)
    assert list(refused) == [(TABLE, ("2",))]
    assert "NaN" in refused[TABLE, ("2",)].error


def hold_back(site: Site, condition: str, error: str) -> None:
    """Refuse rows of the table of vectors, but not before the COMMIT."""
    site.sql(
        "create function held() returns trigger language plpgsql as "
        f"$$ begin if {condition} then {error}; end if; return null; end $$"
    )
    site.sql(
        "create constraint trigger held after insert on cdc_embed.documents_embedding "
        "deferrable initially deferred for each row execute function held()"
    )


def test_row_that_is_refused_by_the_commit_is_named(site: Site, store: Store) -> None:
    hold_back(site, "new.id = 2", "raise check_violation")
    both = plan({"1": text("good"), "2": text("bad")})
    with pytest.raises(RowRefusedError):
        store.write(both, vectors("good", "bad"), 1)
    assert list(store.refused_rows(both, vectors("good", "bad"))) == [(TABLE, ("2",))]


def test_table_that_makes_the_commit_fail_is_named(site: Site, store: Store) -> None:
    hold_back(site, "true", "raise exception 'no'")
    with pytest.raises(TargetRefusedError, match="documents_embedding"):
        store.write(plan({"1": text("a")}), vectors("a"), 1)
    assert stored(site) == {}


def test_error_of_a_batch_names_the_table_that_it_is_about(site: Site, store: Store) -> None:
    """PostgreSQL's own words do not: column "start_offset" is of type timestamp."""
    site.sql(
        "alter table cdc_embed.documents_embedding alter start_offset type timestamp using null"
    )
    with pytest.raises(TargetRefusedError, match="documents_embedding"):
        store.write(plan({"1": text("a")}), vectors("a"), 1)


def test_schema_is_exactly_what_all_migrations_make(site: Site) -> None:
    made = site.sql(
        "select table_name from information_schema.tables "
        "where table_schema = 'cdc_embed' order by table_name"
    )
    names = ["checkpoint", "dead_letter", "deferred", "documents_embedding", "documents_search"]
    names += ["embedding_table", "migration", "reconcile", "request", "space"]
    assert [name for (name,) in made] == names
