-- name: table
-- One table by name: its kind, and the identity of its rows in the change log.
select c.oid::bigint, c.relkind::text, c.relreplident::text, c.relpersistence::text, i.indimmediate,
       has_table_privilege(c.oid, 'select'), quote_ident(current_user)
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
left join pg_index i on i.indrelid = c.oid and i.indisprimary
where n.nspname = %(schema)s and c.relname = %(name)s

-- name: columns
-- Its columns: name, type, place in the primary key and in the replica identity.
select a.attname::text, format_type(a.atttypid, a.atttypmod), a.atttypid >= 16384,
       array_position(p.indkey::smallint[], a.attnum), array_position(r.indkey::smallint[], a.attnum),
       a.attgenerated::text
from pg_attribute a
left join pg_index p on p.indrelid = a.attrelid and p.indisprimary
left join pg_index r on r.indrelid = a.attrelid and r.indisreplident
where a.attrelid = %(oid)s and a.attnum > 0 and not a.attisdropped
order by a.attnum

-- name: key_order
-- The comparison that the key's own index makes of each key column, whatever schema its type is in:
-- the type, its cast, the operators, the collation. Then whether equal keys can have texts that
-- differ, and whether every server has a default order for the type.
select a.attname::text, format_type(compared.type, -1),
       case when compared.type <> a.atttypid then '::' || format_type(compared.type, -1) else '' end,
       array(select format('operator(%%I.%%s)', n.nspname, o.oprname)
             from pg_amop m join pg_operator o on o.oid = m.amopopr
             join pg_namespace n on n.oid = o.oprnamespace
             where m.amopfamily = c.opcfamily and m.amopstrategy in (1, 3, 5)
               and m.amoplefttype = c.opcintype and m.amoprighttype = c.opcintype
             order by m.amopstrategy),
       case when k.sorting <> a.attcollation
            then format(' collate %%I.%%I', s.nspname, l.collname) else '' end,
       l.collisdeterministic is false,
       exists (select from pg_opclass d where d.opcmethod = c.opcmethod and d.opcdefault
               and d.opcintype = c.opcintype and d.oid < 16384)
from pg_index i
cross join unnest(i.indkey::smallint[], i.indclass::oid[], i.indcollation::oid[])
  as k (attnum, class, sorting)
join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
join pg_opclass c on c.oid = k.class
join pg_type t on t.oid = c.opcintype
cross join lateral (
  with recursive base as (
    select b.oid, b.typbasetype from pg_type b where b.oid = a.atttypid
    union all
    select b.oid, b.typbasetype from base join pg_type b on b.oid = base.typbasetype)
  select case when t.typtype = 'p' then base.oid else t.oid end as type
  from base where base.typbasetype = 0) as compared
left join pg_collation l on l.oid = k.sorting
left join pg_namespace s on s.oid = l.collnamespace
where i.indrelid = %(oid)s and i.indisprimary

-- name: partitions
-- Its partitions that have rows: name, replica identity, and whether that contains the primary key.
select c.oid::regclass::text, c.relreplident::text,
       c.relreplident in ('d', 'f')
       or coalesce(r.indkey::smallint[] @> p.indkey::smallint[]
                   and r.indkey::smallint[] <@ p.indkey::smallint[], false)
from pg_partition_tree(%(oid)s) t
join pg_class c on c.oid = t.relid and t.isleaf and c.oid <> %(oid)s
left join pg_index p on p.indrelid = c.oid and p.indisprimary
left join pg_index r on r.indrelid = c.oid and r.indisreplident
order by 1

-- name: estimate
-- The estimated number of rows; null before the first ANALYZE.
select nullif(sum(c.reltuples), -1)::bigint
from pg_class c
where c.oid = %(oid)s and c.relkind = 'r'
   or c.oid in (select relid from pg_partition_tree(%(oid)s) where isleaf)

-- name: file_nodes
-- The files of a table and its partitions; they change with a rewrite or TRUNCATE.
select array_agg(format('%%s:%%s', relid::oid, pg_relation_filenode(relid)) order by relid)::text
from (select %(oid)s::oid::regclass as relid
      union select relid from pg_partition_tree(%(oid)s)) as tree

-- name: shape
-- The files, and more that changes with events which the log need not contain: the numbers of some
-- columns (a column dropped and made again), the labels of their types (a renaming), the attachment
-- of partitions (one detached, written to and attached again), the unique indexes of partitions
-- (one that was the replica identity for a while).
select (select array_agg(format('%%s:%%s:%%s', relid::oid, pg_relation_filenode(relid), i.xmin)
                         order by relid)
        from (select %(oid)s::oid::regclass as relid
              union select relid from pg_partition_tree(%(oid)s)) as tree
        left join pg_inherits i on i.inhrelid = relid and relid <> %(oid)s::oid)::text
       || coalesce((select array_agg(format('%%s:%%s', indexrelid, xmin) order by indexrelid)
                    from pg_index
                    where indisunique and indrelid <> %(oid)s
                      and indrelid in (select relid from pg_partition_tree(%(oid)s)
                                       where isleaf))::text, '')
       || (select array_agg(a.attnum order by w.place)
           from unnest(%(columns)s::text[]) with ordinality as w (name, place)
           left join pg_attribute a on a.attrelid = %(oid)s and a.attname = w.name)::text
       || coalesce((select array_agg(e.enumlabel order by e.oid) from pg_enum e
                    where e.enumtypid in (select atttypid from pg_attribute
                                          where attrelid = %(oid)s and attname = any (%(columns)s)))::text, '')

-- name: version
-- The versions of its catalogue rows; they change with its name, its identity, its primary key.
select format('%%s:%%s:%%s', c.xmin, n.xmin,
              (select array_agg(indexrelid order by indexrelid) from pg_index
               where indrelid = c.oid and (indisprimary or indisreplident)))
from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = %(oid)s

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
-- Some rows by key, in the form of the change log.
select {asked}{values}
from {table} t
join unnest({key_arrays}) as k ({key_names}) on {key_matches}

-- name: present_keys
-- The keys, of those given, that have a row.
select {asked}
from unnest({key_arrays}) as k ({key_names})
where exists (select from {table} t where {key_matches})

-- name: scan_rows
-- The rows that follow a key, in the same form.
select {keys}{values} from {table} t where {following} order by {order}

-- name: scan_first_rows
-- The table's first rows, in the same form.
select {keys}{values} from {table} t order by {order}

-- name: text_size
-- Bytes of text in a table; large values are not read.
select count(*), coalesce(sum({bytes}), 0)::bigint from {table} t
