"""Facts that cost a batch something: kept for its next attempt, handed on when it is cut."""

from collections import Counter

import pytest

from cdc_embed.change.action import Row
from cdc_embed.change.document import Document, Table, fingerprint
from cdc_embed.change.event import Change, Op
from cdc_embed.flow.facts import BatchFacts
from cdc_embed.wire.messages import UNCHANGED, Value
from tests.builders import TABLE, change
from tests.unit.simulation import world
from tests.unit.simulation.source import Op as Act
from tests.unit.simulation.world import Setting, World, simulated


def update(ordinal: int, *texts: Value) -> Change:
    return change(Op.UPDATE, (str(ordinal),), texts, at=(0x1000, ordinal))


def place(text: str) -> tuple[Table, bytes]:
    return TABLE, fingerprint(text)


def test_a_text_is_cut_once_however_often_it_is_planned() -> None:
    facts, calls = BatchFacts(), Counter[str]()

    def cut(_: Table, text: str) -> Document:
        calls[text] += 1
        return Document.whole(text)

    for _ in range(3):
        assert facts.cutting(cut)(TABLE, "a") == Document.whole("a")
    assert calls == {"a": 1}


def test_documents_go_with_changes_that_hold_their_whole_text() -> None:
    texts = ("a\n\nb", "c", "gone")
    facts = BatchFacts(documents={place(text): Document.whole(text) for text in texts})
    rest = [update(1, "a", "b"), update(2, "c", None), update(3, "gone", UNCHANGED), update(4)]
    assert set(facts.of(rest).documents) == {place("a\n\nb"), place("c")}


def test_a_read_goes_with_the_very_change_it_was_made_for() -> None:
    """For a later change of the row it can be too old."""
    first, second = update(1, UNCHANGED, "b"), update(2, UNCHANGED, "b")
    facts = BatchFacts(reads={(TABLE, c.key): (c, Row(("a", "b"))) for c in (first, second)})
    assert set(facts.of([second]).reads) == {(TABLE, second.key)}
    assert facts.of([]).reads == {}


def test_nothing_that_belongs_to_one_attempt_is_handed_on() -> None:
    facts = BatchFacts(refused_texts={b"x": ("refused", "why")})
    assert facts.of([update(1, "a", "b")]) == BatchFacts()


def test_texts_of_a_range_that_is_cut_short_are_cut_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each batch of the simulated model holds one text; the others go back with their facts."""
    calls = Counter[str]()

    def cut(_: Table, text: str) -> Document:
        calls[text] += 1
        return Document.whole(text)

    monkeypatch.setattr(world, "one_chunk", cut)
    setting = Setting(least_texts=1)
    with simulated():
        simulation = World(setting)
        acts = [Act("insert", key=n, a=text, b=None) for n, text in enumerate("ABC")]
        simulation.play([("commit", acts)])
        simulation.settle()
        simulation.close()
    assert calls == {"A": 1, "B": 1, "C": 1}
