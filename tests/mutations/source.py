"""Protections of what reads the source, each taken out by one line."""

from typing import Final

from tests.mutations.mutation import Mutation

MUTATIONS: Final = (
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
        "setup takes a broken table out of its publication",
        "cdc_embed/source/publishing.py",
        "        only = len(tables) == len(states)",
        "        only = True",
        "tests/integration/test_broken_table.py::"
        "test_a_setup_meanwhile_leaves_a_broken_table_published",
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
        "the server's timeout is taken for its default",
        "sql/source/slot.sql",
        "select setting::float / 1000",
        "select boot_val::float / 1000",
        "tests/integration/test_reconnects.py::"
        "test_the_servers_times_are_asked_with_each_connection",
    ),
    Mutation(
        "u as NULL",
        "cdc_embed/wire/pgoutput.py",
        "        return UNCHANGED",
        "        return None",
        "tests/integration/test_flow.py::test_unchanged_toast_is_no_change_of_the_text[18]",
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
        "the anchor is not flushed",
        "sql/source/slot.sql",
        "       pg_current_xact_id()\n",
        "       0\n",
        "tests/integration/test_stream.py::test_the_anchor_comes_before_any_new_position",
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
        "no visibility check in refetch",
        "cdc_embed/source/rows.py",
        "self.waiting_for = next((xid for xid in xids if not snapshot.sees(xid)), None)",
        "self.waiting_for = None",
        "tests/integration/test_refetch.py::test_text_is_not_read_before_its_commit_is_visible",
    ),
    Mutation(
        "no comparison of file nodes",
        "cdc_embed/source/rows.py",
        "            if _expect_followed(cursor, table) != files:",
        "            if _expect_followed(cursor, table) is None:",
        "tests/integration/test_reconcile.py::test_read_across_a_rewrite_is_not_believed",
    ),
    Mutation(
        "any index as identity at setup",
        "cdc_embed/source/leaves.py",
        "(leaf.identity and set(leaf.identity) == key):",
        "leaf.identity:",
        "tests/integration/test_refusals.py::test_unusable_table_is_named_with_what_mends_it",
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
        "a count has a snapshot older than its lock",
        "sql/source/tables.sql",
        "set transaction read only; set local",
        "set transaction isolation level repeatable read; set local",
        "tests/integration/test_reconcile.py::test_a_count_across_a_rewrite_is_right[alter-count]",
    ),
    Mutation(
        "a row that cannot be read ends the service",
        "cdc_embed/source/coverage.py",
        "        if problem is None:",
        "        if problem != ():",
        "tests/integration/test_undelivered.py::test_row_to_be_read_again_of_a_table_that_left[pgoutput]",
    ),
    Mutation(
        "a role that row security applies to reads on",
        "cdc_embed/source/tables.py",
        "    if found.filtered:",
        "    if found is None:",
        "tests/integration/test_row_security.py::test_row_security_of_no_use_pauses_its_table_alone",
    ),
    Mutation(
        "a key that moves under policies is not noticed",
        "cdc_embed/source/observed.py",
        "    moved = now.row_security and was.key_numbers != now.key_numbers",
        "    moved = False",
        "tests/integration/test_row_security.py::test_row_security_of_no_use_pauses_its_table_alone",
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
        "a key that is no value any more is an error",
        "cdc_embed/source/rows.py",
        "            if len(keys) == 1:",
        "            if not keys:",
        "tests/integration/test_refetch.py::"
        "test_key_that_is_no_value_of_its_type_any_more_has_no_row[18]",
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
        "a service's own right to replicate does not count",
        "sql/source/slot.sql",
        "m.rolname = 'rds_replication'",
        "m.rolname is null",
        "tests/integration/test_hosted_servers.py::test_fixes_are_in_the_words_of_the_service[rds]",
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
)
