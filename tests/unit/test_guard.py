"""The rule for reading on while the driver can confirm a keepalive (CONTRIBUTING.md, T1)."""

from cdc_embed.lsn import LSN, ZERO, Progress
from cdc_embed.source.guard import Guard

RECORDED, BEGIN, COMMIT = LSN(0x1000), LSN(0x2000), LSN(0x3000)


def progress(open_commit: LSN | None = None) -> Progress:
    found = Progress(RECORDED)
    found.open_commit = open_commit
    return found


def after(*reads: tuple[LSN, LSN | None]) -> Guard:
    """A guard that saw these reads: how far the server had sent, and the frame's position."""
    guard = Guard()
    for heard, data_start in reads:
        guard.mark_read(heard, data_start)
    return guard


def test_a_keepalive_before_the_first_frame_forwards_harmlessly() -> None:
    guard = Guard()
    assert guard.forwards
    assert guard.may_read(progress())
    assert not guard.needs_record(progress())


def test_a_frame_with_a_position_makes_reading_safe() -> None:
    guard = after((BEGIN, BEGIN))
    assert not guard.forwards
    assert guard.may_read(progress(COMMIT))


def test_reading_after_a_frame_without_position_awaits_a_commit() -> None:
    guard, now = after((BEGIN, BEGIN), (BEGIN, ZERO)), progress(COMMIT)
    assert not guard.may_read(now)
    assert guard.needs_record(now)
    now.mark_recorded(LSN(COMMIT - 1))
    assert not guard.may_read(now)
    now.mark_recorded(COMMIT)
    assert guard.may_read(now)


def test_a_forwarded_position_is_recorded_before_anything_else() -> None:
    guard, now = after((BEGIN, ZERO), (COMMIT, None), (COMMIT, COMMIT)), progress()
    assert not guard.forwards
    assert guard.needs_record(now)
    assert guard.forwarded_beyond(now)
    now.mark_recorded(COMMIT)
    assert not guard.needs_record(now)


def test_keepalives_behind_a_frame_with_position_forward_nothing() -> None:
    guard, now = after((BEGIN, BEGIN), (COMMIT, None)), progress()
    now.mark_recorded(BEGIN)
    assert not guard.forwarded_beyond(now)
