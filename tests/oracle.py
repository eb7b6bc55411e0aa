"""The documents that should be stored of a table, computed again and compared with the stored.

The rules of the texts, of their fingerprint and of the hash embedder's vectors are those of the
documentation, written once more: nothing here is shared with what is tested.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from tests.site import Site

Key = tuple[str, ...]
Metadata = tuple[str | None, ...]
Ask = Callable[[str], list[tuple[Any, ...]]]
"""Runs a statement in one database and returns its rows."""


def hash_vector(text: str, dimensions: int) -> Any:
    """The public rule of the hash embedder, written down a second time."""
    seed = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
    sample = np.random.default_rng(seed).standard_normal(dimensions).astype(np.float32)
    return sample / np.linalg.norm(sample)


def fingerprint(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()


class Chunk(NamedTuple):
    """One stored row."""

    number: int
    start: int
    end: int
    text: str | None
    document_hash: bytes
    vector: Any
    metadata: Metadata


class Difference(NamedTuple):
    kind: str
    detail: str = ""


def differences(
    text: str,
    metadata: Metadata,
    chunks: Sequence[Chunk],
    *,
    vector: Callable[[str, int], Any] = hash_vector,
    tolerance: float = 1e-5,
) -> Iterator[Difference]:
    """Compare the chunks of a document with its text and metadata."""
    place = 0
    for expected, chunk in enumerate(chunks):
        if chunk.document_hash != fingerprint(text):
            yield Difference("stale", f": {text[:40]!r} is not what is stored: {chunk.text!r:.42}")
            return
        where = f" in chunk {chunk.number}" if len(chunks) > 1 else ""
        in_order = chunk.number == expected and place <= chunk.start <= chunk.end
        if not in_order or text[place : chunk.start].strip():
            detail = f": chunk {chunk.number} of {chunk.start} to {chunk.end} after {place}"
            yield Difference("misplaced", detail)
        piece = text[chunk.start : chunk.end]
        if chunk.text is not None and chunk.text != piece:
            yield Difference("other text", where)
        if not np.allclose(vector(piece, len(chunk.vector)), chunk.vector, atol=tolerance):
            yield Difference("wrong vector", where)
        if chunk.metadata != metadata:
            detail = f": {short(chunk.metadata)}, the source has {short(metadata)}"
            yield Difference("metadata", where + detail)
        place = chunk.end
    if text[place:].strip():
        yield Difference("cut off", f" after {place}")


@dataclass(frozen=True, kw_only=True)
class Documents:
    """A source table with deterministic vectors."""

    name: str
    schema: str = "public"
    key: Sequence[str] = ("id",)
    text: Sequence[str] = ("title", "body")
    template: str = ""
    """Of ``text``'s columns, in braces; braces themselves are doubled."""
    metadata: Sequence[str] = ()
    embedding_table: str = ""
    chunked: bool = False
    """A text can have several chunks."""

    def drift(self, site: "Site") -> list[str]:
        """Every row that differs, and how."""
        expected, stored = self.expected(site.sql), self.stored((site.target or site).sql)
        problems = [f"missing {_named(key)}" for key in expected.keys() - stored.keys()]
        problems += [f"orphan {_named(key)}" for key in stored.keys() - expected.keys()]
        for key in expected.keys() & stored.keys():
            chunks = stored[key]
            found = list(differences(*expected[key], chunks))
            if not self.chunked and (len(chunks) > 1 or chunks[0].text != expected[key][0]):
                found = found or [Difference("not whole")]
            for kind, detail in found:
                problems.append(f"{kind} {_named(key)}" + ("" if kind == "stale" else detail))
        return sorted(problems)

    def expected(self, ask: Ask) -> dict[Key, tuple[str, Metadata]]:
        """Return text and metadata of every row of the source that has a text."""
        columns = [*self.key, *self.metadata, *self.text]
        found = {}
        for row in _select(ask, columns, self.schema, self.name):
            text = self._document(row[-len(self.text) :])
            if text:
                found[row[: len(self.key)]] = text, row[len(self.key) : -len(self.text)]
        return found

    def _document(self, values: Sequence[str | None]) -> str:
        present = [value for value in values if value and not value.isspace()]
        if not present or not self.template:
            return "\n\n".join(present)
        named = dict(zip(self.text, values, strict=True))

        def fill(match: re.Match[str]) -> str:
            return match[0][0] if match[1] is None else named[match[1]] or ""

        return re.sub(r"\{\{|\}\}|\{(.*?)\}", fill, self.template)

    def stored(self, ask: Ask) -> dict[Key, list[Chunk]]:
        """Return the chunks of every document, in their order."""
        fixed = ["chunk", "start_offset", "end_offset", "chunk_text", "document_hash", "embedding"]
        name = self.embedding_table or f"{self.name}_embedding"
        found: dict[Key, list[Chunk]] = {}
        for row in _select(ask, [*self.key, *self.metadata, *fixed], "cdc_embed", name):
            number, start, end, text, digest, vector = row[-len(fixed) :]
            chunk = Chunk(
                number=int(number),
                start=int(start),
                end=int(end),
                text=text,
                document_hash=bytes.fromhex(digest[2:]),
                vector=np.array(vector[1:-1].split(","), np.float32),
                metadata=row[len(self.key) : -len(fixed)],
            )
            found.setdefault(row[: len(self.key)], []).append(chunk)
        for chunks in found.values():
            chunks.sort(key=lambda chunk: chunk.number)
        return found


def drift(site: "Site", tables: Iterable[Documents]) -> dict[str, list[str]]:
    """Every row that differs, by the names of the tables that have some."""
    found = {table.name: table.drift(site) for table in tables}
    return {name: problems for name, problems in found.items() if problems}


def _select(ask: Ask, columns: Sequence[str], schema: str, table: str) -> list[tuple[Any, ...]]:
    """Some columns in their text form."""
    listed = ", ".join(f"{_quoted(name)}::text" for name in columns)
    return ask(f"select {listed} from {_quoted(schema)}.{_quoted(table)}")


def _quoted(name: str) -> str:
    """By hand: the driver's Identifier is wrong in a database whose encoding is not UTF-8."""
    return '"' + name.replace('"', '""') + '"'


def _named(key: Key) -> str:
    return ", ".join(key)


def short(row: tuple[Any, ...]) -> str:
    return str(tuple(v[:40] + ".." if isinstance(v, str) and len(v) > 40 else v for v in row))
