"""The target as the flow uses it, to write and record. ``lookups`` reads what is stored.

``Store.write`` is the one place that changes vectors. Its transaction holds the vectors, the
deletes, the dead letters and the position, or nothing. Its order of statements survives key swaps
and shifts: copy the reused rows, delete the touched rows, insert the new ones.

The flow decides when to retry, and handles lost connections.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from cdc_embed.change.action import Annotate, Move, Refuse, RowRefusal, Write, with_letter
from cdc_embed.change.batch import Batch, RowId
from cdc_embed.change.document import Table
from cdc_embed.change.plan import Plan
from cdc_embed.errors import (
    CdcEmbedError,
    FencedError,
    HistoryGapError,
    PreflightError,
    TargetRefusedError,
    TargetUnavailableError,
)
from cdc_embed.lsn import LSN, Checkpoint, Identity, why_foreign
from cdc_embed.postgres.session import Session
from cdc_embed.postgres.side import TARGET, RowRefusedError, refusal_is_outage, translated
from cdc_embed.rotation import Login
from cdc_embed.target.lookups import LookUps
from cdc_embed.target.position import checkpoint_of, read_checkpoint, server_identity
from cdc_embed.target.statements import Statements, service_statements
from cdc_embed.target.write import TableWriter, Vectors, actions_by_table, dropped

TAKEOVER_LOCK_TIMEOUT: Final = "5s"
CHECKPOINT: Final = "checkpoint"
"""The table that is named when an error is not that of one table of vectors."""


class Store:
    """The target database, for one slot."""

    def __init__(
        self, login: Login, *, schema: str, slot: str, tables: Iterable[Statements], half: bool
    ) -> None:
        self._schema = schema
        self._slot = slot
        self._half = half
        self._statements = {statements.table: statements for statements in tables}
        self._sql = service_statements(schema)
        writer_name = f"cdc_embed writer {slot}"
        self._reader = Session(TARGET, login, f"cdc_embed reader {slot}")
        self._writer = Session(TARGET, login, writer_name)
        self.look_ups = LookUps(self._reader, self._writer, self._statements)
        self._old_writers = {"application_name": writer_name, "schema": schema}
        self._staged: dict[int, frozenset[Table]] = {}
        self._in_doubt = False
        self.epoch = 0

    def close(self) -> None:
        self._reader.close()
        self._writer.close()

    def cancel(self) -> None:
        """Make waiting statements fail, because the service must stop at once."""
        self._reader.cancel()
        self._writer.cancel()

    # -- position ------------------------------------------------------------------------------

    def checkpoint(self) -> Checkpoint | None:
        """Return the recorded position; None when ``setup`` did not run for this slot."""
        return read_checkpoint(self._reader, self._schema, self._slot)

    def identity(self) -> Identity:
        """Return the target's server, database and timeline."""
        return server_identity(self._reader)

    def adopt(self, source: Identity, target: Identity) -> None:
        """Continue the position with these servers, after a failover or a move of the target."""
        values = {
            "source_timeline": source.timeline,
            "target_system_identifier": target.system_identifier,
            "target_database": target.database,
            "target_timeline": target.timeline,
            "slot": self._slot,
            "epoch": self.epoch,
        }
        with self._reader.transaction("checkpoint") as cursor:
            cursor.execute(self._sql["adopt_identity"], values)
            self._expect_epoch(cursor)

    def take_epoch(self, source: Identity) -> Checkpoint:
        """Fence every older writer of the slot of this source; return its recorded position."""
        values = {
            "slot": self._slot,
            "source_system_identifier": source.system_identifier,
            "source_database": source.database,
        }
        try:
            row = self._take_epoch(values)
        except TargetUnavailableError:
            self._end_old_writers()
            row = self._take_epoch(values)
        # the older writers are fenced; their locks would delay us
        self._end_old_writers()
        if row is None:
            raise self._no_position(source)
        checkpoint = checkpoint_of(row)
        self.epoch = checkpoint.epoch
        return checkpoint

    def _take_epoch(self, values: dict[str, str]) -> Any:
        with self._reader.transaction("checkpoint") as cursor:
            cursor.execute("select set_config('lock_timeout', %s, true)", (TAKEOVER_LOCK_TIMEOUT,))
            cursor.execute(self._sql["take_epoch"], values)
            return cursor.fetchone()

    def _no_position(self, source: Identity) -> CdcEmbedError:
        """Return the error of a slot without a position, or with that of another source."""
        recorded = read_checkpoint(self._reader, self._schema, self._slot)
        foreign = recorded and why_foreign(recorded.source, source)
        if foreign:
            return HistoryGapError(slot=self._slot, problem=foreign)
        if recorded is not None:
            return dropped(CHECKPOINT, "the epoch of a new writer was not stored")
        return PreflightError(
            where=f"slot {self._slot}",
            problem="the target has no position for it",
            hint="run: cdc-embed setup",
        )

    def _end_old_writers(self) -> None:
        with self._reader.transaction("checkpoint") as cursor:
            cursor.execute(self._sql["end_old_writers"], self._old_writers)

    def record_progress(self, lsn: LSN, batch_seq: int) -> None:
        """Record that every transaction up to ``lsn`` is reflected in the target, where no batch
        says so.

        ``batch_seq`` is that of the last batch, because a target that lost this batch is not
        complete.
        """
        with self._writer.transaction("checkpoint") as cursor:
            self._is_committed(cursor, batch_seq)
            values = {
                "confirmed_lsn": str(lsn),
                "slot": self._slot,
                "epoch": self.epoch,
                "batch_seq": batch_seq,
            }
            cursor.execute(self._sql["record_progress"], values)
            self._expect_epoch(cursor)

    def _is_committed(self, cursor: Any, batch_seq: int) -> bool:
        """Return whether this batch is committed already; raise when it cannot be the next one."""
        cursor.execute(self._sql["check_epoch"], {"slot": self._slot})
        row = cursor.fetchone()
        if row is None or row[0] != self.epoch:
            raise FencedError(slot=self._slot, epoch=self.epoch)
        if row[1] not in {batch_seq - 1, batch_seq}:
            raise HistoryGapError(
                slot=self._slot,
                problem=f"the target was set back to an older state: its last batch is {row[1]}, "
                f"batch {batch_seq - 1} was committed",
            )
        return bool(row[1] == batch_seq)

    def _expect_epoch(self, cursor: Any) -> None:
        if cursor.rowcount != 1:
            raise FencedError(slot=self._slot, epoch=self.epoch)

    def space(self, table: Table) -> int:
        """Return the number of the space of a table's vectors."""
        return self._statements[table].space

    # -- write ---------------------------------------------------------------------------------

    def write(self, plan: Plan, vectors: Vectors, batch_seq: int) -> None:
        """Commit a plan and its position in one transaction.

        ``vectors`` holds the new ones; any other chunk takes its vector from a stored one. Raises
        ``MissingDonorError`` when there is none, ``FencedError`` when another instance took over,
        ``RowRefusedError`` when the database refuses the data of a row, and
        ``TargetUnavailableError`` when a later attempt can succeed. If an attempt's commit took
        effect but its answer was lost, the next attempt recognises it by ``batch_seq`` and does not
        repeat it.
        """
        if self._in_doubt:
            self._await_lost_commit()
        try:
            with self._writer.transaction(CHECKPOINT, rows=True) as cursor:
                if self._is_committed(cursor, batch_seq):
                    return
                staged = self._write_rows(cursor, plan, vectors)
                self._record_batch(cursor, plan.batch, batch_seq)
        except TargetUnavailableError:
            self._in_doubt = True
            raise
        except TargetRefusedError as exc:
            if exc.table == CHECKPOINT:  # by the COMMIT, which names no table
                self._rehearse(plan, vectors)
            raise
        self._staged[self._writer.generation] = staged

    def _rehearse(self, plan: Plan, vectors: Vectors) -> None:
        """Write a plan and roll it back; raise an error that names the table that refuses it, also
        in a deferred constraint."""
        with self._writer.transaction(CHECKPOINT, keep=False, rows=True) as cursor:
            self._write_rows(cursor, plan, vectors, rehearsal=True)

    def _await_lost_commit(self) -> None:
        """Wait for the end of an attempt whose answer was lost, because its COMMIT can still be
        running.

        A new attempt would meet the same rows, and would seem to write them twice. A running COMMIT
        holds the checkpoint row. An attempt that has not come so far cannot commit any more, and is
        ended.
        """
        with self._writer.transaction("checkpoint") as cursor:
            cursor.execute(self._sql["await_commit"], {"slot": self._slot})
            if cursor.fetchone() != (self.epoch,):  # another epoch, so those writers are not ours
                raise FencedError(slot=self._slot, epoch=self.epoch)
            cursor.execute(self._sql["end_old_writers"], self._old_writers)
        self._in_doubt = False

    def refused_rows(self, plan: Plan, vectors: Vectors) -> dict[RowId, RowRefusal]:
        """Return the rows of a plan whose data the database refuses, with its reason; write
        nothing."""
        rows = [r for r, act in plan.actions.items() if isinstance(act, Write | Move | Annotate)]
        return {
            row: RowRefusal(error, self._refused_metadata(row, plan, vectors))
            for row, error in self._refused_among(rows, plan, vectors).items()
        }

    def _refused_metadata(self, row: RowId, plan: Plan, vectors: Vectors) -> tuple[int, ...]:
        """Return the places of the metadata without which the database takes a row; none if it
        takes it in no way."""

        def takes(without: set[int]) -> bool:
            letter = Refuse(b"", "", "", tuple(without))
            part = Plan(plan.batch, {row: with_letter(plan.actions[row], letter)})
            return not self._refused_among([row], part, vectors)

        without = set(range(len(row[0].metadata)))
        if not without or not takes(without):
            return ()
        for place in sorted(without):
            if len(without) > 1 and takes(without - {place}):
                without.remove(place)
        return tuple(sorted(without))

    def _refused_among(
        self, rows: Sequence[RowId], plan: Plan, vectors: Vectors
    ) -> dict[RowId, str]:
        """Search by halves, because usually one row of many is refused."""
        images = {row: plan.batch.images[row] for row in rows if row in plan.batch.images}
        part = Plan(Batch(images), {row: plan.actions[row] for row in rows})
        try:
            self._rehearse(part, vectors)
        except RowRefusedError as exc:
            if len(rows) == 1:
                return {rows[0]: str(exc)}
            middle = len(rows) // 2
            return self._refused_among(rows[:middle], plan, vectors) | self._refused_among(
                rows[middle:], plan, vectors
            )
        return {}

    def _write_rows(
        self, cursor: Any, plan: Plan, vectors: Vectors, *, rehearsal: bool = False
    ) -> frozenset[Table]:
        """Write every table of a plan; return the staging tables that exist after the commit."""
        staged = self._staged.get(self._writer.generation, frozenset())
        self._staged = {self._writer.generation: staged}
        for table, actions in actions_by_table(plan).items():
            statements = self._statements[table]
            images = plan.batch.images
            changes = {key: images[table, key].change for key in actions if (table, key) in images}
            writer = TableWriter(cursor, changes, statements, vectors, half=self._half)
            with translated(TARGET, table.embedding_table, rows=True):
                if table not in staged:
                    with refusal_is_outage(TARGET, "create a temporary table"):
                        cursor.execute(statements["create_stage"])
                    staged |= {table}
                writer.write(actions, truncated=table in plan.batch.truncated)
                if rehearsal:
                    cursor.execute(self._sql["check_constraints"])
        return staged

    def _record_batch(self, cursor: Any, batch: Batch, batch_seq: int) -> None:
        values: dict[str, Any] = {"batch_seq": batch_seq, "slot": self._slot, "epoch": self.epoch}
        if batch.last is None:
            cursor.execute(self._sql["record_reconciled"], values)
        else:
            values |= {
                "commit_lsn": str(batch.last.commit_lsn),
                "ordinal": batch.last.ordinal,
                "end_lsn": str(batch.end_lsn),
            }
            cursor.execute(self._sql["record_batch"], values)
        self._expect_epoch(cursor)
