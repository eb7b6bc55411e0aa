-- name: create_schema
-- The schema of all objects in the target.
create schema if not exists {schema}

-- name: create_migration_table
-- The applied migrations, with the checksum of their text.
create table if not exists {schema}.migration (
  version    integer primary key,
  name       text not null,
  checksum   text not null,
  applied_at timestamptz not null default now()
)

-- name: applied_migrations
-- The migrations of this schema, version and checksum.
select version, checksum from {schema}.migration order by version

-- name: schema_exists
-- Whether setup ever ran here; a table of this name can be somebody else's.
select count(*) = 2 from pg_attribute
where attrelid = to_regclass(format('%%I.migration', %(schema)s)) and attname in ('version', 'checksum')
  and not attisdropped

-- name: create_embedding_table
-- The vectors of one source table: its key, the chunks of its documents, their origin.
-- A row keeps its number (chunk_row) while the chunk moves in the text, and no index has the chunk's
-- place. So with half of each page free, PostgreSQL can update a row in its page (HOT): no index gets
-- an entry.
create table if not exists {table} (
  {key_definitions},
  chunk         integer not null,
  chunk_row     integer not null default 0,
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
  constraint {pkey} primary key ({key}, chunk_row)
) with (fillfactor = 50)

-- name: create_hash_index
-- The index that finds a stored chunk of the same text, whose vector can be reused.
create index if not exists {index} on {table} (chunk_hash, space)

-- name: create_hnsw_index
-- The index for nearest-neighbour search.
create index{concurrently} if not exists {index} on {table} using hnsw (embedding {operators}) with (m = {m}, ef_construction = {ef_construction})

-- name: registered_tables
-- The table of vectors of each source table, and its space. Older versions lack the last columns.
select e.{table_name}, e.embedding_table, e.source_oid, e.metadata, e.search_view, e.slot,
       array(select jsonb_array_elements_text(nullif(to_jsonb(e) -> 'key_columns', 'null'))::int),
       to_jsonb(e) ->> 'definition', to_jsonb(e) ->> 'adopted_publication', s.id,
       s.model, s.dimensions, s.document_prompt, s.query_prompt, s.preparation
from {schema}.embedding_table e join {schema}.space s on s.id = e.space
order by e.{table_name}

-- name: registered_sources
-- The sources whose setup registered tables for a slot of this name. Older versions lack the columns.
select distinct to_jsonb(e) ->> 'source_system_identifier', to_jsonb(e) ->> 'source_database'
from {schema}.embedding_table e
where e.slot = %(slot)s and to_jsonb(e) ->> 'source_system_identifier' is not null

-- name: spaces
-- Every space that setup ever recorded.
select id, model, dimensions, document_prompt, query_prompt, preparation from {schema}.space

-- name: record_migration
-- Record an applied migration.
insert into {schema}.migration (version, name, checksum) values ({version}, {name}, {checksum})

-- name: add_space
-- Record a vector space, once.
insert into {schema}.space (model, dimensions, document_prompt, query_prompt, preparation)
values ({space}) on conflict do nothing

-- name: register_table
-- Register a table of vectors, with its space and its metadata columns.
insert into {schema}.embedding_table (table_name, embedding_table, space, source_oid, metadata, search_view, slot,
  key_columns, source_system_identifier, source_database)
select {table_name}, {embedding_table}, id, {source_oid}, {metadata}, {search_view}, {slot}, {key_columns},
  {source_system_identifier}, {source_database}
from {schema}.space
where (model, dimensions, document_prompt, query_prompt, preparation) = ({space})
on conflict (table_name) do update
set embedding_table = excluded.embedding_table, space = excluded.space,
    source_oid = excluded.source_oid, metadata = excluded.metadata, search_view = excluded.search_view,
    slot = excluded.slot, key_columns = excluded.key_columns,
    source_system_identifier = excluded.source_system_identifier, source_database = excluded.source_database

-- name: register_view
-- Record what the search view is made of.
update {schema}.embedding_table set definition = {definition} where table_name = {table_name}

-- name: remember_adoption
-- Remember the publication of somebody else to which a source table is added, or that it is not.
update {schema}.embedding_table set adopted_publication = {publication} where table_name = {table_name}

-- name: stored_size
-- Rows and characters stored for one source table.
select count(*) filter (where chunk_row = 0), coalesce(sum(end_offset - start_offset), 0) from {table}

-- name: count_documents
-- Documents that have vectors.
select {name}, count(*) from {table} where chunk_row = 0

-- name: has_rows
-- Whether a table has rows.
select {name}, exists (select from {table})

-- name: stored_columns
-- The columns of every table in our schema, in order, with their places in its primary key; whether
-- it has row level security, its owner, whether this role can do what its owner can, the key's name,
-- whether it refers to the spaces, and whether a crash leaves its rows.
select c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod),
       array_position(p.indkey[0:p.indnkeyatts - 1]::smallint[], a.attnum), c.relrowsecurity,
       quote_ident(pg_get_userbyid(c.relowner)), pg_has_role(c.relowner, 'usage'), quote_ident(current_user),
       (select quote_ident(i.relname) from pg_class i where i.oid = p.indexrelid),
       exists (select from pg_constraint k where k.conrelid = c.oid and k.contype = 'f' and k.confrelid = s.oid),
       c.relpersistence = 'p'
from pg_namespace n
join pg_class c on c.relnamespace = n.oid and c.relkind = 'r'
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
left join pg_class s on s.relnamespace = n.oid and s.relname = 'space'
left join pg_index p on p.indrelid = c.oid and p.indisprimary
where n.nspname = %(schema)s
order by c.relname, a.attnum

-- name: views
-- The views of a schema, and whether this role may select from them.
select c.relname::text, has_table_privilege(c.oid, 'select'), quote_ident(current_user)
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = %(schema)s and c.relkind = 'v'

-- name: add_column
-- A column that this version needs; the service fills it without embedding anything.
alter table {table} add column if not exists {column} {type}

-- name: add_chunk_row
-- Number the rows of a document apart from its chunks, so that a chunk can move without index work.
alter table {table} set (fillfactor = 50);
alter table {table} rename column chunk to chunk_row;
alter table {table} alter column chunk_row set default 0, add column chunk integer not null default 0;
update {table} set chunk = chunk_row where chunk_row > 0;
alter table {table} alter column chunk drop default

-- name: refer_to_spaces
-- Have rows that are written from now on refer to a recorded space; older ones can be of a lost one.
alter table {table} add foreign key (space) references {schema}.space (id) not valid

-- name: drop_column
-- A metadata column that is not configured any more.
alter table {table} drop column if exists {column}

-- name: retype_vectors
-- Store the vectors as another of pgvector's types.
alter table {table} alter column embedding type {vector_type} using embedding::{vector_type}

-- name: drop_index
-- An index that the service makes again.
drop index if exists {index}

-- name: set_logged
-- Have the rows of a table survive a crash.
alter table {table} set logged

-- name: rename_source
-- Rename a source table in the registry; its vectors stay.
update {schema}.embedding_table set table_name = {table_name}, embedding_table = {embedding_table}
where table_name = {former}

-- name: rename_keys
-- Rename a source table in its dead letters and its deferred rows.
update {schema}.dead_letter set table_name = {table_name} where table_name = {former};
update {schema}.deferred set table_name = {table_name} where table_name = {former}

-- name: rename_index
-- Rename an index of a table of vectors.
alter index if exists {index} rename to {name}

-- name: retype_column
-- Take the length off a column's type, or name a type of the same form: nothing is rewritten.
alter table {table} alter column {column} type {type}

-- name: rename_column
-- Give a key column the name that it has in the source now.
alter table {table} rename column {column} to {name}

-- name: forget_comparison
-- Forget the comparison of a table, so that it begins as for a new table.
delete from {schema}.reconcile where table_name = {table_name}

-- name: vector_extension
-- The installed pgvector: its version and its schema.
select e.extversion, quote_ident(n.nspname)
from pg_extension e join pg_namespace n on n.oid = e.extnamespace
where e.extname = 'vector'

-- name: vector_available
-- The version of pgvector that this server can install.
select default_version from pg_available_extensions where name = 'vector'

-- name: create_vector_extension
-- The extension pgvector.
create extension if not exists vector with schema public

-- name: drop_table
-- Drop one of our tables.
drop table if exists {table}

-- name: drop_schema
-- Drop the schema that setup made; fails if it has other objects.
drop schema if exists {schema}

-- name: foreign_objects
-- Objects in our schema that are not ours. Members of an extension belong to it, sequences to their
-- table.
with ours as (
  select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where n.nspname = %(schema)s and c.relname = any (%(ours)s)
)
select pg_describe_object(d.classid, d.objid, 0)
from pg_depend d join pg_namespace n on n.oid = d.refobjid
where d.refclassid = 'pg_namespace'::regclass and n.nspname = %(schema)s and d.deptype = 'n'
  and not (d.classid = 'pg_class'::regclass and d.objid in (select oid from ours))
  and not (d.classid = 'pg_proc'::regclass and d.objid in (
    select p.oid from pg_proc p where p.pronamespace = n.oid and p.proname = any (%(functions)s)
      and starts_with(p.prosrc, %(mark)s)))
  and not exists (
    select from pg_depend part
    where (part.classid, part.objid) = (d.classid, d.objid)
      and (part.deptype = 'e' or (part.deptype in ('a', 'i') and part.refobjid in (select oid from ours)))
  )
order by 1

-- name: may_create
-- Whether this role may create in our schema; both as SQL writes them. No row: there is no schema.
select has_schema_privilege(oid, 'create'), quote_ident(current_user), quote_ident(nspname)
from pg_namespace where nspname = %(schema)s

-- name: own_functions
-- Those functions of some names that have our mark, as DROP FUNCTION names them.
select format('%%I.%%I(%%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid))
from pg_proc p join pg_namespace n on n.oid = p.pronamespace
where n.nspname = %(schema)s and p.proname = any (%(functions)s)
  and starts_with(p.prosrc, %(mark)s)
order by 1

-- name: holders
-- The objects in our schema that have some names: description, name, and whether they are ours: a table
-- with so many of the telling columns of vectors, its reference to our spaces among them; an index on
-- one; a view that reads one; a table with the columns of our own of that name; a function with our
-- mark, or that our view calls. Functions with other arguments are nobody's business.
with vectors as (
  select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
  join jsonb_each_text(%(vectors)s::jsonb) as v (name, least) on v.name = c.relname
  where n.nspname = %(schema)s and c.relkind = 'r' and v.least::int <= (
    select count(*) from jsonb_each_text(%(telling)s::jsonb) as t (name, type)
    join pg_attribute a on a.attrelid = c.oid and a.attname = t.name and not a.attisdropped
      and a.atttypid = to_regtype(t.type)
  ) + exists (
    select from pg_constraint k join pg_class s on s.oid = k.confrelid
    where k.conrelid = c.oid and s.relnamespace = n.oid and s.relname = 'space'
  )::int
), reads as (
  select r.oid as rule, r.ev_class as view from pg_rewrite r
  where exists (select from pg_depend d where d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
                and d.refclassid = 'pg_class'::regclass and d.refobjid in (select oid from vectors))
)
select pg_describe_object('pg_class'::regclass, c.oid, 0), c.relname::text,
       c.oid in (select oid from vectors)
       or c.relkind = 'r' and exists (
         select from jsonb_each(%(own)s::jsonb) as own (name, columns)
         where own.name = c.relname
           and columns <@ (select jsonb_agg(a.attname) from pg_attribute a where a.attrelid = c.oid and not a.attisdropped))
       or exists (select from pg_index i where i.indexrelid = c.oid and i.indrelid in (select oid from vectors))
       or c.oid in (select view from reads)
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = %(schema)s and c.relname = any (%(names)s)
union all
select pg_describe_object('pg_proc'::regclass, p.oid, 0), p.proname::text,
       starts_with(p.prosrc, %(mark)s)
       or exists (select from reads join pg_class v on v.oid = reads.view
                  join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = reads.rule
                  where v.relname = any (%(names)s) and d.refclassid = 'pg_proc'::regclass and d.refobjid = p.oid)
from pg_proc p join pg_namespace n on n.oid = p.pronamespace
where n.nspname = %(schema)s and p.proname = any (%(names)s)
  and p.proargtypes::text = (select string_agg(to_regtype(a.type)::oid::text, ' ' order by a.place)
                             from unnest(%(arguments)s::text[]) with ordinality as a (type, place))
order by 1

-- name: renamed_vectors
-- The table of vectors of ours that has another name or schema now, if none has the registered ones: our view
-- reads it, or it has an index of ours, and it refers to our spaces. Its names, as SQL writes them, and the way
-- back.
select format('%%I.%%I', n.nspname, c.relname),
       concat_ws('; ',
         case when n.oid <> h.oid then format('alter table %%I.%%I set schema %%I', n.nspname, c.relname, h.nspname) end,
         case when c.relname <> %(name)s then format('alter table %%I.%%I rename to %%I', h.nspname, c.relname, %(name)s) end)
from pg_namespace h
join pg_class c on c.relkind = 'r' and (c.relnamespace <> h.oid or c.relname <> all (%(registered)s))
join pg_namespace n on n.oid = c.relnamespace
where h.nspname = %(schema)s
  and not exists (select from pg_class o where o.relnamespace = h.oid and o.relname = %(name)s)
  and exists (select from pg_constraint k join pg_class s on s.oid = k.confrelid
              where k.conrelid = c.oid and s.relnamespace = h.oid and s.relname = 'space')
  and exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'chunk_hash' and not a.attisdropped)
  and (exists (select from pg_index i join pg_class x on x.oid = i.indexrelid
               where i.indrelid = c.oid and x.relname = any (%(indexes)s))
       or exists (select from pg_rewrite r
                  join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
                  join pg_class v on v.oid = r.ev_class
                  where d.refclassid = 'pg_class'::regclass and d.refobjid = c.oid
                    and v.relnamespace = h.oid and v.relname = %(view)s))
limit 1

-- name: renamed_indexes
-- Our indexes on a table of vectors that have other names now, and the names that they had, both as SQL
-- writes them: the search index by its mark, the one for equal texts by its columns.
select distinct on (was.name) format('%%I.%%I', n.nspname, i.relname), quote_ident(was.name)
from pg_index x
join pg_class i on i.oid = x.indexrelid join pg_namespace n on n.oid = i.relnamespace join pg_am a on a.oid = i.relam
cross join lateral (
  select case
    when a.amname = 'hnsw' and obj_description(i.oid, 'pg_class') like 'made by cdc\_embed %%' then %(hnsw)s
    when a.amname = 'btree' and not x.indisunique and x.indpred is null
      and array(select pg_get_indexdef(i.oid, place, false) from generate_series(1, x.indnatts) as place)
          = array['chunk_hash', 'space'] then %(hash)s
  end as name) as was
where x.indrelid = to_regclass(format('%%I.%%I', %(schema)s, %(table)s)) and x.indisvalid and was.name is not null
  and i.relname <> all (%(names)s)
  and not exists (select from pg_class o where o.relnamespace = n.oid and o.relname = was.name)
order by was.name, i.oid

-- name: other_checkpoints
-- Other slots that write into the same schema.
select slot from {schema}.checkpoint where slot <> %(slot)s order by slot

-- name: may_create_temporary
-- Whether this role may create temporary tables, which each batch needs; the role, the database.
select has_database_privilege(current_database(), 'TEMPORARY'), quote_ident(current_user),
       quote_ident(current_database())

-- name: service_sessions
-- Sessions of a service in this database, by their names; ours is not one.
select pid from pg_catalog.pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid()
  and application_name = any (%(names)s)
order by pid

-- name: forget_position
-- Forget the position of a slot whose log is lost.
delete from {schema}.checkpoint where slot = {slot}
