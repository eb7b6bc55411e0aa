"""The data of the simulated application: two tables, their values, and those refused."""

from dataclasses import replace
from typing import Any, Final

import numpy as np

from cdc_embed.change.document import TableColumn
from cdc_embed.flow.telemetry import Telemetry
from cdc_embed.metrics import Metrics
from tests.builders import table

KEYS: Final = ("1", "2", "3")
SPARE: Final = "9"
SMALL: Final = (None, "", " ", "a", "b", "x", "z")
LARGE: Final = ("A", "B", "C", "X")
"""Values that lie out of line: an update that leaves them alone does not carry them."""


FIRST: Final = table("first", text=("a", "b"))
SECOND: Final = replace(
    table("second", TableColumn("m", "text"), oid=2, text=("a", "b")), partitioned=True
)
PARTED: Final = SECOND
"""The table in partitions, where a setting says that they come and go."""
TABLES: Final = (FIRST, SECOND)
Row = tuple[str | None, str | None, str | None]
"""Two columns of text and one beside it."""
METRICS: Final = Metrics(slot="s", tables=[t.full_name for t in TABLES], model="m")
TELEMETRY: Final = Telemetry(METRICS)


def refused_by_model(text: str) -> bool:
    return "x" in text.lower()


def refused_by_database(value: object) -> bool:
    """A text or a metadata value."""
    return isinstance(value, str) and "z" in value.lower()


def vector(digest: bytes) -> Any:
    return np.frombuffer(digest, dtype=np.uint8).astype(np.float32)
