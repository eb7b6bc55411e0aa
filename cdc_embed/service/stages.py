"""The parts that every connection of an instance uses again: its source, and its stages."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from cdc_embed.change.document import Table
from cdc_embed.change.plan import Cut
from cdc_embed.change.transaction import Callbacks
from cdc_embed.flow.embedding import EmbeddingRunner
from cdc_embed.flow.limits import Limits
from cdc_embed.flow.patience import Patience
from cdc_embed.flow.prepare import ReadRows
from cdc_embed.service.plugin import Plugin
from cdc_embed.source.slot import SlotCatalogue
from cdc_embed.target.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The source database: its slot, its tables, and the ways to read them."""

    dsn: str = field(repr=False)
    slot: str
    plugin: Plugin
    catalogue: SlotCatalogue
    read_rows: ReadRows
    tables: Iterable[Table]
    callbacks: Callbacks
    """Functions that are called for changes that become no event."""
    silence_limit: float
    """Seconds without an answer after which a connection is given up."""
    longest_silence: float
    """Seconds that this side may stay silent before the server requests an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """The parts of every connection's pipeline: from changes to committed vectors."""

    store: Store
    cut: Cut
    runner: EmbeddingRunner
    patience: Patience
    limits: Limits
    recheck: Callable[[], None]
    """Raises if ``setup`` changed meanwhile, so that the tables of vectors do not fit any more."""
