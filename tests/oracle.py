"""What should be stored of a table, computed a second time and compared with what is."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from psycopg2 import sql

from cdc_embed.change.document import fingerprint
from tests.site import Site, hash_vector


@dataclass(frozen=True, kw_only=True)
class Documents:
    """A source table with deterministic vectors, each of its texts in one chunk."""

    name: str
    schema: str = "public"
    key: Sequence[str] = ("id",)
    text: Sequence[str] = ("title", "body")
    template: str = ""
    """Of ``text``'s columns, in braces; braces themselves are doubled."""
    metadata: Sequence[str] = ()
    embedding_table: str = ""

    def drift(self, site: Site) -> list[str]:
        """Every row that differs, and how."""
        expected, stored = self._expected(site), self._stored(site)
        problems = [f"missing {key}" for key in expected.keys() - stored.keys()]
        problems += [f"orphan {key}" for key in stored.keys() - expected.keys()]
        for key in expected.keys() & stored.keys():
            text, metadata = expected[key]
            stored_text, stored_metadata, digest, vector = stored[key]
            if stored_text != text or digest != fingerprint(text):
                problems.append(f"stale {key}")
            elif not np.allclose(vector, hash_vector(text, len(vector)), atol=1e-5):
                problems.append(f"wrong vector {key}")
            if stored_metadata != metadata:
                problems.append(f"metadata {key}: {stored_metadata}, not {metadata}")
        return sorted(problems)

    def _expected(self, site: Site) -> dict[tuple[str, ...], tuple[str, list[str]]]:
        columns = [*self.key, *self.metadata, *self.text]
        found = {}
        for row in _select(site, columns, self.schema, self.name):
            metadata = row[len(self.key) : -len(self.text)]
            text = self._document(row[-len(self.text) :])
            if text:
                found[row[: len(self.key)]] = text, list(metadata)
        return found

    def _document(self, values: Sequence[str | None]) -> str:
        present = [value for value in values if value and not value.isspace()]
        if not present or not self.template:
            return "\n\n".join(present)
        named = dict(zip(self.text, values, strict=True))

        def fill(match: re.Match[str]) -> str:
            return match[0][0] if match[1] is None else named[match[1]] or ""

        return re.sub(r"\{\{|\}\}|\{(.*?)\}", fill, self.template)

    def _stored(self, site: Site) -> dict[tuple[str, ...], tuple[str, list[str], bytes, Any]]:
        columns = [*self.key, *self.metadata, "chunk_text", "document_hash", "embedding"]
        name = self.embedding_table or f"{self.name}_embedding"
        found = {}
        for row in _select(site.target or site, columns, "cdc_embed", name):
            text, digest, vector = row[-3:]
            metadata = row[len(self.key) : -3]
            parsed = np.array(vector[1:-1].split(","), np.float32)
            key = row[: len(self.key)]
            assert key not in found, f"{key} is stored twice"
            found[key] = text, list(metadata), bytes.fromhex(digest[2:]), parsed
        return found


def _select(site: Site, columns: Sequence[str], schema: str, table: str) -> list[tuple[Any, ...]]:
    """Some columns in their text form."""
    statement = sql.SQL("select {} from {}").format(
        sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in columns),
        sql.Identifier(schema, table),
    )
    return site.sql(statement)
