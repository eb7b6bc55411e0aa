-- name: identity
-- The server, the database and the timeline.
select s.system_identifier::text, current_database()::text,
       ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int
from pg_control_system() s

-- name: read_checkpoint
-- The recorded position of one slot.
select slot, source_system_identifier, source_database, source_timeline,
       target_system_identifier, target_database, target_timeline,
       commit_lsn::text, ordinal, end_lsn::text, confirmed_lsn::text, batch_seq, epoch
from {schema}.checkpoint where slot = %(slot)s

-- name: create_checkpoint
-- The first position of a slot; the server will stream nothing before it.
insert into {schema}.checkpoint (slot, source_system_identifier, source_database, source_timeline,
  target_system_identifier, target_database, target_timeline, confirmed_lsn)
values (%(slot)s, %(source_system_identifier)s, %(source_database)s, %(source_timeline)s,
  %(target_system_identifier)s, %(target_database)s, %(target_timeline)s, %(confirmed_lsn)s)
on conflict (slot) do nothing

-- name: take_epoch
-- Become the one writer of a slot: every older epoch is fenced from here on. A slot of the same name of
-- another source fences nobody.
update {schema}.checkpoint
set epoch = epoch + 1, updated_at = now()
where slot = %(slot)s and source_system_identifier = %(source_system_identifier)s
  and source_database = %(source_database)s
returning slot, source_system_identifier, source_database, source_timeline,
          target_system_identifier, target_database, target_timeline,
          commit_lsn::text, ordinal, end_lsn::text, confirmed_lsn::text, batch_seq, epoch

-- name: adopt_identity
-- Continue the position on a promoted source, or in a target that was moved.
update {schema}.checkpoint
set source_timeline = %(source_timeline)s, target_system_identifier = %(target_system_identifier)s,
    target_database = %(target_database)s, target_timeline = %(target_timeline)s
where slot = %(slot)s and epoch = %(epoch)s

-- name: end_old_writers
-- End the transactions of older writers, because one whose client is gone holds its rows for ever.
-- A transaction in none of our tables is another service's, whose slot has the same name.
select pg_terminate_backend(pid)
from pg_stat_activity a
where application_name = left(%(application_name)s, 63) and datname = current_database()
  and usename = current_user and pid <> pg_backend_pid() and state <> 'idle'
  and exists (select from pg_locks l join pg_class c on c.oid = l.relation
              where l.pid = a.pid and l.database = a.datid
                and c.relnamespace = (select oid from pg_namespace where nspname = %(schema)s))

-- name: check_epoch
-- The epoch and the last batch of a slot, without a lock.
select epoch, batch_seq from {schema}.checkpoint where slot = %(slot)s

-- name: await_commit
-- Wait for a transaction that has recorded a batch and is in its COMMIT; the epoch after it.
select epoch from {schema}.checkpoint where slot = %(slot)s for share

-- name: check_constraints
-- Have deferred constraints, and triggers, speak now, and not at the COMMIT.
set constraints all immediate

-- name: record_batch
-- The position of a batch, in the batch's own transaction; no row when the epoch is lost.
update {schema}.checkpoint
set commit_lsn = %(commit_lsn)s, ordinal = %(ordinal)s,
    end_lsn = greatest(end_lsn, %(end_lsn)s::pg_lsn),
    batch_seq = %(batch_seq)s, updated_at = now()
where slot = %(slot)s and epoch = %(epoch)s

-- name: record_reconciled
-- A batch of rows that were read from the source: it has no place in the log.
update {schema}.checkpoint
set batch_seq = %(batch_seq)s, updated_at = now()
where slot = %(slot)s and epoch = %(epoch)s

-- name: record_progress
-- A position without anything to write; no row when the epoch is lost.
update {schema}.checkpoint
set confirmed_lsn = greatest(confirmed_lsn, %(confirmed_lsn)s::pg_lsn), updated_at = now()
where slot = %(slot)s and epoch = %(epoch)s and batch_seq = %(batch_seq)s

-- name: look_up
-- The stored state of some rows: whether the row is deferred, the document's hash and whether it came
-- by the log, or a dead letter. (``is true`` keeps the planner from an index scan for the space, which nearly every row
-- is in.)
select k.place, w.id is not null, w.xid, t.document_hash, t.metadata_hash, t.commit_lsn is not null,
       l.fingerprint, l.reason, l.error
from unnest({key_arrays}) with ordinality as k ({key_names}, place)
left join {table} t on {key_matches} and {key_texts_match} and t.chunk_row = 0 and (t.space = %(space)s) is true
left join {schema}.dead_letter l
  on l.space = %(space)s and {letter_matches}
left join {schema}.deferred w on {deferred_matches}

-- name: look_up_whole
-- The same with a document's other chunks: their number, their end, whether of one text and each
-- with a vector: the distance of a zero or infinite one to itself is no number.
select k.place, w.id is not null, w.xid, d.document_hash, d.metadata_hash, d.from_log,
       l.fingerprint, l.reason, l.error,
       d.chunks = d.last + 1 and d.of_one_text, d.end_offset
from unnest({key_arrays}) with ordinality as k ({key_names}, place)
left join lateral (
  select (array_agg(t.document_hash order by t.chunk_row))[1] as document_hash,
         (array_agg(t.metadata_hash order by t.chunk_row))[1] as metadata_hash,
         bool_and(t.commit_lsn is not null) as from_log,
         count(*) as chunks, max(t.chunk_row) as last, max(t.end_offset) as end_offset,
         count(distinct (t.document_hash, t.metadata_hash)) = 1
           and count(distinct t.chunk) = count(*) and max(t.chunk) = max(t.chunk_row)
           and bool_and({vectors}.cosine_distance(t.embedding, t.embedding) <> 'nan') as of_one_text
  from {table} t where {key_matches} and {key_texts_match} and (t.space = %(space)s) is true
) d on true
left join {schema}.dead_letter l
  on l.space = %(space)s and {letter_matches}
left join {schema}.deferred w on {deferred_matches}

-- name: stored_vectors
-- The vectors of some documents.
select k.place, t.chunk, t.chunk_hash, t.embedding::text
from unnest({key_arrays}) with ordinality as k ({key_names}, place)
join {table} t on {key_matches} and (t.space = %(space)s) is true

-- name: find_donors
-- Those chunks, by their hash, that have a vector already in a space whose vectors are the same.
select distinct t.chunk_hash from {table} t
where t.chunk_hash = any (%(hashes)s) and t.space = any (%(donor_spaces)s)
  and {vectors}.cosine_distance(t.embedding, t.embedding) <> 'nan'

-- name: stored_chunks
-- The chunks of some documents, by the number of their row.
select k.place, t.chunk_row, t.chunk_hash
from unnest({key_arrays}) with ordinality as k ({key_names}, place)
join {table} t on {key_matches} and {key_texts_match} and (t.space = %(space)s) is true

-- name: create_stage
-- The table for a batch's chunks, filled by binary COPY; its keys are text until the insert. A chunk
-- that is kept is stored already, with its vector.
create temporary table {stage} (
  {key_definitions},
  chunk integer, chunk_row integer, kept boolean, embedding {vector_type}, chunk_text text, start_offset integer,
  end_offset integer, document_hash bytea, chunk_hash bytea, commit_lsn pg_lsn,
  committed_at timestamptz, metadata_hash bytea{stage_metadata_definitions}
) on commit delete rows

-- name: copy_stage
-- The batch's chunks, in binary.
copy {stage} from stdin (format binary)

-- name: fill_from_donors
-- Take vectors from stored chunks of the same text, as they were before this batch.
update {stage} s
set embedding = (select t.embedding from {table} t
                 where t.chunk_hash = s.chunk_hash and t.space = any (%(donor_spaces)s)
                   and {vectors}.cosine_distance(t.embedding, t.embedding) <> 'nan' limit 1)
where s.embedding is null and not s.kept

-- name: missing_donors
-- The number of chunks that found no vector.
select count(*) from {stage} where embedding is null and not kept

-- name: stage_moves
-- Copy the chunks of rows whose key changed, as they were before this batch.
insert into {stage}
select {new_keys}, t.chunk, t.chunk_row, false, t.embedding, t.chunk_text, t.start_offset, t.end_offset,
       t.document_hash, t.chunk_hash, m.commit_lsn::pg_lsn, m.committed_at::timestamptz,
       m.metadata_hash{moved_metadata}
from unnest({origin_arrays}, {key_arrays}, %(fingerprints)s::bytea[], %(commit_lsns)s::text[],
            %(committed_ats)s::text[], %(metadata_hashes)s::bytea[]{metadata_arrays})
  as m ({origin_names}, {key_names}, fingerprint, commit_lsn, committed_at, metadata_hash{metadata_names})
join {table} t on {origin_matches} and (t.space = %(space)s) is true
  and t.document_hash = m.fingerprint{kept_hashes_match}

-- name: count_staged_moves
-- The number of documents that were copied under a new key.
select count(*) from {stage} s
join unnest({key_arrays}) as k ({key_names}) on {stage_matches}
where s.chunk_row = 0

-- name: keep_metadata
-- Fill metadata values that the log did not carry from the stored ones, as before this batch.
update {stage} s set metadata_hash = m.metadata_hash{kept_metadata}
from unnest({origin_arrays}, {key_arrays}, %(metadata_hashes)s::bytea[]{metadata_arrays})
  as m ({origin_names}, {key_names}, metadata_hash{metadata_names})
join {table} t on {origin_matches} and (t.space = %(space)s) is true and t.chunk_row = 0{kept_hashes_match}
where {staged_matches}

-- name: missing_metadata
-- The number of staged rows that found no stored metadata.
select count(*) from {stage} where metadata_hash is null

-- name: annotate
-- The metadata of rows whose text stays: no vector and no index is touched.
update {table} t set commit_lsn = m.commit_lsn::pg_lsn, committed_at = m.committed_at::timestamptz,
  metadata_hash = m.metadata_hash{annotated_metadata}
from unnest({key_arrays}, %(commit_lsns)s::text[], %(committed_ats)s::text[],
            %(metadata_hashes)s::bytea[]{metadata_arrays})
  as m ({key_names}, commit_lsn, committed_at, metadata_hash{metadata_names})
where {annotated_matches} and (t.space = %(space)s) is true{kept_hashes_match}

-- name: missing_annotations
-- The number of rows that are not stored, or have other metadata than the plan relied on.
select count(*) from unnest({key_arrays}, %(metadata_hashes)s::bytea[]) as m ({key_names}, metadata_hash)
left join {table} t on {annotated_matches} and t.chunk_row = 0 and (t.space = %(space)s) is true
where t.metadata_hash is distinct from m.metadata_hash

-- name: delete_chunks
-- Delete the chunks of the touched rows that are not kept.
delete from {table} t using unnest({key_arrays}) as k ({key_names})
where {key_matches} and not exists (
  select from {stage} s where s.kept and {stored_matches} and s.chunk_row = t.chunk_row)

-- name: any_left
-- Whether a chunk is still there that was deleted.
select exists (
  select from unnest({key_arrays}) as k ({key_names}) join {table} t on {key_matches}
  where not exists (select from {stage} s where s.kept and {stored_matches} and s.chunk_row = t.chunk_row))

-- name: delete_all_chunks
-- Delete every chunk, because the source table was truncated.
delete from {table}

-- name: any_left_of_all
-- Whether a chunk is still there after that.
select exists (select from {table})

-- name: update_chunks
-- Update the chunks that are kept, in their pages (HOT): no column of an index changes. An equal text
-- is not written again.
update {table} t set chunk = s.chunk,
  chunk_text = case when (t.chunk_text is null) = (s.chunk_text is null) then t.chunk_text else s.chunk_text end,
  start_offset = s.start_offset, end_offset = s.end_offset, document_hash = s.document_hash,
  commit_lsn = s.commit_lsn, committed_at = s.committed_at, embedded_at = now(),
  metadata_hash = s.metadata_hash{updated_metadata}
from {stage} s
where s.kept and {stored_matches} and t.chunk_row = s.chunk_row and t.chunk_hash = s.chunk_hash
  and (t.space = %(space)s) is true

-- name: insert_chunks
-- The batch's new chunks, with their keys in the source's own types.
insert into {table} ({key}, chunk, chunk_row, embedding, chunk_text, start_offset, end_offset, document_hash,
  chunk_hash, space, commit_lsn, committed_at, metadata_hash{metadata})
select {typed_keys}, chunk, chunk_row, embedding, chunk_text, start_offset, end_offset, document_hash,
  chunk_hash, %(space)s, commit_lsn, committed_at, metadata_hash{typed_metadata}
from {stage} where not kept

-- name: forget_documents
-- Take the proof from these rows, because their text can be out of date; searches still find them.
update {table} t set document_hash = ''
from unnest({key_arrays}) as k ({key_names}) where {key_matches}

-- name: delete_letters
-- Delete the dead letters of the touched rows.
delete from {schema}.dead_letter l
using unnest({key_arrays}) as k ({key_names})
where {letter_matches}

-- name: delete_all_letters
-- Delete every dead letter, because the source table was truncated.
delete from {schema}.dead_letter where table_name = %(table_name)s

-- name: delete_deferred
-- The rows that a batch settles wait for the embedder no more.
delete from {schema}.deferred w
using unnest({key_arrays}) as k ({key_names})
where {deferred_matches}

-- name: delete_all_deferred
-- No row waits for the embedder, because the source table was truncated.
delete from {schema}.deferred where table_name = %(table_name)s

-- name: insert_deferred
-- Rows whose texts wait for the embedder; one that waits already does so since the older change.
insert into {schema}.deferred as w (table_name, key, xid, committed_at)
select %(table_name)s, {key_object}, k.xid, coalesce(k.committed_at, now())
from unnest({key_arrays}, %(xids)s::bigint[], %(committed_ats)s::timestamptz[])
  as k ({key_names}, xid, committed_at)
on conflict (table_name, jsonb_hash_extended(key, 0), jsonb_hash_extended(key, 1)) do update
set xid = excluded.xid

-- name: insert_letters
-- Documents that cannot be embedded; another attempt of the same document is counted.
insert into {schema}.dead_letter as l (table_name, key, fingerprint, space, reason, error)
select %(table_name)s, {key_object}, k.fingerprint, %(space)s, k.reason, k.error
from unnest({key_arrays}, %(fingerprints)s::bytea[], %(reasons)s::text[], %(errors)s::text[])
  as k ({key_names}, fingerprint, reason, error)
on conflict (table_name, jsonb_hash_extended(key, 0), jsonb_hash_extended(key, 1)) do update
set fingerprint = excluded.fingerprint, space = excluded.space, reason = excluded.reason,
    error = excluded.error, last_at = now(),
    attempts = case when (l.fingerprint, l.space) = (excluded.fingerprint, excluded.space)
                    then l.attempts else 0 end + 1,
    first_at = case when (l.fingerprint, l.space) = (excluded.fingerprint, excluded.space)
                    then l.first_at else now() end

-- name: nearest
-- The chunks nearest to a vector.
select {keys}, v.chunk, {distance} as distance, v.text
from {view} v {where}
order by {distance} limit %(limit)s
