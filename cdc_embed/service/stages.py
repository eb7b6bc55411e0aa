"""The parts that every connection of an instance uses again, and the pipeline made of them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cdc_embed.change.document import Table
from cdc_embed.change.plan import Cut
from cdc_embed.change.transaction import Assembler, Callbacks
from cdc_embed.errors import HistoryGapError, PreflightError
from cdc_embed.flow.batches import Workers
from cdc_embed.flow.embedding import EmbeddingRunner
from cdc_embed.flow.examine import Examiner
from cdc_embed.flow.lane import Lane
from cdc_embed.flow.limits import Limits
from cdc_embed.flow.patience import Patience
from cdc_embed.flow.pipeline import ChangeLog, Pipeline
from cdc_embed.flow.prepare import Preparer, ReadRows
from cdc_embed.flow.supply import VectorSupply
from cdc_embed.flow.telemetry import Telemetry
from cdc_embed.flow.writing import Writer
from cdc_embed.lsn import LSN, Checkpoint, Progress
from cdc_embed.rotation import Login
from cdc_embed.service.plugin import Plugin
from cdc_embed.service.undecodable import FindWide
from cdc_embed.source.slot import Slot, SlotCatalogue
from cdc_embed.source.stream import Stream
from cdc_embed.source.timing import ServerTimes
from cdc_embed.target.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The source database: its slot, its tables, and the ways to read them."""

    login: Login
    slot: str
    plugin: Plugin
    catalogue: SlotCatalogue
    read_rows: ReadRows
    tables: Iterable[Table]
    callbacks: Callbacks
    """Functions that are called for changes that become no event."""
    expect_own: Callable[[], None]
    """A function that raises when the recorded position is that of another source's slot of this
    name."""
    find_wide: FindWide
    least_silence: float
    """The shortest time without an answer after which a server is given up, in seconds."""
    standby_interval: float
    """Seconds between two looks at whether the slot is free."""

    def usable_slot(self) -> Slot:
        """Return the slot; raise when its log is gone or another plugin writes it."""
        slot = self.catalogue.slot()
        if slot is None:
            raise HistoryGapError(slot=self.slot, problem="the slot does not exist")
        if slot.lost:
            problem = "the server removed log that the slot needs"
            raise HistoryGapError(slot=self.slot, problem=problem)
        if slot.plugin != self.plugin.name:
            raise PreflightError(
                where=f"slot {self.slot}",
                problem=f"it uses the output plugin {slot.plugin}, "
                f"the configuration says {self.plugin.name}",
                hint="correct source.plugin or source.slot",
            )
        return slot


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """The parts of every connection's pipeline: from changes to committed vectors."""

    store: Store
    cut: Cut
    runner: EmbeddingRunner
    patience: Patience
    limits: Callable[[float], Limits]
    """A function that gives the limits for a server's ``wal_sender_timeout``."""
    recheck: Callable[[], None]
    """A function that raises if ``setup`` changed meanwhile, so that the tables of vectors do not
    fit any more."""


@dataclass(frozen=True, slots=True)
class Connected:
    """One connection: its stream, and what was found with it."""

    stream: Stream
    checkpoint: Checkpoint
    confirmed: LSN
    """The slot's position when streaming began."""
    times: ServerTimes


def make_pipeline(
    source: Source, stages: Stages, connected: Connected, *, lane: Lane, telemetry: Telemetry
) -> Pipeline:
    """Make the pipeline of one connection."""
    store, patience, checkpoint = stages.store, stages.patience, connected.checkpoint
    next_xid = connected.times.next_xid
    assembler = Assembler(
        source.tables, checkpoint, connected.confirmed, source.callbacks, next_xid
    )
    look_ups = store.look_ups
    supply = VectorSupply(look_ups, stages.runner, patience)
    return Pipeline(
        log=ChangeLog(
            stream=connected.stream,
            decode=source.plugin.make_decoder(),
            assembler=assembler,
            progress=Progress(checkpoint.recorded, connected.confirmed),
        ),
        workers=Workers(
            preparer=Preparer(
                store=look_ups,
                read_rows=source.read_rows,
                cut=stages.cut,
                supply=supply,
            ),
            examiner=Examiner(store=look_ups, cut=stages.cut, supply=supply, patience=patience),
            writer=Writer(store, patience, checkpoint.batch_seq),
        ),
        lane=lane,
        telemetry=telemetry,
        limits=stages.limits(connected.times.wal_sender_timeout),
    )
