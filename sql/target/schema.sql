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
  primary key ({key}, chunk)
)

-- name: create_hash_index
-- Finds a stored chunk of the same text, whose vector can be reused.
create index if not exists {index} on {table} (chunk_hash, space)

-- name: create_hnsw_index
-- Nearest-neighbour search.
create index if not exists {index} on {table} using hnsw (embedding {operators}) with (m = {m}, ef_construction = {ef_construction})

-- name: registered_table
-- The vector table of one source table and the space that it holds.
select e.embedding_table, s.id, s.model, s.dimensions, s.document_prompt, s.query_prompt, s.preparation
from {schema}.embedding_table e join {schema}.space s on s.id = e.space
where e.source_table = %(source_table)s

-- name: record_migration
-- Remember one applied migration.
insert into {schema}.migration (version, name, checksum) values ({version}, {name}, {checksum})

-- name: add_space
-- A vector space, once.
insert into {schema}.space (model, dimensions, document_prompt, query_prompt, preparation)
values ({space}) on conflict do nothing

-- name: register_table
-- Remember that setup made this vector table, and for which space.
insert into {schema}.embedding_table (source_table, embedding_table, space)
select {source_table}, {embedding_table}, id from {schema}.space
where (model, dimensions, document_prompt, query_prompt, preparation) = ({space})

-- name: registered_tables
-- Every vector table that setup made.
select source_table, embedding_table from {schema}.embedding_table order by source_table

-- name: stored_size
-- Rows and characters stored for one source table.
select count(*) filter (where chunk = 0), coalesce(sum(end_offset - start_offset), 0) from {table}

-- name: key_types
-- The key columns of an existing vector table, in order.
select a.attname, format_type(a.atttypid, a.atttypmod)
from pg_attribute a
where a.attrelid = to_regclass(%(table)s) and a.attnum > 0 and not a.attisdropped
order by a.attnum

-- name: vector_extension
-- The installed pgvector: its version and its schema.
select e.extversion, n.nspname
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
-- Remove what setup made in the target; fails if something else lives there.
drop schema if exists {schema} cascade

-- name: foreign_relations
-- Relations in our schema that setup did not make.
select c.relname
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = %(schema)s and c.relkind in ('r', 'v', 'm', 'p', 'f')
  and c.relname <> all (%(ours)s)
order by c.relname
