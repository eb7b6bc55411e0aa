"""What must be true of a history: at every moment, and when nothing moves any more.

The texts' rule, the fingerprint and the vectors' rule are those of the documentation, written once
more. What the change log itself says comes from a slot of our own, so that a failure can be told
step by step.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import psycopg2

from cdc_embed.lsn import LSN
from cdc_embed.wire import pgoutput
from tests.history.clients import ask
from tests.history.tables import POISON, TABLES, HistoryTable
from tests.oracle import differences, fingerprint, hash_vector
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
                _short(row)
                for row in ask(
                    self._source, f"select xmin::text, * from {table.name} where {where}", *key
                )
            ]
        return "\n".join(lines)


def _short(row: tuple[Any, ...]) -> str:
    return str(tuple(v[:40] + ".." if isinstance(v, str) and len(v) > 40 else v for v in row))


class Watcher(threading.Thread):
    """Looks all the time whether the slot is beyond what is recorded."""

    def __init__(self, source: Site) -> None:
        super().__init__(name="watcher", daemon=True)
        self._source = source
        self._target = source.target or source
        self.violations: list[str] = []
        self.samples = 0
        self._lock = threading.Lock()
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.is_set():
            with suppress(psycopg2.Error):
                source, target = self._source.connect(), self._target.connect()
                source.autocommit = target.autocommit = True
                with source.cursor() as slots, target.cursor() as positions:
                    while not self.ended.wait(0.005):
                        with self._lock:
                            self._look(slots, positions)
            self.ended.wait(0.1)

    def _look(self, slots: Any, positions: Any) -> None:
        # the slot first: what is recorded later cannot make it look ahead
        slots.execute(
            "select confirmed_flush_lsn::text from pg_replication_slots where slot_name = %s",
            (self._source.name,),
        )
        slot = slots.fetchone()
        positions.execute(
            "select greatest(end_lsn, confirmed_lsn)::text, epoch, batch_seq "
            "from cdc_embed.checkpoint where slot = %s",
            (self._source.name,),
        )
        checkpoint = positions.fetchone()
        if slot is None or checkpoint is None:
            return
        self.samples += 1
        if LSN.parse(slot[0]) > LSN.parse(checkpoint[0]):
            self.violations.append(f"{time.time():.3f} confirmed {slot[0]}, recorded {checkpoint}")

    @contextmanager
    def looking_away(self) -> Iterator[None]:
        """While a new slot is made, it and the old position have nothing to do with each other."""
        with self._lock:
            yield

    def stop(self) -> None:
        self.ended.set()
        self.join()


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
        """What is behind us was found to be right."""
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
                    lines.append(f"{where} {kind} {relation} {_short(old)} -> {_short(new)}")
        return "\n".join(lines[-most:])
