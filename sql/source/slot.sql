-- name: identity
-- The server, the database and the timeline.
select s.system_identifier::text, current_database()::text,
       ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int
from pg_control_system() s

-- name: server
-- The settings that decide whether the change log can be read. The view hides a setting, where
-- current_setting raises an error, from a role that may not read it.
select current_setting('server_version_num')::int, current_setting('server_version'),
       current_setting('wal_level'), current_setting('max_replication_slots')::int,
       pg_is_in_recovery(),
       (select rolreplication or rolsuper or exists (
          select from pg_roles m where m.rolname = 'rds_replication' and pg_has_role(m.oid, 'member'))
        from pg_roles where rolname = current_user),
       current_setting('server_encoding'),
       current_setting('max_slot_wal_keep_size'), quote_ident(current_user),
       (select setting from pg_settings where name = 'output_plugin_libraries'),
       array(select rolname::text from pg_roles where rolname = any (%(marks)s))

-- name: times
-- Seconds of our silence after which the server ends a connection (0: never), its clock, and the next
-- transaction id in 64 bits.
select setting::float / 1000, extract(epoch from clock_timestamp())::float,
       pg_snapshot_xmax(pg_current_snapshot())::text::bigint
from pg_settings where name = 'wal_sender_timeout'

-- name: slot
-- The slot, as the server sees it, and the age of the oldest running or prepared transaction, which
-- holds its log.
select s.slot_name::text, s.plugin::text, s.database::text, s.active, s.active_pid,
       s.confirmed_flush_lsn::text, s.restart_lsn::text, s.wal_status,
       pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn)::bigint, s.safe_wal_size,
       s.slot_type, a.application_name, a.usename::text, pg_current_wal_lsn()::text,
       (select extract(epoch from now() - min(o.started))::float
        from (select xact_start from pg_stat_activity where backend_xid is not null
              union all select prepared from pg_prepared_xacts) as o (started)),
       coalesce((to_jsonb(s) ->> 'failover')::boolean, false),
       case when a.wait_event = 'WaitForStandbyConfirmation' then array(
         select w.name || case when w.state is null then ', which does not exist'
                               when not w.state then ', which has no standby now' else '' end
         from (select trim(both ' "' from n.name) as name, p.active as state
               from regexp_split_to_table(current_setting('synchronized_standby_slots', true), ',') n (name)
               left join pg_replication_slots p on p.slot_name::text = trim(both ' "' from n.name)) w
         where w.name <> '' order by w.state nulls first, w.name) end
from pg_replication_slots s left join pg_stat_activity a on a.pid = s.active_pid
where s.slot_name = %(slot)s

-- name: slot_count
-- The number of slots on the server.
select count(*) from pg_replication_slots

-- name: create_slot
-- The slot: from its consistent point on, no change is missed.
select lsn from pg_create_logical_replication_slot({slot}, {plugin})

-- name: create_failover_slot
-- The same, for a slot that standbys copy.
select lsn from pg_create_logical_replication_slot({slot}, {plugin}, failover => true)

-- name: standby_slots
-- The physical slots, and those that the server waits for before it sends a change.
select coalesce(s.name, w.name), s.name is not null, coalesce(s.active, false),
       coalesce(s.feedback, false), w.name is not null
from (select slot_name::text as name, active, xmin is not null or catalog_xmin is not null as feedback
      from pg_replication_slots where slot_type = 'physical') s
full join (select trim(both ' "' from n.name) as name
           from regexp_split_to_table(current_setting('synchronized_standby_slots', true), ',') n (name)
           where trim(both ' "' from n.name) <> '') w on w.name = s.name
order by 1

-- name: standbys
-- Whether this role sees other sessions, the standbys without a slot, whether one copies slots.
select pg_has_role('pg_read_all_stats', 'usage'),
       array(select r.application_name from pg_stat_replication r
             where r.state = 'streaming' and r.application_name !~ '^pg_'
               and not exists (select from pg_replication_slots s where s.active_pid = r.pid)),
       exists (select from pg_stat_activity where application_name ~ 'slotsync worker$')

-- name: drop_slot
-- Drop the slot, so that the server frees its log.
select pg_drop_replication_slot(slot_name) from pg_replication_slots
where slot_name = {slot} and plugin = {plugin} and database = current_database()
  and slot_type = 'logical'

-- name: transactions_waited_for
-- The transactions that a new slot waits for.
select coalesce('PID ' || a.pid || ' (' || coalesce(nullif(a.usename, ''), '?')
         || coalesce(', ' || nullif(a.application_name, ''), '') || ', '
         || a.state || ' for ' || date_trunc('second', now() - a.xact_start) || ')', '?')
from pg_stat_activity a
where a.backend_xid is not null and a.pid <> pg_backend_pid()
union all
select 'prepared transaction ' || quote_literal(gid) from pg_prepared_xacts
order by 1

-- name: anchor
-- An empty message, flushed by the commit, so that the first message of a new connection has a position.
select set_config('synchronous_commit', 'local', true), pg_logical_emit_message(false, 'cdc_embed', ''),
       pg_current_xact_id()

-- name: synchronous_walsender
-- Whether commits wait, or would wait, for a walsender of this name.
select current_setting('synchronous_standby_names') ~ '(^|[ ,(])"?[*]"?([ ,)]|$)'
       or position(lower(%(application_name)s) in lower(current_setting('synchronous_standby_names'))) > 0
       or exists (select from pg_stat_replication
                  where application_name = left(%(application_name)s, 63) and sync_state <> 'async')

-- name: wal_end
-- The position of the next log record, and the size of the log's segments.
select pg_current_wal_insert_lsn()::text, pg_size_bytes(current_setting('wal_segment_size'))
