"""The words of a driver's error: names stay, values of rows are cut."""

import pytest

from cdc_embed.postgres.words import without_values


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (
            'invalid input syntax for type integer: "x"',
            'invalid input syntax for type integer: "..."',
        ),
        (
            'value "99" is out of range for type integer',
            'value "..." is out of range for type integer',
        ),
        ('"1e999" is out of range for type real', '"..." is out of range for type real'),
        (
            'invalid input value for enum "Own"."Mood": "x"',
            'invalid input value for enum "Own"."Mood": "..."',
        ),
        ('malformed array literal: "{"a "b" c"', 'malformed array literal: "..."'),
        ('a value: "column "x" of', 'a value: "..." of'),
        ('no operand in tsquery: "x & ', 'no operand in tsquery: "..."'),
        ('violates check constraint "c_check"', 'violates check constraint "c_check"'),
        (
            'null value in column "b" of relation "t" violates not-null constraint',
            'null value in column "b" of relation "t" violates not-null constraint',
        ),
        ("numeric field overflow", "numeric field overflow"),
        ("", ""),
    ],
)
def test_a_value_is_cut_and_a_name_is_kept(said: str, kept: str) -> None:
    assert without_values(said) == kept
