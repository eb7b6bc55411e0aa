"""What the simulated application has: two tables, their values, and what is refused of them."""

from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from cdc_embed.change.document import Table, TableColumn
from cdc_embed.flow.telemetry import Telemetry
from cdc_embed.lsn import Identity
from cdc_embed.metrics import Metrics

NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
HERE: Final = Identity(system_identifier="1", database="app", timeline=1)
KEYS: Final = ("1", "2", "3")
SPARE: Final = "9"
SMALL: Final = (None, "", " ", "a", "b", "x", "z")
LARGE: Final = ("A", "B", "C", "X")
"""Values that lie out of line: an update that leaves them alone does not carry them."""


def table(name: str, oid: int, *metadata: TableColumn) -> Table:
    return Table(
        schema="public",
        name=name,
        oid=oid,
        key=(TableColumn("id", "bigint"),),
        text_columns=("a", "b"),
        template=None,
        embedding_table=f"{name}_embedding",
        metadata=metadata,
    )


FIRST: Final = table("first", 1)
SECOND: Final = table("second", 2, TableColumn("m", "text"))
TABLES: Final = (FIRST, SECOND)
METRICS: Final = Metrics(slot="s", tables=[t.full_name for t in TABLES], model="m")
TELEMETRY: Final = Telemetry(METRICS)


def refused_by_model(text: str) -> bool:
    return "x" in text.lower()


def refused_by_database(value: object) -> bool:
    """A text or a metadata value."""
    return isinstance(value, str) and "z" in value.lower()


def vector(digest: bytes) -> Any:
    return np.frombuffer(digest, dtype=np.uint8).astype(np.float32)
