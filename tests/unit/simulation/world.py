"""A source, a target and a wire between them, for the real service in a world that can be steered.

The loop, the assembler, the preparer, the writer and what compares rows are the real ones.
Simulated are the two databases, the wire, the model and the clock. Nothing happens by itself: a
schedule says when the application commits, when a commit is seen, when frames arrive, when a worker
or the comparison gets on, when something crashes. What is promised stands in ``test_convergence``.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from threading import Event
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

from cdc_embed.change.action import Row as Read
from cdc_embed.change.batch import RowId
from cdc_embed.change.document import Key, Table, fingerprint
from cdc_embed.change.plan import one_chunk
from cdc_embed.change.shape import leaf_changes
from cdc_embed.change.transaction import Assembler, Callbacks
from cdc_embed.errors import CdcEmbedError
from cdc_embed.flow import batches
from cdc_embed.flow.batches import Workers
from cdc_embed.flow.embedding import EmbeddingRunner
from cdc_embed.flow.examine import Examiner
from cdc_embed.flow.going_on import OthersWait
from cdc_embed.flow.lane import Lane
from cdc_embed.flow.limits import Limits
from cdc_embed.flow.patience import Patience
from cdc_embed.flow.pipeline import ChangeLog, Pipeline
from cdc_embed.flow.prepare import Preparer
from cdc_embed.flow.supply import StoreReader, VectorSupply
from cdc_embed.flow.texts import Embedded, Kept
from cdc_embed.flow.writing import OutdatedPlanError, Writer
from cdc_embed.lsn import ZERO, Progress, find_gap
from cdc_embed.reconcile import reconciler, retry, rounds, verify
from cdc_embed.reconcile.counts import TableCounter
from cdc_embed.reconcile.deferred import DeferredReader, Embedding
from cdc_embed.reconcile.reconciler import Reconciler
from cdc_embed.reconcile.requests import Requests
from cdc_embed.reconcile.retry import Retrier
from cdc_embed.reconcile.rounds import Rounds, Surroundings
from cdc_embed.reconcile.slices import ReadingPace, Scope, SliceReader, Term, Work
from cdc_embed.reconcile.verify import Verifier
from cdc_embed.source.coverage import Undelivered
from cdc_embed.source.rows import RowReader
from cdc_embed.target.deferred import DeferredRows
from cdc_embed.target.leaves import Leaves
from cdc_embed.target.ledger import DONE, WAITING, Ledger, Request
from cdc_embed.target.letters import Letters
from cdc_embed.target.stored import StoredDocuments
from tests.builders import HERE
from tests.unit.simulation.comparing import Actor, DeadLetters, Deferrals, Notes, Reader
from tests.unit.simulation.data import (
    FIRST,
    KEYS,
    METRICS,
    PARTED,
    SMALL,
    TABLES,
    TELEMETRY,
    Row,
    refused_by_database,
    refused_by_model,
    vector,
)
from tests.unit.simulation.source import Op, Source, as_found
from tests.unit.simulation.target import Target, pieces
from tests.unit.simulation.wire import Slot, Wire


class Steered:
    """An executor whose calls run when the schedule says so."""

    def __init__(self, _workers: int, thread_name_prefix: str) -> None:
        self.name = thread_name_prefix
        self.waiting: deque[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = deque()

    def submit(self, call: Callable[..., Any], *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append((future, call, args))
        return future

    def step(self) -> None:
        if self.waiting:
            future, call, args = self.waiting.popleft()
            try:
                result = call(*args)
            except (OutdatedPlanError, CdcEmbedError) as exc:
                future.set_exception(exc)
            else:
                future.set_result(result)

    def shutdown(self, *, wait: bool, cancel_futures: bool) -> None:
        assert wait == cancel_futures


class Model:
    """A runner that counts; a batch may always hold ``least_texts``, and little more."""

    def __init__(self, least_texts: int) -> None:
        self.least_texts = least_texts
        self.takes_no = ""
        """Texts with one of these letters are not taken now."""
        self.away = False
        """No text is taken now."""
        self.kept = Kept(1)
        self.rate = SimpleNamespace(characters_per_batch=1)
        self.embedded: Counter[str] = Counter()
        """Texts that it was given on this connection."""

    @property
    def outage(self) -> bool:
        return self.away

    @property
    def hangs(self) -> bool:
        """Now and then, so that rows that wait are tried many at once."""
        return len(self.takes_no) > 1

    def embed(
        self,
        texts: Mapping[bytes, str],
        *,
        again: bool = False,
        others_wait: OthersWait | None = None,  # noqa: ARG002  it never waits
    ) -> Embedded:
        result = Embedded(vectors=self.kept.pop_vectors(texts), away=self.away)
        for digest, text in texts.items():
            assert digest == fingerprint(text)
            if digest in result.vectors:
                continue
            if self.away or any(letter in text for letter in self.takes_no):
                result.untaken[digest] = "it does not answer"
                continue
            self.embedded[text] += not again
            if refused_by_model(text):
                result.refused[digest] = ("refused", "it does not like it")
            else:
                result.vectors[digest] = vector(digest)
        return result


@dataclass(frozen=True, kw_only=True)
class Setting:
    full: bool = False
    leaves_out: bool = False
    """Unchanged values are missing, as with wal2json."""
    least_texts: int = 16
    take: int = 64
    memory: int = 1 << 20
    interruptions: tuple[bool, ...] = ()
    in_pieces: bool = False
    """Each column of text is a chunk."""
    slice_rows: int = 1000
    """Rows that are read at once to be compared."""
    parted: bool = False
    """A table is in partitions, which come and go."""


class World:
    """Source, target and the service between them."""

    def __init__(self, setting: Setting) -> None:
        self.source = Source(
            full=setting.full, leaves_out=setting.leaves_out, parted=setting.parted
        )
        self._met: set[int] = set()
        """Partitions of which the log brought rows since the last look."""
        self._read_before = 0
        """The rows that were read to be compared before the last look."""
        self.slot = Slot(self.source.wal)
        self.target = Target(self.source.wal)
        self.model = Model(setting.least_texts)
        self.cut = pieces if setting.in_pieces else one_chunk
        self.clock = 0.0
        self.restarted = False
        self.reread = 0
        """Rows read again on this connection."""
        self._part = 0
        self.requests: list[Request] = []
        self._asked = 0
        self.answers: list[dict[str, Any]] = []
        """The results of ``verify``."""
        self.damaged = False
        self.wrong: set[Table] = set()
        """Tables that were damaged and not compared since."""
        self._damaged_since: set[Table] = set()
        self._setting = setting
        self._interruptions = iter(setting.interruptions)
        self.target.interrupt = self._interrupt
        self.target.noted[PARTED].known = self.source.tokens(PARTED)
        self._connect()

    def play(self, steps: Iterable[tuple[str, Any]]) -> None:
        for name, argument in steps:
            getattr(self, name)(argument)

    # -- what can happen ---------------------------------------------------------------------------

    def commit(self, ops: Sequence[Op]) -> None:
        self.source.commit(ops)

    def commit_unseen(self, ops: Sequence[Op]) -> None:
        """In the log at once, in snapshots only after ``show``."""
        self.source.commit(ops, seen=False)

    def show(self, place: int) -> None:
        if self.source.unseen:
            self.source.show(self.source.unseen[place % len(self.source.unseen)].xid)

    def begin(self, _: Any = None) -> None:
        self.source.begin()

    def other_transaction(self, _: Any = None) -> None:
        self.source.other_transaction()

    def attach(self, leaf: tuple[bool, dict[str, Row]]) -> None:
        """A table with rows becomes a partition: the one that went, or a new one."""
        again, rows = leaf
        self.source.attach(dict(rows), again=again)

    def detach(self, _: Any = None) -> None:
        self._look_while_compared()
        self.source.detach(dropped=False)

    def drop(self, _: Any = None) -> None:
        self._look_while_compared()
        self.source.detach(dropped=True)

    def empty(self, _: Any = None) -> None:
        self.source.empty()

    def _look_while_compared(self) -> None:
        """Look before a partition goes of which a comparison read rows since the last look: else
        they can stay (README, limits)."""
        if self.reader.rows_read != self._read_before:
            self.look()

    def look(self, _: Any = None) -> None:
        """Look at the partitions as ``service/shapes.py`` does, every few seconds."""
        noted, met, found = self.target.noted[PARTED], self._met, self.source.tokens(PARTED)
        passed = met - found.keys()
        if passed or found != noted.known:
            known = {**noted.known, **dict.fromkeys(passed, "")}
            new = found.keys() - known.keys()
            empty = new if self.source.never_filled() else set[int]()
            self.target.note_leaves(PARTED, found, leaf_changes(known, found, empty))
        self._met, self._read_before = set(), self.reader.rows_read

    def turn(self, frames: int) -> None:
        self.clock += 0.3
        self.wire.credit = frames
        self.pipeline._turn()

    def prepare(self, _: Any = None) -> None:
        cast(Steered, self.pipeline._batches._prepare).step()

    def write(self, _: Any = None) -> None:
        cast(Steered, self.pipeline._batches._write).step()

    def compare(self, steps: int) -> None:
        """Let the comparison get on."""
        for _ in range(steps):
            self.actor.step()

    def embed_deferred(self, steps: int) -> None:
        """Let the thread that embeds deferred rows get on."""
        for _ in range(steps):
            self.embedding.step()

    def take_no(self, letters: str | None) -> None:
        """The embedder takes no texts with these letters from now on; None: it takes none."""
        self.model.away, self.model.takes_no = letters is None, letters or ""

    def work(self, rounds: int) -> None:
        """Everything gets on for a while."""
        for _ in range(rounds):
            self.turn(1000)
            self.prepare()
            self.write()
            self.compare(3)
            self.embed_deferred(2)

    def work_on_log(self, frames: int) -> None:
        """The loop and its workers get on, what compares rows does not."""
        self.turn(frames)
        self.prepare()
        self.turn(0)
        self.write()

    def ask(self, request: tuple[str, int]) -> None:
        """Somebody asks for a backfill of a table, or to have everything verified or retried."""
        kind, place = request
        self._asked += 1
        number = self._asked
        arguments: dict[str, Any] = {}
        if kind == "backfill":
            arguments["table"] = place
        if kind == "retry":
            arguments["ids"] = None
        self.requests.append(Request(id=number, kind=kind, arguments=arguments, state=WAITING))

    def damage(self, what: tuple[str, int, int, str]) -> None:
        """Something that is stored is made wrong behind the service's back."""
        kind, place, key, text = what
        row = (TABLES[place], (KEYS[key],))
        if kind == "lose":
            self.target.lose(row)
        elif kind == "age":  # as when changes were missed: not while somebody remembers better
            self.target.age(row, self.cut(row[0], text))
            self.crash(False)
        else:
            self.target.break_off(row, first=text in SMALL)
        self.damaged = True
        self.wrong.add(row[0])
        self._damaged_since.add(row[0])

    def crash(self, server_too: bool) -> None:
        """Everything but the two databases is lost; with the server, its slot's last steps too.

        Somebody looked before: what a partition leaves behind that came and went since the last
        look can stay (README, limits).
        """
        self.look()
        if server_too:
            self.slot.confirmed = self.slot.persisted
        self.reconnect()

    def reconnect(self, _: Any = None) -> None:
        """The connection is lost, the process stays."""
        self._check_embeddings()
        self.restarted = True
        self.close()
        self._connect()

    def persist(self, _: Any = None) -> None:
        self.slot.persisted = self.slot.confirmed

    def ping(self, _: Any = None) -> None:
        self.wire.pinged = True

    def pass_time(self, seconds: float) -> None:
        self.clock += seconds

    def other_work(self, size: int) -> None:
        self.source.other_work(size)

    def lose_answer(self, _: Any = None) -> None:
        self.target.answers_lost = 1

    # -- what the comparison says ------------------------------------------------------------------

    def comparing(self, source: Table) -> None:
        """A comparison of the table begins."""
        self._damaged_since.discard(source)

    def compared(self, source: Table) -> None:
        """It is complete: whatever was wrong when it began is mended."""
        if source not in self._damaged_since:
            self.wrong.discard(source)

    def answered(self, request: Request, result: dict[str, Any]) -> None:
        if request.kind == "retry":
            return
        self.answers.append(result)
        if not self._unlogged:
            assert result["drift"] == 0, f"nothing is wrong, but verify says {result}"

    # -- until nothing is left to do ---------------------------------------------------------------

    def settle(self) -> None:
        self.source.end_all()
        self.take_no("")
        for _ in range(2000):
            self.look()
            self.work(1)
            flow, batches = self.pipeline, self.pipeline._batches
            busy = batches.pending or batches.in_flight or flow._confirmation.recording
            if not (busy or self.target.now.deferred) and self._all_read() and self._all_compared():
                return
        raise AssertionError("it does not come to rest")

    def _all_read(self) -> bool:
        last = self.source.log[-1].end_lsn if self.source.log else ZERO
        return self.pipeline.progress.durable >= last

    def _all_compared(self) -> bool:
        states = {comparison.state for comparison in self.target.comparisons.values()}
        return self.actor.idle and not self.requests and states == {DONE}

    # -- the service as flow/service.py builds it --------------------------------------------------

    def _connect(self) -> None:
        checkpoint = self.target.checkpoint
        gap = find_gap(
            checkpoint,
            source=HERE,
            slot_confirmed=self.slot.confirmed,
            wal_end=self.source.wal,
            history=[],
        )
        assert gap is None
        self.source.anchor()
        self._checkpoint = checkpoint
        self.reread = 0
        self.model.embedded.clear()
        wire = Wire(self.source, self.slot, lambda: self.target.checkpoint.recorded)
        patient = Patience(Event(), lambda *_: None, delay=lambda *_: 0.0)
        self.wire = wire
        self._lane = Lane()
        store = cast(StoreReader, self.target)
        supply = VectorSupply(store, cast(EmbeddingRunner, self.model), patient)
        self._supply = supply
        self.pipeline = Pipeline(
            log=ChangeLog(
                stream=wire,
                decode=wire.decode,
                assembler=Assembler(
                    TABLES,
                    checkpoint,
                    self.slot.confirmed,
                    Callbacks(on_leaf=lambda _, leaf: self._met.add(leaf)),
                ),
                progress=Progress(checkpoint.recorded),
            ),
            workers=Workers(
                preparer=Preparer(
                    store=store,
                    read_rows=self._read_rows,
                    cut=self.cut,
                    supply=supply,
                ),
                examiner=Examiner(store=store, cut=self.cut, supply=supply, patience=patient),
                writer=Writer(self.target, patient, checkpoint.batch_seq),
            ),
            telemetry=TELEMETRY,
            limits=Limits(
                memory=self._setting.memory,
                report_interval=10.0,
                first_take=self._setting.take,
                largest_take=self._setting.take,
                clock=lambda: self.clock,
            ),
            lane=self._lane,
        )
        self._start_comparing(checkpoint.epoch)

    def _start_comparing(self, epoch: int) -> None:
        self.actor = Actor()
        self.reader = Reader(self.source, self.actor)
        notes = Notes(self, self.actor)
        term = Term(lane=self._lane, epoch=epoch, ended=cast(Event, self.actor))
        rows = self._setting.slice_rows
        pace = ReadingPace(slice_rows=rows, suspects=rows, poll=0.0, save=-1.0)
        reader = SliceReader(
            term=term,
            rows=cast(RowReader, self.reader),
            stored=cast(StoredDocuments, notes),
            wal_end=lambda: self.source.wal,
            pace=pace,
        )
        work = Work(
            term=term,
            slices=reader,
            scopes=[Scope(table=t, space=1) for t in TABLES],
            ledger=cast(Ledger, notes),
            stored=cast(StoredDocuments, notes),
            leaves=cast(Leaves, notes),
            undelivered=Undelivered(),
            metrics=METRICS,
            pace=pace,
            counts=TableCounter(
                source=cast(RowReader, self.reader),
                target=cast(StoredDocuments, notes),
                make_room=lambda: None,
                pause=reader.pause,
                pauses=(),
            ),
        )
        letters = cast(Letters, DeadLetters(self.target, self.actor))
        surroundings = SimpleNamespace(
            table_compared=lambda _: None,
            reading=nullcontext,
            has_work=True,
            cancel=lambda: None,
        )
        around = cast(Surroundings, surroundings)
        reconciler = Reconciler(
            work=work,
            requests=cast(Requests, notes),
            answers={
                "verify": Verifier(work=work).answer,
                "retry": Retrier(work=work, letters=letters).answer,
            },
            surroundings=around,
        )
        self.actor.start(Rounds("reconcile", reconciler, work, around, _fail).run)
        self._start_embedding(work, around)

    def _start_embedding(self, work: Work, surroundings: Surroundings) -> None:
        self.embedding = Actor()
        self.deferred_reader = Reader(self.source, self.embedding)
        term = replace(work.term, ended=cast(Event, self.embedding))
        slices = SliceReader(
            term=term,
            rows=cast(RowReader, self.deferred_reader),
            stored=work.stored,
            wal_end=lambda: self.source.wal,
            pace=work.pace,
        )
        rows = cast(DeferredRows, Deferrals(self.target, self.embedding))
        work = replace(work, term=term, slices=slices)
        reader = DeferredReader(
            work=work,
            embedding=Embedding(rows=rows, supply=self._supply, cut=self.cut),
            clock=lambda: self.clock,
        )
        self.embedding.start(Rounds("deferred", reader, work, surroundings, _fail).run)

    def close(self) -> None:
        self._lane.close()
        self.pipeline.close()
        self.actor.end()
        self.embedding.end()

    def _read_rows(self, source: Table, wanted: Mapping[Key, int]) -> dict[Key, Read | None]:
        self._part = self._part % 3 + 1  # as many as should be in memory together
        found = self.source.read(source, dict(islice(wanted.items(), self._part)))
        self.reread += len(found)
        self._interrupt()
        return {key: as_found(source, row) for key, row in found.items()}

    def _interrupt(self) -> None:
        """The writer may finish something while the other worker prepares."""
        if next(self._interruptions, False):
            self.write()

    # -- what must be true -------------------------------------------------------------------------

    def check(self) -> None:
        """Tables that are not wrong are as the source is, and so are all once compared again."""
        self._check_embeddings()
        for source in TABLES:
            if source not in self.wrong:
                assert self.differences(source) == [], f"{source.name} must be as the source is"
        if not self.wrong:
            return
        wrong = any(self.differences(source) for source in TABLES)
        self.ask(("verify", 0))
        self.settle()
        assert bool(self.answers[-1]["drift"]) == wrong, f"{wrong}, {self.answers[-1]}"
        for place in range(len(TABLES)):
            self.ask(("backfill", place))
        self.settle()
        for source in TABLES:
            assert self.differences(source) == [], f"{source.name} must be mended"

    def differences(self, source: Table) -> list[tuple[RowId, Any, Any]]:
        """Rows of which something else is stored than what should be."""
        wanted: dict[RowId, Any] = {}
        for key, row in self.source.rows[source].items():
            text = source.prepare(row[:2])
            if text is None:
                continue
            chunks = self.cut(source, text).chunks
            metadata: tuple[str | None, ...] = row[2:] if source.metadata else ()
            hashed = source.hash_metadata(metadata) or b""
            if any(refused_by_model(chunk.text) for chunk in chunks):
                wanted[source, (key,)] = fingerprint(text)
                continue
            if any(refused_by_database(chunk.text) for chunk in chunks):
                wanted[source, (key,)] = fingerprint(text) + hashed
                continue
            letter = None
            refused = [place for place, v in enumerate(metadata) if refused_by_database(v)]
            if refused:  # the document is stored without these values, beside the letter
                letter = fingerprint(text) + hashed
                metadata = tuple(None if refused_by_database(v) else v for v in metadata)
                hashed = source.hash_metadata(metadata) or b""
            parts = [(n, chunk.hash, chunk.end) for n, chunk in enumerate(chunks)]
            wanted[source, (key,)] = (fingerprint(text), parts, metadata, hashed, letter)
        stored: dict[RowId, Any] = {
            r: f for r, f in self.target.now.letters.items() if r[0] is source
        }
        for row_id, found in self.target.now.chunks.items():
            if row_id[0] is source:
                parts = [piece[:3] for piece in found.pieces]
                document = (found.document_hash, parts, found.metadata, found.metadata_hash)
                stored[row_id] = (*document, stored.get(row_id))
                assert all((p.vector == vector(p.hash)).all() for p in found.pieces)
        return [
            (row_id, stored.get(row_id), wanted.get(row_id))
            for row_id in wanted.keys() | stored.keys()
            if stored.get(row_id) != wanted.get(row_id)
        ]

    @property
    def _unlogged(self) -> bool:
        """Whether something happened that the log does not have."""
        partitions = self.source.partitions
        return self.damaged or (partitions is not None and partitions.moved)

    def _check_embeddings(self) -> None:
        """Each version that the target does not have costs one embedding at most.

        After a restart a change that says nothing new may have to stand for one that was left
        out. A row that is read again may be ahead of the log, and be written to and fro once.
        """
        if self._unlogged:
            return
        versions = Counter(
            chunk.text
            for version in self.source.versions
            if (version.new or self.restarted) and not self._checkpoint.covers(version.position)
            for chunk in self.cut(FIRST, version.text).chunks
        )
        again = self.reread + self.reader.rows_read + self.deferred_reader.rows_read
        if not again:
            assert self.model.embedded <= versions
        assert self.model.embedded.total() <= versions.total() + 4 * again


def _fail(error: Exception) -> None:
    raise AssertionError(f"what compares rows failed: {error}")


@contextmanager
def simulated() -> Iterator[None]:
    """Workers that only the schedule runs, and no waiting."""
    silent = SimpleNamespace(**dict.fromkeys(("info", "error", "exception"), lambda *_, **__: None))
    with (
        patch.object(batches, "ThreadPoolExecutor", Steered),
        patch.object(batches, "log", silent),
        patch.object(reconciler, "log", silent),
        patch.object(rounds, "log", silent),
        patch.object(retry, "log", silent),
        patch.object(verify, "log", silent),
    ):
        yield


def run(setting: Setting, steps: Iterable[tuple[str, Any]]) -> World:
    """The world after ``steps``, at rest and checked."""
    with simulated():
        world = World(setting)
        try:
            world.play(steps)
            world.settle()
            world.check()
        finally:
            world.close()
    return world
