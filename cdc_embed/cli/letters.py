"""The dead letters of the configured tables: selected by id or table, and described for users."""

import time
from threading import Event
from typing import Any, Final

import typer

from cdc_embed.change.action import Row
from cdc_embed.change.document import Key, Table, fingerprint, key_value
from cdc_embed.change.knowledge import Refused
from cdc_embed.cli.context import table_name_of
from cdc_embed.setup.connections import Connections
from cdc_embed.source.rows import RowReader
from cdc_embed.source.tables import find_tables
from cdc_embed.target.letters import Letter, Letters
from cdc_embed.target.registry import NOT_STORED, registered_tables, vector_tables

REWRITTEN_SECONDS: Final = 0.05
"""The pause before a table that was just being rewritten is read again."""


class DeadLetters:
    """The letters of the configured tables."""

    def __init__(self, databases: Connections) -> None:
        self._config = databases.config
        self._databases = databases
        schema = self._config.target.schema
        self._letters = Letters(databases.target, schema)
        self._tables = [f"{table.schema}.{table.table}" for table in self._config.tables]
        stored = vector_tables(databases.target, schema)
        self._types = {
            name: stored.get(registered.embedding_table, NOT_STORED).columns
            for name, registered in registered_tables(databases.target, schema).items()
        }

    def find(self, ids: list[int] | None = None, table: str = "") -> list[Letter]:
        """Find the letters that are named; without arguments all."""
        names = [table_name_of(table)] if table else self._tables
        if not set(names) <= set(self._tables):
            raise typer.BadParameter(
                f"--table {table}: the configuration has {', '.join(self._tables)}"
            )
        found = self._letters.find(names, ids or None)
        missing = set(ids or ()) - {letter.id for letter in found}
        if missing:
            listed = ", ".join(str(number) for number in sorted(missing))
            raise typer.BadParameter(f"there is no dead letter {listed}; see: cdc-embed dlq list")
        return found

    def find_named(self, ids: list[int] | None, table: str, *, everything: bool) -> list[Letter]:
        """Find the letters that are named; raise if none are."""
        if [bool(ids), bool(table), everything].count(True) != 1:
            raise typer.BadParameter("name some by their ids, or use --table or --all")
        return self.find(ids, table)

    def drop(self, letters: list[Letter]) -> int:
        """Delete letters; returns how many there were."""
        return self._letters.drop([letter.id for letter in letters])

    def contract(self, letter: Letter) -> dict[str, Any]:
        """Describe a letter as ``dlq list`` does."""
        types = self._types.get(letter.table, {})
        return {
            "id": letter.id,
            "table": letter.table,
            "key": {
                name: key_value(value, types.get(name, "")) for name, value in letter.key.items()
            },
            "reason": letter.reason,
            "error": letter.error,
            "attempts": letter.attempts,
            "last_at": letter.last_at,
        }

    def describe(self, letter: Letter) -> dict[str, Any]:
        """Describe a letter in full, with its row in the source as it is now."""
        return {
            **self.contract(letter),
            "first_at": letter.first_at,
            "model": letter.model,
            "fingerprint": letter.fingerprint.hex(),
            **self._describe_row(letter),
        }

    def _describe_row(self, letter: Letter) -> dict[str, Any]:
        sources, _ = find_tables(self._databases.source, self._config)
        for table in (source.table for source in sources):
            if table.full_name != letter.table:
                continue
            row = self._read_row(table, letter.key_in(table))
            text = table.prepare(row.texts) if row is not None else None
            if row is None or text is None:
                break
            hashed = table.hash_metadata(row.metadata) or b""
            same = Refused(letter.fingerprint).refuses(fingerprint(text), hashed)
            names = [column.name for column in table.metadata]
            return {
                "row": "as it was refused" if same else "changed since",
                "metadata": dict(zip(names, row.metadata, strict=True)),
                "text": text,
            }
        return {"row": "gone", "metadata": {}, "text": None}

    def _read_row(self, table: Table, key: Key) -> Row | None:
        reader = RowReader(self._databases.rows, Event())
        while (scan := reader.scan_keys(table, [key])) is None:
            time.sleep(REWRITTEN_SECONDS)
        return scan.rows[key]
