-- name: backend
-- The server process of this session, and the name that it has for us; nothing is set yet, so every
-- name has its schema.
select pg_catalog.pg_backend_pid(), pg_catalog.current_setting('application_name')

-- name: process
-- The server process of this session, and its start.
select a.pid, a.backend_start::pg_catalog.text from pg_catalog.pg_stat_activity a
where a.pid operator(pg_catalog.=) pg_catalog.pg_backend_pid()

-- name: is_there
-- Whether a server process is still there.
select exists (
  select from pg_catalog.pg_stat_activity a
  where a.pid operator(pg_catalog.=) %(pid)s
    and a.backend_start::pg_catalog.text operator(pg_catalog.=) %(started)s)

-- name: served
-- Whether a session works, or did so lately; one that waits for its client does not.
select exists (
  select from pg_stat_activity
  where pid = %(pid)s and application_name = left(%(application_name)s, 63)
    and (state_change > now() - %(seconds)s * interval '1 second'
         or state = 'active' and wait_event_type is distinct from 'Client'))

-- name: end
-- End a session whose client is gone, because the next attempt would wait for its locks.
select pg_terminate_backend(pid)
from pg_stat_activity
where pid = %(pid)s and application_name = left(%(application_name)s, 63)

-- name: holders
-- Other sessions of this database that have held locks for a while, the longest first.
select 'PID ' || a.pid || ' (' || coalesce(nullif(a.application_name, ''), a.usename, '?') || ', '
       || a.state || ' for ' || date_trunc('second', now() - a.xact_start) || ')'
from pg_stat_activity a
where a.datname = current_database() and a.pid <> pg_backend_pid()
  and a.xact_start < now() - interval '400 milliseconds'
order by a.xact_start limit 5

-- name: read_only
-- Whether transactions are read-only: on a standby, or by a setting, which has an origin.
select current_setting('transaction_read_only')::boolean, pg_is_in_recovery(), s.source,
       quote_ident(current_database()), quote_ident(current_user)
from pg_settings s where s.name = 'default_transaction_read_only'

-- name: give_way
-- Cancel the statement of a session for which others wait, and name one of these. A cancelled session
-- blocks nobody any more once its transaction ends.
select waiting.pid
from (select pid from pg_locks where not granted and %(pid)s = any (pg_blocking_pids(pid)) limit 1) as waiting
where pg_cancel_backend(%(pid)s)
