-- name: open_reconcile
-- The comparison of a table in this space and with these metadata columns, while the table of
-- vectors is ours.
insert into {schema}.reconcile
  (table_name, space, metadata, state, reason, estimate, shape, leaf_digest, leaves, run)
select %(table_name)s, %(space)s, %(metadata)s, %(state)s, %(reason)s, %(estimate)s, %(shape)s,
       %(leaf_digest)s, %(leaves)s::jsonb, (extract(epoch from clock_timestamp()) * 1000000)::bigint
from {schema}.embedding_table
where table_name = %(table_name)s and (slot is null or slot = %(slot)s)
on conflict do nothing

-- name: drop_other_reconciles
-- Comparisons of this table for other spaces or metadata columns are out of date.
delete from {schema}.reconcile
where table_name = %(table_name)s and (space, metadata) <> (%(space)s, %(metadata)s::text[])

-- name: forget_unconfigured
-- Forget tables that are not configured any more, and their deferred rows: every row is compared when
-- they come back.
with deferred as (
  delete from {schema}.deferred w using {schema}.embedding_table e
  where e.table_name = w.table_name and e.slot = %(slot)s and w.table_name <> all (%(table_names)s))
delete from {schema}.reconcile r using {schema}.embedding_table e
where e.table_name = r.table_name and e.slot = %(slot)s
  and r.table_name <> all (%(table_names)s)

-- name: forget_replaced
-- Forget the comparison of another table that had this name.
delete from {schema}.reconcile r using {schema}.embedding_table e
where e.table_name = r.table_name and e.table_name = %(table_name)s
  and e.source_oid is distinct from %(source_oid)s and (e.slot is null or e.slot = %(slot)s)

-- name: adopt_table
-- Register the table that has the name now.
update {schema}.embedding_table set source_oid = %(source_oid)s
where table_name = %(table_name)s and source_oid is distinct from %(source_oid)s
  and (slot is null or slot = %(slot)s)

-- name: compare_again
-- Compare tables again, because changes were undelivered. One that waits for a request goes on
-- waiting. The transactions that deferred rows can be those of another server then.
with deferred as (
  update {schema}.deferred set xid = null
  where table_name = any ({table_names}::text[]) and xid is not null)
update {schema}.reconcile
set state = case when state = 'waiting' then state else 'running' end, stage = 'rows', cursor = null,
    checked = 0, fresh = 0, missing = 0, stale = 0, metadata_stale = 0, orphan = 0, dead_letter = 0,
    shape = {shape}, leaf_digest = {leaf_digest}, leaves = {leaves}::jsonb, changed_leaves = array[]::bigint[],
    orphans = true, run = (extract(epoch from clock_timestamp()) * 1000000)::bigint,
    started_at = now(), finished_at = null, updated_at = now()
where table_name = any ({table_names}::text[])

-- name: read_reconciles
-- The progress of every comparison.
select table_name, state, reason, stage, cursor, checked, fresh, missing, stale, metadata_stale,
       orphan, dead_letter, estimate, run
from {schema}.reconcile

-- name: stored_tables
-- For each source table: its table of vectors and its model, dead letters, deferred rows and since
-- when they wait, the progress of its comparison, a token that changes when its vectors are written, and
-- whether a crash leaves them.
select e.table_name, e.embedding_table, s.model, coalesce(d.letters, 0), coalesce(w.rows, 0), w.since, r.state, coalesce(r.checked, 0), r.shape, r.leaf_digest, t.reltuples > 10000,
       case when current_setting('track_counts') = 'on'
            then format('%%s %%s %%s', t.oid, pg_stat_get_tuples_inserted(t.oid), pg_stat_get_tuples_deleted(t.oid))
            else (select string_agg(batch_seq::text, ' ') from {schema}.checkpoint) end,
       coalesce(t.relpersistence, 'p') = 'p'
from {schema}.embedding_table e
join {schema}.space s on s.id = e.space
left join pg_class t on t.relnamespace = (select oid from pg_namespace where nspname = %(schema)s) and t.relname = e.embedding_table
left join {schema}.reconcile r on r.table_name = e.table_name
left join (select table_name, count(*) as letters from {schema}.dead_letter group by table_name) d
  on d.table_name = e.table_name
left join (select table_name, count(*) as rows, extract(epoch from min(committed_at))::float8 as since
           from {schema}.deferred group by table_name) w
  on w.table_name = e.table_name
where e.table_name = any (%(table_names)s)

-- name: has_compared
-- Whether rows of a slot's tables were compared since a comparison was last begun.
select exists (select from {schema}.reconcile r join {schema}.embedding_table e on e.table_name = r.table_name
               where e.slot = %(slot)s and (r.state = 'done' or r.checked > 0))

-- name: something_to_do
-- Whether the command line asks for something, or one of these tables is not compared.
select exists (select from {schema}.request where slot = %(slot)s and state in ('waiting', 'running'))
       or exists (select from unnest(%(table_names)s::text[]) as t (name)
                  left join {schema}.reconcile r on r.table_name = t.name
                  where r.table_name is null or r.state = 'running')

-- name: start_reconcile
-- Compare a table from its beginning, unless its comparison is running.
update {schema}.reconcile
set state = 'running', reason = '', stage = 'rows', cursor = null, checked = 0, fresh = 0,
    missing = 0, stale = 0, metadata_stale = 0, orphan = 0, dead_letter = 0,
    estimate = %(estimate)s, shape = %(shape)s, leaf_digest = %(leaf_digest)s, leaves = %(leaves)s::jsonb,
    changed_leaves = array[]::bigint[], orphans = true,
    run = (extract(epoch from clock_timestamp()) * 1000000)::bigint, started_at = now(), finished_at = null, updated_at = now()
where table_name = %(table_name)s and state <> 'running'

-- name: save_reconcile
-- The progress of a comparison; no row when it begins again, or another writer took over. What was
-- noted of leaves meanwhile keeps a comparison running that would be done.
update {schema}.reconcile
set state = case when %(state)s = 'done' and (orphans or changed_leaves <> array[]::bigint[])
                 then 'running' else %(state)s end,
    stage = case when %(state)s = 'done' then 'leaves' else %(stage)s end,
    cursor = case when %(state)s <> 'done' then %(cursor)s::text[] end,
    orphans = orphans and not %(looks_for_orphans)s,
    checked = %(checked)s, fresh = %(fresh)s, missing = %(missing)s, stale = %(stale)s,
    metadata_stale = %(metadata_stale)s, orphan = %(orphan)s, dead_letter = %(dead_letter)s,
    started_at = coalesce(started_at, now()),
    finished_at = case when %(state)s = 'done' then now() end, updated_at = now()
where table_name = %(table_name)s and run = %(run)s
  and exists (select from {schema}.checkpoint where slot = %(slot)s and epoch = %(epoch)s)
  and exists (select from {schema}.embedding_table
              where table_name = %(table_name)s and (slot is null or slot = %(slot)s))
returning state

-- name: read_leaves
-- The shape of each leaf that the comparison takes into account.
select leaves from {schema}.reconcile where table_name = %(table_name)s

-- name: note_leaves
-- The present leaves, and what is to be done because of those that came, went or were changed.
update {schema}.reconcile
set leaves = %(leaves)s::jsonb, leaf_digest = %(leaf_digest)s,
    changed_leaves = array(select distinct oid from unnest(changed_leaves || %(changed)s::bigint[]) as l (oid)
                           where oid = any (%(found)s::bigint[]) order by oid),
    orphans = orphans or %(orphans)s,
    state = case when follows and state = 'done' then 'running' else state end,
    stage = case when follows and state = 'done' then 'leaves' else stage end,
    updated_at = now()
from (select %(orphans)s or %(changed)s::bigint[] <> array[]::bigint[] as follows) as work
where table_name = %(table_name)s and shape = %(shape)s and leaf_digest = %(before)s

-- name: pending_leaves
-- The leaves that are to be compared alone, with their shapes, and whether orphans are looked for.
select oid, leaves ->> oid::text, orphans
from {schema}.reconcile left join unnest(changed_leaves) as l (oid) on true
where table_name = %(table_name)s
order by oid

-- name: leaf_compared
-- A leaf is compared, unless it was changed meanwhile.
update {schema}.reconcile set changed_leaves = array_remove(changed_leaves, %(leaf)s::bigint)
where table_name = %(table_name)s and run = %(run)s and leaves ->> %(leaf)s::text = %(token)s

-- name: stored_keys
-- Keys that have vectors, in the order of the target.
select {key_texts} from {table} t where ({key}) > ({after}) group by {key} order by {key} limit %(limit)s

-- name: first_stored_keys
-- The first keys that have vectors.
select {key_texts} from {table} t group by {key} order by {key} limit %(limit)s

-- name: stored_key_columns
-- The columns of the stored key, in order: name, type, the type's number and modifier. The last
-- column of the index tells the rows of one document apart.
select a.attname::text, format_type(a.atttypid, a.atttypmod), a.atttypid::bigint, a.atttypmod
from pg_class c
join pg_namespace n on n.oid = c.relnamespace and n.nspname = %(schema)s
join pg_index i on i.indrelid = c.oid and i.indisprimary
cross join unnest((i.indkey::smallint[])[:i.indnkeyatts - 1]) with ordinality as k (attnum, place)
join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
where c.relname = %(name)s and k.place < i.indnkeyatts
order by k.place

-- name: count_shown
-- In one snapshot: the documents that the search view shows, and those that are stored.
select (select count(*) from {view} where chunk = 0), (select count(*) from {table} where chunk = 0)

-- name: sample_keys
-- Random documents.
select {key_texts} from {table} t where chunk_row = 0 and space = %(space)s order by random() limit %(limit)s

-- name: letter_keys
-- Keys that have a dead letter.
select key from {schema}.dead_letter where table_name = %(table_name)s

-- name: delete_other_spaces
-- The vectors of former spaces in some pages, once every document has one in the new space.
delete from {table} where space <> %(space)s
  and ctid >= format('(%%s,0)', %(page)s)::tid and ctid < format('(%%s,0)', %(page)s + %(pages)s)::tid
  and exists (select from {schema}.checkpoint where slot = %(slot)s and epoch = %(epoch)s)

-- name: count_pages
-- The pages of a table of vectors.
select pg_relation_size(%(table)s::regclass) / current_setting('block_size')::int

-- name: delete_other_letters
-- The dead letters of former spaces.
delete from {schema}.dead_letter where table_name = %(table_name)s and space <> %(space)s
  and exists (select from {schema}.checkpoint where slot = %(slot)s and epoch = %(epoch)s)

-- name: add_request
-- A request for the service.
insert into {schema}.request (slot, kind, arguments)
values (%(slot)s, %(kind)s, %(arguments)s::jsonb) returning id

-- name: open_requests
-- The requests that are not done yet, oldest first.
select id, kind, arguments, state from {schema}.request
where slot = %(slot)s and state in ('waiting', 'running') order by id

-- name: read_request
-- The state of a request.
select state, progress, result, error from {schema}.request where id = %(id)s

-- name: save_request
-- The service's answer to a request.
update {schema}.request
set state = %(state)s, progress = %(progress)s::jsonb, result = %(result)s::jsonb,
    error = %(error)s, updated_at = now()
where id = %(id)s and state in ('waiting', 'running')

-- name: drop_old_requests
-- Requests that ended a week ago.
delete from {schema}.request where updated_at < now() - interval '7 days'

-- name: find_indexes
-- The HNSW indexes of some tables, the build that runs, and the rows rewritten so far.
select t.relname::text, coalesce(s.n_tup_del + s.n_tup_upd - s.n_tup_hot_upd, 0),
       coalesce(s.n_live_tup, 0), x.name, x.indisvalid, x.operators, x.options, x.mark, p.phase, p.pid
from pg_class t
join pg_namespace n on n.oid = t.relnamespace and n.nspname = %(schema)s
left join pg_stat_user_tables s on s.relid = t.oid
left join lateral (
  select c.oid, c.relname::text as name, i.indisvalid, o.opcname::text as operators,
         coalesce(c.reloptions, array[]::text[]) as options, obj_description(c.oid, 'pg_class') as mark
  from pg_index i
  join pg_class c on c.oid = i.indexrelid
  join pg_am a on a.oid = c.relam and a.amname = 'hnsw'
  join pg_opclass o on o.oid = i.indclass[0]
  where i.indrelid = t.oid
) x on true
left join pg_stat_progress_create_index p on p.index_relid = x.oid and p.datname = current_database()
where t.relname = any (%(tables)s) and t.relkind = 'r'

-- name: lock_index
-- Whether this session may build the index of a table; the lock lasts as long as the session.
select pg_try_advisory_lock(hashtext('cdc_embed index'), %(table)s::regclass::oid::integer)

-- name: unlock_index
-- Let other sessions build the index.
select pg_advisory_unlock(hashtext('cdc_embed index'), %(table)s::regclass::oid::integer)

-- name: outlive_client
-- Let the server go on with a build whose client is gone, because it can have taken hours.
set client_connection_check_interval = 0

-- name: build_serially
-- Build without parallel workers, for whom there was no shared memory.
set max_parallel_maintenance_workers = 0

-- name: end_builds
-- End the builds of a table's index, whose locks would be waited for.
select pg_terminate_backend(p.pid) from pg_stat_progress_create_index p
join pg_class c on c.oid = p.index_relid and c.relname = any ({names}::text[])
where p.relid = to_regclass({table}) and p.datname = current_database()

-- name: mark_index
-- The rows that had been rewritten when the index was built.
comment on index {index} is {mark}

-- name: drop_index
-- An index that is unfinished, or not wanted any more.
drop index concurrently if exists {index}
