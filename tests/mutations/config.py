"""Protections of the configuration, each taken out by one line."""

from typing import Final

from tests.mutations.mutation import Mutation

MUTATIONS: Final = (
    Mutation(
        "an integer of a connection string is looked at when it connects",
        "cdc_embed/config/dsn.py",
        "        if name in parts and not _is_integer(parts[name]):",
        "        if not INTEGERS:",
        "tests/unit/test_config_notation.py::"
        "test_a_string_of_another_program_says_which_part_is_wrong",
    ),
    Mutation(
        "a value that libpq refuses later passes the check of the configuration",
        "cdc_embed/config/dsn.py",
        "        if parts.get(name, values[0]) not in values:",
        "        if not values:",
        "tests/unit/test_config_notation.py::"
        "test_a_string_of_another_program_says_which_part_is_wrong",
    ),
)
