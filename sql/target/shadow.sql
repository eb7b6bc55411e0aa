-- name: create_keys
-- The keys, texts' hashes and metadata of the source's rows, as it has them now.
create temporary table pg_temp.cdc_embed_keys ({definitions})

-- name: drop_keys
-- Forget them.
drop table if exists pg_temp.cdc_embed_keys

-- name: copy_keys
-- Rows of the source, in binary.
copy pg_temp.cdc_embed_keys from stdin (format binary)

-- name: empty_shadow
-- Begin anew.
truncate {shadow}

-- name: fill_shadow
-- Store each row's document under its new key: the chunks of a stored document of the same text.
insert into {shadow} ({key}, chunk, chunk_row, embedding, chunk_text, start_offset, end_offset, document_hash,
  chunk_hash, space, embedded_at, metadata_hash{metadata})
select {typed_keys}, t.chunk, t.{row}, t.embedding::{vector_type}, t.chunk_text, t.start_offset, t.end_offset, t.document_hash,
  t.chunk_hash, t.space, t.embedded_at, s.metadata_hash{typed_metadata}
from pg_temp.cdc_embed_keys s
join (select distinct on (document_hash) document_hash, {former_key} from {table}
      where {row} = 0 order by document_hash, space = {space} desc) d on d.document_hash = s.fingerprint
join {table} t on {same_document}

-- name: rename_table
-- Rename a table of vectors.
alter table {table} rename to {name}

-- name: fence
-- End the epoch of a running service: it reads the tables of vectors anew before it writes again.
update {schema}.checkpoint set epoch = epoch + 1 where slot = {slot}

-- name: forget_keys
-- Forget the dead letters and the deferred rows of a table: their keys are not those of its rows any
-- more. Every row is compared then.
delete from {schema}.dead_letter where table_name = {table_name};
delete from {schema}.deferred where table_name = {table_name}

-- name: rename_key_column
-- Give a key column its new name in the dead letters and the deferred rows of a table.
update {schema}.dead_letter set key = (key - {column}) || jsonb_build_object({name}, key -> {column})
where table_name = {table_name} and key ? {column};
update {schema}.deferred set key = (key - {column}) || jsonb_build_object({name}, key -> {column})
where table_name = {table_name} and key ? {column}
