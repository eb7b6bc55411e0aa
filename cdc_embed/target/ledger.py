"""The rows about reconcile in the target: the progress of each table, and the requests.

The progress only saves work, because a comparison that begins again finds the fresh rows and embeds
nothing. So it can lag behind the committed batches, but must never run ahead.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import orjson
from psycopg2 import sql

from cdc_embed.change.compare import Verdict
from cdc_embed.change.document import Key, Table
from cdc_embed.change.shape import Shape
from cdc_embed.postgres.ddl import Ddl, compose
from cdc_embed.postgres.session import Session
from cdc_embed.target.leaves import leaf_values
from cdc_embed.target.letters import storable

Stage = Literal["rows", "leaves", "orphans"]

WAITING: Final = "waiting"
RUNNING: Final = "running"
DONE: Final = "done"
FAILED: Final = "failed"


@dataclass(slots=True, kw_only=True)
class Comparison:
    """The progress of the comparison of one table."""

    table_name: str
    state: str
    reason: str = ""
    """The reason of a comparison that waits."""
    stage: Stage = "rows"
    cursor: Key | None = None
    checked: int = 0
    counts: dict[Verdict, int] = field(default_factory=lambda: dict.fromkeys(Verdict, 0))
    estimate: int | None = None
    """The estimated number of rows of the table."""
    run: int = 0
    """A number that is another one each time that it begins anew."""
    shape: Shape | None = None
    """The shape of a table whose first comparison is recorded."""

    def count(self, verdicts: Iterable[Verdict]) -> None:
        for verdict in verdicts:
            self.counts[verdict] += 1
            self.checked += self.stage == "rows"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request of the command line."""

    id: int
    kind: str
    arguments: dict[str, Any]
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The service's answer to a request."""

    state: str
    progress: dict[str, Any]
    result: dict[str, Any] | None
    error: str


class Ledger:
    """Reads and writes both tables. Not for two threads at once."""

    def __init__(self, session: Session, schema: str, slot: str) -> None:
        self._session = session
        self._schema = schema
        self._slot = slot

    def close(self) -> None:
        """Close the session."""
        self._session.close()

    # -- comparisons ---------------------------------------------------------------------------

    def comparisons(self) -> dict[str, Comparison]:
        """Return every comparison, by source table."""
        rows = self._session.fetch("reconcile", self._sql("read_reconciles"))
        return {row[0]: _comparison(row) for row in rows}

    def drop_outdated(self, table: Table, space: int) -> None:
        """Drop the comparison of another table of this name, or of another space."""
        values = {**_values(table, space), "slot": self._slot}
        with self._session.transaction("reconcile") as cursor:
            for name in ("forget_replaced", "adopt_table", "drop_other_reconciles"):
                cursor.execute(self._sql(name), values)

    def open(self, table: Table, space: int, first: Comparison) -> None:
        """Record a new comparison of a table in this space."""
        values = {
            **_values(table, space),
            "slot": self._slot,
            "state": first.state,
            "reason": first.reason,
            "estimate": first.estimate,
            **_shape_values(first.shape),
        }
        with self._session.transaction("reconcile") as cursor:
            cursor.execute(self._sql("open_reconcile"), values)

    def forget_unconfigured(self, names: Iterable[str]) -> None:
        """Forget tables that are not configured any more, because they must be compared when they
        come back."""
        values = {"slot": self._slot, "table_names": list(names)}
        with self._session.transaction("reconcile") as cursor:
            cursor.execute(self._sql("forget_unconfigured"), values)
            cursor.execute(self._sql("drop_old_requests"))

    def compare_again(self, names: Iterable[str], shape: Shape | None) -> None:
        """Compare these source tables from their beginning, because changes were undelivered.

        This needs no request, because a delivered change would have been embedded without one.
        ``shape`` is theirs now; None while changes are undelivered.
        """
        with self._session.transaction("reconcile") as cursor:
            cursor.execute(_compare_again(self._schema, names, shape))

    def open_comparison(self, table: Table, estimate: int | None, shape: Shape | None) -> None:
        """Compare a table from its beginning, unless its comparison is already running."""
        values = {"table_name": table.full_name, "estimate": estimate, **_shape_values(shape)}
        with self._session.transaction("reconcile") as cursor:
            cursor.execute(self._sql("start_reconcile"), values)

    def save(
        self, comparison: Comparison, epoch: int, *, looks_for_orphans: bool = False
    ) -> str | None:
        """Record the progress of a comparison as this epoch's writer.

        Returns the state that is recorded. It can be another one, because leaves that were changed
        meanwhile keep a comparison running. None if the comparison does not count, because it has
        to begin again. ``looks_for_orphans``: it begins to look for keys that have no row now.
        """
        values = {
            "table_name": comparison.table_name,
            "state": comparison.state,
            "stage": comparison.stage,
            "cursor": list(comparison.cursor) if comparison.cursor is not None else None,
            "checked": comparison.checked,
            "run": comparison.run,
            "looks_for_orphans": looks_for_orphans,
            "slot": self._slot,
            "epoch": epoch,
            **{verdict.value: count for verdict, count in comparison.counts.items()},
        }
        with self._session.transaction("reconcile") as cursor:
            cursor.execute(self._sql("save_reconcile"), values)
            row = cursor.fetchone()
        return None if row is None else str(row[0])

    # -- requests ------------------------------------------------------------------------------

    def ask(self, kind: str, arguments: dict[str, Any]) -> int:
        """Record a request for the service; return its number."""
        values = {
            "slot": self._slot,
            "kind": kind,
            "arguments": orjson.dumps(arguments).decode(),
        }
        with self._session.transaction("request") as cursor:
            cursor.execute(self._sql("add_request"), values)
            number: int = cursor.fetchone()[0]
        return number

    def answer(self, number: int) -> Answer | None:
        """Return the service's answer to a request."""
        with self._session.transaction("request") as cursor:
            cursor.execute(self._sql("read_request"), {"id": number})
            row = cursor.fetchone()
        if row is None:
            return None
        return Answer(state=row[0], progress=row[1], result=row[2], error=row[3])

    def requests(self) -> list[Request]:
        """Return the requests that are not done yet, oldest first."""
        rows = self._session.fetch("request", self._sql("open_requests"), {"slot": self._slot})
        return [Request(id=row[0], kind=row[1], arguments=row[2], state=row[3]) for row in rows]

    def reply(
        self,
        number: int,
        state: str,
        *,
        progress: dict[str, Any] | None = None,
        result: dict[str, Any] | None = None,
        error: str = "",
    ) -> bool:
        """Record the progress or the result of a request; return false when it was cancelled."""
        values = {
            "id": number,
            "state": state,
            "progress": orjson.dumps(progress or {}).decode(),
            "result": None if result is None else orjson.dumps(result).decode(),
        }
        with self._session.transaction("request") as cursor:
            encoding = cursor.connection.get_parameter_status("server_encoding")
            values["error"] = storable(error, encoding)
            cursor.execute(self._sql("save_request"), values)
            return bool(cursor.rowcount)

    def _sql(self, name: str) -> sql.Composed:
        return compose("target/reconcile", name, schema=sql.Identifier(self._schema))


def compare_again_ddl(schema: str, table: Table) -> Ddl:
    """Compare a table without a request, because changes of it were undelivered."""
    again = _compare_again(schema, [table.full_name], None)
    return Ddl(f"compare every row of {table.full_name}", again)


def _compare_again(schema: str, names: Iterable[str], shape: Shape | None) -> sql.Composed:
    return compose(
        "target/reconcile",
        "compare_again",
        schema=sql.Identifier(schema),
        table_names=sql.Literal(list(names)),
        **{name: sql.Literal(value) for name, value in _shape_values(shape).items()},
    )


def _shape_values(shape: Shape | None) -> dict[str, str | None]:
    return {"shape": None if shape is None else shape.own, **leaf_values(shape)}


def _values(table: Table, space: int) -> dict[str, Any]:
    return {
        "table_name": table.full_name,
        "source_oid": table.oid,
        "space": space,
        "metadata": [column.name for column in table.metadata],
    }


def _comparison(row: Sequence[Any]) -> Comparison:
    names = ("fresh", "missing", "stale", "metadata_stale", "orphan", "dead_letter")
    counts = {Verdict(name): count for name, count in zip(names, row[6:12], strict=True)}
    return Comparison(
        table_name=row[0],
        state=row[1],
        reason=row[2],
        stage=row[3],
        cursor=None if row[4] is None else tuple(row[4]),
        checked=row[5],
        counts={Verdict.PENDING: 0, **counts},
        estimate=row[12],
        run=row[13],
    )
