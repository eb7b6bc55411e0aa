"""The size of a table's texts in tokens, which a paid service will charge for.

A small table is counted. Its texts are cut and counted as they will be sent. Of a larger one the
first texts are, and the others are reckoned by their bytes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from cdc_embed.change.document import Table
from cdc_embed.change.plan import Cut
from cdc_embed.change.shape import Shape
from cdc_embed.errors import UnprovenError
from cdc_embed.source.rows import RowReader

SAMPLE_ROWS: Final = 20_000
"""The rows that are counted at the most; and as many bytes as one part of a read has."""
BYTES_PER_TOKEN: Final = 4
"""The bytes of one token of a table that cannot be read now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The size of a source table, and its present shape."""

    rows: int | None
    tokens: int | None
    """The tokens of its texts; None with an embedder that is not paid."""
    shape: Shape | None
    """The token that changes when the table was rewritten or altered, or was not delivered; None
    while it is not."""

    def tokens_after(self, done: int) -> int | None:
        """Return the tokens of the rows that follow so many."""
        if self.tokens is None or not self.rows:
            return self.tokens
        return round(self.tokens * max(0.0, 1 - done / self.rows))


@dataclass(frozen=True, slots=True)
class TokenCounter:
    """Counts the tokens of a table as the embedder will be given them."""

    cut: Cut
    count: Callable[[Sequence[str]], list[int]]

    def measure(self, reader: RowReader, table: Table) -> tuple[int, int]:
        """Return (rows, tokens) of a table."""
        rows, size = reader.text_size(table)
        try:
            scan = reader.scan(table, None, SAMPLE_ROWS)
        except UnprovenError:  # its comparison will say so
            scan = None
        if scan is None:
            return rows, size // BYTES_PER_TOKEN
        texts = [row.texts for row in scan.rows.values() if row is not None]
        chunks = {
            chunk.hash: chunk.text
            for values in texts
            if (text := table.prepare(values)) is not None
            for chunk in self.cut(table, text).chunks
        }
        tokens = sum(self.count(list(chunks.values())))
        if not scan.more:
            return rows, tokens
        counted = sum(len(value.encode()) for values in texts for value in values if value)
        return rows, tokens * size // max(1, counted)
