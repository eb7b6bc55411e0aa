"""Protections of sessions and connections, each taken out by one line."""

from typing import Final

from tests.mutations.mutation import Mutation

MUTATIONS: Final = (
    Mutation(
        "a refused login is not read again",
        "cdc_embed/postgres/connect.py",
        "            if login.renewed(dsn):",
        "            if False:",
        "tests/integration/test_rotated_secrets.py::test_a_password_that_is_rotated_is_read_again",
    ),
    Mutation(
        "the loop waits with select",
        "cdc_embed/postgres/connect.py",
        "    return [by_number[number] for number, _ in waiting.poll(math.ceil(seconds * 1000))]",
        "    return list(select.select(list(peers), [], [], seconds)[0])",
        "tests/unit/test_waking.py::test_a_descriptor_above_1023_wakes_the_loop",
    ),
    Mutation(
        "a question about the catalogue is planned each time",
        "cdc_embed/postgres/plans.py",
        "        name = self._names.pop(digest, None) or self._plan(cursor, text)",
        "        name = self._plan(cursor, text)",
        "tests/integration/test_plans.py::test_what_is_asked_again_is_planned_once",
    ),
    Mutation(
        "plans are kept without a limit",
        "cdc_embed/postgres/plans.py",
        "        if len(self._names) > MOST_PLANS:",
        "        if False:",
        "tests/integration/test_plans.py::test_plans_used_long_ago_are_given_up",
    ),
    Mutation(
        "a plan for a former type is an error",
        "cdc_embed/postgres/plans.py",
        "        except psycopg2.errors.FeatureNotSupported:  # a column has another type since",
        "        except psycopg2.errors.InvalidPassword:",
        "tests/integration/test_plans.py::test_a_column_of_another_type_is_read_as_it_is_now",
    ),
    Mutation(
        "a parameter that is wrong for good is waited for",
        "cdc_embed/postgres/side.py",
        "        if not state and WRONG_PARAMETER.search(str(exc))",
        "        if state and WRONG_PARAMETER.search(str(exc))",
        "tests/integration/test_refusals.py::"
        "test_a_service_name_that_no_file_defines_is_not_waited_for",
    ),
    Mutation(
        "an exception of a function is known by its SQLSTATE",
        "cdc_embed/postgres/words.py",
        "    if not ddl and is_of_a_function(exc, rows=rows):",
        '    if not ddl and state.startswith("P0"):',
        "tests/integration/test_values_in_words.py::test_a_letter_has_no_words_of_a_function",
    ),
    Mutation(
        "only what RAISE says is cut",
        "cdc_embed/postgres/words.py",
        " or LANGUAGE.search(context) or foreign)",
        ")",
        "tests/integration/test_values_in_words.py::"
        "test_a_letter_has_no_words_of_a_function[dynamic SQL]",
    ),
    Mutation(
        "a freeze of DDL ends the service",
        "cdc_embed/postgres/side.py",
        "        if exc.pgcode is None or exc.pgcode[:2] in PASSING:",
        "        if exc:",
        "tests/integration/test_refused_ddl.py::test_a_freeze_of_ddl_is_waited_for_by_name",
    ),
    Mutation(
        "NULL in an array is a word",
        "cdc_embed/postgres/side.py",
        '    "array_nulls": "on",\n',
        "",
        "tests/integration/test_metadata.py::test_values_keep_their_types_and_follow_every_change",
    ),
    Mutation(
        "a filtered read is no error",
        "cdc_embed/postgres/side.py",
        '{**VALUE_SETTINGS, "row_security": "off"},',
        "VALUE_SETTINGS,",
        "tests/integration/test_silent_losses.py::"
        "test_row_security_is_an_error_and_never_an_empty_table[True]",
    ),
    Mutation(
        "values of rows are quoted in errors",
        "cdc_embed/postgres/words.py",
        "        message = without_values(message)",
        "        message = str(message)",
        "tests/integration/test_values_in_words.py::test_a_dead_letter_has_no_value_of_its_row",
    ),
    Mutation(
        "a pooler is not looked for",
        "cdc_embed/postgres/pooler.py",
        "        if connection.backend == connection.info.backend_pid and known_as == name[:63]:",
        "        if connection.backend:",
        "tests/integration/test_poolers.py::"
        "test_any_pooler_is_refused_before_anything_is_set[target-transaction]",
    ),
    Mutation(
        "functions of another role are found by their name",
        "cdc_embed/postgres/side.py",
        '    "search_path": "pg_catalog, pg_temp",',
        '    "search_path": "pg_catalog, public",',
        "tests/integration/test_hostile_role.py::"
        "test_nothing_of_a_role_that_may_create_in_public_is_run",
    ),
)
