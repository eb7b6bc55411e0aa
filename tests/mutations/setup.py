"""Protections of `setup`, its checks and `teardown`, each taken out by one line."""

from typing import Final

from tests.mutations.mutation import Mutation

MUTATIONS: Final = (
    Mutation(
        "nobody asks whether an index can be made",
        "cdc_embed/setup/preflight.py",
        "        survey.findings += check_creating(databases.target, config.target.schema)",
        "        check_creating(databases.target, config.target.schema)",
        "tests/integration/test_rights.py::test_doctor_warns_if_no_index_can_be_made",
    ),
    Mutation(
        "teardown drops what took the place of ours",
        "cdc_embed/setup/teardown.py",
        "    strange = strangers(databases, [*vectors, *views, *SERVICE_TABLES], vectors=forms)",
        "    strange: dict[str, str] = {} if databases else strangers(databases, [], vectors={})",
        "tests/integration/test_names_taken.py::test_what_took_the_place_of_ours_is_named_and_stays",
    ),
    Mutation(
        "setup drops the application's table in the place of a shadow",
        "cdc_embed/setup/tables.py",
        "        expect_free_shadow(databases, table)",
        "        expect_free_shadow",
        "tests/integration/test_names_taken.py::test_a_shadow_of_the_application_is_not_dropped",
    ),
    Mutation(
        "a later setup takes a function of the application for ours",
        "cdc_embed/setup/names.py",
        '        lasting = {mine.embedding_table, mine.search_view or "", *function_names(table)}',
        '        lasting = {mine.embedding_table, mine.search_view or ""}',
        "tests/integration/test_names_taken.py::test_our_functions_are_dropped_by_their_arguments",
    ),
    Mutation(
        "nobody is told of another owner of ours",
        "cdc_embed/setup/hindrances.py",
        "        if (each.kind == OWNER) == owned",
        "        if each.kind != OWNER",
        "tests/integration/test_hindrances.py::test_another_owner_of_ours_is_named_with_the_way_back",
    ),
    Mutation(
        "setup leaves renamed indexes as they are",
        "cdc_embed/setup/tables.py",
        "        change.before[:0] = rename_back_ddl(self._databases.target, self._schema, name)\n",
        "",
        "tests/integration/test_index.py::test_renamed_indexes_get_their_names_back",
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
        "DDL waits for a row that is read",
        "cdc_embed/setup/connections.py",
        'f"cdc_embed rows {slot}", lookout=source)',
        'f"cdc_embed rows {slot}")',
        "tests/integration/test_giving_way.py::"
        "test_an_alter_table_does_not_wait_for_a_row_read_again",
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
        "a table of ours that is gone is not named",
        "cdc_embed/setup/preflight.py",
        "    expect_tables(databases)",
        "    pass",
        "tests/integration/test_lost_tables.py::test_a_lost_table_of_ours_is_named_and_made_again",
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
        "vectors are copied to a key that the application's policies refuse",
        "cdc_embed/setup/tables.py",
        "            rehearse(databases.target, shadow, change.at_once, on_wait)",
        "            pass",
        "tests/integration/test_grants.py::"
        "test_what_does_not_fit_another_key_is_named_before_copying",
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
        "setup takes vectors without a primary key for those of a former key",
        "cdc_embed/setup/tables.py",
        "        expect_key(self._schema, table, name, stored)",
        "        pass",
        "tests/integration/test_refusing_tables.py::"
        "test_setup_names_the_way_out_of_a_lost_primary_key[the constraint]",
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
        "a limit below the stored window is told by nobody",
        "cdc_embed/setup/preflight.py",
        "    if card.max_tokens and card.max_tokens < longest:",
        "    if False:",
        "tests/unit/test_model_limits.py::test_a_limit_below_the_stored_window_is_told",
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
        "doctor knows of no gap",
        "cdc_embed/setup/survey.py",
        "        if self.gap is not None:\n            return HistoryGapError.exit_code",
        "        if self.gap is not None:\n            return 0",
        "tests/integration/test_start.py::test_doctor_and_run_agree[a slot that is gone]",
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
        "take another source's vectors",
        "cdc_embed/setup/ownership.py",
        "    elif not takes_over:",
        "    elif takes_over is None:",
        "tests/integration/test_ownership.py::test_two_sources_do_not_share_a_table_of_vectors",
    ),
    Mutation(
        "the canary is not compared at the start",
        "cdc_embed/setup/spaces.py",
        "others = [space for space in named if not _is_same(space, card)]",
        "others = named[:0]",
        "tests/integration/test_canary.py::test_another_model_behind_the_name_stops_before_a_write",
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
        "another revision is an alias",
        "cdc_embed/setup/spaces.py",
        "return kind and pinned and space.model != card.identity",
        "return space.model != card.identity",
        "tests/integration/test_spaces.py::test_another_model_of_the_same_size_drops_the_old_vectors",
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
        "functions over the search view are met after the copy",
        "cdc_embed/setup/relations.py",
        "        if not found:",
        "        if found is not None:",
        "tests/integration/test_grants.py::"
        "test_what_cannot_be_put_back_is_named_before_the_copy[function public.f()]",
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
        "what was added to a publication of others stays in it",
        "cdc_embed/setup/teardown.py",
        "    steps += steps_of(databases, Where.SOURCE, added)",
        "    del added",
        "tests/integration/test_adoption.py::test_adopted_publication_loses_what_was_added_alone",
    ),
)
