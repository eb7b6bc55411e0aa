"""Protections of what compares rows, and what is deferred, each taken out by one line."""

from typing import Final

from tests.mutations.mutation import Mutation

MUTATIONS: Final = (
    Mutation(
        "rows of a partition that nobody looked at are drift",
        "cdc_embed/reconcile/verify.py",
        "        if found.drift and not repair and self._work.has_news(table):",
        "        if False and not repair and self._work.has_news(table):",
        "tests/integration/test_leaves.py::test_rows_of_a_partition_that_nobody_looked_at_are_pending",
    ),
    Mutation(
        "a row that no part has is not missed",
        "cdc_embed/reconcile/proof.py",
        "        if in_parts != rows:",
        "        if in_parts > rows:",
        "tests/integration/test_proof.py::test_a_row_that_no_part_has_is_found_while_others_write",
    ),
    Mutation(
        "a count that gave way is a number",
        "cdc_embed/reconcile/counts.py",
        "            if pause is not None:",
        "            if pause is None:\n                return count(table)\n            else:",
        "tests/integration/test_giving_way.py::test_verify_says_that_ddl_kept_it_from_counting",
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
        "unasked tokens are bytes",
        "cdc_embed/reconcile/size.py",
        "        tokens = sum(self.count(list(chunks.values())))",
        "        tokens = size // BYTES_PER_TOKEN",
        "tests/integration/test_costs.py::test_unasked_tokens_are_those_of_the_tokenizer",
    ),
    Mutation(
        "a backfill that an earlier start has left has no price",
        "cdc_embed/reconcile/requests.py",
        "        self._measure_pending(known)",
        "        pass",
        "tests/integration/test_costs.py::test_money_is_shown_spent_and_to_be_spent",
    ),
    Mutation(
        "a command that waits for a lock says nothing",
        "cdc_embed/reconcile/reconciler.py",
        "            self._requests.say_waiting(str(trouble))",
        "            pass",
        "tests/integration/test_locked_tables.py::test_verify_says_which_locked_table_it_waits_for",
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
        "letters of a paused table are not spoken of",
        "cdc_embed/reconcile/retry.py",
        "        problems = self._work.problems",
        "        problems: dict[str, str] = {}",
        "tests/integration/test_broken_table.py::"
        "test_letters_of_a_broken_table_are_left_alone_by_name",
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
        "no wait for running transactions before the first slice",
        "cdc_embed/reconcile/slices.py",
        "        while (snapshot := self._rows.snapshot()).xmin < before:",
        "        while (snapshot := self._rows.snapshot()).xmin < 0 * before:",
        "tests/integration/test_reconcile.py::"
        "test_first_slice_waits_for_transactions_that_were_running",
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
        "an idle service asks what it has asked already",
        "cdc_embed/reconcile/reconciler.py",
        "return not self._opened or self._surroundings.has_work",
        "return True",
        "tests/acceptance/test_many_tables.py::"
        "test_an_idle_service_costs_three_statements_a_second[3-10]",
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
        "rows deferred for a server that hangs are embedded one by one",
        "cdc_embed/reconcile/deferred.py",
        "MOST if self._embedding.supply.runner.hangs else self._most",
        "self._most",
        "tests/unit/test_deferred_reader.py::test_a_row_that_is_not_taken_is_followed_by_one_alone",
    ),
    Mutation(
        "a comparison does not wait for the log before it",
        "cdc_embed/reconcile/reconciler.py",
        "        if todo:\n",
        "        if not todo:\n",
        "tests/unit/test_convergence.py::test_a_comparison_comes_after_what_the_log_has_before_it",
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
        "requests of an unknown kind stay open",
        "cdc_embed/reconcile/reconciler.py",
        "        self._requests.refuse_unknown({BACKFILL, *self._answers})",
        "        return",
        "tests/integration/test_reconnects.py::"
        "test_a_request_of_an_unknown_kind_is_refused_with_a_hint",
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
)
