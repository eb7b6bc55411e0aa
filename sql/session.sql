-- name: backend
-- The PID of this session's server process; behind a pooler it is not the PID of our connection.
select pg_backend_pid()

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
