-- name: view_state
-- The search view's columns, and the row security of the table of vectors: as they are now.
select (select array_agg(a.attname::text order by a.attnum) from pg_attribute a
        where a.attrelid = to_regclass(%(view)s) and a.attnum > 0 and not a.attisdropped),
       coalesce((select c.relrowsecurity from pg_class c where c.oid = to_regclass(%(table)s)), false),
       array(select p.polname::text from pg_policy p
             where p.polrelid = to_regclass(%(table)s) and p.polname like 'cdc\_embed\_%%' order by 1)

-- name: dependents
-- Views of the application that read some relations of ours: they would be dropped with them.
select distinct c.oid::regclass::text
from pg_depend d
join pg_rewrite r on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid
join pg_class c on c.oid = r.ev_class
where d.refclassid = 'pg_class'::regclass
  and d.refobjid in (select to_regclass(name) from unnest(%(relations)s::text[]) as name)
  and c.oid not in (select to_regclass(name) from unnest(%(relations)s::text[]) as name
                    where to_regclass(name) is not null)
order by 1

-- name: change_relations
-- Statements that can make relations anew, in one transaction. Owners, grants, comments, and what
-- else the application gave these relations, are put back. A grant on a column that is gone is not.
do $cdc_embed$
declare
  cdc_embed_relations constant text[] := {relations};
  cdc_embed_existed text[];
  cdc_embed_kept jsonb;
  cdc_embed_statement text;
begin
  cdc_embed_existed := array(select r.name from unnest(cdc_embed_relations) as r (name)
                             where to_regclass(r.name) is not null);
  cdc_embed_kept := (
  select jsonb_agg(jsonb_build_object('relation', name, 'column', of_column, 'statement', statement) order by place)
  from (select r.name, c.oid, c.relkind, c.relowner, c.relacl, c.relrowsecurity, c.relforcerowsecurity
        from unnest(cdc_embed_relations) as r (name) join pg_class c on c.oid = to_regclass(r.name)) as t
  cross join lateral (
    select 1 as place, null::text as of_column,
           format('alter %s %s owner to %I', case relkind when 'v' then 'view' else 'table' end, name,
                  pg_get_userbyid(relowner)) as statement
    where pg_get_userbyid(relowner) <> current_user
    union all
    select 2, null, format('grant %s on %s to %s%s', g.privilege_type, name,
                           case g.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(g.grantee)) end,
                           case when g.is_grantable then ' with grant option' else '' end)
    from aclexplode(relacl) g where g.grantee <> relowner
    union all
    select 3, a.attname, format('grant %s (%I) on %s to %s%s', g.privilege_type, a.attname, name,
                                case g.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(g.grantee)) end,
                                case when g.is_grantable then ' with grant option' else '' end)
    from pg_attribute a, aclexplode(a.attacl) g
    where a.attrelid = t.oid and not a.attisdropped and a.attacl is not null
    union all
    select 4, a.attname,
           case when a.attname is null
                then format('comment on %s %s is %L', case relkind when 'v' then 'view' else 'table' end, name, d.description)
                else format('comment on column %s.%I is %L', name, a.attname, d.description) end
    from pg_description d
    left join pg_attribute a on a.attrelid = d.objoid and a.attnum = d.objsubid and d.objsubid > 0
    where d.classoid = 'pg_class'::regclass and d.objoid = t.oid
      and d.description not like 'made by cdc\_embed %'
    union all
    select 5, null, format('alter table %s %s row level security', name, word)
    from (values ('enable', relrowsecurity and exists (select from pg_policy p where p.polrelid = t.oid
                                                       and p.polname not like 'cdc\_embed\_%')),
                 ('force', relforcerowsecurity)) as flag (word, set)
    where relkind = 'r' and flag.set
    union all
    select 6, null, format('create policy %I on %s as %s for %s to %s%s%s', p.polname, name,
                           case when p.polpermissive then 'permissive' else 'restrictive' end,
                           case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update'
                                         when 'd' then 'delete' else 'all' end,
                           (select string_agg(case role when 0 then 'public' else quote_ident(pg_get_userbyid(role)) end, ', ')
                            from unnest(p.polroles) as role),
                           ' using (' || pg_get_expr(p.polqual, p.polrelid) || ')',
                           ' with check (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')')
    from pg_policy p where p.polrelid = t.oid and p.polname not like 'cdc\_embed\_%'
    union all
    select 7, null, pg_get_triggerdef(g.oid) from pg_trigger g where g.tgrelid = t.oid and not g.tgisinternal
  ) as found);
  {change};
  for cdc_embed_statement in
    select distinct format('revoke all on %s from %s', r.name,
                           case g.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(g.grantee)) end)
    from unnest(cdc_embed_existed) as r (name)
    join pg_class c on c.oid = to_regclass(r.name), aclexplode(c.relacl) g
    where g.grantee <> c.relowner
  loop
    execute cdc_embed_statement;
  end loop;
  for cdc_embed_statement in
    select kept.statement
    from jsonb_to_recordset(coalesce(cdc_embed_kept, '[]')) as kept (relation text, "column" text, statement text)
    where kept."column" is null or exists (
      select from pg_attribute a where a.attrelid = to_regclass(kept.relation)
      and a.attname = kept."column" and not a.attisdropped)
  loop
    execute cdc_embed_statement;
  end loop;
end
$cdc_embed$

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
drop function if exists {function}

-- name: create_visible
-- Whether the present user can read a row of the source. A string is no dependency: the source's
-- columns can be changed at any time.
create or replace function {function} ({types}) returns boolean
language sql stable parallel safe security invoker as {body};
grant execute on function {function} ({types}) to public

-- name: visible_body
-- Its text, if the source has row level security.
select exists (select from {source} s where {matches})

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
