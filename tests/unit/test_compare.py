"""A row as it is against what is stored of it: the verdict, and what makes them equal."""

from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_embed.change.action import Annotate, Metadata, Remove, Row, Write
from cdc_embed.change.compare import NOTHING, UNKNOWN_END, Stored, Verdict, compare, repair
from cdc_embed.change.document import Document, TableColumn, fingerprint
from cdc_embed.change.knowledge import ABSENT, READ, UNKNOWN, Deferred, Known, Refused, State
from cdc_embed.change.plan import one_chunk
from tests.builders import table

TABLE = table("t", TableColumn("views", "integer"))


AS_READ: Callable[..., Known] = partial(Known, provenance=READ)
"""Makes a stored state that was read from the source."""


def meta(value: str | None) -> bytes:
    found = TABLE.hash_metadata((value,))
    assert found is not None
    return found


TEXT, LENGTH = "a\n\nb", 4
DIGEST, OTHER = fingerprint(TEXT), fingerprint("another")
ROW = Row(("a", "b"), ("1",))
BLANK = Row((None, " "), ("1",))
METADATA = Metadata(("1",), meta("1"))
WRITE = Write(Document.whole(TEXT), METADATA, reread=True)
FRESH, MISSING, STALE = Verdict.FRESH, Verdict.MISSING, Verdict.STALE
METADATA_STALE, ORPHAN, DEAD = Verdict.METADATA_STALE, Verdict.ORPHAN, Verdict.DEAD_LETTER
STATES: tuple[State, ...] = (
    *(
        kind(digest, meta(m))
        for kind in (Known, AS_READ)
        for digest in (DIGEST, OTHER)
        for m in "12"
    ),
    Refused(DIGEST),
    Refused(OTHER),
    ABSENT,
    UNKNOWN,
)


def judged(row: Row | None, stored: Stored) -> tuple[Verdict, object]:
    verdict = compare(TABLE, row, stored)
    return verdict, repair(TABLE, row, stored, verdict, one_chunk)


@pytest.mark.parametrize("kind", [Known, AS_READ])
def test_an_equal_text_with_equal_metadata_is_fresh(kind: Callable[..., Known]) -> None:
    assert judged(ROW, Stored(kind(DIGEST, meta("1")))) == (FRESH, None)


@pytest.mark.parametrize("kind", [Known, AS_READ])
def test_metadata_that_differs_is_annotated_as_read(kind: Callable[..., Known]) -> None:
    """The text stays, but from here on it is known from a read alone."""
    annotated = Annotate(METADATA, Known(DIGEST, meta("1"), READ))
    for stored in (meta("2"), meta(None), b"", b"of other columns"):
        assert judged(ROW, Stored(kind(DIGEST, stored))) == (METADATA_STALE, annotated)


@pytest.mark.parametrize("kind", [Known, AS_READ])
@pytest.mark.parametrize("value", ["1", "2"])
def test_a_text_that_differs_is_stale_whatever_its_metadata(
    kind: Callable[..., Known], value: str
) -> None:
    assert judged(ROW, Stored(kind(OTHER, meta(value)))) == (STALE, WRITE)


def test_a_row_that_is_not_stored_is_missing() -> None:
    assert judged(ROW, NOTHING) == (MISSING, WRITE)


def test_what_says_nothing_of_the_row_is_stale() -> None:
    assert judged(ROW, Stored(UNKNOWN)) == (STALE, WRITE)


def test_a_dead_letter_of_equal_text_is_kept_and_otherwise_stale() -> None:
    assert judged(ROW, Stored(Refused(DIGEST))) == (DEAD, None)
    assert judged(ROW, Stored(Refused(OTHER))) == (STALE, WRITE)
    assert judged(ROW, Stored(Refused(DIGEST + meta("1")))) == (DEAD, None)
    assert judged(ROW, Stored(Refused(DIGEST + meta("2")))) == (STALE, WRITE)


@pytest.mark.parametrize("row", [None, BLANK])
@pytest.mark.parametrize("state", STATES)
def test_what_is_stored_of_no_text_is_an_orphan(row: Row | None, state: State) -> None:
    expected = (FRESH, None) if state is ABSENT else (ORPHAN, Remove())
    assert judged(row, Stored(state)) == expected


@pytest.mark.parametrize("value", ["1", "2"])
@pytest.mark.parametrize("kind", [Known, AS_READ])
@pytest.mark.parametrize(
    "stored", [(False, LENGTH), (False, UNKNOWN_END), (True, 1), (True, 3), (True, 5), (True, 0)]
)
def test_a_document_that_lacks_a_chunk_is_stale_despite_its_hash(
    stored: tuple[bool, int], kind: Callable[..., Known], value: str
) -> None:
    assert judged(ROW, Stored(kind(DIGEST, meta(value)), *stored)) == (STALE, WRITE)


@pytest.mark.parametrize("end", [LENGTH, UNKNOWN_END])
def test_a_document_whose_last_chunk_ends_with_the_text_is_fresh(end: int) -> None:
    assert judged(ROW, Stored(Known(DIGEST, meta("1")), True, end)) == (FRESH, None)


@pytest.mark.parametrize(("end", "verdict"), [(5, FRESH), (8, FRESH), (7, STALE), (4, STALE)])
def test_blanks_at_the_end_of_a_text_may_be_in_no_chunk(end: int, verdict: Verdict) -> None:
    row = Row(("a", "bc  \n"), ("1",))
    text = TABLE.prepare(row.texts)
    assert text == "a\n\nbc  \n"
    stored = Stored(Known(fingerprint(text), meta("1")), True, end)
    assert compare(TABLE, row, stored) is verdict


def test_a_letter_drifts_not_and_a_deferred_row_is_pending() -> None:
    right = [FRESH, DEAD, Verdict.PENDING]
    assert [verdict for verdict in Verdict if not verdict.drifts] == right
    for row in (Row(("a", "b")), Row((None, None)), None):
        assert compare(TABLE, row, Stored(Deferred())) is Verdict.PENDING


rows = st.none() | st.builds(
    Row,
    st.tuples(*[st.sampled_from([None, "", " ", "a", "b"])] * 2),
    st.tuples(st.sampled_from("12")),
)
ends = st.sampled_from([UNKNOWN_END, 0, 1, LENGTH])
stored_documents = st.builds(Stored, st.sampled_from(STATES), st.booleans(), ends)


@given(rows, stored_documents)
def test_a_repair_leaves_what_is_fresh(row: Row | None, stored: Stored) -> None:
    """Once its action is done, the same row is fresh; and what does not drift is left alone."""
    verdict = compare(TABLE, row, stored)
    action = repair(TABLE, row, stored, verdict, one_chunk)
    assert (action is None) is not verdict.drifts
    match action:
        case Write(document, metadata, reread):
            assert reread
            end = document.chunks[-1].end
            after = Stored(Known(document.fingerprint, metadata.hash, READ), True, end)
        case Annotate(_, state):
            assert stored.whole
            after = Stored(state, stored.whole, stored.end)
        case Remove():
            after = NOTHING
        case _:
            after = stored
    assert not compare(TABLE, row, after).drifts
