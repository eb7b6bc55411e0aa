-- name: find_letters
-- Dead letters of some source tables: all, or only those with these ids.
select l.id, l.table_name, l.key, l.fingerprint, s.model, l.reason, l.error, l.attempts,
       l.first_at, l.last_at
from {schema}.dead_letter l join {schema}.space s on s.id = l.space
where l.table_name = any (%(table_names)s::text[])
  and (%(ids)s::bigint[] is null or l.id = any (%(ids)s::bigint[]))
order by l.id

-- name: count_letters
-- Dead letters of each table.
select table_name, count(*) from {schema}.dead_letter group by table_name

-- name: drop_letters
-- Forget dead letters: their documents are missing from then on, and can be tried again.
delete from {schema}.dead_letter where id = any (%(ids)s::bigint[])
