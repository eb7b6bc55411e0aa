"""Indexes: what passes is waited out, what does not keeps no other table from its own."""

from threading import Event
from typing import cast

from cdc_embed.change.document import Table
from cdc_embed.errors import CdcEmbedError, TargetRefusedError, TargetUnavailableError
from cdc_embed.flow.patience import Delay, delay
from cdc_embed.postgres.session import Session
from cdc_embed.reconcile.indexing import Indexer
from tests.builders import table

AWAY = TargetUnavailableError(problem="disk full")
DENIED = TargetRefusedError(table="a_embedding", problem="permission denied")


class Target:
    """A session, and the making of indexes in it: fails with each error in turn, then succeeds."""

    def __init__(self, *errors: CdcEmbedError) -> None:
        self.errors = list(errors)
        self.tried: list[str] = []
        self.failed = Event()
        self.made = Event()
        self.returned = Event()
        self.open = False
        self.lent = False

    def ensure(self, _session: Session, of: Table) -> bool:
        assert self.lent, "a connection is given up first"
        self.open = True
        self.tried.append(of.name)
        if self.errors:
            self.failed.set()
            raise self.errors.pop(0)
        self.made.set()
        return True

    def cancel(self) -> None:
        pass

    def close(self) -> None:
        self.open = False

    def lend_connection(self) -> None:
        assert self.lent or not self.open
        self.lent = True

    def take_connection_back(self) -> None:
        assert not self.open, "the index has its connection still"
        self.lent = False
        self.returned.set()


def indexer(target: Target, delay: Delay = delay) -> Indexer:
    return Indexer(cast(Session, target), target.ensure, target, delay=delay)


def test_an_index_that_cannot_be_made_now_is_tried_again() -> None:
    target = Target(AWAY, AWAY)
    making = indexer(target)
    making.filled(table("a"))
    assert target.made.wait(30)
    making.close()
    assert target.tried == ["a", "a", "a"]


def test_a_lent_connection_is_returned_before_another_attempt() -> None:
    target = Target(AWAY)
    making = indexer(target, lambda *_: 3600.0)
    making.filled(table("a"))
    assert target.returned.wait(30)
    assert not target.lent
    making.close()


def test_a_lent_connection_is_returned_after_the_last_table() -> None:
    target = Target()
    making = indexer(target)
    making.filled(table("a"))
    assert target.returned.wait(30)
    assert target.tried == ["a"]
    making.close()


def test_what_a_person_must_mend_keeps_no_other_table_waiting() -> None:
    target = Target(DENIED)
    making = indexer(target)
    making.filled(table("a"))
    making.filled(table("b"))
    assert target.made.wait(30)
    making.close()
    assert target.tried == ["a", "b"]


def test_a_stop_waits_for_no_further_attempt() -> None:
    target = Target(AWAY)
    making = indexer(target, lambda *_: 3600.0)
    making.filled(table("a"))
    making.filled(table("b"))
    assert target.failed.wait(30)
    making.close()
    assert target.tried == ["a"]
