"""The text of a row, and the hash that stands for the columns beside it."""

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_embed.change.document import (
    COLUMNS_BYTES,
    VALUE_BYTES,
    Document,
    TableColumn,
    fill_template,
    fingerprint,
    template_parts,
)
from cdc_embed.wire.messages import UNCHANGED, Value
from tests import builders
from tests.builders import ID

U = UNCHANGED
VIEWS, LABEL = TableColumn("views", "integer"), TableColumn("label", "text")
KEY = (ID, TableColumn("region", "text"))
table = partial(builders.table, key=KEY)
TABLE = table("t", LABEL, VIEWS)


def hashed(*values: Value, before: bytes | None = None) -> bytes:
    found = TABLE.hash_metadata(values, before)
    assert found is not None
    return found


# -- text -------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [(None, None), ("", ""), (" ", "\n\t"), (None, " ")])
@pytest.mark.parametrize("template", [None, "Title: {title}\n{body}"])
def test_a_row_without_text_has_no_document(
    values: tuple[str | None, str | None], template: str | None
) -> None:
    assert table(template=template).prepare(values) is None


def test_present_columns_are_joined_as_they_are_by_a_blank_line() -> None:
    assert TABLE.prepare((" a ", "b\n")) == " a \n\nb\n"
    assert TABLE.prepare((None, "b")) == "b"
    assert TABLE.prepare(("  ", "b")) == "b"


def test_a_template_is_filled_with_null_as_nothing() -> None:
    assert table(template="{title}: {body}").prepare((None, "b")) == ": b"


@pytest.mark.parametrize(
    ("template", "parts"),
    [
        ("", []),
        ("plain", [("plain", False)]),
        ("{a}", [("a", True)]),
        ("{a}{b}", [("a", True), ("b", True)]),
        ("x {a} y", [("x ", False), ("a", True), (" y", False)]),
        ("{{a}}", [("{", False), ("a", False), ("}", False)]),
        ("{{{a}}}", [("{", False), ("a", True), ("}", False)]),
        ("{with space}", [("with space", True)]),
    ],
)
def test_a_template_is_taken_apart_into_texts_and_columns(
    template: str, parts: list[tuple[str, bool]]
) -> None:
    assert template_parts(template) == parts


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{a}-{b}", "one-"),
        ("{{{a}}}", "{one}"),
        ("{{a}}", "{a}"),
        ("{a}{a}", "oneone"),
    ],
)
def test_a_filled_template_has_values_and_undoubled_braces(template: str, text: str) -> None:
    assert fill_template(template, {"a": "one", "b": None}) == text


def test_a_value_with_braces_is_not_a_template_itself() -> None:
    assert fill_template("{a}", {"a": "{b} {{"}) == "{b} {{"


@given(st.text())
def test_a_text_with_its_braces_doubled_is_itself(text: str) -> None:
    assert fill_template(text.replace("{", "{{").replace("}", "}}"), {}) == text


def test_the_preparation_names_what_the_text_is_made_of() -> None:
    names = {
        table().preparation,
        table(text=("body", "title")).preparation,
        table(template="{title}").preparation,
        table(template="{body}").preparation,
    }
    assert len(names) == 4


def test_a_whole_document_is_its_one_chunk() -> None:
    document = Document.whole("text")
    assert document.fingerprint == fingerprint("text")
    assert [(c.text, c.start, c.end, c.hash) for c in document.chunks] == [
        ("text", 0, 4, fingerprint("text"))
    ]


def test_a_key_is_shown_as_an_object_with_integers_as_numbers() -> None:
    assert TABLE.key_object(("7", "8")) == {"id": 7, "region": "8"}


# -- metadata ---------------------------------------------------------------------------------


def test_no_metadata_columns_have_an_empty_hash() -> None:
    assert table().hash_metadata(()) == b""
    assert table().hash_metadata((), b"of other columns") == b""


def test_a_hash_says_of_which_columns_it_is() -> None:
    others = [
        table("t", VIEWS, LABEL),
        table("t", LABEL, TableColumn("views", "bigint")),
        table("t", LABEL, TableColumn("score", "integer")),
    ]
    hashes = {one.hash_metadata(("a", "1")) for one in (TABLE, *others)}
    assert len(hashes) == 4
    assert len({(found or b"")[:COLUMNS_BYTES] for found in hashes}) == 4
    assert table("t", LABEL).hash_metadata(("a",)) != TABLE.hash_metadata(("a", None))


def test_null_empty_and_each_value_differ() -> None:
    values = (None, "", " ", "0", "a", "A", "\0")
    assert len({hashed(value, "1") for value in values}) == len(values)


def test_equal_values_in_other_columns_are_another_hash() -> None:
    assert hashed("a", "b") != hashed("b", "a")
    assert hashed(None, "a") != hashed("a", None)


def test_a_hash_has_a_part_for_its_columns_and_for_each_value() -> None:
    assert len(hashed("a", None)) == COLUMNS_BYTES + 2 * VALUE_BYTES


def test_an_unchanged_value_is_unknown_without_its_last_version() -> None:
    assert TABLE.hash_metadata((U, "1")) is None
    assert TABLE.hash_metadata((U, U)) is None
    assert TABLE.hash_metadata(("a", "1")) is not None


def test_a_hash_of_other_columns_proves_nothing() -> None:
    before = table("t", VIEWS, LABEL).hash_metadata(("1", "a"))
    assert TABLE.hash_metadata((U, "1"), before) is None
    assert TABLE.hash_metadata((U, "1"), b"") is None
    assert TABLE.hash_metadata(("a", "1"), before) == hashed("a", "1")


def test_an_unchanged_value_keeps_its_part() -> None:
    before = hashed("long", None)
    assert hashed(U, "2", before=before) == hashed("long", "2")
    assert hashed("new", U, before=before) == hashed("new", None)
    assert hashed(U, U, before=before) == before


values = st.none() | st.sampled_from(["", "a", "b"])


@given(
    st.tuples(values, values), st.tuples(values, values), st.tuples(st.booleans(), st.booleans())
)
def test_what_the_log_leaves_out_never_changes_the_hash(
    old: tuple[str | None, str | None],
    new: tuple[str | None, str | None],
    out_of_line: tuple[bool, bool],
) -> None:
    carried = tuple(
        U if now == then and out else now
        for now, then, out in zip(new, old, out_of_line, strict=True)
    )
    assert hashed(*carried, before=hashed(*old)) == hashed(*new)
