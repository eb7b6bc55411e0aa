"""The age of what waits, whatever the source's clock says."""

import time

import pytest

from cdc_embed.change.action import Defer, Remove
from cdc_embed.change.batch import Batch
from cdc_embed.change.event import Change, Op, TransactionEnd
from cdc_embed.change.pending import Pending
from cdc_embed.change.plan import Plan
from cdc_embed.flow.hot_rows import HotRows
from cdc_embed.flow.receipts import STEP_SECONDS, Receipts
from cdc_embed.flow.supply import Prepared
from cdc_embed.flow.telemetry import Oldest, Telemetry
from cdc_embed.flow.writing import Written
from cdc_embed.lsn import LSN, ZERO, Progress
from cdc_embed.metrics import Metrics
from cdc_embed.wire.messages import Begin
from tests.builders import NOW, TABLE, change

TWO_DAYS = 2 * 86_400.0


def row(at: int) -> Change:
    return change(Op.INSERT, ("1",), at=(at, 1))


def end(at: int) -> TransactionEnd:
    return TransactionEnd(end_lsn=LSN(at), committed_at=NOW)


@pytest.mark.parametrize("skew", [-TWO_DAYS, 0.0, TWO_DAYS])
@pytest.mark.parametrize("measured", [True, False])
def test_what_waits_is_at_least_as_old_as_its_receipt(skew: float, measured: bool) -> None:
    telemetry = Telemetry(Metrics(slot="s", tables=[], model="hash"))
    telemetry.clock_ahead = skew if measured else 0.0
    oldest = Oldest(time.time() + skew - 7, time.monotonic() - 5)
    telemetry.tick(Pending(), Progress(ZERO), oldest, full=False)
    age = telemetry.oldest_pending_age()
    if measured:
        assert 7 <= age < 60
    else:
        assert age >= 5
    telemetry.tick(Pending(), Progress(ZERO), None, full=False)
    assert telemetry.oldest_pending_age() == 0


def test_a_deferred_row_counts_until_it_is_written() -> None:
    telemetry = Telemetry(Metrics(slot="s", tables=[TABLE.full_name], model="hash"))
    batch = Batch.of([change(Op.INSERT, ("1",))])
    deferred = Plan(batch, {(TABLE, ("1",)): Defer(7)})
    looked = telemetry.deferrals
    telemetry.written(
        Prepared(plan=deferred, vectors={}), Written(committed_at=time.time(), seconds=0.1)
    )
    since = NOW.timestamp()
    assert telemetry.oldest_pending_age() >= time.time() - since - 1
    telemetry.note_deferred([None], looked)  # it was read before the batch was committed
    assert telemetry.oldest_pending_age() >= time.time() - since - 1
    telemetry.note_deferred([since + 5, None], telemetry.deferrals)
    assert time.time() - since - 6 < telemetry.oldest_pending_age() < time.time() - since
    telemetry.note_deferred([None], telemetry.deferrals)
    assert telemetry.oldest_pending_age() == 0


def test_a_commit_is_told_once() -> None:
    """Also with a TRUNCATE in it: half of a commit could be dropped for a slow listener."""
    told: list[list[str]] = []
    metrics = Metrics(slot="s", tables=[TABLE.full_name], model="hash")
    telemetry = Telemetry(metrics, lambda rows: told.append([row.op for row in rows]))
    batch = Batch.of([change(Op.TRUNCATE), change(Op.DELETE, ("1",), at=(9, 1))])
    plan = Plan(batch, {(TABLE, ("1",)): Remove()})
    written = Written(committed_at=time.time(), seconds=0.1)
    telemetry.written(Prepared(plan=plan, vectors={}), written)
    assert told == [["truncate", "delete"]]


LATER = 100.0


def received(receipts: Receipts, durable: int) -> float:
    """When the oldest event that waits was received; ``LATER``, which is now, if none is marked."""
    oldest = receipts.oldest(LSN(durable), NOW.timestamp(), LATER)
    assert oldest is not None
    return oldest.received_at


def test_the_oldest_receipt_is_that_of_what_is_not_durable() -> None:
    receipts = Receipts()
    for second in range(3):
        receipts.mark(row(10 * second + 10), float(second))
        receipts.mark(end(10 * second + 15), second + STEP_SECONDS / 2)
    assert received(receipts, 0) == 0.0
    assert received(receipts, 10) == 0.0
    assert received(receipts, 15) == 1.0
    assert received(receipts, 30) == 2.0
    assert received(receipts, 35) == LATER


def test_an_idle_loop_has_no_receipt() -> None:
    receipts = Receipts()
    receipts.mark(row(10), 1.0)
    receipts.clear()
    assert received(receipts, 0) == LATER
    assert receipts.oldest(LSN(0), None, LATER) is None


def test_an_open_transaction_is_the_oldest_of_an_idle_loop() -> None:
    receipts = Receipts()
    begin = Begin(final_lsn=LSN(10), committed_at=NOW, xid=7)
    for now in (1.0, 2.0):
        receipts.mark_open(begin, now)
    assert receipts.oldest(LSN(0), None, LATER) == Oldest(NOW.timestamp(), 1.0)
    receipts.mark_open(None, 3.0)
    assert receipts.oldest(LSN(0), None, LATER) is None


def test_a_truncate_forgets_the_rows_that_were_left_out() -> None:
    hot = HotRows({(TABLE, ("1",)): 1.0})
    truncated = Plan(Batch(truncated={TABLE: change(Op.TRUNCATE)}), {})
    hot.mark(truncated, 2.0)
    assert hot.since == {}
