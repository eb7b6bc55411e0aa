-- name: publication
-- The publication: options, whether this role can alter it, the comment by which setup knows its own,
-- whether the slot in that exists; whether the server can publish generated columns. And a row for each
-- of its tables: name, columns, row filter, column list, an entry of its own, and the versions of what
-- makes it carry the table, which change while that is undelivered. The catalogue itself is read,
-- because the view pg_publication_tables waits for the lock of every table.
with p as (
  select oid, xmin, puballtables, pubinsert and pubupdate and pubdelete and pubtruncate as whole,
         pubviaroot, pg_has_role(pubowner, 'usage') as alterable,
         obj_description(oid, 'pg_publication') as mark,
         -- new in 18: before, no column is published that is generated, and no statement fails for it
         to_jsonb(pg_publication) ->> 'pubgencols' as generated
  from pg_publication where pubname = %(publication)s
), carried as (
  select r.prrelid as relid, r.prattrs::smallint[] as attnums, r.prqual is not null as filtered,
         format('%%s:%%s', r.oid, r.xmin) as version, 1 as place
  from p join pg_publication_rel r on r.prpubid = p.oid
  union all  -- carried with its schema, or as one of all: as long as it has its place
  select c.oid, null, false, format('%%s:%%s %%s:%%s', s.oid, s.xmin, c.oid, c.xmin), 2
  from p join pg_publication_namespace s on s.pnpubid = p.oid
  join pg_class c on c.relnamespace = s.pnnspid and c.relkind in ('r', 'p') and not c.relispartition
  union all
  select c.oid, null, false, format('%%s:%%s', c.oid, c.xmin), 3
  from p join pg_class c on p.puballtables and c.oid >= 16384 and c.relkind in ('r', 'p')
    and c.relpersistence = 'p' and not c.relispartition
)
select distinct on (c.oid) p.oid is not null, p.mark,
       exists (select from pg_replication_slots
               where starts_with(p.mark || ';', %(for_slot)s || slot_name || ';')),
       current_setting('server_version_num')::int >= 180000,
       p.puballtables, p.whole, p.pubviaroot, p.generated = 'n', p.alterable,
       c.oid::bigint, n.nspname::text, c.relname::text,
       (select array_agg(a.attname::text) from pg_attribute a
        where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
          and case when t.attnums is null
                   then a.attgenerated = '' or p.generated = 's' and a.attgenerated = 's'
                   else a.attnum = any (t.attnums) end),
       t.filtered, t.attnums is not null, t.place = 1,
       format('%%s:%%s %%s', p.oid, p.xmin, t.version)
from (select) as one
left join p on true
left join carried t on true
left join pg_class c on c.oid = t.relid
left join pg_namespace n on n.oid = c.relnamespace
order by c.oid, t.place

-- name: create_publication
-- The publication for the slot: these tables, every operation.
create publication {publication} for table {tables} with ({options})

-- name: set_tables
-- Make the publication carry exactly these tables.
alter publication {publication} set table {tables}

-- name: set_options
-- Publish in another form.
alter publication {publication} set ({options})

-- name: add_table
-- Publish one more table.
alter publication {publication} add table {table}

-- name: drop_table
-- Publish a table no more.
alter publication {publication} drop table {table}

-- name: short_wait
-- Have the application's own DDL go first.
set local lock_timeout = '2s'

-- name: mark_publication
-- The mark that teardown looks for.
comment on publication {publication} is {mark}

-- name: drop_publication
-- Remove the publication.
drop publication if exists {publication}
