"""Protections of the service, its pages and its commands, each taken out by one line."""

from typing import Final

from tests.mutations.mutation import Mutation

MUTATIONS: Final = (
    Mutation(
        "DDL waits for a search",
        "cdc_embed/cli/search.py",
        "    session = Session(TARGET, config.target_login, name, lookout=databases.target)",
        "    session = Session(TARGET, config.target_login, name)",
        "tests/integration/test_giving_way.py::test_an_alter_table_does_not_wait_for_a_search",
    ),
    Mutation(
        "what refuses a statement is not named",
        "cdc_embed/service/refusing.py",
        "            error = with_way_out(error, self.hindrances)",
        "            error = with_way_out(error, [])",
        "tests/integration/test_hindrances.py::test_what_only_refuses_is_named_with_the_refusal",
    ),
    Mutation(
        "a trigger on the only table of vectors ends the service",
        "cdc_embed/service/service.py",
        "        waits = isinstance(error, TargetRefusedError)",
        "        waits = False",
        "tests/integration/test_hindrances.py::test_the_only_table_is_tried_again_once_its_trigger_is_gone",
    ),
    Mutation(
        "rows of a partition stay pending for ever",
        "cdc_embed/service/shapes.py",
        "        return bool(passed or known != shape.leaves or pending.leaves or pending.orphans)",
        "        return True",
        "tests/integration/test_leaves.py::test_rows_of_a_partition_that_nobody_looked_at_are_pending",
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
        "vectors that a crash would take are followed on",
        "cdc_embed/service/watch.py",
        "            if not each.logged",
        "            if False",
        "tests/integration/test_unlogged.py::test_unlogged_vectors_are_named_and_compared_again",
    ),
    Mutation(
        "vectors that other hands opened are not noticed",
        "cdc_embed/service/watch.py",
        "        lacking |= opened_tables(",
        "        opened_tables(",
        "tests/integration/test_row_security.py::test_vectors_that_other_hands_open_are_named",
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
        "vectors that are lost end the service",
        "cdc_embed/service/service.py",
        "            self._begin_again(None, waits_for_setup=waits)",
        "            self._begin_again(None)",
        "tests/integration/test_your_migrations.py::"
        "test_what_concerns_every_table_ends_no_service[drop extension vector cascade]",
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
        "a database that is away ends the start",
        "cdc_embed/service/service.py",
        "                if not waits and not is_passing(exc):",
        "                if exc:",
        "tests/integration/test_start.py::test_a_database_that_is_away_at_the_start_is_waited_for",
    ),
    Mutation(
        "connections to the web side without a limit",
        "cdc_embed/serve/limited.py",
        "            self._make_room()",
        "            pass",
        "tests/integration/test_web.py::test_idle_connections_end_neither_service_nor_answers",
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
        "a keepalive comes before the anchor",
        "cdc_embed/service/instance.py",
        "catalogue.anchor()\n            stream.start_replication(self._source.plugin.options)",
        "slot\n            stream.start_replication(self._source.plugin.options)",
        "tests/acceptance/test_durability.py::"
        "test_a_stop_of_the_source_at_once_confirms_nothing_new",
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
        "a running service waits for a table that another one replaced",
        "cdc_embed/service/watch.py",
        "        if not successors or coverage.by_name:",
        "        if successors or not successors:",
        "tests/integration/test_undelivered.py::"
        "test_setup_gives_a_running_service_the_table_of_the_name",
    ),
    Mutation(
        "a leaf that came and went between two looks was never there",
        "cdc_embed/service/shapes.py",
        "            passed = met.get(name, frozenset()) - shape.leaves.keys()",
        "            passed = frozenset()",
        "tests/integration/test_leaves.py::test_leaf_between_two_looks_leaves_nothing_behind",
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
        "the first call is not made",
        "cdc_embed/service/trying.py",
        "    trial = partial(try_out, embedder, config)",
        "    trial = lambda: Tried(card=embedder.describe())",
        "tests/integration/test_canary.py::test_a_wrong_answer_at_the_start_is_told_by_every_command",
    ),
    Mutation(
        "an embedder that is away at the start is not tried later",
        "cdc_embed/service/watch.py",
        "if self._trial is not None:  # in",
        "if False:  # in",
        "tests/integration/test_canary.py::test_a_wrong_embedder_that_was_away_ends_the_service",
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
        "what the log has of a wrong identity is an error for ever",
        "cdc_embed/service/parts.py",
        "            on_undelivered=pause,",
        "",
        "tests/integration/test_silent_losses.py::"
        "test_identity_other_than_the_key_stops_before_a_misreading[18]",
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
        "another key goes unnoticed",
        "cdc_embed/service/watch.py",
        "            found.update({**others, **observed.undelivered, **observed.altered})",
        "            found.update({**others, **observed.undelivered})",
        "tests/integration/test_key_changes.py::"
        "test_a_changed_key_pauses_its_table_and_keeps_its_vectors[a column more]",
    ),
    Mutation(
        "a standby is waited for, and nobody says so",
        "cdc_embed/serve/status.py",
        "    if slot is not None and slot.waits_for:",
        "    if slot is None:",
        "tests/integration/test_source_failover.py::test_standby_that_is_waited_for_is_named[True]",
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
)
