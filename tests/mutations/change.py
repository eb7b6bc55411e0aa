"""Protections of the decisions, and of positions, each taken out by one line."""

from typing import Final

from tests.mutations.mutation import Mutation

MUTATIONS: Final = (
    Mutation(
        "confirm what was received",
        "cdc_embed/lsn.py",
        "return min(self.durable, self.recorded)",
        "return self.received",
        "tests/acceptance/test_durability.py::"
        "test_lost_connections_lose_nothing_and_repeat_no_done_work",
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
        "a known text is read again after another column changed",
        "cdc_embed/change/plan.py",
        '        return Skip("toast", before)',
        "        return None",
        "tests/unit/test_plan.py::test_unchanged_values_prove_a_skip_only_of_a_known_version",
    ),
    Mutation(
        "too few descriptors end a service",
        "cdc_embed/errors.py",
        "    return isinstance(error, OSError) and error.errno in SCARCE",
        "    return False",
        "tests/integration/test_web.py::test_no_descriptor_to_be_had_is_waited_for",
    ),
    Mutation(
        "ignore the fingerprint",
        "cdc_embed/change/plan.py",
        "stored.fingerprint == digest:\n        # the log",
        "stored.fingerprint is None:\n        # the log",
        "tests/integration/test_flow.py::test_only_text_that_changed_is_embedded[18]",
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
        "a row that was read before its table was trusted proves",
        "cdc_embed/change/plan.py",
        "stored.provenance is not READ",
        "proof(stored) is not None",
        "tests/unit/test_convergence.py::"
        "test_a_row_read_before_its_table_was_trusted_proves_nothing",
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
        "rows that changed long ago stay known",
        "cdc_embed/change/knowledge.py",
        "        return self._committed, self._older",
        "        return self._committed, {}",
        "tests/unit/test_knowledge.py::test_what_was_remembered_long_ago_is_forgotten_alike",
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
        "stored rows trusted while they are compared",
        "cdc_embed/change/knowledge.py",
        "        if isinstance(found, Known) and row[0] not in self.trusted:",
        "        if isinstance(found, Known) and not row:",
        "tests/unit/test_convergence.py::test_a_resumed_comparison_trusts_no_row_not_compared_yet",
    ),
    Mutation(
        "LRU updated before the commit",
        "cdc_embed/change/knowledge.py",
        "        self._in_flight.append(outcome)",
        "        self._in_flight.append(outcome); self._committed.update(outcome.states)",
        "tests/unit/test_knowledge.py::test_nothing_enters_the_cache_before_its_batch_is_committed",
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
        "a leaf that was changed is the same",
        "cdc_embed/change/shape.py",
        "if found[oid] != known[oid]",
        "if not known[oid]",
        "tests/integration/test_leaves.py::test_changed_leaf_is_compared_alone[18]",
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
        "keys of a leaf that went are kept",
        "cdc_embed/change/shape.py",
        "orphans=bool(new or gone or changed)",
        "orphans=False",
        "tests/integration/test_leaves.py::test_keys_of_a_leaf_that_went_are_deleted"
        "[18-drop table low]",
    ),
    Mutation(
        "a deferred row is known to no batch in flight",
        "cdc_embed/change/action.py",
        "            return Deferred(xid)\n",
        "            return None\n",
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
        "a deferred row is drift",
        "cdc_embed/change/compare.py",
        "        return Verdict.PENDING\n",
        "        return Verdict.STALE\n",
        "tests/integration/test_deferred.py::test_deletes_do_not_wait_for_an_embedder_that_is_away",
    ),
    Mutation(
        "the ids of transactions have 32 bits",
        "cdc_embed/change/transaction.py",
        "            self._near_xid = widen(message.xid, self._near_xid)\n",
        "            self._near_xid = message.xid\n",
        "tests/unit/test_transaction.py::test_the_ids_of_transactions_are_widened_across_an_epoch",
    ),
    Mutation(
        "one server that refuses a key ends the service",
        "cdc_embed/rotation.py",
        "self._worked and (self.in_file or self.many_servers)",
        "self._worked and self.in_file",
        "tests/unit/test_rotation.py::test_a_secret_that_others_take_is_waited_for_a_minute",
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
        "a column that was dropped is unchanged",
        "cdc_embed/change/batch.py",
        "            if not change.leaves_out or filled == (texts, metadata):",
        "            if change is not None:",
        "tests/integration/test_row_ddl.py::"
        "test_a_row_changed_again_without_its_column_is_not_stored[pgoutput-18]",
    ),
)
