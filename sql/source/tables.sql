-- name: tables
-- The configured tables, each with the columns of interest and what its leaves are. One statement for
-- all, and none of what it asks waits for a lock: a table that is being altered hides no other. The
-- shapes of a partitioned table's leaves have one digest; those of the tables in "listed" are listed.
with recursive found as (
  select w.place, w.columns as wanted, c.oid, c.relnamespace, c.relkind, c.reltuples, c.relrowsecurity,
         exists (select from pg_index where indrelid = c.oid and indisreplident) as identified,
         format('%%s:%%s', c.xmin, n.xmin) as version
  from jsonb_to_recordset(%(tables)s::jsonb) as w (place int, schema text, name text, columns text[])
  join pg_namespace n on n.nspname = w.schema
  join pg_class c on c.relnamespace = n.oid and c.relname = w.name
), tree as (
  select oid as root, oid as relid, '' as attached from found where relkind = 'p'
  union all
  select t.root, i.inhrelid, format('%%s %%s', t.attached, i.xmin)
  from tree t join pg_inherits i on i.inhparent = t.relid and not i.inhdetachpending
), leaf as (
  select t.root, t.relid, c.reltuples,
         format('%%s:%%s:%%s', pg_relation_filenode(t.relid), t.attached,
                (select string_agg(format('%%s %%s', indexrelid, xmin), ',' order by indexrelid)
                 from pg_index where indrelid = t.relid and indisunique)) as token
  from tree t join pg_class c on c.oid = t.relid and c.relkind <> 'p'
), leaves as (
  select root, sum(nullif(reltuples, -1))::bigint as estimate,
         md5(string_agg(format('%%s=%%s', relid, token), ' ' order by relid)) as digest,
         case when root = any (%(listed)s::oid[])
              then jsonb_agg(jsonb_build_array(relid::bigint, token)) end as listed
  from leaf group by root
)
select f.place, f.oid::bigint, f.relkind::text, has_table_privilege(f.oid, 'select'),
       quote_ident(current_user), a.columns, coalesce(k.orders, '[]'), a.missing,
       case when f.relkind = 'p' then l.estimate else nullif(f.reltuples, -1)::bigint end,
       case when f.relkind <> 'p' then pg_relation_filenode(f.oid)::text end, l.digest, l.listed,
       format('%%s:%%s', f.version, (select array_agg(indexrelid order by indexrelid) from pg_index
                                   where indrelid = f.oid and (indisprimary or indisreplident))),
       f.relrowsecurity, row_security_active(f.oid),
       -- the schemas that the statements name: the table's, those of the key's types and operators
       array(select quote_ident(s.nspname) from pg_namespace s
             where not has_schema_privilege(s.oid, 'usage')
               and (s.oid = f.relnamespace
                    or s.oid in (select c.opcnamespace from unnest(p.indclass::oid[]) as w (class) join pg_opclass c on c.oid = w.class)
                    or s.oid in (select t.typnamespace from pg_attribute a join pg_type t on t.oid = a.atttypid
                                 where a.attrelid = f.oid and a.attnum = any (p.indkey)))
             order by 1)
from found f
left join pg_index p
  on p.indrelid = f.oid and case when f.identified then p.indisreplident else p.indisprimary end
left join leaves l on l.root = f.oid
-- the comparison that the key's own index makes of each key column, whatever schema its type is in:
-- the type, its cast, the operators, the collation; whether equal keys can have texts that differ,
-- and whether every server has a default order for the type
cross join lateral (
  select jsonb_agg(jsonb_build_array(
           a.attname, compared.name,
           case when compared.type <> a.atttypid then '::' || compared.name else '' end,
           array(select format('operator(%%I.%%s)', n.nspname, o.oprname)
                 from pg_amop m join pg_operator o on o.oid = m.amopopr
                 join pg_namespace n on n.oid = o.oprnamespace
                 where m.amopfamily = c.opcfamily and m.amopstrategy in (1, 2, 3, 5)
                   and m.amoplefttype = c.opcintype and m.amoprighttype = c.opcintype
                 order by m.amopstrategy),
           case when w.sorting <> a.attcollation
                then format(' collate %%I.%%I', s.nspname, l.collname) else '' end,
           l.collisdeterministic is false,
           exists (select from pg_opclass d where d.opcmethod = c.opcmethod and d.opcdefault
                   and d.opcintype = c.opcintype and d.oid < 16384))) as orders
  from unnest(p.indkey[0:p.indnkeyatts - 1]::smallint[], p.indclass::oid[], p.indcollation::oid[]) as w (attnum, class, sorting)
  join pg_attribute a on a.attrelid = f.oid and a.attnum = w.attnum
  join pg_opclass c on c.oid = w.class
  join pg_am on pg_am.oid = c.opcmethod and pg_am.amname = 'btree'
  join pg_type t on t.oid = c.opcintype
  cross join lateral (
    with recursive base as (
      select b.oid, b.typbasetype from pg_type b where b.oid = a.atttypid
      union all
      select b.oid, b.typbasetype from base join pg_type b on b.oid = base.typbasetype)
    select b.oid as type, format('%%I.%%I', n.nspname, b.typname) as name
    from base join pg_type b on b.oid = case when t.typtype = 'p' then base.oid else t.oid end
    join pg_namespace n on n.oid = b.typnamespace
    where base.typbasetype = 0) as compared
  left join pg_collation l on l.oid = w.sorting
  left join pg_namespace s on s.oid = l.collnamespace
) k
cross join lateral (
  select coalesce(jsonb_agg(jsonb_build_array(
           a.attname, a.attnum, format_type(a.atttypid, -1), a.atttypid::bigint, a.atttypid >= 16384,
           array_position(p.indkey[0:p.indnkeyatts - 1]::smallint[], a.attnum),
           a.attgenerated,
           inside.form)
           order by a.attnum)
         filter (where a.attname = any (f.wanted) or a.attgenerated <> '' or a.attnum = any (p.indkey)), '[]') as columns,
         case when not f.wanted <@ array_agg(a.attname::text) then array_agg(a.attname::text) end as missing
  from pg_attribute a
  -- whatever the text of a value depends on beside the value: domains, arrays, ranges and composite
  -- types are followed to the enums and attributes that they are made of
  cross join lateral (
    with recursive part as (
      select a.atttypid as oid where a.atttypid >= 16384
      union
      select x.oid
      from part join pg_type t on t.oid = part.oid
      cross join lateral (
        select t.typbasetype union all select t.typelem
        union all select rngsubtype from pg_range where t.oid in (rngtypid, rngmultitypid)
        union all select c.atttypid from pg_attribute c
                  where c.attrelid = t.typrelid and c.attnum > 0 and not c.attisdropped) as x (oid)
      where x.oid >= 16384)
    select '[' || string_agg(said, ',' order by said) || ']' as form
    from (select format('%%s %%s', e.enumtypid, array_agg(e.enumlabel order by e.oid)) as said
          from part join pg_enum e on e.enumtypid = part.oid group by e.enumtypid
          union all
          select format('%%s %%s', c.attrelid, array_agg(array[c.attnum::int8, c.atttypid::int8] order by c.attnum))
          from part join pg_type t on t.oid = part.oid
          join pg_attribute c on c.attrelid = t.typrelid and c.attnum > 0 and not c.attisdropped
          group by c.attrelid) as inner_types) as inside
  where a.attrelid = f.oid and a.attnum > 0 and not a.attisdropped
) a
order by f.place

-- name: leaves
-- The tables that hold the rows of some tables: these, their partitions, their children; no lock is
-- taken. With each: its key, which is the primary key or the index that REPLICA IDENTITY USING INDEX
-- names, its replica identity, its generated columns, its ancestors.
with recursive tree (root, relid) as (
  select oid, oid from unnest(%(oids)s::oid[]) as t (oid)
  union all
  select tree.root, i.inhrelid from tree join pg_inherits i on i.inhparent = tree.relid
  where not i.inhdetachpending)
select tree.root::bigint, c.oid::bigint, format('%%I.%%I', c.nspname, c.relname), c.relispartition,
       c.relkind::text, pg_has_role(c.relowner, 'usage'), c.relpersistence = 'p', c.relreplident = 'f',
       index.key, index.immediate, coalesce(index.temporal, false),
       coalesce(index.primary_key, '{}'), index.identity,
       coalesce(index.generated, false),
       coalesce(made.stored, false), coalesce(made.virtual, '{}'),
       array(select relid::oid::bigint from pg_partition_ancestors(c.oid) as a (relid)
             where c.relispartition and a.relid <> c.oid)
from tree
-- "offset 0": each of these is found by its oid, else the rest is computed for every relation there is
cross join lateral (
  select c.oid, c.relname, c.relispartition, c.relkind, c.relowner, c.relpersistence, c.relreplident,
         n.nspname, exists (select from pg_index where indrelid = c.oid and indisreplident) as identified
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where c.oid = tree.relid and (tree.relid = tree.root or c.relkind <> 'p') offset 0) as c
cross join lateral (
  select array_agg(a.attname::text order by k.place) filter (where i.is_key),
         bool_and(i.indimmediate) filter (where i.is_key),
         bool_or(i.indisexclusion) filter (where i.is_key),
         array_agg(a.attname::text order by k.place) filter (where i.indisprimary),
         array_agg(a.attname::text order by k.place) filter (where i.identifies),
         bool_or(a.attgenerated <> '') filter (where i.identifies)
  from (select *, case when c.identified then indisreplident else indisprimary end as is_key,
               case c.relreplident when 'd' then indisprimary when 'i' then indisreplident end
                  and (indisvalid or c.relkind = 'p') and indimmediate as identifies
        from pg_index where indrelid = c.oid and (indisprimary or indisreplident)) as i
  cross join unnest(i.indkey::smallint[]) with ordinality as k (attnum, place)
  join pg_attribute a on a.attrelid = c.oid and a.attnum = k.attnum
  where k.place <= i.indnkeyatts) as index (key, immediate, temporal, primary_key, identity, generated)
cross join lateral (
  select bool_or(a.attgenerated = 's'),
         array_agg(a.attname::text order by a.attnum) filter (where a.attgenerated = 'v')
  from pg_attribute a
  where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped) as made (stored, virtual)
order by 1, 3

-- name: similar_tables
-- Tables whose name differs only in its case, or is in another schema; as SQL writes it.
select format('%%I.%%I', n.nspname, c.relname)
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where lower(c.relname) = lower(%(name)s) and c.relkind in ('r', 'p')
  and n.nspname <> all (array['pg_catalog', 'information_schema', 'pg_toast', %(ours)s])
order by lower(n.nspname) <> lower(%(schema)s), 1 limit 3

-- name: viewed_tables
-- The tables that a view reads, as SQL writes them; none of ours, and none of a schema of the server.
select distinct format('%%I.%%I', n.nspname, c.relname)
from pg_rewrite r
join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid and d.refclassid = 'pg_class'::regclass
join pg_class c on c.oid = d.refobjid and c.relkind in ('r', 'p')
join pg_namespace n on n.oid = c.relnamespace
where r.ev_class = to_regclass(format('%%I.%%I', %(schema)s, %(name)s))
  and n.nspname <> all (array['pg_catalog', 'information_schema', %(ours)s])
order by 1 limit 3

-- name: key_columns
-- The columns of its key, in order: name, type, the type's number and modifier.
select a.attname::text, format_type(a.atttypid, a.atttypmod), a.atttypid::bigint, a.atttypmod
from pg_class c
join pg_index i
  on i.indrelid = c.oid and case
    when exists (select from pg_index where indrelid = c.oid and indisreplident)
    then i.indisreplident else i.indisprimary end
cross join unnest(i.indkey[0:i.indnkeyatts - 1]::smallint[]) with ordinality as k (attnum, place)
join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
where c.oid = %(oid)s
order by k.place

-- name: never_filled
-- The tables, of those given, that have no rows and whose file is the one that they were made with.
select oid::bigint from pg_class
where oid = any (%(oids)s::oid[]) and relfilenode = oid and pg_relation_size(oid) = 0

-- name: leaf_condition
-- The condition that only rows of this partition meet; null if it is none.
select pg_get_partition_constraintdef(%(leaf)s)

-- name: state_of_read
-- The files of a table and its partitions, which change with a rewrite or TRUNCATE, and whether this
-- transaction has read that table and no other one: each that it read it keeps locked.
with tree as (select %(oid)s::oid::regclass as relid
              union select relid from pg_partition_tree(%(oid)s))
select (select array_agg(format('%%s:%%s', relid::oid, pg_relation_filenode(relid)) order by relid)::text
        from tree),
       (select coalesce(bool_or(c.oid = %(oid)s), false)
               and coalesce(bool_and(c.oid in (select relid from tree)), false)
        from pg_locks l
        join pg_database d on d.oid = l.database and d.datname = current_database()
        join pg_class c on c.oid = l.relation and c.oid >= 16384 and c.relkind in ('r', 'p')
        where l.pid = pg_backend_pid() and l.locktype = 'relation')

-- name: begin_read
-- One snapshot for a read, which gives up soon when a table is locked: others wait for the session.
set transaction isolation level repeatable read, read only; set local lock_timeout = '2s'

-- name: begin_count
-- A count is one statement, whose snapshot is no older than its lock: a rewrite that it waited for has
-- emptied no table for it. It gives up soon, too.
set transaction read only; set local lock_timeout = '2s'

-- name: snapshot
-- The snapshot of this transaction; its xids have 64 bits.
select pg_current_snapshot()::text

-- name: next_xid
-- An id that no transaction had before; an older transaction that runs was already running then.
select pg_current_xact_id()::text::bigint

-- name: running
-- Transactions that write, prepared ones too: id and description.
select backend_xid::text::bigint,
       format('PID %s (%s)', pid, coalesce(nullif(application_name, ''), usename::text, backend_type))
from pg_stat_activity where backend_xid is not null
union all
select transaction::text::bigint, format('prepared transaction %s', gid) from pg_prepared_xacts

-- name: read_rows
-- Some rows by key, in the form of the change log, until they have so many bytes.
select t."cdc place"{values}, t."cdc spent"
from (select t.*, sum(t."cdc bytes") over (order by t."cdc place" rows unbounded preceding) as "cdc spent"
      from (select k."cdc place", {columns}, {bytes} as "cdc bytes"
            from unnest({key_arrays}) with ordinality as k ({key_names}, "cdc place")
            join {table} t on {key_matches}) t) t
where t."cdc spent" - t."cdc bytes" < %(bytes)s
order by t."cdc place"

-- name: present_keys
-- The keys, of those given, that have a row.
select {asked}
from unnest({key_arrays}) as k ({key_names})
where exists (select from {table} t where {key_matches})

-- name: scan_rows
-- Rows in the order of the key, in the same form, until they have so many bytes.
select {keys}{values}, t."cdc spent"
from (select t.*, sum(t."cdc bytes") over (order by {order} rows unbounded preceding) as "cdc spent"
      from (select {columns}, {bytes} as "cdc bytes"
            from {table} t where {condition} order by {order} limit %(rows)s) t) t
where t."cdc spent" - t."cdc bytes" < %(bytes)s
order by {order}

-- name: count_rows
-- The number of rows, of all or between two keys.
select count(*) from {table} t where {condition}

-- name: count_parts
-- The rows of a table, and those of the parts in which they were read, one after another, all in one
-- snapshot.
select count(*),
       (select count(*) from {table} t where {first})
       + (select coalesce(sum(part.rows), 0)::bigint
          from unnest({arrays}) as b ({names})
          cross join lateral (select count(*) as rows from {table} t where {inner}) as part)
       + (select count(*) from {table} t where {last})
from {table} t

-- name: text_size
-- Bytes of text in a table; large values are not read.
select count(*), coalesce(sum({text_bytes}), 0)::bigint from {table} t

-- name: wide_columns
-- Columns whose values can be of any length, beside those that are given.
select a.attname::text
from pg_attribute a
where a.attrelid = %(oid)s and a.attnum > 0 and not a.attisdropped and a.attlen = -1
  and a.attstorage in ('x', 'e') and a.attname <> all (%(columns)s)
order by a.attnum
