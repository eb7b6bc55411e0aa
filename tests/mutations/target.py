"""Protections of what writes to the target, each taken out by one line."""

from typing import Final

from tests.mutations.mutation import Mutation

MUTATIONS: Final = (
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
        "a table with some columns of ours is ours",
        "cdc_embed/target/schema.py",
        "MOST, ALL, NEW = len(TELLING) // 2 + 1, len(TELLING), len(TELLING) + 1",
        "MOST, ALL, NEW = 1, 1, len(TELLING) + 1",
        "tests/integration/test_names_taken.py::test_vectors_of_the_application_are_never_ours",
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
        "a position that a trigger keeps is not there",
        "cdc_embed/target/store.py",
        "        if recorded is not None:\n            return dropped(",
        "        if recorded is None:\n            return dropped(",
        "tests/integration/test_hindrances.py::test_a_trigger_on_the_position_is_named_while_running",
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
        "a table of the application with two names of ours has vectors",
        "sql/target/mending.sql",
        "        and {least} <= (select",
        "        and 0 * {least} <= (select",
        "tests/integration/test_lost_tables.py::"
        "test_without_the_spaces_every_text_is_embedded_on_demand",
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
        "vectors of a lost space come to be of another",
        "sql/target/mending.sql",
        "cdc_embed_last + 1);",
        "1);",
        "tests/integration/test_lost_tables.py::"
        "test_without_the_spaces_every_text_is_embedded_on_demand",
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
        "any primary key of the vectors is taken for ours",
        "cdc_embed/target/registry.py",
        "    if list(key)[-1:] != [number]:",
        "    if False:",
        "tests/integration/test_refusing_tables.py::"
        "test_setup_names_the_way_out_of_a_lost_primary_key[another one]",
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
        "a shadow shows every vector until it has policies",
        "cdc_embed/target/shadow.py",
        "        if self.table.row_security:",
        "        if False:",
        "tests/integration/test_row_security.py::"
        "test_a_shadow_shows_no_vector_before_its_policies_do",
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
        "no epoch check",
        "sql/target/store.sql",
        "    batch_seq = %(batch_seq)s, updated_at = now()\n"
        "where slot = %(slot)s and epoch = %(epoch)s",
        "    batch_seq = %(batch_seq)s, updated_at = now()\nwhere slot = %(slot)s",
        "tests/integration/test_store.py::"
        "test_older_writer_cannot_commit_even_when_overtaken_midway",
    ),
    Mutation(
        "a batch written again when its answer was lost",
        "cdc_embed/target/store.py",
        "                if self._is_committed(cursor, batch_seq):\n                    return\n",
        "                self._is_committed(cursor, batch_seq)\n",
        "tests/integration/test_store.py::test_batch_whose_answer_was_lost_is_not_written_twice",
    ),
    Mutation(
        "a former key's column stays not null",
        "sql/target/kept.sql",
        "k.indrelid = t.oid and k.indisprimary and a.attnum",
        "k.indrelid = 0 and k.indisprimary and a.attnum",
        "tests/integration/test_key_changes.py::test_a_column_that_leaves_the_key_may_be_null",
    ),
    Mutation(
        "our policies keep a key column as it is",
        "cdc_embed/target/view.py",
        "        return [drop_view(self._schema, self._table.search_view), *self._drop_policies()]",
        "        return [drop_view(self._schema, self._table.search_view)]",
        "tests/integration/test_row_security.py::test_a_key_under_a_policy_is_retyped_in_place",
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
        "deferred keys keep a former name",
        "sql/target/shadow.sql",
        "update {schema}.deferred set key = (key - {column})",
        "update {schema}.deferred set key = key || (key - {column})",
        "tests/integration/test_deferred.py::test_a_deferred_row_follows_its_renamed_key",
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
        "a comparison that is outdated counts",
        "sql/target/reconcile.sql",
        " and run = %(run)s\n  and exists",
        "\n  and exists",
        "tests/integration/test_rewrites.py::test_comparison_that_is_outdated_begins_again[18]",
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
        "readers see the vectors of every tenant",
        "cdc_embed/target/view.py",
        '        found = [_compose("enable_row_security", table=self._vectors)]',
        "        found: list[sql.Composed] = []",
        "tests/integration/test_row_security.py::"
        "test_a_reader_sees_the_vectors_of_its_own_tenant_only[letters_embedding]",
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
        "a running service is not told of a swap",
        "sql/target/shadow.sql",
        "set epoch = epoch + 1 where",
        "set epoch = epoch where",
        "tests/integration/test_key_changes.py::test_a_key_changes_whatever_else_is_so[stopped]",
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
        "the functions of a view are found by the reader's search path",
        "cdc_embed/target/source_functions.py",
        "pg_catalog.array_to_string(array",
        "array_to_string(array",
        "tests/integration/test_hostile_role.py::"
        "test_nothing_of_a_role_that_may_create_in_public_is_run",
    ),
    Mutation(
        "former spaces go in one transaction",
        "cdc_embed/target/stored.py",
        "range(0, self._count_pages(table), PAGES)",
        "range(0, self._count_pages(table), 10**9)",
        "tests/integration/test_retired_spaces.py::test_vectors_of_former_spaces_go_in_parts",
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
