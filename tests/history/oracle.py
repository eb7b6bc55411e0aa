"""The truth about a history when nothing moves any more.

What a row's chunks must be is said in ``tests/oracle.py``, what must be true at every moment in
``tests/invariant.py``. What the change log itself says comes from a slot of our own, so that a
failure can be told step by step.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

from cdc_embed.wire import pgoutput
from tests.history.clients import ask
from tests.history.tables import POISON, TABLES, HistoryTable
from tests.oracle import differences, fingerprint, hash_vector, short
from tests.site import Site, wait_until

Problem = tuple[HistoryTable, tuple[str, ...], str]


class Oracle:
    """Compares the source with the target, by reading all of both."""

    def __init__(self, source: Site, *, dimensions: int, tolerance: float, poison: bool) -> None:
        self._source = source
        self._target = source.target or source
        self._dimensions = dimensions
        self._tolerance = tolerance
        self._poison = poison
        self._vectors: dict[str, Any] = {}

    def problems(self) -> list[Problem]:
        return [problem for table in TABLES for problem in self._compare(table)]

    def _compare(self, table: HistoryTable) -> Iterator[Problem]:
        rows = table.documents.expected(partial(ask, self._source))
        stored = table.documents.stored(partial(ask, self._target))
        letters = self._letters(table)
        for key in sorted(rows.keys() | stored.keys() | letters.keys()):
            text, metadata = rows.get(key, (None, ()))
            chunks = stored.get(key, [])
            letter = letters.get(key)
            if text is not None and self._poison and POISON in text:
                if chunks:
                    yield table, key, "chunks of a text that is refused"
                if letter != fingerprint(text):
                    yield table, key, f"dead letter of {letter!r}"
                continue
            if letter is not None:
                yield table, key, "a dead letter"
            if text is None:
                if chunks:
                    yield table, key, f"orphan, {len(chunks)} chunks"
            elif not chunks:
                yield table, key, "missing"
            else:
                found = differences(
                    text, metadata, chunks, vector=self._vector, tolerance=self._tolerance
                )
                yield from ((table, key, kind + detail) for kind, detail in found)

    def _vector(self, text: str, _: int) -> Any:
        if text not in self._vectors:
            self._vectors[text] = hash_vector(text, self._dimensions)
        return self._vectors[text]

    def _letters(self, table: HistoryTable) -> dict[tuple[str, ...], bytes]:
        found = ask(
            self._target,
            "select key, fingerprint from cdc_embed.dead_letter where table_name = %s",
            f"public.{table.name}",
        )
        return {tuple(str(k[name]) for name in table.key): bytes(digest) for k, digest in found}

    def describe(self, problems: list[Problem]) -> str:
        """The problems, with what is stored of each row beside what the log said of it."""
        lines = [f"{table.name} {key}: {what}" for table, key, what in problems]
        for table, key, _ in problems[:5]:
            where = " and ".join(f"{name}::text = %s" for name in table.key)
            lines.append(f"-- {table.name} {key}, stored:")
            lines += [
                str(row)
                for row in ask(
                    self._target,
                    "select chunk, left(chunk_text, 40), encode(document_hash, 'hex'), "
                    "commit_lsn::text, committed_at::text, embedded_at::text "
                    f"from cdc_embed.{table.name}_embedding where {where} order by chunk limit 3",
                    *key,
                )
            ]
            lines.append("-- in the source (key, xmin, values):")
            lines += [
                short(row)
                for row in ask(
                    self._source, f"select xmin::text, * from {table.name} where {where}", *key
                )
            ]
        return "\n".join(lines)


ALLOWED = "select setting from pg_settings where name = 'output_plugin_libraries'"


class Witness:
    """A slot of our own beside the service's: the change log's own account of a round."""

    def __init__(self, source: Site) -> None:
        self._source = source
        self.name = f"{source.name}_witness"
        if ask(source, ALLOWED):
            ask(source, "alter system set output_plugin_libraries = 'pgoutput', 'wal2json'")
            ask(source, "select pg_reload_conf()")
            wait_until(lambda: "pgoutput" in ask(source, ALLOWED)[0][0], "pgoutput is allowed")
        names = ", ".join(table.name for table in TABLES)
        ask(source, f"create publication witness for table {names}")
        ask(source, "select pg_create_logical_replication_slot(%s, 'pgoutput')", self.name)

    def forget(self) -> None:
        """Forget the changes up to now, because they were found to be right."""
        ask(self._source, "select pg_replication_slot_advance(%s, pg_current_wal_lsn())", self.name)

    def account(self, keys: set[tuple[str, ...]], most: int = 60) -> str:
        """The last changes, of the rows with these keys where there are any."""
        lines: list[str] = []
        where = ""
        for (frame,) in ask(
            self._source,
            "select data from pg_logical_slot_peek_binary_changes(%s, null, null, "
            "'proto_version', '1', 'publication_names', 'witness')",
            self.name,
        ):
            message = pgoutput.decode(bytes(frame))
            kind = type(message).__name__
            if kind == "Begin":
                where = f"{message.final_lsn} xid {message.xid}"  # type: ignore[union-attr]
            elif kind in {"Insert", "Update", "Delete", "Truncate"}:
                old = getattr(message, "old", None) or ()
                new = getattr(message, "new", None) or ()
                touched = {tuple(old[: len(key)]) for key in keys}
                touched |= {tuple(new[: len(key)]) for key in keys}
                if kind == "Truncate" or not keys or keys & touched:
                    relation = getattr(
                        message, "relation_oid", getattr(message, "relation_oids", 0)
                    )
                    lines.append(f"{where} {kind} {relation} {short(old)} -> {short(new)}")
        return "\n".join(lines[-most:])
