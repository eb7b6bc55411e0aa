"""The tokens of a table: counted where it is small, reckoned by bytes where it is large."""

from types import SimpleNamespace
from typing import Any

from cdc_embed.change.action import Row
from cdc_embed.change.chunk import Chunker
from cdc_embed.change.document import Document, Table, fingerprint
from cdc_embed.errors import UnprovenError
from cdc_embed.reconcile.size import BYTES_PER_TOKEN, Size, TokenCounter

Texts = tuple[str | None, ...]
TABLE = Table(
    schema="public", name="t", oid=1, key=(), text_columns=("title", "body"), template=None,
    embedding_table="t_embedding",
)  # fmt: skip


def count(texts: Any) -> list[int]:
    return [len(text.split()) for text in texts]


def measure(texts: list[Texts], *, total: int = 0, proven: bool = True) -> Any:
    """The size of a table with these first rows; ``total``: bytes of all, if there are more."""
    read = sum(len(value.encode()) for values in texts for value in values if value)
    rows: Any = {(str(n),): Row(values) for n, values in enumerate(texts)}

    def scan(*_: object) -> Any:
        if not proven:
            raise UnprovenError(table="t", problem="no")
        return SimpleNamespace(rows=rows, more=bool(total))

    reader: Any = SimpleNamespace(text_size=lambda _: (len(texts), total or read), scan=scan)
    chunker = Chunker(count, 8)
    counter = TokenCounter(lambda _, text: Document(fingerprint(text), chunker.split(text)), count)
    return counter.measure(reader, TABLE)


def test_a_small_table_is_counted_as_it_is_sent() -> None:
    """In chunks; a text that comes twice is sent once, and a row without text not at all."""
    texts: list[Texts] = [
        ("one", "two words"),
        ("one", "two words"),
        (None, " "),
        (None, "many " * 50),
    ]
    assert measure(texts) == (4, 3 + 50 - _repeated("many " * 50))


def _repeated(text: str) -> int:
    """Words in chunks that are equal to others."""
    chunks = [chunk.text for chunk in Chunker(count, 8).split(text)]
    return sum(count(chunks)) - sum(count(set(chunks)))


def test_a_large_table_is_reckoned_by_its_first_texts() -> None:
    assert measure([("ab", "cd e")], total=600) == (1, 3 * 600 // 6)


def test_a_table_that_cannot_be_read_is_reckoned_by_its_bytes() -> None:
    assert measure([("ab", "cd e")], total=600, proven=False) == (1, 600 // BYTES_PER_TOKEN)


def test_what_is_done_costs_nothing_more() -> None:
    size = Size(rows=200, tokens=1000, shape=None)
    assert [size.tokens_after(done) for done in (0, 50, 200, 300)] == [1000, 750, 0, 0]
    assert Size(rows=None, tokens=7, shape=None).tokens_after(1) == 7
    assert Size(rows=5, tokens=None, shape=None).tokens_after(1) is None
