-- name: view_state
-- The search view's columns, and the row security of the table of vectors: as they are now; whether the
-- view is read with its reader's rights, the functions of our schema that it calls, its columns of
-- another type than the table's, and the functions of ours that CREATE OR REPLACE refuses to make, because
-- other hands gave them names of parameters, defaults or another result.
select (select array_agg(a.attname::text order by a.attnum) from pg_attribute a
        where a.attrelid = to_regclass(%(view)s) and a.attnum > 0 and not a.attisdropped),
       coalesce((select c.relrowsecurity from pg_class c where c.oid = to_regclass(%(table)s)), false),
       array(select p.polname::text from pg_policy p
             where p.polrelid = to_regclass(%(table)s) and p.polname like 'cdc\_embed\_%%' order by 1),
       array(select quote_ident(p.polname) from pg_policy p
             where p.polrelid = to_regclass(%(table)s) and p.polname not like 'cdc\_embed\_%%'
               and p.polpermissive and p.polcmd in ('r', '*') order by 1),
       coalesce((select 'security_invoker=true' = any (v.reloptions) from pg_class v where v.oid = to_regclass(%(view)s)), false),
       array(select p.proname::text from pg_rewrite r
             join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid and d.refclassid = 'pg_proc'::regclass
             join pg_proc p on p.oid = d.refobjid and p.pronamespace = to_regnamespace(quote_ident(%(schema)s))
             where r.ev_class = to_regclass(%(view)s)),
       array(select a.attname::text from pg_attribute a
             join pg_attribute t on t.attrelid = to_regclass(%(table)s) and not t.attisdropped
                                and t.attname = case a.attname when 'text' then 'chunk_text' else a.attname end
             where a.attrelid = to_regclass(%(view)s) and a.attnum > 0 and not a.attisdropped
               and (a.atttypid, a.atttypmod) <> (t.atttypid, t.atttypmod)),
       array(select format('%%I.%%I(%%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid))
             from pg_proc p join pg_namespace n on n.oid = p.pronamespace
             join jsonb_each_text(%(functions)s::jsonb) as f (name, result) on f.name = p.proname
             where n.nspname = %(schema)s
               and p.proargtypes::text = (select string_agg(to_regtype(a.type)::oid::text, ' ' order by a.place)
                                          from unnest(%(arguments)s::text[]) with ordinality as a (type, place))
               and (p.prokind <> 'f' or p.prorettype <> to_regtype(f.result) or p.proretset
                    or p.proargnames is not null or p.pronargdefaults > 0))

-- name: renamed_view
-- The search view of a table of vectors that has another name or schema now: it has the columns of ours, and is
-- read with its reader's rights. Its names, as SQL writes them, and the way back.
select format('%%I.%%I', n.nspname, v.relname),
       concat_ws(' ',
         case when n.nspname <> %(schema)s then format('alter view %%I.%%I set schema %%I;', n.nspname, v.relname, %(schema)s) end,
         case when v.relname <> %(view)s then format('alter view %%I.%%I rename to %%I;', %(schema)s, v.relname, %(view)s) end)
from pg_class v join pg_namespace n on n.oid = v.relnamespace
where v.relkind = 'v' and 'security_invoker=true' = any (v.reloptions)
  and array(select a.attname::text from pg_attribute a where a.attrelid = v.oid and a.attnum > 0 order by a.attname)
      = array(select name from unnest(%(columns)s::text[]) as name order by name collate "C")
  and exists (select from pg_rewrite r
              join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
              where r.ev_class = v.oid and d.refclassid = 'pg_class'::regclass
                and d.refobjid = to_regclass(format('%%I.%%I', %(schema)s, %(table)s)))
order by v.oid
limit 1

-- name: altered
-- The tables of vectors, of those given, whose function or policy of ours is not as it was made, and
-- which of these it is: the body of the function and how it is run, the condition of a policy, for whom
-- it is.
select g.name, case when f.body is distinct from g.body then 'function ' || g.function else 'policy ' || min(p.name) end
from jsonb_to_recordset(%(made)s::jsonb) as g (name text, function text, body text, key text[], visible bool)
left join lateral (
  select case when l.lanname = 'sql' and p.provolatile = 's' and p.proconfig is null and not p.prosecdef and not p.proisstrict
              then md5(p.prosrc) end as body
  from pg_proc p join pg_namespace n on n.oid = p.pronamespace join pg_language l on l.oid = p.prolang
  where n.nspname = %(schema)s and p.proname = g.function
  order by md5(p.prosrc) <> g.body limit 1) f on true
left join lateral (
  select p.polname::text as name
  from pg_policy p join pg_class c on c.oid = p.polrelid join pg_namespace n on n.oid = c.relnamespace
  where n.nspname = %(schema)s and c.relname = g.name and g.visible
    and not case p.polname
      when 'cdc_embed_readers' then p.polcmd = 'r' and pg_get_expr(p.polqual, p.polrelid) = format(
        '%%I.%%I(%%s)', %(schema)s, g.function, (select string_agg(quote_ident(k), ', ' order by place) from unnest(g.key) with ordinality as key (k, place)))
      when 'cdc_embed_service' then not 0 = any (p.polroles)
      else true end) p on true
where f.body is distinct from g.body or p.name is not null
group by g.name, g.function, f.body, g.body

-- name: create_search_view
-- The view that applications select from: one row for each chunk.
create or replace view {view} with (security_invoker = true) as
select {columns}
from {table} e{where}

-- name: drop_view
-- Drop the search view.
drop view if exists {view}

-- name: rename_view
-- Rename the search view; its grants stay.
alter view if exists {view} rename to {name}

-- name: rename_view_column
-- Rename a column of the search view; its grants, and the views that read it, stay.
alter view if exists {view} rename column {column} to {name}

-- name: drop_function
-- Drop a function of ours.
drop routine if exists {function}

-- name: create_visible
-- Whether the present user can read a row of the source. A string is no dependency: the source's
-- columns can be changed at any time.
create or replace function {function} ({types}) returns boolean
language sql stable parallel safe security invoker as {body};
grant execute on function {function} ({types}) to public

-- name: visible_body
-- Its text, if the source has row level security. The names must still be those of the columns whose
-- values the vectors are stored by, and these the key, or a reader would see the vectors of other
-- rows: then nobody sees any.
select exists (select from {source} s where {matches})
  and exists (select from pg_catalog.pg_index i
              where i.indrelid operator(pg_catalog.=) {oid} and (i.indisprimary or i.indisreplident)
                and i.indkey[0:i.indnkeyatts operator(pg_catalog.-) 1] operator(pg_catalog.=) {numbers})
  and {same_names}

-- name: same_name
-- Whether a column of the source, by its number, has the name that it had.
(pg_catalog.pg_identify_object_as_address('pg_catalog.pg_class'::pg_catalog.regclass, {oid}, {number})).object_names
      operator(pg_catalog.=) array[{schema}, {table}, {column}]

-- name: visible_body_without_security
-- Its text, if it has none. A key column that was renamed is not the source's any more, so its name
-- is that of the outer row: the search goes on, and shows rows that are deleted.
select exists (select from {source} s where {loose_matches}) from (select {parameters}) as renamed

-- name: create_text
-- The prepared text of a row of the source, as the present user can read it.
create or replace function {function} ({types}) returns text
language sql stable parallel safe security invoker as {body};
grant execute on function {function} ({types}) to public

-- name: text_body
-- Its text.
select {text} from {source} s where {matches}

-- name: enable_row_security
-- Rows of the table of vectors are shown by policies only.
alter table {table} enable row level security

-- name: disable_row_security
-- The source table has no row level security any more.
alter table {table} disable row level security

-- name: drop_policy
-- Drop a policy of ours.
drop policy if exists {policy} on {table}

-- name: create_reader_policy
-- A reader sees the vectors of the rows that he sees in the source.
create policy cdc_embed_readers on {table} for select using ({visible} ({key}))

-- name: create_service_policy
-- The service sees and writes everything.
create policy cdc_embed_service on {table} to {role} using (true) with check (true)
