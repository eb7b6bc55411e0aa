-- name: create_schema
-- The schema that holds everything of ours in the target.
create schema if not exists {schema}

-- name: create_migration_table
-- Which migrations are applied, with the checksum of what was run.
create table if not exists {schema}.migration (
  version    integer primary key,
  name       text not null,
  checksum   text not null,
  applied_at timestamptz not null default now()
)

-- name: applied_migrations
-- The migrations that this schema has.
select version, checksum from {schema}.migration order by version

-- name: schema_exists
-- Whether setup was ever run here.
select to_regclass(format('%%I.migration', %(schema)s)) is not null

-- name: create_embedding_table
-- The vectors of one source table: its key, the pieces of its documents, where they came from.
create table if not exists {table} (
  {key_definitions},
  chunk         integer not null,
  embedding     {vector_type} not null,
  chunk_text    text,
  start_offset  integer not null,
  end_offset    integer not null,
  document_hash bytea not null,
  chunk_hash    bytea not null,
  space         integer not null references {schema}.space (id),
  commit_lsn    pg_lsn,
  committed_at  timestamptz,
  embedded_at   timestamptz not null default now(),
  metadata_hash bytea{metadata_definitions},
  primary key ({key}, chunk)
) with (fillfactor = {fillfactor})

-- name: create_hash_index
-- Finds a stored chunk of the same text, whose vector can be reused.
create index if not exists {index} on {table} (chunk_hash, space)

-- name: create_hnsw_index
-- Nearest-neighbour search.
create index concurrently if not exists {index} on {table} using hnsw (embedding {operators}) with (m = {m}, ef_construction = {ef_construction})

-- name: registered_tables
-- The vector table of each source table and the space that it holds.
select e.{table_name}, e.embedding_table, e.source_oid, e.metadata, e.search_view, e.slot, s.id, s.model, s.dimensions,
       s.document_prompt, s.query_prompt, s.preparation
from {schema}.embedding_table e join {schema}.space s on s.id = e.space
order by e.{table_name}

-- name: spaces
-- Every space that was ever set up.
select id, model, dimensions, document_prompt, query_prompt, preparation from {schema}.space

-- name: record_migration
-- Remember one applied migration.
insert into {schema}.migration (version, name, checksum) values ({version}, {name}, {checksum})

-- name: add_space
-- A vector space, once.
insert into {schema}.space (model, dimensions, document_prompt, query_prompt, preparation)
values ({space}) on conflict do nothing

-- name: register_table
-- Remember that setup made this vector table, for which space, and what is copied into it.
insert into {schema}.embedding_table (table_name, embedding_table, space, source_oid, metadata, search_view, slot)
select {table_name}, {embedding_table}, id, {source_oid}, {metadata}, {search_view}, {slot} from {schema}.space
where (model, dimensions, document_prompt, query_prompt, preparation) = ({space})
on conflict (table_name) do update
set embedding_table = excluded.embedding_table, space = excluded.space,
    source_oid = excluded.source_oid, metadata = excluded.metadata, search_view = excluded.search_view,
    slot = excluded.slot

-- name: stored_size
-- Rows and characters stored for one source table.
select count(*) filter (where chunk = 0), coalesce(sum(end_offset - start_offset), 0) from {table}

-- name: count_documents
-- Documents that have vectors.
select count(*) from {table} where chunk = 0

-- name: column_types
-- The columns of an existing vector table, in order.
select a.attname::text, format_type(a.atttypid, a.atttypmod)
from pg_attribute a
where a.attrelid = to_regclass(%(table)s) and a.attnum > 0 and not a.attisdropped
order by a.attnum

-- name: add_column
-- A column that this version needs; the service fills it without embedding anything.
alter table {table} add column if not exists {column} {type}

-- name: leave_room
-- A page with room for a row's next version: then its metadata changes without any index work.
alter table {table} set (fillfactor = {fillfactor})

-- name: drop_column
-- A column that is not copied any more.
alter table {table} drop column if exists {column}

-- name: retype_vectors
-- Keep the vectors in another of pgvector's types.
alter table {table} alter column embedding type {vector_type} using embedding::{vector_type}

-- name: drop_index
-- An index that is made again by the service.
drop index if exists {index}

-- name: rename_source
-- The source table has another name now: its vectors stay.
update {schema}.embedding_table set table_name = {table_name}, embedding_table = {embedding_table}
where table_name = {former}

-- name: rename_letters
-- Its dead letters, too.
update {schema}.dead_letter set table_name = {table_name} where table_name = {former}

-- name: rename_index
-- Its indexes, too.
alter index if exists {index} rename to {name}

-- name: retype_column
-- A metadata column has another type in the source now.
alter table {table} alter column {column} type {type} using {column}::text::{type}

-- name: rename_table
-- Its vectors take the configured name.
alter table if exists {table} rename to {name}

-- name: drop_view
-- The search view, to be made again or for good.
drop view if exists {view}

-- name: create_search_view
-- What applications select from: one row for each chunk.
create view {view} with (security_invoker = true) as
select {columns}
from {table} e{join}

-- name: view_definition
-- Whether the search view is there, and how it was made.
select to_regclass(%(view)s) is not null, obj_description(to_regclass(%(view)s), 'pg_class')

-- name: mark_view
-- Remember how the view was made.
comment on view {view} is {mark}

-- name: forget_comparison
-- What it was compared with is another: begin as with a new table.
delete from {schema}.reconcile where table_name = {table_name}

-- name: vector_extension
-- The installed pgvector: its version and its schema.
select e.extversion, quote_ident(n.nspname)
from pg_extension e join pg_namespace n on n.oid = e.extnamespace
where e.extname = 'vector'

-- name: vector_available
-- The version of pgvector that this server could install.
select default_version from pg_available_extensions where name = 'vector'

-- name: create_vector_extension
-- pgvector itself.
create extension if not exists vector with schema public

-- name: drop_table
-- Remove one vector table.
drop table if exists {table}

-- name: drop_schema
-- Remove the schema that setup made; fails if something else lives there.
drop schema if exists {schema}

-- name: foreign_objects
-- What lives in our schema and is not ours: members of an extension come and go with it, sequences
-- with their table.
with ours as (
  select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where n.nspname = %(schema)s and c.relname = any (%(ours)s)
)
select pg_describe_object(d.classid, d.objid, 0)
from pg_depend d join pg_namespace n on n.oid = d.refobjid
where d.refclassid = 'pg_namespace'::regclass and n.nspname = %(schema)s and d.deptype = 'n'
  and not (d.classid = 'pg_class'::regclass and d.objid in (select oid from ours))
  and not exists (
    select from pg_depend part
    where (part.classid, part.objid) = (d.classid, d.objid)
      and (part.deptype = 'e' or (part.deptype in ('a', 'i') and part.refobjid in (select oid from ours)))
  )
order by 1

-- name: other_checkpoints
-- Slots beside this one that write into the same schema.
select count(*) from {schema}.checkpoint where slot <> %(slot)s

-- name: forget_position
-- The position of a slot whose log is lost.
delete from {schema}.checkpoint where slot = {slot}
