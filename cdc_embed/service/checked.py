"""Both databases after their preconditions were checked, for a service to be built on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cdc_embed.change.document import Table
from cdc_embed.config.load import Config
from cdc_embed.embed.base import Embedder, ModelCard
from cdc_embed.metrics import Metrics
from cdc_embed.service.listeners import Listeners
from cdc_embed.service.refusing import Refusing
from cdc_embed.service.tolerance import Tolerance
from cdc_embed.setup.connections import Connections
from cdc_embed.source.tables import SourceTable
from cdc_embed.target.checks import vector_extension


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The embedder of a service, and its card."""

    embedder: Embedder
    card: ModelCard


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """Both databases, and the tables that were found to be delivered."""

    databases: Connections
    model: Model
    sources: Sequence[SourceTable]
    paused: Mapping[str, str]
    """The reasons of the tables whose changes are not followed, by name."""

    @property
    def config(self) -> Config:
        """The configuration of both databases."""
        return self.databases.config

    @property
    def left_out(self) -> dict[str, str]:
        """The paused tables that are not even known, because they have no usable form, or no
        vectors."""
        known = {source.table.full_name for source in self.sources}
        return {name: why for name, why in self.paused.items() if name not in known}

    @property
    def tables(self) -> list[Table]:
        """The tables to be kept equal, in the order of the configuration."""
        return [source.table for source in self.sources]

    def find_extension_schema(self) -> str:
        """Ask for the schema in which pgvector is installed."""
        extension = vector_extension(self.databases.target)
        assert extension is not None, "the preflight found pgvector"
        return extension[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class LastingParts:
    """The parts that are there before the first instance, and outlive each."""

    metrics: Metrics
    listeners: Listeners
    tolerance: Tolerance
    refusing: Refusing
