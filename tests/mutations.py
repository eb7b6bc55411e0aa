"""Take each protection out once and see its test fail: ``python -m tests.mutations [NAME ...]``.

Each mutation is one line of the code or the SQL, with the test that must notice. A copy of the tree
is patched, that test is run in it, and a failure is expected. A test that runs with ``--long`` only
is run with it. ``-j`` says how many run at once.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Final

import pytest

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Mutation:
    """A protection, taken out: in ``file``, ``line`` becomes ``mutated``; ``test`` must fail."""

    name: str
    file: str
    line: str
    mutated: str
    test: str


MUTATIONS = (
    Mutation(
        "DDL waits for a search",
        "cdc_embed/cli/search.py",
        "    session = Session(TARGET, config.target_login, name, lookout=databases.target)",
        "    session = Session(TARGET, config.target_login, name)",
        "tests/integration/test_giving_way.py::test_an_alter_table_does_not_wait_for_a_search",
    ),
    Mutation(
        "nobody asks whether an index can be made",
        "cdc_embed/setup/preflight.py",
        "        survey.findings += check_creating(databases.target, config.target.schema)",
        "        check_creating(databases.target, config.target.schema)",
        "tests/integration/test_rights.py::test_doctor_warns_if_no_index_can_be_made",
    ),
    Mutation(
        "a replaced function of ours is seen by nobody",
        "sql/target/view.sql",
        "where f.body is distinct from g.body or p.name is not null",
        "where p.name is not null",
        "tests/integration/test_row_security.py::test_vectors_that_other_hands_open_are_named",
    ),
    Mutation(
        "an altered policy of ours is seen by nobody",
        "sql/target/view.sql",
        "where f.body is distinct from g.body or p.name is not null",
        "where f.body is distinct from g.body",
        "tests/integration/test_row_security.py::test_vectors_that_other_hands_open_are_named",
    ),
    Mutation(
        "teardown drops what took the place of ours",
        "cdc_embed/setup/teardown.py",
        "    strange = strangers(databases, [*vectors, *views, *SERVICE_TABLES], vectors=forms)",
        "    strange: dict[str, str] = {} if databases else strangers(databases, [], vectors={})",
        "tests/integration/test_names_taken.py::test_what_took_the_place_of_ours_is_named_and_stays",
    ),
    Mutation(
        "a table with some columns of ours is ours",
        "cdc_embed/target/schema.py",
        "MOST, ALL, NEW = len(TELLING) // 2 + 1, len(TELLING), len(TELLING) + 1",
        "MOST, ALL, NEW = 1, 1, len(TELLING) + 1",
        "tests/integration/test_names_taken.py::test_vectors_of_the_application_are_never_ours",
    ),
    Mutation(
        "setup drops the application's table in the place of a shadow",
        "cdc_embed/setup/tables.py",
        "        expect_free_shadow(databases, table)",
        "        expect_free_shadow",
        "tests/integration/test_names_taken.py::test_a_shadow_of_the_application_is_not_dropped",
    ),
    Mutation(
        "a copy of our table is a shadow of ours",
        "cdc_embed/target/schema.py",
        "MOST, ALL, NEW = len(TELLING) // 2 + 1, len(TELLING), len(TELLING) + 1",
        "MOST, ALL, NEW = len(TELLING) // 2 + 1, len(TELLING), len(TELLING)",
        "tests/integration/test_names_taken.py::test_a_shadow_of_the_application_is_not_dropped",
    ),
    Mutation(
        "setup drops functions of the application by their names",
        "sql/target/schema.sql",
        "  and starts_with(p.prosrc, %(mark)s)\n",
        "  and %(mark)s <> ''\n",
        "tests/integration/test_names_taken.py::test_our_functions_are_dropped_by_their_arguments",
    ),
    Mutation(
        "a later setup takes a function of the application for ours",
        "cdc_embed/setup/names.py",
        '        lasting = {mine.embedding_table, mine.search_view or "", *function_names(table)}',
        '        lasting = {mine.embedding_table, mine.search_view or ""}',
        "tests/integration/test_names_taken.py::test_our_functions_are_dropped_by_their_arguments",
    ),
    Mutation(
        "setup replaces a function of ours that has names of parameters",
        "sql/target/view.sql",
        "                    or p.proargnames is not null or p.pronargdefaults > 0))",
        "                    or p.pronargdefaults > 0))",
        "tests/integration/test_altered_objects.py::test_setup_makes_what_was_altered_as_it_was",
    ),
    Mutation(
        "setup replaces a view of ours that has other types",
        "cdc_embed/target/view.py",
        "        return fits and not state.retyped and not state.irreplaceable",
        "        return fits and not state.irreplaceable",
        "tests/integration/test_altered_objects.py::test_setup_makes_what_was_altered_as_it_was",
    ),
    Mutation(
        "a function of ours may run with its owner's rights",
        "sql/target/view.sql",
        "p.proconfig is null and not p.prosecdef and",
        "p.proconfig is null and",
        "tests/integration/test_altered_objects.py::test_setup_makes_what_was_altered_as_it_was",
    ),
    Mutation(
        "a search view may be read with its owner's rights",
        "cdc_embed/target/view.py",
        "        return same and filters and state.as_reader",
        "        return same and filters",
        "tests/integration/test_altered_objects.py::test_setup_makes_what_was_altered_as_it_was",
    ),
    Mutation(
        "a trigger on our own tables is no obstacle",
        "sql/target/rights.sql",
        "o.own and t.tgtype & 3 = 3",
        "false",
        "tests/integration/test_hindrances.py::test_what_can_drop_rows_of_our_own_tables_is_refused",
    ),
    Mutation(
        "a rule on our own tables is no obstacle",
        "sql/target/rights.sql",
        "o.own and r.is_instead",
        "false",
        "tests/integration/test_hindrances.py::test_what_can_drop_rows_of_our_own_tables_is_refused",
    ),
    Mutation(
        "what refuses a statement is not named",
        "cdc_embed/service/refusing.py",
        "            error = with_way_out(error, self.hindrances)",
        "            error = with_way_out(error, [])",
        "tests/integration/test_hindrances.py::test_what_only_refuses_is_named_with_the_refusal",
    ),
    Mutation(
        "a position that a trigger keeps is not there",
        "cdc_embed/target/store.py",
        "        if recorded is not None:\n            return dropped(",
        "        if recorded is None:\n            return dropped(",
        "tests/integration/test_hindrances.py::test_a_trigger_on_the_position_is_named_while_running",
    ),
    Mutation(
        "a trigger on the only table of vectors ends the service",
        "cdc_embed/service/service.py",
        "        waits = isinstance(error, TargetRefusedError)",
        "        waits = False",
        "tests/integration/test_hindrances.py::test_the_only_table_is_tried_again_once_its_trigger_is_gone",
    ),
    Mutation(
        "nobody is told of another owner of ours",
        "cdc_embed/setup/hindrances.py",
        "        if (each.kind == OWNER) == owned",
        "        if each.kind != OWNER",
        "tests/integration/test_hindrances.py::test_another_owner_of_ours_is_named_with_the_way_back",
    ),
    Mutation(
        "rows of a partition that nobody looked at are drift",
        "cdc_embed/reconcile/verify.py",
        "        if found.drift and not repair and self._work.has_news(table):",
        "        if False and not repair and self._work.has_news(table):",
        "tests/integration/test_leaves.py::test_rows_of_a_partition_that_nobody_looked_at_are_pending",
    ),
    Mutation(
        "rows of a partition stay pending for ever",
        "cdc_embed/service/shapes.py",
        "        return bool(passed or known != shape.leaves or pending.leaves or pending.orphans)",
        "        return True",
        "tests/integration/test_leaves.py::test_rows_of_a_partition_that_nobody_looked_at_are_pending",
    ),
    Mutation(
        "a table of vectors that was moved to another schema is gone",
        "sql/target/schema.sql",
        "(c.relnamespace <> h.oid or c.relname <> all (%(registered)s))",
        "(c.relnamespace = h.oid and c.relname <> all (%(registered)s))",
        "tests/integration/test_names_taken.py::test_our_renamed_table_is_named_with_the_way_back",
    ),
    Mutation(
        "a second search index is built beside one that was renamed",
        "cdc_embed/target/index.py",
        "            rename_back(session, self._schema, table, SWAP_LOCK_TIMEOUT)\n",
        "",
        "tests/integration/test_index.py::test_renamed_indexes_get_their_names_back",
    ),
    Mutation(
        "setup leaves renamed indexes as they are",
        "cdc_embed/setup/tables.py",
        "        change.before[:0] = rename_back_ddl(self._databases.target, self._schema, name)\n",
        "",
        "tests/integration/test_index.py::test_renamed_indexes_get_their_names_back",
    ),
    Mutation(
        "a table of the application with two names of ours has vectors",
        "sql/target/mending.sql",
        "        and {least} <= (select",
        "        and 0 * {least} <= (select",
        "tests/integration/test_lost_tables.py::"
        "test_without_the_spaces_every_text_is_embedded_on_demand",
    ),
    Mutation(
        "a row that no part has is not missed",
        "cdc_embed/reconcile/proof.py",
        "        if in_parts != rows:",
        "        if in_parts > rows:",
        "tests/integration/test_proof.py::test_a_row_that_no_part_has_is_found_while_others_write",
    ),
    Mutation(
        "a search view that was renamed is gone",
        "cdc_embed/setup/agreement.py",
        "        if moved := view.find_renamed():",
        "        if False and (moved := view.find_renamed()):",
        "tests/integration/test_altered_objects.py::"
        "test_a_renamed_search_view_is_named_with_the_way_back",
    ),
    Mutation(
        "a table of our own that was moved is made anew",
        "cdc_embed/setup/mending.py",
        "    if moved:\n",
        "    if False and moved:\n",
        "tests/integration/test_lost_tables.py::"
        "test_a_moved_table_of_ours_is_named_with_the_way_back",
    ),
    Mutation(
        "a table of vectors that was renamed is not looked for",
        "cdc_embed/setup/names.py",
        "        if moved := renamed_vectors(databases, mine, known.values()):",
        "        if False and (moved := renamed_vectors(databases, mine, known.values())):",
        "tests/integration/test_names_taken.py::test_our_renamed_table_is_named_with_the_way_back",
    ),
    Mutation(
        "teardown stops halfway at a table of vectors that was renamed",
        "cdc_embed/setup/teardown.py",
        "        if moved := renamed_vectors(databases, registered, known):",
        "        if False and (moved := renamed_vectors(databases, registered, known)):",
        "tests/integration/test_names_taken.py::test_our_renamed_table_is_named_with_the_way_back",
    ),
    Mutation(
        "a table in the place of one of our own is ours",
        "cdc_embed/setup/names.py",
        "    for what in strangers(databases, SERVICE_TABLES, vectors={}).values():",
        "    for what in ():",
        "tests/integration/test_names_taken.py::test_what_took_the_place_of_ours_is_named_and_stays",
    ),
    Mutation(
        "rows that the target drops silently are durable",
        "cdc_embed/target/write.py",
        "        if self._cursor.rowcount < rows:",
        "        if False:",
        "tests/integration/test_dropped_rows.py::"
        "test_no_row_is_lost_that_the_target_drops_silently",
    ),
    Mutation(
        "rows that the target does not delete are deleted",
        "cdc_embed/target/write.py",
        '            self._expect_deleted("any_left", self._statements.keys(replaced))',
        "            pass",
        "tests/integration/test_dropped_rows.py::"
        "test_no_row_is_lost_that_the_target_drops_silently",
    ),
    Mutation(
        "a table whose rows do not change is tried for ever",
        "cdc_embed/flow/batches.py",
        "            raise dropped(outdated.embedding_table, problem)",
        "            raise AssertionError(problem, dropped) if head.attempts < 0 else outdated",
        "tests/integration/test_dropped_rows.py::"
        "test_no_row_is_lost_that_the_target_drops_silently",
    ),
    Mutation(
        "DDL waits for a row that is read",
        "cdc_embed/setup/connections.py",
        'f"cdc_embed rows {slot}", lookout=source)',
        'f"cdc_embed rows {slot}")',
        "tests/integration/test_giving_way.py::"
        "test_an_alter_table_does_not_wait_for_a_row_read_again",
    ),
    Mutation(
        "DDL waits for the count of a table",
        "cdc_embed/service/reconciling.py",
        "self._count_source = Session(SOURCE, config.source_login, name, lookout=source)",
        "self._count_source = Session(SOURCE, config.source_login, name)",
        "tests/integration/test_giving_way.py::test_an_alter_table_does_not_wait_for_verify",
    ),
    Mutation(
        "DDL waits for the count of the search view",
        "cdc_embed/service/reconciling.py",
        "self._count_target = Session(TARGET, config.target_login, name, lookout=target)",
        "self._count_target = Session(TARGET, config.target_login, name)",
        "tests/integration/test_giving_way.py::test_an_alter_table_does_not_wait_for_verify",
    ),
    Mutation(
        "a count that gave way is a number",
        "cdc_embed/reconcile/counts.py",
        "            if pause is not None:",
        "            if pause is None:\n                return count(table)\n            else:",
        "tests/integration/test_giving_way.py::test_verify_says_that_ddl_kept_it_from_counting",
    ),
    Mutation(
        "confirm what was received",
        "cdc_embed/lsn.py",
        "return min(self.durable, self.recorded)",
        "return self.received",
        "tests/acceptance/test_durability.py::"
        "test_lost_connections_lose_nothing_and_repeat_no_done_work",
    ),
    Mutation(
        "what has the name of our object is taken for ours",
        "cdc_embed/setup/names.py",
        "    return {name: what for what, name, ours in held if not ours}",
        "    return {name: what for what, name, ours in held if ours and not ours}",
        "tests/integration/test_names_taken.py::test_nothing_of_the_application_is_taken_for_ours",
    ),
    Mutation(
        "a table of the application is taken for one of our own",
        "cdc_embed/setup/names.py",
        "    found = _service_tables_taken(databases)",
        "    found: list[Finding] = []",
        "tests/integration/test_names_taken.py::test_no_table_of_ours_is_made_in_anothers_place",
    ),
    Mutation(
        "a copy without rows cannot be set up",
        "cdc_embed/setup/mending.py",
        "    lost = [*SERVICE_TABLES] if is_bare(databases) else lost_tables(databases)",
        "    lost = lost_tables(databases)",
        "tests/integration/test_dump.py::test_a_copy_without_rows_is_set_up_unasked",
    ),
    Mutation(
        "migrations whose record was emptied are run again",
        "cdc_embed/setup/mending.py",
        "if _filled(databases, found) else []",
        "if False else []",
        "tests/integration/test_dump.py::test_emptied_migrations_are_noted_again_and_no_more",
    ),
    Mutation(
        "vectors that a crash would take are followed on",
        "cdc_embed/service/watch.py",
        "            if not each.logged",
        "            if False",
        "tests/integration/test_unlogged.py::test_unlogged_vectors_are_named_and_compared_again",
    ),
    Mutation(
        "a table of ours that a crash would empty is not named",
        "cdc_embed/setup/mending.py",
        "    return [name for name, (_, logged) in _service_tables(databases).items() "
        "if not logged]",
        "    return []",
        "tests/integration/test_unlogged.py::"
        "test_an_unlogged_table_of_ours_is_named_and_made_right",
    ),
    Mutation(
        "a right that all tables need is not asked for",
        "cdc_embed/setup/rights.py",
        "    if whole:",
        "    if False:",
        "tests/integration/test_rights.py::"
        "test_a_right_that_all_tables_need_is_named_and_waited_for[the schema of pgvector]",
    ),
    Mutation(
        "a right on one table of vectors is not asked for",
        "cdc_embed/setup/rights.py",
        "role in rows\n    ] or",
        "role in []\n    ] or",
        "tests/integration/test_rights.py::"
        "test_a_right_on_one_table_pauses_it_alone[the table of vectors]",
    ),
    Mutation(
        "a closed schema of the source is not seen",
        "cdc_embed/source/tables.py",
        "        for schema in found.closed",
        "        for schema in ()",
        "tests/integration/test_rights.py::"
        "test_a_right_on_one_table_pauses_it_alone[the schema of the source table]",
    ),
    Mutation(
        "a pause is told without its way out",
        "cdc_embed/source/observed.py",
        "        if not problem or state.source is None:",
        "        if not problem:",
        "tests/integration/test_undelivered.py::test_a_pause_is_told_with_its_way_out",
    ),
    Mutation(
        "vectors that other hands opened are not noticed",
        "cdc_embed/service/watch.py",
        "        lacking |= opened_tables(",
        "        opened_tables(",
        "tests/integration/test_row_security.py::test_vectors_that_other_hands_open_are_named",
    ),
    Mutation(
        "a deferred row that is gone is looked for, for ever",
        "cdc_embed/reconcile/deferred.py",
        "        self._forget(gone)",
        "        gone.clear()",
        "tests/unit/test_deferred_reader.py::"
        "test_a_deferred_row_that_is_gone_is_looked_for_no_more",
    ),
    Mutation(
        "a refused login is not read again",
        "cdc_embed/postgres/connect.py",
        "            if login.renewed(dsn):",
        "            if False:",
        "tests/integration/test_rotated_secrets.py::test_a_password_that_is_rotated_is_read_again",
    ),
    Mutation(
        "a refused secret is not waited for",
        "cdc_embed/rotation.py",
        "        return waits and now - self._refused_since < self.seconds",
        "        return False",
        "tests/unit/test_rotation.py::test_a_secret_that_has_worked_is_waited_for_a_minute",
    ),
    Mutation(
        "a refused secret is waited for without end",
        "cdc_embed/rotation.py",
        "        return waits and now - self._refused_since < self.seconds",
        "        return waits",
        "tests/integration/test_rotated_secrets.py::test_a_password_that_nobody_rotates_ends_the_service",
    ),
    Mutation(
        "a start waits for no secret",
        "cdc_embed/service/start.py",
        "at_start=waits)",
        "at_start=False)",
        "tests/integration/test_rotated_secrets.py::"
        "test_a_start_waits_for_a_password_that_is_rotated",
    ),
    Mutation(
        "a minute has more than its limit",
        "cdc_embed/embed/pace.py",
        " and used + units <= self._most:",
        ":",
        "tests/unit/test_pace.py::test_a_call_of_a_whole_minute_has_the_minute_for_itself",
    ),
    Mutation(
        "a call has more tokens than pass in a minute",
        "cdc_embed/embed/http.py",
        "            max_tokens=config.tokens_per_minute or None,",
        "            max_tokens=None,",
        "tests/unit/test_http_embedder.py::test_one_call_has_no_more_tokens_than_a_minute",
    ),
    Mutation(
        "what the service counts corrects nothing",
        "cdc_embed/embed/http.py",
        "            self._turns.correct(turn, used)",
        "            pass",
        "tests/unit/test_http_embedder.py::test_the_next_call_waits_for_the_tokens_of_the_last",
    ),
    Mutation(
        "a quota of processors is not looked at",
        "cdc_embed/embed/processors.py",
        "    return max(1, math.floor(min([processors, *map(quota, limits)])))",
        "    return processors",
        "tests/unit/test_processors.py::test_threads_are_within_affinity_and_every_quota",
    ),
    Mutation(
        "a model has a thread for each processor",
        "cdc_embed/embed/processors.py",
        "    torch.set_num_threads(threads)",
        "    pass",
        "tests/unit/test_processors.py::test_each_backend_is_told_its_threads",
    ),
    Mutation(
        "unasked tokens are bytes",
        "cdc_embed/reconcile/size.py",
        "        tokens = sum(self.count(list(chunks.values())))",
        "        tokens = size // BYTES_PER_TOKEN",
        "tests/integration/test_costs.py::test_unasked_tokens_are_those_of_the_tokenizer",
    ),
    Mutation(
        "what the service charges is not what is shown",
        "cdc_embed/embed/http.py",
        "        self._meter.add(sum(self._tokens_of(inputs)) if used is None else used)",
        "        self._meter.add(sum(self._tokens_of(inputs)))",
        "tests/integration/test_costs.py::test_money_is_shown_spent_and_to_be_spent",
    ),
    Mutation(
        "a backfill that an earlier start has left has no price",
        "cdc_embed/reconcile/requests.py",
        "        self._measure_pending(known)",
        "        pass",
        "tests/integration/test_costs.py::test_money_is_shown_spent_and_to_be_spent",
    ),
    Mutation(
        "one text that fails makes every later call small",
        "cdc_embed/flow/blame.py",
        "self._size.blamed(text)",
        "pass",
        "tests/unit/test_embedding_runner.py::test_the_calls_with_a_text_that_is_to_blame_teach_no_size",
    ),
    Mutation(
        "a refused text is blamed without the known-good one",
        "cdc_embed/flow/blame.py",
        "        self.expect_well()\n        return self._prove",
        "        return self._prove",
        "tests/unit/test_embedding_runner.py::test_a_known_good_text_must_succeed_before_each_letter",
    ),
    Mutation(
        "a failure behind another one tells of its size",
        "cdc_embed/flow/call_size.py",
        "            elif not self.is_failing:",
        "            else:",
        "tests/unit/test_call_size.py::test_a_failure_behind_another_one_says_nothing_of_its_size",
    ),
    Mutation(
        "a comparison is made with one server",
        "cdc_embed/embed/watched.py",
        "        with suppress(EmbedderUnavailableError):\n            return self._probe()\n",
        "",
        "tests/unit/test_trial.py::test_the_comparison_is_made_with_another_server_if_one_fails",
    ),
    Mutation(
        "one broken server of two is an outage",
        "cdc_embed/embed/watched.py",
        "self._failures += self._failing or not isinstance(exc, UnusableAnswerError)",
        "self._failures += 1",
        "tests/unit/test_trial.py::test_one_malformed_answer_is_no_outage",
    ),
    Mutation(
        "a size that failed is given up for ten minutes",
        "cdc_embed/flow/call_size.py",
        "        return limited and (long or self._good >= self._enough)",
        "        return limited and long",
        "tests/unit/test_call_size.py::test_what_failed_is_tried_again_after_a_while[0.0-16]",
    ),
    Mutation(
        "what fails again is tried as often",
        "cdc_embed/flow/call_size.py",
        "            self._enough = min(2 * self._enough, MOST_CALLS)",
        "            pass",
        "tests/unit/test_call_size.py::test_what_fails_again_is_tried_more_rarely",
    ),
    Mutation(
        "a storm of refusals teaches a size",
        "cdc_embed/flow/embedding.py",
        "        if taken and self._blame.contradictions == contradictions:",
        "        if taken:",
        "tests/unit/test_embedding_runner.py::test_a_storm_of_refusals_teaches_no_size",
    ),
    Mutation(
        "setup takes a broken table out of its publication",
        "cdc_embed/source/publishing.py",
        "        only = len(tables) == len(states)",
        "        only = True",
        "tests/integration/test_broken_table.py::"
        "test_a_setup_meanwhile_leaves_a_broken_table_published",
    ),
    Mutation(
        "what setup cannot put back keeps it from every table",
        "cdc_embed/setup/tables.py",
        '            if not exc.fields.get("table"):',
        "            if exc.fields:",
        "tests/integration/test_broken_table.py::"
        "test_what_setup_cannot_put_back_keeps_it_from_one_table",
    ),
    Mutation(
        "one table that setup leaves out ends the service",
        "cdc_embed/setup/preflight.py",
        "f.table == table.full_name and f.fix != RUN_SETUP",
        "False",
        "tests/integration/test_broken_table.py::"
        "test_another_ones_publication_keeps_setup_from_one_table",
    ),
    Mutation(
        "a rebuild is asked for where there are no vectors",
        "cdc_embed/setup/connections.py",
        "    if rows:",
        "    if True:",
        "tests/integration/test_spaces.py::"
        "test_another_space_asks_nothing_before_there_are_vectors[False-size]",
    ),
    Mutation(
        "a target that is read-only is written",
        "cdc_embed/setup/preflight.py",
        "    outage = find_read_only(databases.target)",
        "    outage = None",
        "tests/integration/test_target_faults.py::"
        "test_read_only_target_is_waited_for_by_name_at_the_start",
    ),
    Mutation(
        "a position that is gone is made up",
        "cdc_embed/setup/preflight.py",
        "        known = slot is not None and not missing_migrations(applied)",
        "        known = False",
        "tests/integration/test_lost_tables.py::test_a_lost_position_is_a_gap_and_none_is_made_up",
    ),
    Mutation(
        "vectors of a lost space come to be of another",
        "sql/target/mending.sql",
        "cdc_embed_last + 1);",
        "1);",
        "tests/integration/test_lost_tables.py::"
        "test_without_the_spaces_every_text_is_embedded_on_demand",
    ),
    Mutation(
        "a table of ours that is gone is not named",
        "cdc_embed/setup/preflight.py",
        "    expect_tables(databases)",
        "    pass",
        "tests/integration/test_lost_tables.py::test_a_lost_table_of_ours_is_named_and_made_again",
    ),
    Mutation(
        "a command that waits for a lock says nothing",
        "cdc_embed/reconcile/reconciler.py",
        "            self._requests.say_waiting(str(trouble))",
        "            pass",
        "tests/integration/test_locked_tables.py::test_verify_says_which_locked_table_it_waits_for",
    ),
    Mutation(
        "tables of others are named when some are published",
        "cdc_embed/source/publishing.py",
        " if not self._carries(sight, publication, source)]",
        "]",
        "tests/integration/test_your_migrations.py::"
        "test_each_migration_has_the_promised_outcome[at once]",
    ),
    Mutation(
        "vectors that are lost end the service",
        "cdc_embed/service/service.py",
        "            self._begin_again(None, waits_for_setup=waits)",
        "            self._begin_again(None)",
        "tests/integration/test_your_migrations.py::"
        "test_what_concerns_every_table_ends_no_service[drop extension vector cascade]",
    ),
    Mutation(
        "long names are cut without a checksum",
        "cdc_embed/target/schema.py",
        '    short = name.encode()[: room - 9].decode(errors="ignore")',
        '    return name.encode()[:room].decode(errors="ignore") + suffix',
        "tests/integration/test_derived_names.py::"
        "test_tables_whose_derived_names_begin_alike_are_apart[long vectors]",
    ),
    Mutation(
        "two tables have one function",
        "cdc_embed/target/source_functions.py",
        '    return table.stem if name == f"{table.stem}_embedding" else',
        "    return table.stem if name else",
        "tests/integration/test_derived_names.py::"
        "test_tables_whose_derived_names_begin_alike_are_apart[one stem]",
    ),
    Mutation(
        "a refused metadata value costs the vectors",
        "cdc_embed/target/store.py",
        "        if not without or not takes(without):",
        "        if without or not takes(without):",
        "tests/integration/test_metadata_types.py::"
        "test_a_refused_metadata_value_alone_costs_no_vector[check]",
    ),
    Mutation(
        "a broken table stops the start of all",
        "cdc_embed/setup/survey.py",
        "        together = [finding for finding in lasting if not finding.table]",
        "        together = lasting",
        "tests/integration/test_broken_table.py::"
        "test_a_mended_table_is_followed_again_without_a_restart",
    ),
    Mutation(
        "an error of one table ends the service",
        "cdc_embed/service/service.py",
        "            self._pause_table(exc)",
        "            raise",
        "tests/integration/test_broken_table.py::"
        "test_a_broken_table_takes_no_other_with_it[dropped vectors]",
    ),
    Mutation(
        "a table that fails again and again is not left out",
        "cdc_embed/service/start.py",
        "            self._kept.refusing.leave_out(survey)",
        "            pass",
        "tests/integration/test_refusing_tables.py::"
        "test_a_trigger_keeps_the_service_from_one_table[an exception at the commit]",
    ),
    Mutation(
        "a table that fails is tried again at each look",
        "cdc_embed/service/watch.py",
        "        out = paused.keys() | self._refusing.findings.keys()",
        "        out = paused.keys()",
        "tests/integration/test_refusing_tables.py::"
        "test_a_table_that_fails_is_not_tried_all_the_time",
    ),
    Mutation(
        "vectors are copied to a key that the application's policies refuse",
        "cdc_embed/setup/tables.py",
        "            rehearse(databases.target, shadow, change.at_once, on_wait)",
        "            pass",
        "tests/integration/test_grants.py::"
        "test_what_does_not_fit_another_key_is_named_before_copying",
    ),
    Mutation(
        "a slice has so many rows, whatever their length",
        "sql/source/tables.sql",
        """where t."cdc spent" - t."cdc bytes" < %(bytes)s
order by {order}""",
        """where %(bytes)s > 0
order by {order}""",
        "tests/acceptance/test_memory_of_reads.py::"
        "test_few_short_rows_before_long_ones_take_no_more_memory",
    ),
    Mutation(
        "rows that are read again have no bound of bytes",
        "sql/source/tables.sql",
        """where t."cdc spent" - t."cdc bytes" < %(bytes)s
order by t."cdc place\"""",
        """where %(bytes)s > 0
order by t."cdc place\"""",
        "tests/acceptance/test_memory_of_reads.py::"
        "test_long_texts_the_log_leaves_out_take_no_more_memory[title = upper(title)]",
    ),
    Mutation(
        "a known text is read again after another column changed",
        "cdc_embed/change/plan.py",
        '        return Skip("toast", before)',
        "        return None",
        "tests/unit/test_plan.py::test_unchanged_values_prove_a_skip_only_of_a_known_version",
    ),
    Mutation(
        "the server's timeout is taken for its default",
        "sql/source/slot.sql",
        "select setting::float / 1000",
        "select boot_val::float / 1000",
        "tests/integration/test_reconnects.py::"
        "test_the_servers_times_are_asked_with_each_connection",
    ),
    Mutation(
        "the loop waits with select",
        "cdc_embed/postgres/connect.py",
        "    return [by_number[number] for number, _ in waiting.poll(math.ceil(seconds * 1000))]",
        "    return list(select.select(list(peers), [], [], seconds)[0])",
        "tests/unit/test_waking.py::test_a_descriptor_above_1023_wakes_the_loop",
    ),
    Mutation(
        "too few descriptors end a service",
        "cdc_embed/errors.py",
        "    return isinstance(error, OSError) and error.errno in SCARCE",
        "    return False",
        "tests/integration/test_web.py::test_no_descriptor_to_be_had_is_waited_for",
    ),
    Mutation(
        "a right to replicate that no catalogue shows is not tried",
        "cdc_embed/setup/preflight.py",
        "    if not server.may_replicate:",
        "    if False:",
        "tests/integration/test_hosted_servers.py::"
        "test_a_right_that_no_catalogue_shows_is_found_by_trying",
    ),
    Mutation(
        "vectors are taken though every table of ours is gone",
        "cdc_embed/setup/mending.py",
        "        made = _is_by_comments(found) or bool(_vectors(databases))",
        "        made = _is_by_comments(found)",
        "tests/integration/test_lost_tables.py::"
        "test_all_our_tables_but_the_vectors_are_made_again[left1]",
    ),
    Mutation(
        "one table of ours is not known by its comment",
        "cdc_embed/setup/mending.py",
        "made = _is_by_comments(found) or ",
        "made = ",
        "tests/integration/test_lost_tables.py::test_one_table_that_is_left_is_known_to_be_ours",
    ),
    Mutation(
        "vectors refer to no space once the spaces were lost",
        "cdc_embed/setup/tables.py",
        "        if not stored.refers_to_spaces:",
        "        if False:",
        "tests/integration/test_lost_tables.py::"
        "test_all_our_tables_but_the_vectors_are_made_again[left1]",
    ),
    Mutation(
        "an error of the commit is laid to no table",
        "cdc_embed/target/store.py",
        "                if rehearsal:",
        "                if False:",
        "tests/integration/test_store.py::test_table_that_makes_the_commit_fail_is_named",
    ),
    Mutation(
        "a row that the commit refuses is not found",
        "cdc_embed/target/store.py",
        "                if rehearsal:",
        "                if False:",
        "tests/integration/test_store.py::test_row_that_is_refused_by_the_commit_is_named",
    ),
    Mutation(
        "a view that cannot be read ends a service",
        "cdc_embed/reconcile/proof.py",
        '            raise self._error(f"{exc} ({exc.hint})") from exc',
        "            raise",
        "tests/integration/test_refusing_tables.py::"
        "test_a_view_that_cannot_be_read_keeps_only_its_proof[drop view cdc_embed.refused_search]",
    ),
    Mutation(
        "verify fails where the only table is paused",
        "cdc_embed/setup/survey.py",
        "        if usable or any(",
        "        if True or any(",
        "tests/integration/test_last_table.py::test_row_security_of_the_only_table_ends_no_service",
    ),
    Mutation(
        "vectors without a column of ours are written",
        "cdc_embed/setup/connections.py",
        "    own = (*ESSENTIAL, *(column.name for column in OWN_COLUMNS))",
        "    own = ESSENTIAL",
        "tests/integration/test_refusing_tables.py::"
        "test_setup_puts_lost_columns_back_and_embeds_nothing",
    ),
    Mutation(
        "any primary key of the vectors is taken for ours",
        "cdc_embed/target/registry.py",
        "    if list(key)[-1:] != [number]:",
        "    if False:",
        "tests/integration/test_refusing_tables.py::"
        "test_setup_names_the_way_out_of_a_lost_primary_key[another one]",
    ),
    Mutation(
        "setup takes vectors without a primary key for those of a former key",
        "cdc_embed/setup/tables.py",
        "        expect_key(self._schema, table, name, stored)",
        "        pass",
        "tests/integration/test_refusing_tables.py::"
        "test_setup_names_the_way_out_of_a_lost_primary_key[the constraint]",
    ),
    Mutation(
        "a mended table stays paused",
        "cdc_embed/service/watch.py",
        "            self._instance.restart()",
        "            pass",
        "tests/integration/test_broken_table.py::"
        "test_a_mended_table_is_followed_again_without_a_restart",
    ),
    Mutation(
        "verify is content with what it could compare",
        "cdc_embed/cli/verify.py",
        '    if found["remaining"] or found["paused"]:',
        '    if found["remaining"]:',
        "tests/integration/test_broken_table.py::"
        "test_a_broken_table_takes_no_other_with_it[a dropped metadata column]",
    ),
    Mutation(
        "letters of a paused table are not spoken of",
        "cdc_embed/reconcile/retry.py",
        "        problems = self._work.problems",
        "        problems: dict[str, str] = {}",
        "tests/integration/test_broken_table.py::"
        "test_letters_of_a_broken_table_are_left_alone_by_name",
    ),
    Mutation(
        "an interrupted setup owns nothing",
        "cdc_embed/setup/ownership.py",
        "        registered = registered_sources(databases.target, schema, slot)",
        "        registered: list[tuple[str, str]] = []",
        "tests/integration/test_ownership.py::"
        "test_a_name_is_the_first_ones_before_its_setup_has_ended",
    ),
    Mutation(
        "a target in our own database is always ours",
        "cdc_embed/setup/ownership.py",
        "    moved = databases.config.target_is_source and before.is_of(checkpoint.target)",
        "    moved = databases.config.target_is_source",
        "tests/integration/test_ownership.py::test_a_name_in_our_own_database_can_be_anothers",
    ),
    Mutation(
        "an epoch is taken for another source",
        "sql/target/store.sql",
        "where slot = %(slot)s and source_system_identifier = %(source_system_identifier)s\n"
        "  and source_database = %(source_database)s\n",
        "where slot = %(slot)s\n",
        "tests/integration/test_store.py::test_a_slot_of_another_source_fences_nobody",
    ),
    Mutation(
        "a text can be longer than a minute takes",
        "cdc_embed/embed/http.py",
        "            return min(window, self._config.tokens_per_minute or window)",
        "            return window",
        "tests/unit/test_http_embedder.py::test_texts_are_cut_to_fit_a_minute_from_the_first",
    ),
    Mutation(
        "a limit below the stored window is told by nobody",
        "cdc_embed/setup/preflight.py",
        "    if card.max_tokens and card.max_tokens < longest:",
        "    if False:",
        "tests/unit/test_model_limits.py::test_a_limit_below_the_stored_window_is_told",
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
        "a request has no time of its own",
        "cdc_embed/embed/connections.py",
        "                    connection.give_up()",
        "                    pass",
        "tests/unit/test_connections.py::test_an_answer_in_drops_ends_in_time",
    ),
    Mutation(
        "a request that is over ends the next one",
        "cdc_embed/embed/connections.py",
        "            self._due.pop(connection, None)",
        "            pass",
        "tests/unit/test_connections.py::test_the_time_of_a_former_request_ends_no_other",
    ),
    Mutation(
        "an answer is kept whatever its length",
        "cdc_embed/embed/connections.py",
        "                if len(content) > most:",
        "                if False:",
        "tests/unit/test_connections.py::test_an_answer_without_end_is_not_kept",
    ),
    Mutation(
        "a slot that is lost again and again is made anew each time",
        "cdc_embed/service/service.py",
        "        if not self._rebuilds or in_vain:",
        "        if not self._rebuilds:",
        "tests/integration/test_door.py::test_a_second_gap_soon_after_is_of_no_use_to_repair",
    ),
    Mutation(
        "a start waits for a slow embedder though vectors are stored",
        "cdc_embed/service/trying.py",
        "        if monotonic() > slow_at:",
        "        if monotonic() > slow_at + 3600:",
        "tests/integration/test_embedder_outages.py::test_a_start_goes_on_without_a_slow_embedder",
    ),
    Mutation(
        "the metric says stopped while a gap is repaired",
        "cdc_embed/service/service.py",
        "        self._metrics.set_phase(Phase.STARTING.value)",
        "        pass",
        "tests/integration/test_door.py::test_a_stop_while_a_gap_is_repaired_ends_the_repair",
    ),
    Mutation(
        "a shadow shows every vector until it has policies",
        "cdc_embed/target/shadow.py",
        "        if self.table.row_security:",
        "        if False:",
        "tests/integration/test_row_security.py::"
        "test_a_shadow_shows_no_vector_before_its_policies_do",
    ),
    Mutation(
        "a rate limit costs the vectors of a good call",
        "cdc_embed/embed/watched.py",
        "            postponed = suspect and not probed and self._busy_only",
        "            postponed = False",
        "tests/unit/test_trial.py::test_a_rate_limit_costs_no_vectors",
    ),
    Mutation(
        "a model is not compared after a rate limit",
        "cdc_embed/embed/watched.py",
        "            if not postponed:",
        "            if True:",
        "tests/unit/test_trial.py::test_a_rate_limit_costs_no_vectors",
    ),
    Mutation(
        "whatever is a word is a token",
        "cdc_embed/embed/http.py",
        "        longest = [PLAIN_WORD] * len(max(inputs, key=len).split())",
        "        longest = max(inputs, key=len).split()",
        "tests/unit/test_trial.py::test_words_that_are_no_tokens_are_not_cut_off",
    ),
    Mutation(
        "a lost connection waits for the embedder",
        "cdc_embed/flow/pipeline.py",
        "reads_on = connected and self._confirmation.may_read()",
        "reads_on = self._confirmation.may_read()",
        "tests/unit/test_pipeline.py::test_a_lost_connection_waits_for_no_embedder",
    ),
    Mutation(
        "another server behind the address is a gap",
        "cdc_embed/service/instance.py",
        "            self._source.expect_own()",
        "            pass",
        "tests/integration/test_ownership.py::"
        "test_another_server_behind_the_address_is_no_gap[stream]",
    ),
    Mutation(
        "an index is rebuilt for another source",
        "cdc_embed/cli/index.py",
        "    expect_own_slot(databases)",
        "    pass",
        "tests/integration/test_ownership.py::test_a_namesake_of_another_server_is_refused_everywhere",
    ),
    Mutation(
        "doctor takes an outage for a mistake",
        "cdc_embed/setup/survey.py",
        "            self.outage, self.away = error, found",
        "            pass",
        "tests/integration/test_start.py::"
        "test_a_start_that_waits_can_be_stopped_and_told_not_to_wait",
    ),
    Mutation(
        "the registry is read for each table",
        "cdc_embed/setup/preflight.py",
        "        _check_stored(databases, survey, stored, source.table, card)",
        "        _check_stored(databases, survey, read_stored(databases), source.table, card)",
        "tests/acceptance/test_many_tables.py::test_a_start_reads_the_registry_once_for_all_tables",
    ),
    Mutation(
        "a reader of rows ends for want of descriptors",
        "cdc_embed/reconcile/rounds.py",
        "                if is_passing(exc):",
        "                if False:",
        "tests/unit/test_rounds.py::test_what_passes_is_waited_out_and_noted",
    ),
    Mutation(
        "a locked table delays the others",
        "cdc_embed/reconcile/reconciler.py",
        '            if exc.fields.get("state") != LOCKED:',
        "            if exc:",
        "tests/integration/test_locked_tables.py::"
        "test_a_locked_table_delays_no_comparison_of_others",
    ),
    Mutation(
        "a database that is away ends the start",
        "cdc_embed/service/service.py",
        "                if not waits and not is_passing(exc):",
        "                if exc:",
        "tests/integration/test_start.py::test_a_database_that_is_away_at_the_start_is_waited_for",
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
        "an integer of a connection string is looked at when it connects",
        "cdc_embed/config/dsn.py",
        "        if name in parts and not _is_integer(parts[name]):",
        "        if not INTEGERS:",
        "tests/unit/test_config_notation.py::"
        "test_a_string_of_another_program_says_which_part_is_wrong",
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
        "doctor knows of no gap",
        "cdc_embed/setup/survey.py",
        "        if self.gap is not None:\n            return HistoryGapError.exit_code",
        "        if self.gap is not None:\n            return 0",
        "tests/integration/test_start.py::test_doctor_and_run_agree[a slot that is gone]",
    ),
    Mutation(
        "connections to the web side without a limit",
        "cdc_embed/serve/limited.py",
        "            self._make_room()",
        "            pass",
        "tests/integration/test_web.py::test_idle_connections_end_neither_service_nor_answers",
    ),
    Mutation(
        "a dead letter's key is limited by an index row",
        "sql/target/migrations/007_letters.sql",
        "  (table_name, jsonb_hash_extended(key, 0), jsonb_hash_extended(key, 1));",
        "  (table_name, key, jsonb_hash_extended(key, 0), jsonb_hash_extended(key, 1));",
        "tests/integration/test_any_letter.py::test_a_key_longer_than_an_index_row_stops_no_other",
    ),
    Mutation(
        "an error is stored in another system's letters",
        "cdc_embed/target/write.py",
        "[storable(letter.error, encoding) for letter in letters.values()]",
        "[letter.error for letter in letters.values() if encoding]",
        "tests/integration/test_any_letter.py::"
        "test_an_error_that_the_target_lacks_letters_for_is_stored[LATIN1]",
    ),
    Mutation(
        "a slot's name is owned without its source",
        "cdc_embed/setup/ownership.py",
        "    source = other_source(databases, config.source.slot)\n    if source is None:",
        "    source = other_source(databases, config.source.slot)\n    if source or not source:",
        "tests/integration/test_ownership.py::"
        "test_a_namesake_of_another_server_is_refused_everywhere",
    ),
    Mutation(
        "a service is fenced by another source's setup",
        "cdc_embed/setup/ownership.py",
        "    pids = service_sessions(databases.target, names)",
        "    pids = service_sessions(databases.target, names)[:0]",
        "tests/integration/test_ownership.py::"
        "test_source_that_takes_anothers_place_keeps_what_is_equal",
    ),
    Mutation(
        "a freeze of DDL ends the service",
        "cdc_embed/postgres/side.py",
        "        if exc.pgcode is None or exc.pgcode[:2] in PASSING:",
        "        if exc:",
        "tests/integration/test_refused_ddl.py::test_a_freeze_of_ddl_is_waited_for_by_name",
    ),
    Mutation(
        "nobody asks for the right to temporary tables",
        "cdc_embed/target/checks.py",
        '        "temporary",\n        may,',
        '        "temporary",\n        True,',
        "tests/integration/test_refused_ddl.py::"
        "test_a_missing_temporary_right_is_named_with_its_grant",
    ),
    Mutation(
        "position in a transaction of its own",
        "cdc_embed/target/store.py",
        "            self._record_batch(cursor, plan.batch, batch_seq)",
        "            cursor.connection.commit(); self._record_batch(cursor, plan.batch, batch_seq)",
        "tests/integration/test_store.py::test_vectors_and_position_commit_together_or_not_at_all",
    ),
    Mutation(
        "ignore the fingerprint",
        "cdc_embed/change/plan.py",
        "stored.fingerprint == digest:\n        # the log",
        "stored.fingerprint is None:\n        # the log",
        "tests/integration/test_flow.py::test_only_text_that_changed_is_embedded[18]",
    ),
    Mutation(
        "u as NULL",
        "cdc_embed/wire/pgoutput.py",
        "        return UNCHANGED",
        "        return None",
        "tests/integration/test_flow.py::test_unchanged_toast_is_no_change_of_the_text[18]",
    ),
    Mutation(
        "u as proof without known",
        "cdc_embed/change/plan.py",
        "    return None if image.origin is None else proof(states.get((table, image.origin)))",
        "    return Known(getattr(states.get((table, image.origin)), 'fingerprint', b''))",
        "tests/integration/test_flow.py::"
        "test_row_from_before_the_slot_is_read_again_when_it_changes[18]",
    ),
    Mutation(
        "no delete on key change",
        "cdc_embed/change/batch.py",
        "            self.images[change.table, change.old_key] = gone",
        "            del gone",
        "tests/integration/test_flow.py::test_key_changes_move_vectors[18]",
    ),
    Mutation(
        "plans upon a batch that was refused are written",
        "cdc_embed/flow/writing.py",
        "        if generation <= self._outdated:",
        "        if generation < 0:",
        "tests/unit/test_convergence.py::test_whatever_was_embedded_for_a_refused_batch_is_kept",
    ),
    Mutation(
        "a batch is prepared upon one that is not written as planned",
        "cdc_embed/flow/batches.py",
        "            flight.outdated = flight.preparing is not None",
        "            flight.outdated = False",
        "tests/unit/test_convergence.py::test_whatever_happens_the_target_ends_as_the_source_is[False]",
    ),
    Mutation(
        "a batch is written behind one that failed",
        "cdc_embed/flow/writing.py",
        "            except BaseException:",
        "            except OutdatedPlanError:",
        "tests/unit/test_convergence.py::test_nothing_is_written_behind_a_batch_that_failed",
    ),
    Mutation(
        "a range that was cut forgets what its rest needs",
        "cdc_embed/flow/batches.py",
        "            needed=work.needed | {row for row in rows if later.needs(row)},",
        "            needed=work.needed,",
        "tests/unit/test_convergence.py::test_a_row_that_the_rest_of_a_range_needs_is_not_left_out",
    ),
    Mutation(
        "a row that was read before its table was trusted proves",
        "cdc_embed/change/plan.py",
        "stored.provenance is not READ",
        "proof(stored) is not None",
        "tests/unit/test_convergence.py::"
        "test_a_row_read_before_its_table_was_trusted_proves_nothing",
    ),
    Mutation(
        "a batch that is prepared again is paid for again",
        "cdc_embed/flow/supply.py",
        "            and chunk[1] not in facts.vectors",
        "            and chunk[1] is not None",
        "tests/unit/test_convergence.py::test_whatever_was_embedded_for_a_refused_batch_is_kept",
    ),
    Mutation(
        "a refusal is of the row, whatever its text is by now",
        "cdc_embed/change/plan.py",
        "            if digest_of(self.actions.get(row)) == letter.fingerprint:\n"
        "                self.actions[row] = with_letter(self.actions[row], letter)",
        "            if digest := digest_of(self.actions.get(row)):\n"
        "                self.actions[row] = Refuse(digest, letter.reason, letter.error)",
        "tests/unit/test_convergence.py::test_a_refusal_belongs_to_the_text_that_was_refused",
    ),
    Mutation(
        "take another source's vectors",
        "cdc_embed/setup/ownership.py",
        "    elif not takes_over:",
        "    elif takes_over is None:",
        "tests/integration/test_ownership.py::test_two_sources_do_not_share_a_table_of_vectors",
    ),
    Mutation(
        "go on when the vectors are another slot's by now",
        "cdc_embed/service/watch.py",
        "expect_keeper(databases, self._names, migrated=True)",
        "expect_keeper(databases, [], migrated=True)",
        "tests/integration/test_door.py::test_the_error_that_ends_a_service_is_raised_to_its_owner",
    ),
    Mutation(
        "an exception of a listener ends its thread",
        "cdc_embed/service/listeners.py",
        "        except BaseException:",
        "        except Exception:",
        "tests/unit/test_listeners.py::"
        "test_a_listener_that_wants_the_process_to_end_ends_no_thread",
    ),
    Mutation(
        "a standby counts as a loop that hangs",
        "cdc_embed/service/instance.py",
        "                self._telemetry.turned()",
        "                pass",
        "tests/integration/test_door.py::test_a_standby_is_alive_and_ready",
    ),
    Mutation(
        "one cursor instead of two",
        "cdc_embed/source/stream.py",
        "        self._reporter = self._connection.cursor()",
        "        self._reporter = self._reader",
        "tests/integration/test_stream.py::"
        "test_keepalive_in_an_older_transaction_confirms_nothing_new",
    ),
    Mutation(
        "no wait after a data_start of 0",
        "cdc_embed/source/guard.py",
        "        return progress.is_recorded(progress.open_commit)",
        "        return True",
        "tests/integration/test_gate.py::"
        "test_keepalive_after_frame_without_position_confirms_no_more",
    ),
    Mutation(
        "a keepalive comes before the anchor",
        "cdc_embed/service/instance.py",
        "catalogue.anchor()\n            stream.start_replication(self._source.plugin.options)",
        "slot\n            stream.start_replication(self._source.plugin.options)",
        "tests/acceptance/test_durability.py::"
        "test_a_stop_of_the_source_at_once_confirms_nothing_new",
    ),
    Mutation(
        "the anchor is not flushed",
        "sql/source/slot.sql",
        "       pg_current_xact_id()\n",
        "       0\n",
        "tests/integration/test_stream.py::test_the_anchor_comes_before_any_new_position",
    ),
    Mutation(
        "a keepalive answered too soon is a gap",
        "cdc_embed/lsn.py",
        "        return confirmed <= self.durable and recorded >= self.recorded",
        "        return False",
        "tests/acceptance/test_durability.py::test_idle_restart_of_the_source_is_no_history_gap",
    ),
    Mutation(
        "an older target is taken for ours",
        "cdc_embed/lsn.py",
        "        return confirmed <= self.durable and recorded >= self.recorded",
        "        return confirmed <= self.durable",
        "tests/unit/test_lsn.py::test_an_older_target_has_lost_what_was_durable",
    ),
    Mutation(
        "two columns swap names unnoticed",
        "cdc_embed/source/found.py",
        'parts = [f"{c.name}={c.number}{c.inner}" for c in columns]',
        'parts = [f"{c.number}{c.inner}" for c in columns]',
        "tests/integration/test_silent_ddl.py::test_values_that_show_otherwise_are_compared",
    ),
    Mutation(
        "only the type itself is watched",
        "cdc_embed/source/found.py",
        'parts = [f"{c.name}={c.number}{c.inner}" for c in columns]',
        'parts = [f"{c.name}={c.number}" for c in columns]',
        "tests/integration/test_silent_ddl.py::test_values_that_show_otherwise_are_compared",
    ),
    Mutation(
        "a composite with a null in it is null",
        "cdc_embed/source/comparison.py",
        "case when {0} is distinct from null then",
        "case when {0} is not null then",
        "tests/integration/test_silent_ddl.py::test_values_that_show_otherwise_are_compared",
    ),
    Mutation(
        "the key is the primary key, whatever the identity",
        "sql/source/tables.sql",
        "case when f.identified then p.indisreplident else p.indisprimary end",
        "p.indisprimary",
        "tests/integration/test_included_columns.py::"
        "test_the_index_of_the_replica_identity_is_the_key",
    ),
    Mutation(
        "a setting that superusers alone may read is asked for",
        "sql/source/slot.sql",
        "(select setting from pg_settings where name = 'output_plugin_libraries')",
        "current_setting('output_plugin_libraries', true)",
        "tests/integration/test_hosted_servers.py::test_a_role_that_sees_few_settings_is_enough",
    ),
    Mutation(
        "a key without an order is followed",
        "cdc_embed/source/leaves.py",
        "    if leaf.own and leaf.temporal:",
        "    if False:",
        "tests/integration/test_refusals.py::test_unusable_table_is_named_with_what_mends_it",
    ),
    Mutation(
        "NULL in an array is a word",
        "cdc_embed/postgres/side.py",
        '    "array_nulls": "on",\n',
        "",
        "tests/integration/test_metadata.py::test_values_keep_their_types_and_follow_every_change",
    ),
    Mutation(
        "rows that changed long ago stay known",
        "cdc_embed/change/knowledge.py",
        "        return self._committed, self._older",
        "        return self._committed, {}",
        "tests/unit/test_knowledge.py::test_what_was_remembered_long_ago_is_forgotten_alike",
    ),
    Mutation(
        "no visibility check in refetch",
        "cdc_embed/source/rows.py",
        "self.waiting_for = next((xid for xid in xids if not snapshot.sees(xid)), None)",
        "self.waiting_for = None",
        "tests/integration/test_refetch.py::test_text_is_not_read_before_its_commit_is_visible",
    ),
    Mutation(
        "no epoch check",
        "sql/target/store.sql",
        "    batch_seq = %(batch_seq)s, updated_at = now()\n"
        "where slot = %(slot)s and epoch = %(epoch)s",
        "    batch_seq = %(batch_seq)s, updated_at = now()\nwhere slot = %(slot)s",
        "tests/integration/test_store.py::"
        "test_older_writer_cannot_commit_even_when_overtaken_midway",
    ),
    Mutation(
        "slices hide no row",
        "cdc_embed/change/unseen.py",
        "            found |= touched.keys & wanted",
        "            found |= set()",
        "tests/integration/test_reconcile.py::"
        "test_reconcile_puts_no_older_row_over_what_the_log_brought",
    ),
    Mutation(
        "no wait for running transactions before the first slice",
        "cdc_embed/reconcile/slices.py",
        "        while (snapshot := self._rows.snapshot()).xmin < before:",
        "        while (snapshot := self._rows.snapshot()).xmin < 0 * before:",
        "tests/integration/test_reconcile.py::"
        "test_first_slice_waits_for_transactions_that_were_running",
    ),
    Mutation(
        "no comparison of file nodes",
        "cdc_embed/source/rows.py",
        "            if _expect_followed(cursor, table) != files:",
        "            if _expect_followed(cursor, table) is None:",
        "tests/integration/test_reconcile.py::test_read_across_a_rewrite_is_not_believed",
    ),
    Mutation(
        "stored rows trusted while they are compared",
        "cdc_embed/change/knowledge.py",
        "        if isinstance(found, Known) and row[0] not in self.trusted:",
        "        if isinstance(found, Known) and not row:",
        "tests/unit/test_convergence.py::test_a_resumed_comparison_trusts_no_row_not_compared_yet",
    ),
    Mutation(
        "done before the log has come to what was seen",
        "cdc_embed/reconcile/slices.py",
        "while self._lane.durable < end:",
        "while False:",
        "tests/unit/test_convergence.py::"
        "test_a_comparison_ends_only_once_the_log_reached_what_it_saw",
    ),
    Mutation(
        "LRU updated before the commit",
        "cdc_embed/change/knowledge.py",
        "        self._in_flight.append(outcome)",
        "        self._in_flight.append(outcome); self._committed.update(outcome.states)",
        "tests/unit/test_knowledge.py::test_nothing_enters_the_cache_before_its_batch_is_committed",
    ),
    Mutation(
        "confirm before the recorded commit has come again",
        "cdc_embed/flow/confirm.py",
        "confirmable = self._progress.confirmable() if self._assembler.verified else ZERO",
        "confirmable = self._progress.confirmable()",
        "tests/integration/test_gate.py::"
        "test_nothing_is_confirmed_before_the_recorded_commit_returns",
    ),
    Mutation(
        "a slot beyond the record by one byte",
        "cdc_embed/lsn.py",
        "    if slot_confirmed > recorded:",
        "    if slot_confirmed > recorded + 1:",
        "tests/unit/test_lsn.py::test_what_breaks_the_history_is_named_with_its_positions",
    ),
    Mutation(
        "a record ahead of the log",
        "cdc_embed/lsn.py",
        "    if recorded > wal_end:",
        "    if recorded > wal_end + 1:",
        "tests/unit/test_lsn.py::test_what_breaks_the_history_is_named_with_its_positions",
    ),
    Mutation(
        "a source that was rolled back",
        "cdc_embed/lsn.py",
        "        return not seen and commit_end > self.end_lsn > ZERO",
        "        return False",
        "tests/unit/test_transaction.py::test_a_replay_without_the_recorded_commit_is_a_gap",
    ),
    Mutation(
        "an idle service is not told of a new key",
        "cdc_embed/service/watch.py",
        "        if unfit or observed.altered:",
        "        if unfit and observed.altered:",
        "tests/integration/test_key_changes.py::"
        "test_service_without_changes_is_told_of_the_new_key",
    ),
    Mutation(
        "any index as identity at setup",
        "cdc_embed/source/leaves.py",
        "(leaf.identity and set(leaf.identity) == key):",
        "leaf.identity:",
        "tests/integration/test_refusals.py::test_unusable_table_is_named_with_what_mends_it",
    ),
    Mutation(
        "an identity that moved while the service runs",
        "cdc_embed/change/transaction.py",
        "is not ReplicaIdentity.FULL and identity != set(key):",
        "is not ReplicaIdentity.FULL and not identity:",
        "tests/unit/test_transaction.py::"
        "test_an_identity_other_than_the_primary_key_stops_the_table",
    ),
    Mutation(
        "unchanged texts not filled from the pending image",
        "cdc_embed/change/batch.py",
        "filled = _fill(texts, before.texts), _fill(metadata, before.metadata)",
        "filled = texts, metadata",
        "tests/integration/test_unchanged_texts.py::"
        "test_another_later_change_never_hides_the_change_of_a_text[together]",
    ),
    Mutation(
        "batches in flight not looked at",
        "cdc_embed/change/knowledge.py",
        "        for outcome in reversed(self._in_flight):",
        "        for outcome in ():",
        "tests/unit/test_knowledge.py::test_the_newest_batch_in_flight_speaks_first",
    ),
    Mutation(
        "replayed changes applied again",
        "cdc_embed/change/transaction.py",
        "            if self._checkpoint.covers(position):",
        "            if False:",
        "tests/unit/test_transaction.py::test_exactly_the_changes_the_record_covers_are_left_out",
    ),
    Mutation(
        "a batch written again when its answer was lost",
        "cdc_embed/target/store.py",
        "                if self._is_committed(cursor, batch_seq):\n                    return\n",
        "                self._is_committed(cursor, batch_seq)\n",
        "tests/integration/test_store.py::test_batch_whose_answer_was_lost_is_not_written_twice",
    ),
    Mutation(
        "a row read again across a rewrite",
        "cdc_embed/source/rows.py",
        "            if _expect_followed(cursor, table) != files:",
        "            if _expect_followed(cursor, table) == ():",
        "tests/integration/test_refetch.py::"
        "test_rows_are_read_again_if_the_table_is_rewritten_meanwhile",
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
        "a table that left and came back is the same",
        "cdc_embed/source/publishing.py",
        'lambda source: versions.get(source.table.oid, "")',
        'lambda source: ""',
        "tests/integration/test_undelivered.py::"
        "test_table_that_left_and_came_back_unseen_is_compared[pgoutput]",
    ),
    Mutation(
        "a primary key made anew is the same",
        "cdc_embed/source/coverage.py",
        "lambda source: versions[source.table.full_name]",
        'lambda source: ""',
        "tests/integration/test_undelivered.py::"
        "test_primary_key_that_was_away_unseen_means_a_comparison[wal2json]",
    ),
    Mutation(
        "a leaf that was changed is the same",
        "cdc_embed/change/shape.py",
        "if found[oid] != known[oid]",
        "if not known[oid]",
        "tests/integration/test_leaves.py::test_changed_leaf_is_compared_alone[18]",
    ),
    Mutation(
        "keys without rows are looked for before the log has brought them",
        "cdc_embed/reconcile/reconciler.py",
        "            self._slices.wait_until_durable()  # the log can still bring rows",
        "            #",
        "tests/unit/test_convergence.py::"
        "test_a_partition_is_compared_after_what_the_log_has_of_it[it is gone]",
    ),
    Mutation(
        "a leaf is compared before the log has brought its older versions",
        "cdc_embed/reconcile/reconciler.py",
        "        if pending.leaves:\n",
        "        if not pending.leaves:\n",
        "tests/unit/test_convergence.py::"
        "test_a_partition_is_compared_after_what_the_log_has_of_it[it is back]",
    ),
    Mutation(
        "a leaf that was changed left no keys behind",
        "cdc_embed/change/shape.py",
        "orphans=bool(new or gone or changed)",
        "orphans=bool(new or gone)",
        "tests/unit/test_convergence.py::test_partitions_that_come_and_go_end_as_the_source_is",
    ),
    Mutation(
        "a new leaf was not emptied before",
        "cdc_embed/change/shape.py",
        "orphans=bool(new or gone or changed)",
        "orphans=bool(gone or changed)",
        "tests/integration/test_leaves.py::"
        "test_leaf_between_two_looks_leaves_nothing_behind[18-truncate passing-False]",
    ),
    Mutation(
        "a former key's column stays not null",
        "sql/target/kept.sql",
        "k.indrelid = t.oid and k.indisprimary and a.attnum",
        "k.indrelid = 0 and k.indisprimary and a.attnum",
        "tests/integration/test_key_changes.py::test_a_column_that_leaves_the_key_may_be_null",
    ),
    Mutation(
        "a leaf that went left nothing behind",
        "cdc_embed/change/shape.py",
        "gone = known.keys() - found.keys()",
        "gone = frozenset[int]()",
        "tests/integration/test_leaves.py::"
        "test_keys_of_a_leaf_that_was_emptied_elsewhere_are_deleted[18]",
    ),
    Mutation(
        "a leaf that comes with rows is empty",
        "cdc_embed/change/shape.py",
        "known.keys() - set(never_filled)\n    gone",
        "found.keys()\n    gone",
        "tests/integration/test_leaves.py::test_leaf_that_comes_with_rows_is_compared_alone[18]",
    ),
    Mutation(
        "a running service waits for a table that another one replaced",
        "cdc_embed/service/watch.py",
        "        if not successors or coverage.by_name:",
        "        if successors or not successors:",
        "tests/integration/test_undelivered.py::"
        "test_setup_gives_a_running_service_the_table_of_the_name",
    ),
    Mutation(
        "our policies keep a key column as it is",
        "cdc_embed/target/view.py",
        "        return [drop_view(self._schema, self._table.search_view), *self._drop_policies()]",
        "        return [drop_view(self._schema, self._table.search_view)]",
        "tests/integration/test_row_security.py::test_a_key_under_a_policy_is_retyped_in_place",
    ),
    Mutation(
        "a leaf that came and went between two looks was never there",
        "cdc_embed/service/shapes.py",
        "            passed = met.get(name, frozenset()) - shape.leaves.keys()",
        "            passed = frozenset()",
        "tests/integration/test_leaves.py::test_leaf_between_two_looks_leaves_nothing_behind",
    ),
    Mutation(
        "keys of a leaf that went are kept",
        "cdc_embed/change/shape.py",
        "orphans=bool(new or gone or changed)",
        "orphans=False",
        "tests/integration/test_leaves.py::test_keys_of_a_leaf_that_went_are_deleted"
        "[18-drop table low]",
    ),
    Mutation(
        "a partition that comes or goes begins the comparison anew",
        "cdc_embed/service/shapes.py",
        "known.leaf_digest is None:",
        "known:",
        "tests/integration/test_leaves.py::"
        "test_partitions_that_come_and_go_do_not_delay_a_backfill[18]",
    ),
    Mutation(
        "a leaf that was changed again is compared",
        "sql/target/reconcile.sql",
        " and leaves ->> %(leaf)s::text = %(token)s",
        "",
        "tests/integration/test_leaves.py::"
        "test_leaf_changed_while_it_is_compared_is_compared_again[18]",
    ),
    Mutation(
        "an idle service asks what it has asked already",
        "cdc_embed/reconcile/reconciler.py",
        "return not self._opened or self._surroundings.has_work",
        "return True",
        "tests/acceptance/test_many_tables.py::"
        "test_an_idle_service_costs_three_statements_a_second[3-10]",
    ),
    Mutation(
        "a call that fails is repeated whole",
        "cdc_embed/flow/call_size.py",
        "self._now = max(1, min(self._now, count // 2))",
        "pass",
        "tests/unit/test_embedding_runner.py::"
        "test_a_service_that_takes_few_texts_at_once_takes_all[timeout]",
    ),
    Mutation(
        "what a service refuses is not remembered",
        "cdc_embed/flow/embedding.py",
        "self._size.refused(texts, in_doubt=self._blame.contradicts_itself)",
        "pass",
        "tests/unit/test_embedding_runner.py::"
        "test_a_service_that_refuses_many_texts_is_learned_once",
    ),
    Mutation(
        "a call can have more tokens than ever pass",
        "cdc_embed/flow/texts.py",
        "            count = sum(total <= self._most_tokens for total in tokens)\n",
        "",
        "tests/unit/test_embedding_runner.py::test_no_call_has_more_tokens_than_it_can_carry",
    ),
    Mutation(
        "a text that is not taken is lost",
        "cdc_embed/flow/supply.py",
        "        planned.defer_texts(facts.untaken)\n",
        "        planned.drop_texts(facts.untaken)\n",
        "tests/unit/test_convergence.py::test_deferred_rows_end_as_the_source_is",
    ),
    Mutation(
        "a deferred row is known to no batch in flight",
        "cdc_embed/change/action.py",
        "            return Deferred(xid)\n",
        "            return None\n",
        "tests/unit/test_convergence.py::test_deferred_rows_end_as_the_source_is",
    ),
    Mutation(
        "a deferred row that is read too early",
        "cdc_embed/flow/examine.py",
        "            if state.xid is not None and not part.snapshot.sees(state.xid):\n",
        "            if False:\n",
        "tests/unit/test_convergence.py::test_deferred_rows_end_as_the_source_is",
    ),
    Mutation(
        "a deferred row that says not what a read must see",
        "cdc_embed/change/plan.py",
        "Defer(image.change.xid if image is not None else None)",
        "Defer(None)",
        "tests/unit/test_convergence.py::test_deferred_rows_end_as_the_source_is",
    ),
    Mutation(
        "a deferred row is written over a later change",
        "cdc_embed/flow/examine.py",
        "            if not isinstance(state, Deferred):\n                continue\n",
        "            if not isinstance(state, Deferred):\n                state = Deferred()\n",
        "tests/unit/test_convergence.py::test_deferred_rows_end_as_the_source_is",
    ),
    Mutation(
        "a deferred row that lost its donor is forgotten",
        "cdc_embed/flow/examine.py",
        "        hidden |= {key for _, key in planned.drop_texts(lacking)}\n",
        "        planned.drop_texts(lacking)\n",
        "tests/unit/test_convergence.py::test_a_deferred_row_that_loses_its_donor_is_embedded",
    ),
    Mutation(
        "an older read of a deferred row replaces a newer",
        "cdc_embed/flow/lane.py",
        " and part.deferrals == self.deferrals:",
        ":",
        "tests/unit/test_lane.py::test_a_slice_that_defers_outdates_the_reads_before_it",
    ),
    Mutation(
        "a deferred row is drift",
        "cdc_embed/change/compare.py",
        "        return Verdict.PENDING\n",
        "        return Verdict.STALE\n",
        "tests/integration/test_deferred.py::test_deletes_do_not_wait_for_an_embedder_that_is_away",
    ),
    Mutation(
        "a deferred row as proof",
        "cdc_embed/target/lookups.py",
        "    if deferred:\n",
        "    if False:\n",
        "tests/integration/test_store.py::test_a_deferred_row_is_noted_and_keeps_its_chunks",
    ),
    Mutation(
        "a later change leaves a row deferred",
        "cdc_embed/target/write.py",
        '            self._execute("delete_deferred", self._statements.keys(settled))',
        "            pass",
        "tests/integration/test_store.py::test_what_settles_a_row_makes_it_deferred_no_more",
    ),
    Mutation(
        "TRUNCATE leaves rows deferred",
        "cdc_embed/target/write.py",
        '("delete_all_chunks", "delete_all_letters", "delete_all_deferred")',
        '("delete_all_chunks", "delete_all_letters")',
        "tests/integration/test_store.py::test_truncate_clears_the_deferred_rows_of_its_table",
    ),
    Mutation(
        "deferred rows are forgotten at a restart",
        "cdc_embed/reconcile/deferred.py",
        "        self._looked_at: list[Table] | None = None",
        "        self._looked_at = self._delivered()",
        "tests/unit/test_deferred_reader.py::"
        "test_rows_are_looked_for_at_the_start_and_after_a_pause",
    ),
    Mutation(
        "deferred rows of a table that is back are left alone",
        "cdc_embed/reconcile/deferred.py",
        " or self._delivered() != self._looked_at:",
        ":",
        "tests/unit/test_deferred_reader.py::"
        "test_rows_are_looked_for_at_the_start_and_after_a_pause",
    ),
    Mutation(
        "deferred keys keep a former name",
        "sql/target/shadow.sql",
        "update {schema}.deferred set key = (key - {column})",
        "update {schema}.deferred set key = key || (key - {column})",
        "tests/integration/test_deferred.py::test_a_deferred_row_follows_its_renamed_key",
    ),
    Mutation(
        "deletes wait in an outage",
        "cdc_embed/flow/going_on.py",
        "        elif self._is_late(now, answers) and self._others_wait():\n",
        "        elif False:\n",
        "tests/unit/test_embedding_runner.py::test_in_an_outage_texts_are_left_if_others_wait",
    ),
    Mutation(
        "a pause that the service asks for counts against texts",
        "cdc_embed/flow/blame.py",
        "        if not (failure.retry_after or failure.of_known_good):",
        "        if not failure.of_known_good:",
        "tests/unit/test_blame.py::test_a_service_that_names_a_time_is_not_asked_before",
    ),
    Mutation(
        "one text's pause is everybody's",
        "cdc_embed/flow/pauses.py",
        "        if doubted and now - away_since < PROOF_SECONDS and not failure.lasts:",
        "        if False:",
        "tests/unit/test_answers.py::"
        "test_a_service_that_contradicts_its_pause_stops_no_others[1.0-texts0]",
    ),
    Mutation(
        "a service that was doubted is never left alone",
        "cdc_embed/flow/pauses.py",
        " and now - away_since < PROOF_SECONDS",
        "",
        "tests/unit/test_answers.py::test_a_doubted_service_that_takes_nothing_is_left_alone",
    ),
    Mutation(
        "a service without money is doubted",
        "cdc_embed/flow/pauses.py",
        " and not failure.lasts:",
        ":",
        "tests/unit/test_answers.py::test_no_money_is_never_doubted",
    ),
    Mutation(
        "one answer stops everything for ten minutes",
        "cdc_embed/flow/pauses.py",
        "            asked = min(asked, LONGEST_UNPROVEN)\n",
        "            pass\n",
        "tests/unit/test_answers.py::test_what_one_answer_asks_for_is_proven_after_a_minute",
    ),
    Mutation(
        "a text that was taken counts as one that is not",
        "cdc_embed/flow/pauses.py",
        "            self._asking.pop(hash(text), None)\n",
        "            pass\n",
        "tests/unit/test_answers.py::"
        "test_a_service_is_left_alone_again_when_it_asks_for_it[300.0-texts1]",
    ),
    Mutation(
        "after a pause a whole batch goes first",
        "cdc_embed/flow/embedding.py",
        "            if self._answers.is_unproven:",
        "            if False:",
        "tests/unit/test_blame.py::test_after_a_pause_the_known_good_text_goes_first",
    ),
    Mutation(
        "a text is tried within the pause that is asked for it",
        "cdc_embed/flow/embedding.py",
        "        result.untaken |= self._blame.held_back(texts)\n",
        "",
        "tests/unit/test_blame.py::test_a_text_that_asks_for_time_keeps_no_other_waiting",
    ),
    Mutation(
        "an older success in a pause ends an outage",
        "cdc_embed/flow/answers.py",
        "            if self.taken_at < self._pauses.until:",
        "            if False:",
        "tests/unit/test_answers.py::test_an_older_success_in_a_pause_ends_no_outage",
    ),
    Mutation(
        "our own rate limit is an outage",
        "cdc_embed/flow/answers.py",
        "        now = self._failed_at if self.held else self._clock()",
        "        now = self._clock()",
        "tests/unit/test_going_on.py::test_calls_that_our_own_limit_holds_are_no_outage",
    ),
    Mutation(
        "an outage is not seen behind a limit of ours",
        "cdc_embed/flow/answers.py",
        "        if self.away_since is not None:\n            since = min",
        "        if False:\n            since = min",
        "tests/unit/test_conformance.py::test_an_outage_is_seen_behind_a_limit_of_ours[60]",
    ),
    Mutation(
        "a call that our own limit holds is no call",
        "cdc_embed/flow/answers.py",
        " and self._trying and self.held:",
        " and False:",
        "tests/unit/test_answers.py::test_a_call_that_our_own_limit_holds_is_followed_by_none",
    ),
    Mutation(
        "our own rate limit is trouble of the service",
        "cdc_embed/flow/patience.py",
        "            began = now if self.call.held else max(began, self.call.sent_at)",
        "            pass",
        "tests/unit/test_patience.py::test_a_wait_for_our_own_turn_is_no_wait_for_the_service",
    ),
    Mutation(
        "a text for which there is no room is blamed in a minute",
        "cdc_embed/flow/strikes.py",
        "        if failure.overloaded:\n            overloads",
        "        if False:\n            overloads",
        "tests/unit/test_blame.py::test_a_text_for_which_there_is_no_room_gets_an_hour[503]",
    ),
    Mutation(
        "a text for which there is never room waits for ever",
        "cdc_embed/flow/strikes.py",
        "        if overloads >= TRIES and now",
        "        if False and now",
        "tests/unit/test_blame.py::test_a_text_for_which_there_is_no_room_gets_an_hour[429]",
    ),
    Mutation(
        "a text for which there is no room is tried as often",
        "cdc_embed/flow/strikes.py",
        "growing if failure.overloaded else 0.0",
        "0.0",
        "tests/unit/test_blame.py::test_a_text_for_which_there_is_no_room_gets_an_hour[503]",
    ),
    Mutation(
        "sizes that failed keep texts",
        "cdc_embed/flow/call_size.py",
        "frozenset(map(hash, texts))",
        "frozenset(texts)",
        "tests/unit/test_call_size.py::test_sizes_that_failed_keep_no_text",
    ),
    Mutation(
        "a known-good text that is needless takes a turn",
        "cdc_embed/flow/embedding.py",
        "        if self._answers.taken_at >= asked_at:\n",
        "        self._calls.expect_time()\n        if self._answers.taken_at >= asked_at:\n",
        "tests/unit/test_embedding_runner.py::"
        "test_a_known_good_text_that_is_needless_uses_up_no_call",
    ),
    Mutation(
        "nobody hears what the known-good text gets",
        "cdc_embed/flow/embedding.py",
        "filter(None, [*futures, self._asking])",
        "futures",
        "tests/unit/test_embedding_runner.py::test_a_fatal_answer_to_the_known_good_text_is_raised",
    ),
    Mutation(
        "a text that failed goes with others",
        "cdc_embed/flow/blame.py",
        "                return head[: max(1, place)]",
        "                return head",
        "tests/unit/test_blame.py::test_a_text_that_failed_goes_alone_and_is_tried_once",
    ),
    Mutation(
        "a text that failed before is tried twice each time",
        "cdc_embed/flow/blame.py",
        "        if still and (run.fails_again(head) or before):",
        "        if still and run.fails_again(head):",
        "tests/unit/test_blame.py::test_a_text_that_failed_goes_alone_and_is_tried_once",
    ),
    Mutation(
        "after an outage texts that failed go with others",
        "cdc_embed/flow/strikes.py",
        "        self._by_text[digest] = TextFailures(self.failures(digest))",
        "        self._by_text.pop(digest, None)",
        "tests/unit/test_blame.py::test_a_text_that_failed_goes_alone_and_is_tried_once",
    ),
    Mutation(
        "a deferred row that is known to fail keeps others apart",
        "cdc_embed/reconcile/deferred.py",
        "self._most = 1 if first",
        "self._most = 1 if untaken",
        "tests/unit/test_deferred_reader.py::test_a_row_that_is_not_taken_is_followed_by_one_alone",
    ),
    Mutation(
        "deferred rows stay together after one that is not taken",
        "cdc_embed/reconcile/deferred.py",
        "self._most = 1 if first",
        "self._most = 4 if first",
        "tests/unit/test_deferred_reader.py::test_a_row_that_is_not_taken_is_followed_by_one_alone",
    ),
    Mutation(
        "a model without memory refuses a text",
        "cdc_embed/embed/sentence_transformers.py",
        "            if _lacks_memory(exc):",
        "            if False:",
        "tests/unit/test_sentence_transformers_embedder.py::"
        "test_a_model_without_memory_gets_fewer_texts[allocator]",
    ),
    Mutation(
        "texts are waited for while the log is not read on",
        "cdc_embed/flow/batches.py",
        "            if others or not self.reads_on:\n",
        "            if others:\n",
        "tests/integration/test_deferred.py::test_a_delete_that_may_not_be_read_yet_does_not_wait",
    ),
    Mutation(
        "the ids of transactions have 32 bits",
        "cdc_embed/change/transaction.py",
        "            self._near_xid = widen(message.xid, self._near_xid)\n",
        "            self._near_xid = message.xid\n",
        "tests/unit/test_transaction.py::test_the_ids_of_transactions_are_widened_across_an_epoch",
    ),
    Mutation(
        "deletes behind a full memory wait in an outage",
        "cdc_embed/flow/batches.py",
        "(outage and (self.full or self._lane.waits))",
        "(outage and self._lane.waits)",
        "tests/integration/test_nothing_waits.py::test_a_delete_behind_a_full_memory_does_not_wait",
    ),
    Mutation(
        "a bulk load is deferred if the embedder is slow",
        "cdc_embed/flow/batches.py",
        "(outage and (self.full or self._lane.waits))",
        "self.full",
        "tests/integration/test_nothing_waits.py::"
        "test_a_bulk_load_waits_in_the_log_for_a_slow_embedder",
    ),
    Mutation(
        "who reads rows waits for an outage's end",
        "cdc_embed/flow/batches.py",
        "(outage and (self.full or self._lane.waits))",
        "(outage and self.full)",
        "tests/integration/test_nothing_waits.py::test_verify_does_not_wait_for_the_embedder",
    ),
    Mutation(
        "who waits for the position waits for an outage's end",
        "cdc_embed/flow/lane.py",
        " or self.distrusts or self.durable < self.awaited",
        " or self.distrusts",
        "tests/integration/test_nothing_waits.py::test_orphans_go_while_the_embedder_is_away",
    ),
    Mutation(
        "deletes behind a batch that is prepared again wait in an outage",
        "cdc_embed/flow/batches.py",
        "            if others or not self.reads_on:\n",
        "            if not self.reads_on:\n",
        "tests/integration/test_nothing_waits.py::"
        "test_deletes_behind_a_batch_prepared_again_do_not_wait",
    ),
    Mutation(
        "rows that are read wait for an outage's end",
        "cdc_embed/flow/batches.py",
        "                return outage or self.pending.changes > 0\n",
        "                return self.pending.changes > 0\n",
        "tests/integration/test_nothing_waits.py::"
        "test_a_backfill_in_an_outage_does_not_hold_up_a_retry",
    ),
    Mutation(
        "a slow embedder is taken for one that is away",
        "cdc_embed/flow/answers.py",
        "max(GO_ON_SECONDS, 2 * self._took_seconds)",
        "GO_ON_SECONDS",
        "tests/unit/test_going_on.py::test_an_embedder_that_was_as_slow_before_is_no_outage",
    ),
    Mutation(
        "new rows are no back pressure in an outage",
        "cdc_embed/flow/going_on.py",
        " and self._others_wait():\n",
        ":\n",
        "tests/unit/test_embedding_runner.py::test_in_an_outage_nothing_but_new_texts_waits_for_its_end",
    ),
    Mutation(
        "a call that is not answered is made again",
        "cdc_embed/flow/embedding.py",
        "        coming = self.kept.coming(texts) if others_wait is None else []\n",
        "        coming: list[bytes] = []\n",
        "tests/unit/test_embedding_runner.py::test_a_text_that_takes_long_is_left_and_embedded_once",
    ),
    Mutation(
        "a text that came too late is embedded again",
        "cdc_embed/flow/embedding.py",
        "            self.kept.keep(embedded)\n",
        "            pass\n",
        "tests/unit/test_embedding_runner.py::test_a_text_that_takes_long_is_left_and_embedded_once",
    ),
    Mutation(
        "a call that is too slow stays as large",
        "cdc_embed/flow/embedding.py",
        "                self._size.mark_failed(texts)\n",
        "                pass\n",
        "tests/unit/test_embedding_runner.py::test_a_slow_call_of_many_texts_makes_the_next_ones_smaller",
    ),
    Mutation(
        "a text that fails alone is waited for",
        "cdc_embed/flow/blame.py",
        "        if still and (run.fails_again(head) or before):",
        "        if False:",
        "tests/unit/test_embedding_runner.py::test_a_text_the_service_fails_at_is_left_and_no_other_waits",
    ),
    Mutation(
        "an outage counts against a text",
        "cdc_embed/flow/blame.py",
        "                self._strikes.begin_anew()",
        "                pass",
        "tests/unit/test_embedding_runner.py::test_an_outage_begins_the_count_of_a_text_anew",
    ),
    Mutation(
        "a text is blamed within a minute",
        "cdc_embed/flow/strikes.py",
        " and now - since >= self._seconds\n",
        "\n",
        "tests/unit/test_embedding_runner.py::test_a_text_the_service_fails_at_is_blamed_after_a_minute",
    ),
    Mutation(
        "a text that fails is tried again in even steps",
        "cdc_embed/flow/blame.py",
        "(1, 2, 1, 1)",
        "(1, 1, 1, 1)",
        "tests/unit/test_conformance.py::"
        "test_another_table_is_served_on_every_day[Ollama-one server of two answers pages]",
    ),
    Mutation(
        "one server that hangs makes every call small",
        "cdc_embed/flow/calls.py",
        "exc.reason == TIMEOUT and self.is_hanging(call, self._clock())",
        "False",
        "tests/unit/test_conformance.py::"
        "test_every_service_is_used_well_on_every_day[TEI-one server of two hangs]",
    ),
    Mutation(
        "a text that hangs is never proven to be to blame",
        "cdc_embed/flow/blame.py",
        "        run.failing = False  # a proof is waited for, if nothing else waits\n",
        "",
        "tests/unit/test_conformance.py::"
        "test_every_service_is_used_well_on_every_day[NIM-one text always hangs]",
    ),
    Mutation(
        "a call with a text that hangs is never halved",
        "cdc_embed/flow/blame.py",
        "            return not run.fails_again(head)",
        "            return True",
        "tests/unit/test_conformance.py::"
        "test_every_service_is_used_well_on_every_day[NIM-one text always hangs]",
    ),
    Mutation(
        "a slow service is taken for one that hangs",
        "cdc_embed/flow/calls.py",
        "seconds * max(1.0, texts / count) < most",
        "True",
        "tests/unit/test_embedding_runner.py::test_a_call_hangs_if_others_as_large_are_quick",
    ),
    Mutation(
        "texts that met a server that hangs go alone",
        "cdc_embed/flow/blame.py",
        " or (failures and not self.hangs):",
        " or failures:",
        "tests/unit/test_conformance.py::test_another_table_is_served_on_every_day"
        "[NIM-one server of three hangs for half a minute]",
    ),
    Mutation(
        "rows deferred for a server that hangs are embedded one by one",
        "cdc_embed/reconcile/deferred.py",
        "MOST if self._embedding.supply.runner.hangs else self._most",
        "self._most",
        "tests/unit/test_deferred_reader.py::test_a_row_that_is_not_taken_is_followed_by_one_alone",
    ),
    Mutation(
        "deferred rows are embedded in one call at a time",
        "cdc_embed/flow/embedding.py",
        'threads.workers(card.concurrency, "embed-deferred")',
        'threads.workers(1, "embed-deferred")',
        "tests/unit/test_embedding_runner.py::test_deferred_texts_go_in_several_calls_at_once",
    ),
    Mutation(
        "a text and the known-good one meet the same servers in turns",
        "cdc_embed/flow/proof.py",
        "random.sample(LOTS, len(LOTS))",
        "LOTS[::-1]",
        "tests/unit/test_proof.py::test_one_bad_server_makes_no_letter",
    ),
    Mutation(
        "five failures of a text are proof enough",
        "cdc_embed/flow/proof.py",
        "CHANCE: Final = 1e-6",
        "CHANCE: Final = 0.01",
        "tests/unit/test_proof.py::test_failures_of_the_known_good_text_need_more_calls",
    ),
    Mutation(
        "failures of the known-good text count for nothing",
        "cdc_embed/flow/proof.py",
        "        known_good = self.taken + self.good_failed",
        "        known_good = self.taken",
        "tests/unit/test_proof.py::test_failures_of_the_known_good_text_need_more_calls",
    ),
    Mutation(
        "one failure of the known-good text ends a proof",
        "cdc_embed/flow/proof.py",
        "MOST_IN_A_ROW: Final = 8",
        "MOST_IN_A_ROW: Final = 1",
        "tests/unit/test_proof.py::test_a_bad_text_beside_a_bad_server_is_a_letter",
    ),
    Mutation(
        "a bad server's turn is an outage each time",
        "cdc_embed/flow/blame.py",
        "if not (still or (well and self.contradicts_itself)):",
        "if not still:",
        "tests/unit/test_proof.py::test_a_bad_text_beside_a_bad_server_is_a_letter",
    ),
    Mutation(
        "a bad server makes all texts innocent for ever",
        "cdc_embed/flow/blame.py",
        "            if not self.contradicts_itself:\n                self._strikes",
        "            if True:\n                self._strikes",
        "tests/unit/test_proof.py::test_a_bad_text_beside_a_bad_server_is_a_letter",
    ),
    Mutation(
        "a cache answers for a service that is away",
        "cdc_embed/flow/proof.py",
        "            random.shuffle(words)\n",
        "",
        "tests/unit/test_proof.py::test_an_outage_that_spares_a_short_text_makes_no_letter[cached]",
    ),
    Mutation(
        "a long text is blamed while short ones are taken",
        "cdc_embed/flow/proof.py",
        "min(characters, self._longest)",
        "0",
        "tests/unit/test_proof.py::"
        "test_an_outage_that_spares_a_short_text_makes_no_letter[short_first]",
    ),
    Mutation(
        "too long a text waits for ever",
        "cdc_embed/flow/proof.py",
        "min(characters, self._longest)",
        "characters",
        "tests/unit/test_proof.py::test_too_long_a_text_is_to_blame_at_once",
    ),
    Mutation(
        "a proof takes what speaks of no text",
        "cdc_embed/flow/proof.py",
        "bool(error.overloaded or error.reason)",
        "True",
        "tests/unit/test_proof.py::test_a_failure_that_speaks_of_no_text_is_no_proof",
    ),
    Mutation(
        "a contradiction of the service is believed at once",
        "cdc_embed/flow/blame.py",
        "        return self._clock() - self._contradicted_at < CONTRADICTION_SECONDS",
        "        return False",
        "tests/unit/test_blame.py::test_a_service_that_contradicts_itself_gets_a_minute",
    ),
    Mutation(
        "a contradiction of the service is remembered for good",
        "cdc_embed/flow/blame.py",
        "        return self._clock() - self._contradicted_at < CONTRADICTION_SECONDS",
        "        return self._contradicted_at > -inf",
        "tests/unit/test_blame.py::test_a_service_that_contradicts_itself_gets_a_minute",
    ),
    Mutation(
        "what one bad server refuses is halved",
        "cdc_embed/flow/blame.py",
        "                return self._repeat(call)",
        "                raise refusal",
        "tests/unit/test_blame.py::test_a_refused_call_is_made_again_after_a_contradiction",
    ),
    Mutation(
        "one failure between good calls halves them",
        "cdc_embed/flow/blame.py",
        "        return not (slow or self._size.is_failing or run.fails_again(head))",
        "        return False",
        "tests/unit/test_blame.py::test_one_failure_between_good_calls_halves_nothing[server_error]",
    ),
    Mutation(
        "a failure without a reason is never halved",
        "cdc_embed/flow/blame.py",
        " and (failure.reason or self.is_well()):",
        " and failure.reason:",
        "tests/unit/test_blame.py::test_a_text_that_fails_keeps_no_other_waiting[429]",
    ),
    Mutation(
        "a text is blamed for what speaks of none",
        "cdc_embed/flow/strikes.py",
        "        elif failure.reason:\n",
        "        else:\n",
        "tests/unit/test_blame.py::test_what_speaks_of_no_text_makes_no_letter[429]",
    ),
    Mutation(
        "a key that is refused for all texts is waited for",
        "cdc_embed/flow/blame.py",
        "                raise exc.for_all_texts from exc\n",
        "                pass\n",
        "tests/unit/test_blame.py::test_a_key_refused_for_every_text_ends_the_service",
    ),
    Mutation(
        "the known-good text's failure halves calls",
        "cdc_embed/flow/blame.py",
        "        if not (failure.retry_after or failure.of_known_good):",
        "        if not failure.retry_after:",
        "tests/unit/test_blame.py::test_a_known_good_text_that_fails_halves_no_call",
    ),
    Mutation(
        "many refusals in a row are not told",
        "cdc_embed/flow/blame.py",
        "        if before <= MOST_LETTERS_IN_A_ROW < self._letters_in_a_row:",
        "        if False:",
        "tests/unit/test_embedding_runner.py::test_many_refusals_in_a_row_end_nothing_and_are_told_once",
    ),
    Mutation(
        "a firewall that forbids one text ends the service",
        "cdc_embed/embed/http.py",
        "        if self._worked and not query:",
        "        if False:",
        "tests/unit/test_http_embedder.py::test_a_key_that_has_worked_is_refused_with_a_text",
    ),
    Mutation(
        "a dropped connection speaks of no text",
        "cdc_embed/embed/failures.py",
        '    return SERVER_ERROR if isinstance(failure, dropped) else ""',
        '    return ""',
        "tests/unit/test_http_embedder.py::test_dropped_connection_is_transient",
    ),
    Mutation(
        "one server that refuses a key ends the service",
        "cdc_embed/rotation.py",
        "self._worked and (self.in_file or self.many_servers)",
        "self._worked and self.in_file",
        "tests/unit/test_rotation.py::test_a_secret_that_others_take_is_waited_for_a_minute",
    ),
    Mutation(
        "each batch asks a service that wants time",
        "cdc_embed/flow/calls.py",
        "        self._answers.expect_time()\n",
        "",
        "tests/unit/test_embedding_runner.py::test_a_service_that_asks_for_time_is_given_it_by_each_batch",
    ),
    Mutation(
        "each batch of an outage begins anew",
        "cdc_embed/flow/calls.py",
        "        self._answers.expect_time()\n",
        "",
        "tests/unit/test_embedding_runner.py::"
        "test_an_outage_is_asked_by_one_call_for_all_batches[500]",
    ),
    Mutation(
        "a pause is no pause for the known-good text",
        "cdc_embed/flow/going_on.py",
        " or answers.is_to_be_left_alone(now)",
        "",
        "tests/unit/test_answers.py::test_no_known_good_text_asks_in_a_pause",
    ),
    Mutation(
        "a storm of refusals is no outage",
        "cdc_embed/flow/calls.py",
        "        if is_known_good(texts):",
        "        if False:",
        "tests/unit/test_embedding_runner.py::"
        "test_an_outage_is_asked_by_one_call_for_all_batches[400]",
    ),
    Mutation(
        "all ask at once whether a service is back",
        "cdc_embed/flow/answers.py",
        "                self._call_at = now + max(GO_ON_SECONDS, self._next_delay())",
        "                pass",
        "tests/unit/test_answers.py::test_one_call_asks_for_all_whether_the_service_is_back",
    ),
    Mutation(
        "a success does not end the delays",
        "cdc_embed/flow/answers.py",
        "self._failures, self._call_at, self._trying = 0, self._pauses.until, False",
        "self._trying = False",
        "tests/unit/test_answers.py::test_one_call_asks_for_all_whether_the_service_is_back",
    ),
    Mutation(
        "a success ends a pause that is asked for",
        "cdc_embed/flow/answers.py",
        "self._failures, self._call_at, self._trying = 0, self._pauses.until, False",
        "self._failures, self._call_at, self._trying = 0, 0.0, False",
        "tests/unit/test_answers.py::test_a_success_ends_no_pause_that_is_asked_for",
    ),
    Mutation(
        "calls that fail together are many failures",
        "cdc_embed/flow/answers.py",
        "            if began < self._failed_at and not failure.retry_after:",
        "            if False:",
        "tests/unit/test_answers.py::test_calls_that_fail_together_are_one_failure",
    ),
    Mutation(
        "a call that hangs keeps all others from asking",
        "cdc_embed/flow/answers.py",
        "max(GO_ON_SECONDS, self._next_delay())",
        "600.0",
        "tests/unit/test_answers.py::test_a_call_that_hangs_is_followed_by_another",
    ),
    Mutation(
        "a wait for our own turn is a slow service",
        "cdc_embed/flow/going_on.py",
        "self._progressed, self.held = now, True",
        "self.held = True",
        "tests/unit/test_embedding_runner.py::"
        "test_a_wait_for_our_own_turn_is_no_sign_of_anything[stream]",
    ),
    Mutation(
        "a call that is not sent is too large",
        "cdc_embed/flow/embedding.py",
        "            if call.held or not texts:",
        "            if not texts:",
        "tests/unit/test_embedding_runner.py::test_deletes_wait_for_no_turn_of_ours",
    ),
    Mutation(
        "each batch waits 5 s for our own limit",
        "cdc_embed/flow/going_on.py",
        "answers.held_since if self._run.held else None",
        "None",
        "tests/unit/test_embedding_runner.py::test_deletes_wait_for_no_turn_of_ours",
    ),
    Mutation(
        "nobody sees that a call is not sent",
        "cdc_embed/embed/pace.py",
        "            call.held = True\n",
        "            pass\n",
        "tests/unit/test_turns.py::test_a_call_can_be_seen_to_wait_for_its_turn",
    ),
    Mutation(
        "a call that nobody waits for takes a turn",
        "cdc_embed/embed/pace.py",
        "            if call.over.is_set():",
        "            if False:",
        "tests/unit/test_turns.py::test_a_call_that_is_called_off_costs_no_turn",
    ),
    Mutation(
        "a deferred text has a worker of the stream",
        "cdc_embed/flow/embedding.py",
        "self._deferred if others_wait is None else self._stream",
        "self._deferred",
        "tests/unit/test_embedding_runner.py::test_a_deferred_text_that_hangs_holds_up_no_new_one",
    ),
    Mutation(
        "the known-good text waits behind texts that hang",
        "cdc_embed/flow/embedding.py",
        "self._known_good.submit",
        "self._stream.submit",
        "tests/unit/test_embedding_runner.py::"
        "test_texts_that_hang_hold_up_neither_deferred_nor_known_good",
    ),
    Mutation(
        "batches that are left keep their texts",
        "cdc_embed/flow/texts.py",
        "            self._wanted, self._unsettled, self.result = [], set(), Embedded()\n",
        "",
        "tests/unit/test_embedding_runner.py::"
        "test_an_outage_that_hangs_keeps_the_texts_of_its_calls_only",
    ),
    Mutation(
        "calls at once are not learned",
        "cdc_embed/flow/calls.py",
        '        self._number.mark_failed([""] * number)\n',
        "",
        "tests/unit/test_embedding_runner.py::test_calls_at_once_are_learned",
    ),
    Mutation(
        "texts of calls at once are unbounded",
        "cdc_embed/embed/advertised.py",
        "        if self.at_once is None:",
        "        if True:",
        "tests/unit/test_trial.py::test_calls_and_their_texts_stay_within_what_is_told[64-4-12]",
    ),
    Mutation(
        "deferred rows have no age",
        "cdc_embed/flow/telemetry.py",
        "        self._count_skipped(plan)\n        self._count_deferred(plan)\n",
        "        self._count_skipped(plan)\n",
        "tests/unit/test_ages.py::test_a_deferred_row_counts_until_it_is_written",
    ),
    Mutation(
        "a text is blamed for a malformed answer",
        "cdc_embed/embed/answers.py",
        'raise UnusableAnswerError(problem="its answer is not',
        'from cdc_embed.errors import TextRefusedError as E; raise E(problem="its answer is not',
        "tests/unit/test_http_embedder.py::test_unusable_answer_blames_no_text",
    ),
    Mutation(
        "vectors in any order are taken",
        "cdc_embed/embed/trial.py",
        "if not all(cosine(vectors[n], vectors[m]) >= EQUAL_COSINE for n, m in enumerate(first)):",
        "if False:",
        "tests/unit/test_trial.py::test_wrong_vectors_are_fatal_at_the_start",
    ),
    Mutation(
        "one vector for every text is taken",
        "cdc_embed/embed/trial.py",
        "if _distance(vectors[0], vectors[2]) <= _NOISE:",
        "if False:",
        "tests/unit/test_trial.py::test_wrong_vectors_are_fatal_at_the_start",
    ),
    Mutation(
        "the end of the window is not looked at",
        "cdc_embed/embed/trial.py",
        "if not longs or _distance(vectors[-2], vectors[-1]) > noise:",
        "if True:",
        "tests/unit/test_trial.py::test_a_service_that_cuts_is_told_with_the_length",
    ),
    Mutation(
        "refused dimensions are a refused text",
        "cdc_embed/embed/trial.py",
        "            _expect_dimensions_taken(config, exc)",
        "            pass",
        "tests/unit/test_trial.py::test_refused_dimensions_are_told_with_the_width_without",
    ),
    Mutation(
        "a length that pgvector cannot compute is a length",
        "cdc_embed/embed/base.py",
        "if not np.isfinite(squares).all():",
        "if False:",
        "tests/unit/test_trial.py::test_wrong_vectors_are_fatal_at_the_start",
    ),
    Mutation(
        "a count of tokens that stays flat is no error",
        "cdc_embed/embed/http.py",
        "        if not query:\n            self._expect_whole",
        "        if False:\n            self._expect_whole",
        "tests/unit/test_trial.py::test_a_count_of_tokens_that_stays_flat_is_an_error",
    ),
    Mutation(
        "an HTTP model has no window",
        "cdc_embed/embed/http.py",
        "window=config.window or min(max(found, self._known.chunk), told.window or sys.maxsize),",
        "window=None,",
        "tests/integration/test_canary.py::test_long_rows_are_cut_into_chunks_that_the_service_takes",
    ),
    Mutation(
        "the stored window is forgotten",
        "cdc_embed/embed/http.py",
        "        if not self._known.window:\n            return min(window",
        "        if True:\n            return min(window",
        "tests/integration/test_canary.py::test_a_window_that_grew_cuts_nothing_anew",
    ),
    Mutation(
        "a window beyond the positions is taken",
        "cdc_embed/embed/sentence_transformers.py",
        "if window and positions and window > positions:",
        "if False:",
        "tests/unit/test_sentence_transformers_embedder.py::test_a_window_beyond_the_positions_of_the_model_is_told",
    ),
    Mutation(
        "the first call is not made",
        "cdc_embed/service/trying.py",
        "    trial = partial(try_out, embedder, config)",
        "    trial = lambda: Tried(card=embedder.describe())",
        "tests/integration/test_canary.py::test_a_wrong_answer_at_the_start_is_told_by_every_command",
    ),
    Mutation(
        "the canary is not compared at the start",
        "cdc_embed/setup/spaces.py",
        "others = [space for space in named if not _is_same(space, card)]",
        "others = named[:0]",
        "tests/integration/test_canary.py::test_another_model_behind_the_name_stops_before_a_write",
    ),
    Mutation(
        "the canary is not compared after an outage",
        "cdc_embed/embed/watched.py",
        "if found < EQUAL_COSINE:",
        "if False:",
        "tests/integration/test_canary.py::test_another_model_after_an_outage_stops_before_a_write",
    ),
    Mutation(
        "the canary alone makes an alias",
        "cdc_embed/setup/spaces.py",
        "if not _gives_stored_vectors(databases, embedder, card, former):",
        "if False:",
        "tests/integration/test_canary.py::test_a_name_of_another_model_is_not_adopted",
    ),
    Mutation(
        "a space is renamed beside a running service",
        "cdc_embed/setup/spaces.py",
        "if (slot := databases.catalogue.slot()) is not None:",
        "if (slot := None) is not None:",
        "tests/integration/test_canary.py::test_a_rebuild_beside_a_running_service_changes_nothing",
    ),
    Mutation(
        "an alias renames the spaces of another slot",
        "sql/target/spaces.sql",
        "e.space = s.id and e.slot <> {slot})",
        "false)",
        "tests/integration/test_canary.py::"
        "test_the_spaces_of_another_slot_keep_the_name_of_the_model",
    ),
    Mutation(
        "another revision is an alias",
        "cdc_embed/setup/spaces.py",
        "return kind and pinned and space.model != card.identity",
        "return space.model != card.identity",
        "tests/integration/test_spaces.py::test_another_model_of_the_same_size_drops_the_old_vectors",
    ),
    Mutation(
        "an embedder that is away at the start is not tried later",
        "cdc_embed/service/watch.py",
        "if self._trial is not None:  # in",
        "if False:  # in",
        "tests/integration/test_canary.py::test_a_wrong_embedder_that_was_away_ends_the_service",
    ),
    Mutation(
        "a vector of zeros is a vector",
        "cdc_embed/embed/base.py",
        "if not (squares > 0).all():",
        "if False:",
        "tests/unit/test_http_embedder.py::test_a_vector_of_zeros_is_poison",
    ),
    Mutation(
        "a count has a snapshot older than its lock",
        "sql/source/tables.sql",
        "set transaction read only; set local",
        "set transaction isolation level repeatable read; set local",
        "tests/integration/test_reconcile.py::test_a_count_across_a_rewrite_is_right[alter-count]",
    ),
    Mutation(
        "setup is waited for at another source",
        "cdc_embed/service/service.py",
        " and not isinstance(exc, OtherSourceError)",
        "",
        "tests/integration/test_ownership.py::"
        "test_another_server_behind_the_address_is_no_gap[watch]",
    ),
    Mutation(
        "a comparison that is outdated counts",
        "sql/target/reconcile.sql",
        " and run = %(run)s\n  and exists",
        "\n  and exists",
        "tests/integration/test_rewrites.py::test_comparison_that_is_outdated_begins_again[18]",
    ),
    Mutation(
        "a row that cannot be read ends the service",
        "cdc_embed/source/coverage.py",
        "        if problem is None:",
        "        if problem != ():",
        "tests/integration/test_undelivered.py::test_row_to_be_read_again_of_a_table_that_left[pgoutput]",
    ),
    Mutation(
        "the position goes before the new slot is there",
        "cdc_embed/setup/plan.py",
        "        *_source_steps(databases, survey, prepared, new_slot=bool(gap)),\n"
        "        *(_forget_position(databases) if gap else []),",
        "        *(_forget_position(databases) if gap else []),\n"
        "        *_source_steps(databases, survey, prepared, new_slot=bool(gap)),",
        "tests/integration/test_spaces.py::"
        "test_the_service_repeats_a_rebuild_that_was_interrupted"
        "[make the replication slot]",
    ),
    Mutation(
        "a comparison does not wait for the log before it",
        "cdc_embed/reconcile/reconciler.py",
        "        if todo:\n",
        "        if not todo:\n",
        "tests/unit/test_convergence.py::test_a_comparison_comes_after_what_the_log_has_before_it",
    ),
    Mutation(
        "a writer that was cut off keeps its rows",
        "sql/target/store.sql",
        "usename = current_user and pid <> pg_backend_pid() and state <> 'idle'",
        "usename = current_user and pid <> pg_backend_pid() and state = 'none'",
        "tests/integration/test_old_writers.py::"
        "test_writer_that_was_cut_off_does_not_delay_the_next_leader",
    ),
    Mutation(
        "an old tuple of a partition is whole",
        "cdc_embed/change/transaction.py",
        "        if self.table.partitioned:",
        "        if not self.table:",
        "tests/integration/test_partitions.py::"
        "test_identity_of_a_table_says_nothing_of_its_partitions[pgoutput-18]",
    ),
    Mutation(
        "what the log has of a wrong identity is an error for ever",
        "cdc_embed/service/parts.py",
        "            on_undelivered=pause,",
        "",
        "tests/integration/test_silent_losses.py::"
        "test_identity_other_than_the_key_stops_before_a_misreading[18]",
    ),
    Mutation(
        "a view that depends on the source",
        "sql/target/view.sql",
        "language sql stable parallel safe security invoker as {body};\n"
        "grant execute on function {function} ({types}) to public\n\n-- name: visible_body\n",
        "language sql stable begin atomic select exists (select from {source} s where {matches}); "
        "end\n\n-- name: visible_body\n",
        "tests/integration/test_application_ddl.py::"
        "test_no_ddl_of_the_application_is_refused_because_of_us[true-open]",
    ),
    Mutation(
        "grants go with the view",
        "sql/target/kept.sql",
        "format('grant %s%s on",
        "format('--grant %s%s on",
        "tests/integration/test_grants.py::"
        "test_grants_comments_and_searches_survive_every_change[a column less]",
    ),
    Mutation(
        "options of a replaced view are lost",
        "sql/target/kept.sql",
        "where (k.place = 0 or to_regclass",
        "where (to_regclass",
        "tests/integration/test_grants.py::"
        "test_what_the_application_gave_our_relations_stays[a column more]",
    ),
    Mutation(
        "a disabled trigger comes back enabled",
        "sql/target/kept.sql",
        "    from (values ('D', 'disable'), ('R', 'enable replica'), ('A', 'enable always')) "
        "as s (letter, state)\n    where s.letter = g.tgenabled",
        "    from (values ('D', 'disable')) as s (letter, state)\n    where false",
        "tests/integration/test_grants.py::"
        "test_what_the_application_gave_our_relations_stays[another key]",
    ),
    Mutation(
        "storage parameters go with a table of vectors",
        "sql/target/kept.sql",
        "  where t.relkind = 'r' and o.option <> 'fillfactor=50'",
        "  where false",
        "tests/integration/test_grants.py::"
        "test_what_the_application_gave_our_relations_stays[another key]",
    ),
    Mutation(
        "functions over the search view are met after the copy",
        "cdc_embed/setup/relations.py",
        "        if not found:",
        "        if found is not None:",
        "tests/integration/test_grants.py::"
        "test_what_cannot_be_put_back_is_named_before_the_copy[function public.f()]",
    ),
    Mutation(
        "a function with rows of the search view is not named",
        "sql/target/kept.sql",
        "d.refobjid in (o.reltype, o.typarray))",
        "d.refobjid in (o.typarray))",
        "tests/integration/test_grants.py::"
        "test_what_cannot_be_put_back_is_named_before_the_copy"
        "[function public.g(cdc_embed.letters_search)]",
    ),
    Mutation(
        "an index of the application on a column that goes is lost",
        "sql/target/kept.sql",
        "or a.attname <> all (o.columns)",
        "or false",
        "tests/integration/test_grants.py::"
        "test_what_cannot_be_put_back_is_named_before_the_copy[index cdc_embed.by_id]",
    ),
    Mutation(
        "an error that comes again in each comparison is told by the log only",
        "cdc_embed/service/health.py",
        "        return found if reconcile is None else",
        "        return found if reconcile else",
        "tests/integration/test_target_faults.py::"
        "test_an_error_that_comes_back_is_told_by_readiness",
    ),
    Mutation(
        "a value that libpq refuses later passes the check of the configuration",
        "cdc_embed/config/dsn.py",
        "        if parts.get(name, values[0]) not in values:",
        "        if not values:",
        "tests/unit/test_config_notation.py::"
        "test_a_string_of_another_program_says_which_part_is_wrong",
    ),
    Mutation(
        "setup waits for a lock in front of searches",
        "cdc_embed/setup/locks.py",
        'LOCK_TIMEOUT: Final = "500ms"',
        'LOCK_TIMEOUT: Final = "0"',
        "tests/integration/test_grants.py::"
        "test_setup_never_makes_searches_wait_for_a_lock_it_waits_for",
    ),
    Mutation(
        "readers see the vectors of every tenant",
        "cdc_embed/target/view.py",
        '        found = [_compose("enable_row_security", table=self._vectors)]',
        "        found: list[sql.Composed] = []",
        "tests/integration/test_row_security.py::"
        "test_a_reader_sees_the_vectors_of_its_own_tenant_only[letters_embedding]",
    ),
    Mutation(
        "a role that row security applies to reads on",
        "cdc_embed/source/tables.py",
        "    if found.filtered:",
        "    if found is None:",
        "tests/integration/test_row_security.py::test_row_security_of_no_use_pauses_its_table_alone",
    ),
    Mutation(
        "another table takes the name of one under policies",
        "sql/target/view.sql",
        "  and {same_names}",
        "",
        "tests/integration/test_row_security.py::"
        "test_no_change_of_the_table_opens_its_vectors[another table of its name]",
    ),
    Mutation(
        "a key value that can be two rows' opens vectors",
        "sql/target/view.sql",
        "operator(pg_catalog.=) {numbers})",
        "operator(pg_catalog.=) {numbers} or true)",
        "tests/integration/test_row_security.py::"
        "test_no_change_of_the_table_opens_its_vectors[another key]",
    ),
    Mutation(
        "setup shows vectors by a key that they are not stored by",
        "cdc_embed/setup/tables.py",
        " and not self._opens(table, known):",
        ":",
        "tests/integration/test_row_security.py::"
        "test_no_change_of_the_table_opens_its_vectors[another table of its name]",
    ),
    Mutation(
        "policies that show no vector are not named",
        "cdc_embed/setup/agreement.py",
        "    elif not _unfit(table, stored) and not view.is_right():",
        "    elif False:",
        "tests/integration/test_row_security.py::"
        "test_no_change_of_the_table_opens_its_vectors[another column of its name]",
    ),
    Mutation(
        "a key that moves under policies is not noticed",
        "cdc_embed/source/observed.py",
        "    moved = now.row_security and was.key_numbers != now.key_numbers",
        "    moved = False",
        "tests/integration/test_row_security.py::test_row_security_of_no_use_pauses_its_table_alone",
    ),
    Mutation(
        "metadata of another type is written on",
        "cdc_embed/change/document.py",
        "        return (*self.key, *self.metadata)",
        "        return self.key",
        "tests/integration/test_metadata_types.py::"
        "test_metadata_of_another_type_pauses_until_setup[int to text]",
    ),
    Mutation(
        "a column of another type is read on",
        "cdc_embed/change/transaction.py",
        "not in {None, 0, column.type_oid} and column.type_oid:",
        "is False:",
        "tests/unit/test_transaction.py::test_a_column_of_another_type_stops_the_table[23-True]",
    ),
    Mutation(
        "a key is cut to a length",
        "sql/source/tables.sql",
        "format_type(a.atttypid, -1)",
        "format_type(a.atttypid, a.atttypmod)",
        "tests/integration/test_key_changes.py::"
        "test_a_changed_key_pauses_its_table_and_keeps_its_vectors[a longer varchar]",
    ),
    Mutation(
        "another key goes unnoticed",
        "cdc_embed/service/watch.py",
        "            found.update({**others, **observed.undelivered, **observed.altered})",
        "            found.update({**others, **observed.undelivered})",
        "tests/integration/test_key_changes.py::"
        "test_a_changed_key_pauses_its_table_and_keeps_its_vectors[a column more]",
    ),
    Mutation(
        "a running service is not told of a swap",
        "sql/target/shadow.sql",
        "set epoch = epoch + 1 where",
        "set epoch = epoch where",
        "tests/integration/test_key_changes.py::test_a_key_changes_whatever_else_is_so[stopped]",
    ),
    Mutation(
        "a key that is no value any more is an error",
        "cdc_embed/source/rows.py",
        "            if len(keys) == 1:",
        "            if not keys:",
        "tests/integration/test_refetch.py::"
        "test_key_that_is_no_value_of_its_type_any_more_has_no_row[18]",
    ),
    Mutation(
        "a slot that no standby copies",
        "cdc_embed/setup/plan.py",
        "create = create_slot_ddl(source.slot, source.plugin, bool(wanted))",
        "create = create_slot_ddl(source.slot, source.plugin, False)",
        "tests/integration/test_source_failover.py::"
        "test_service_goes_on_with_the_slot_of_a_promoted_standby",
    ),
    Mutation(
        "an existing slot stays one that no standby copies",
        "cdc_embed/setup/plan.py",
        "    elif wanted not in {None, survey.slot.failover} and",
        "    elif wanted is None and",
        "tests/integration/test_source_failover.py::"
        "test_a_slot_is_made_or_becomes_one_that_standbys_copy",
    ),
    Mutation(
        "a standby is waited for, and nobody says so",
        "cdc_embed/serve/status.py",
        "    if slot is not None and slot.waits_for:",
        "    if slot is None:",
        "tests/integration/test_source_failover.py::test_standby_that_is_waited_for_is_named[True]",
    ),
    Mutation(
        "the history of a promoted source cannot be read",
        "cdc_embed/source/stream.py",
        "        content = found if isinstance(found, str) else bytes(found).decode()",
        "        content = bytes(found).decode()",
        "tests/integration/test_source_failover.py::"
        "test_service_goes_on_with_the_slot_of_a_promoted_standby",
    ),
    Mutation(
        "a chunk that only moved is written anew",
        "cdc_embed/target/pieces.py",
        "        if number < len(wanted):",
        "        if number < 0:",
        "tests/integration/test_chunks.py::test_an_edit_writes_few_rows_and_index_entries[change]",
    ),
    Mutation(
        "a row has no space beside it for its next version",
        "sql/target/schema.sql",
        "  constraint {pkey} primary key ({key}, chunk_row)\n) with (fillfactor = 50)",
        "  constraint {pkey} primary key ({key}, chunk_row)\n) with (fillfactor = 100)",
        "tests/integration/test_chunks.py::test_an_edit_writes_few_rows_and_index_entries[insert]",
    ),
    Mutation(
        "a chunk that was kept may be gone",
        "cdc_embed/target/write.py",
        "        if self._cursor.rowcount != kept:",
        "        if self._cursor.rowcount > kept:",
        "tests/integration/test_store.py::test_kept_chunk_that_is_gone_writes_nothing",
    ),
    Mutation(
        "a vector in hand does not replace the stored one",
        "cdc_embed/target/write.py",
        "            if bytes(digest) not in self._vectors:",
        "            if bytes(digest) not in stored:",
        "tests/integration/test_store.py::test_vector_in_hand_replaces_the_stored_one",
    ),
    Mutation(
        "a column that was dropped is unchanged",
        "cdc_embed/change/batch.py",
        "            if not change.leaves_out or filled == (texts, metadata):",
        "            if change is not None:",
        "tests/integration/test_row_ddl.py::"
        "test_a_row_changed_again_without_its_column_is_not_stored[pgoutput-18]",
    ),
    Mutation(
        "a service's own right to replicate does not count",
        "sql/source/slot.sql",
        "m.rolname = 'rds_replication'",
        "m.rolname is null",
        "tests/integration/test_hosted_servers.py::test_fixes_are_in_the_words_of_the_service[rds]",
    ),
    Mutation(
        "values of rows are quoted in errors",
        "cdc_embed/postgres/words.py",
        "        message = without_values(message)",
        "        message = str(message)",
        "tests/integration/test_values_in_words.py::test_a_dead_letter_has_no_value_of_its_row",
    ),
    Mutation(
        "the types of a policy are found by the reader's search path",
        "sql/source/tables.sql",
        "format('%%I.%%I', n.nspname, b.typname) as name",
        "format('%%I', b.typname) as name",
        "tests/integration/test_hostile_role.py::"
        "test_a_readers_own_types_and_casts_show_him_no_other_tenant",
    ),
    Mutation(
        "the functions of a view are found by the reader's search path",
        "cdc_embed/target/source_functions.py",
        "pg_catalog.array_to_string(array",
        "array_to_string(array",
        "tests/integration/test_hostile_role.py::"
        "test_nothing_of_a_role_that_may_create_in_public_is_run",
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
    Mutation(
        "keys of any type are compared by PostgreSQL's own operators",
        "cdc_embed/source/comparison.py",
        "        equal=equal,",
        "        equal=KeyOrder().equal,",
        "tests/integration/test_key_types.py::"
        "test_every_key_of_any_type_is_stored_followed_and_verified[ltree]",
    ),
    Mutation(
        "a key that differs only in case is the same",
        "cdc_embed/source/comparison.py",
        "    if not column.order.loose:",
        "    if column is not None:",
        "tests/integration/test_key_types.py::"
        "test_a_key_that_differs_only_in_case_is_drift[caseless]",
    ),
    Mutation(
        "former spaces go in one transaction",
        "cdc_embed/target/stored.py",
        "range(0, self._count_pages(table), PAGES)",
        "range(0, self._count_pages(table), 10**9)",
        "tests/integration/test_retired_spaces.py::test_vectors_of_former_spaces_go_in_parts",
    ),
    Mutation(
        "stored generated columns are not published",
        "cdc_embed/source/statements.py",
        "*([GENERATED] if generated else [])",
        "*([GENERATED] if not generated else [])",
        "tests/integration/test_harm.py::"
        "test_stored_generated_column_with_full_identity_is_harmless[18]",
    ),
    Mutation(
        "a virtual generated column with FULL is published",
        "cdc_embed/source/harm.py",
        "    if leaf.full and leaf.virtual:\n        columns",
        "    if leaf.full and leaf.oid == 0:\n        columns",
        "tests/integration/test_harm.py::test_virtual_column_with_full_identity_is_refused_by_name",
    ),
    Mutation(
        "a service leaves its publication as it is",
        "cdc_embed/service/watch.py",
        "                for done in databases.coverage.protect():",
        "                for done in []:",
        "tests/integration/test_harm.py::"
        "test_identity_beyond_the_column_list_is_published_whole[18-full-service]",
    ),
    Mutation(
        "setup refuses before it ends a harm",
        "cdc_embed/cli/setup.py",
        "        if not shows:  # first of all, whatever",
        "        if not plan_setup:",
        "tests/integration/test_harm.py::test_harm_is_ended_before_anything_else_is_said[setup]",
    ),
    Mutation(
        "run refuses before it ends a harm",
        "cdc_embed/service/start.py",
        "for done in databases.coverage.protect():",
        "for done in []:",
        "tests/integration/test_harm.py::test_harm_is_ended_before_anything_else_is_said[run]",
    ),
    Mutation(
        "a table without an identity stays published",
        "cdc_embed/source/harm.py",
        "    if not leaf.full and not leaf.identity:",
        "    if leaf.oid == 0:",
        "tests/integration/test_harm.py::"
        "test_table_that_cannot_be_published_leaves_and_comes_back[no key-rows]",
    ),
    Mutation(
        "a table with children is followed",
        "cdc_embed/source/leaves.py",
        "for leaf in leaves if not leaf.own and not leaf.partition]",
        "for leaf in leaves if leaf.own and leaf.partition]",
        "tests/integration/test_harm.py::test_child_that_comes_while_it_runs_pauses_its_table",
    ),
    Mutation(
        "an unlogged partition is followed",
        "cdc_embed/source/leaves.py",
        "    if not leaf.logged:",
        "    if not leaf:",
        "tests/integration/test_harm.py::test_partition_without_a_change_log_is_named",
    ),
    Mutation(
        "partitions published by themselves are left so",
        "cdc_embed/source/harm.py",
        "options = [] if publication.via_root else [VIA_ROOT]",
        "options: list[str] = []",
        "tests/integration/test_harm.py::test_publication_of_partitions_is_mended",
    ),
    Mutation(
        "a publication of others is added to unasked",
        "cdc_embed/source/publishing.py",
        "            elif problem is not None and not adopt:",
        "            elif problem is not None and adopt:",
        "tests/integration/test_adoption.py::test_publication_of_others_is_not_changed_unasked",
    ),
    Mutation(
        "another slot's publication is ours",
        "cdc_embed/source/publication.py",
        "    return not kept or ",
        "    return kept or ",
        "tests/integration/test_adoption.py::"
        "test_two_slots_do_not_take_one_publication_from_each_other",
    ),
    Mutation(
        "what was added to a publication of others stays in it",
        "cdc_embed/setup/teardown.py",
        "    steps += steps_of(databases, Where.SOURCE, added)",
        "    del added",
        "tests/integration/test_adoption.py::test_adopted_publication_loses_what_was_added_alone",
    ),
    Mutation(
        "parallel workers again, without shared memory for them",
        "cdc_embed/target/index.py",
        "again=again, parallel=False)",
        "again=again)",
        "tests/integration/test_index.py::test_an_index_is_rebuilt_without_memory_for_workers",
    ),
    Mutation(
        "setup gives up an index without shared memory",
        "cdc_embed/target/index.py",
        "session, ddl, queries(",
        "session, ddl, bool(ddl) and 'select' or queries(",
        "tests/integration/test_index.py::"
        "test_setup_indexes_a_table_of_another_key_without_workers",
    ),
    Mutation(
        "a stop ends a build of hours",
        "sql/target/reconcile.sql",
        "set client_connection_check_interval = 0",
        "select",
        "tests/integration/test_index.py::test_stop_leaves_a_long_build_to_the_server",
    ),
    Mutation(
        "an unfinished index counts",
        "cdc_embed/target/index.py",
        "        return self.valid and (self",
        "        return (self",
        "tests/integration/test_index.py::test_broken_build_is_dropped_and_made_again",
    ),
    Mutation(
        "a finished index is not named",
        "cdc_embed/target/index.py",
        "    if found.phase is None and found.takes(config):",
        "    if found.phase is None and found.takes(config) and found.rows < 0:",
        "tests/integration/test_index.py::test_a_finished_index_is_named_and_taken_after_a_kill",
    ),
    Mutation(
        "a finished index is built again",
        "cdc_embed/target/index.py",
        "            built = found.takes(self._config)",
        "            built = False",
        "tests/integration/test_index.py::test_a_finished_index_whose_swap_is_refused_is_taken",
    ),
    Mutation(
        "an index that searches do not use is not named",
        "cdc_embed/target/index.py",
        "problem=found.leftover)",
        "problem=None)",
        "tests/integration/test_index.py::test_an_index_that_is_in_the_way_is_named_and_dropped",
    ),
    Mutation(
        "an index has a connection of its own",
        "cdc_embed/target/lookups.py",
        "        self._lent = True",
        "        self._lent = False",
        "tests/integration/test_index.py::test_rows_are_read_beside_a_build_with_seven_connections",
    ),
    Mutation(
        "rows are counted in a connection more",
        "cdc_embed/reconcile/counts.py",
        "                close()",
        "                pass",
        "tests/unit/test_verify.py::test_a_count_has_the_connection_in_which_rows_are_read",
    ),
    Mutation(
        "the reason of a missing index is forgotten",
        "cdc_embed/reconcile/indexing.py",
        "            problem = str(exc)",
        "            problem = ''",
        "tests/integration/test_index.py::test_missing_index_is_named_with_its_reason",
    ),
    Mutation(
        "the former index goes before the new one is there",
        "cdc_embed/target/index.py",
        "            self._drop(session, table, found, old, *(() if built else (new,)))",
        "            self._drop(session, table, found, one, old, *(() if built else (new,)))",
        "tests/integration/test_index.py::test_searches_keep_their_index_until_the_new_one_is_ready",
    ),
    Mutation(
        "two builds at once",
        "cdc_embed/target/index.py",
        "        if not locked:",
        "        if locked is None:",
        "tests/integration/test_index.py::test_stop_leaves_a_long_build_to_the_server",
    ),
    Mutation(
        "every connection counts as progress",
        "cdc_embed/service/instance.py",
        "        return pipeline.moved or (lasts and pipeline.has_received(began[1]))",
        "        return lasts or True",
        "tests/integration/test_reconnects.py::test_a_proxy_that_cuts_at_once_is_not_hammered",
    ),
    Mutation(
        "the way out of a row that cannot be decoded",
        "cdc_embed/service/health.py",
        "            return str(stuck)",
        "            pass",
        "tests/integration/test_reconnects.py::"
        "test_a_row_that_cannot_be_decoded_is_named_with_the_way_out",
    ),
    Mutation(
        "the age of what waits by the source's clock alone",
        "cdc_embed/flow/telemetry.py",
        "            ages += [time.monotonic() - oldest.received_at, now - oldest.committed_at]",
        "            ages += [now - oldest.committed_at]",
        "tests/unit/test_ages.py::test_what_waits_is_at_least_as_old_as_its_receipt",
    ),
    Mutation(
        "a source's clock that is not asked",
        "cdc_embed/flow/telemetry.py",
        "self._deferred_since, time.time() + self.clock_ahead",
        "self._deferred_since, time.time()",
        "tests/unit/test_ages.py::test_what_waits_is_at_least_as_old_as_its_receipt",
    ),
    Mutation(
        "rows of a truncated table stay hot",
        "cdc_embed/flow/hot_rows.py",
        "            del self.since[row]",
        "            del row",
        "tests/unit/test_ages.py::test_a_truncate_forgets_the_rows_that_were_left_out",
    ),
    Mutation(
        "requests of an unknown kind stay open",
        "cdc_embed/reconcile/reconciler.py",
        "        self._requests.refuse_unknown({BACKFILL, *self._answers})",
        "        return",
        "tests/integration/test_reconnects.py::"
        "test_a_request_of_an_unknown_kind_is_refused_with_a_hint",
    ),
    Mutation(
        "included columns are a part of the key",
        "sql/source/tables.sql",
        "array_position(p.indkey[0:p.indnkeyatts - 1]::smallint[], a.attnum)",
        "array_position(p.indkey::smallint[], a.attnum)",
        "tests/integration/test_included_columns.py::"
        "test_an_included_column_is_no_part_of_the_key[declared-pgoutput-18]",
    ),
    Mutation(
        "another table of the same name is read",
        "cdc_embed/source/rows.py",
        "    if not followed:",
        "    if followed is None:",
        "tests/integration/test_swapped_names.py::"
        "test_no_read_takes_another_table_for_the_followed_one",
    ),
    Mutation(
        "a slice counts whatever it left out",
        "cdc_embed/source/rows.py",
        "    if len(rows) < len(fetched) or count not in {None, len(rows)}:",
        "    if len(rows) < len(fetched):",
        "tests/integration/test_proof.py::test_a_wrong_order_of_keys_is_found_by_the_scan_itself",
    ),
    Mutation(
        "a verification counts whatever rows there are",
        "cdc_embed/reconcile/proof.py",
        "        if abs(rows - self._rows_read) >",
        "        if abs(rows - rows) >",
        "tests/integration/test_proof.py::test_rows_that_the_scan_loses_are_found_by_the_count",
    ),
    Mutation(
        "a verification takes any stored key for the table's",
        "cdc_embed/reconcile/proof.py",
        "        if difference:",
        "        if not real:",
        "tests/unit/test_verify.py::test_a_key_that_is_not_the_stored_one_is_an_error",
    ),
    Mutation(
        "a verification counts rows without a verdict",
        "cdc_embed/reconcile/verify.py",
        "        if not tally.adds_up:",
        "        if tally.adds_up is None:",
        "tests/unit/test_verify.py::test_a_row_without_a_verdict_is_an_error",
    ),
    Mutation(
        "a verification takes the search view for complete",
        "cdc_embed/reconcile/proof.py",
        "        if abs(stored - shown) >",
        "        if abs(stored - stored) >",
        "tests/integration/test_proof.py::test_documents_that_the_search_view_hides_are_an_error",
    ),
    Mutation(
        "a vector of zeros is fresh",
        "sql/target/store.sql",
        "         and bool_and({vectors}.cosine_distance(t.embedding, t.embedding) <> 'nan')",
        "        ",
        "tests/integration/test_proof.py::test_a_vector_of_zeros_is_drift_and_mended",
    ),
    Mutation(
        "a vector of zeros is given to other documents",
        "sql/target/store.sql",
        "\n  and {vectors}.cosine_distance(t.embedding, t.embedding) <> 'nan'\n",
        "\n",
        "tests/integration/test_proof.py::test_no_new_document_takes_a_vector_of_zeros",
    ),
)


NOT_FOUND: Final = {pytest.ExitCode.NO_TESTS_COLLECTED, pytest.ExitCode.USAGE_ERROR}
"""Exit codes without ``--long`` of a test, and of one case, that is only there with it."""


def judge(mutation: Mutation, tree: Path) -> str:
    """Say what the named test does without the protection, in a tree that may be patched."""
    path = tree / mutation.file
    original = path.read_text(encoding="utf-8")
    if original.count(mutation.line) != 1:
        raise SystemExit(f"{mutation.name}: its line is not once in {mutation.file}")
    path.write_text(original.replace(mutation.line, mutation.mutated), encoding="utf-8")
    run = run_test(mutation.test, tree)
    if run.returncode in NOT_FOUND:
        run = run_test(mutation.test, tree, "--long")
    path.write_text(original, encoding="utf-8")
    if run.returncode not in {0, 1}:
        return f"the test did not run: {mutation.test}\n{run.stdout}{run.stderr}"
    return "killed" if run.returncode else "SURVIVED"


def run_test(test: str, tree: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", *options, test],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )


@contextmanager
def copies(number: int) -> Iterator["SimpleQueue[Path]"]:
    """Copies of the tree to take and give back; they are gone at the end."""
    left_out = shutil.ignore_patterns(".git", ".venv", ".*_cache", ".hypothesis", "__pycache__")
    trees: SimpleQueue[Path] = SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        for place in range(number):
            trees.put(shutil.copytree(ROOT, Path(folder) / str(place), ignore=left_out))
        yield trees


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="how many at once")
    options = parser.parse_args()
    if unknown := set(options.names) - {mutation.name for mutation in MUTATIONS}:
        parser.error(f"no mutation is named {', '.join(sorted(unknown))}")
    chosen = [m for m in MUTATIONS if not options.names or m.name in options.names]
    with copies(options.jobs) as trees, ThreadPoolExecutor(options.jobs) as executor:

        def is_killed(mutation: Mutation) -> bool:
            tree = trees.get()
            try:
                verdict = judge(mutation, tree)
            finally:
                trees.put(tree)
            test = mutation.test.rpartition("::")[2]
            print(f"{verdict:9} {mutation.name}  ({test})", flush=True)  # noqa: T201
            return verdict == "killed"

        return 0 if all(list(executor.map(is_killed, chosen))) else 1


if __name__ == "__main__":
    raise SystemExit(main())
