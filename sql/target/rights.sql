-- name: missing
-- The rights that a service needs and this role lacks, as GRANT has them; first the table of vectors
-- that alone needs it, if it is one. It asks the catalogue only, so it needs none of them itself.
with extension as (
  select oid, extnamespace from pg_extension where extname = 'vector'
), made_by_extension as (
  select d.classid, d.objid from pg_depend d join extension e on e.oid = d.refobjid
  where d.refclassid = 'pg_extension'::regclass and d.deptype = 'e'
), vector_type as (
  select oid, typname, typnamespace from pg_type
  where typname = %(type)s and oid in (select objid from made_by_extension where classid = 'pg_type'::regclass)
), ours as (
  select c.oid, c.relname::text as name, n.nspname as schema
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where n.nspname = %(schema)s and c.relkind = 'r'
), lacking (vectors, lacks) as (
  select '', format('usage on schema %%I', n.nspname)
  from pg_namespace n
  where (n.nspname = %(schema)s or n.oid in (select extnamespace from extension))
    and not has_schema_privilege(n.oid, 'usage')
  union all
  select '', format('usage on type %%I.%%I', n.nspname, t.typname)
  from vector_type t join pg_namespace n on n.oid = t.typnamespace
  where not has_type_privilege(t.oid, 'usage')
  union all
  select '', format('execute on function %%I.%%I(%%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid))
  from pg_proc p join pg_namespace n on n.oid = p.pronamespace
  where (p.oid = 'pg_control_system'::regproc
         or p.proname = any (%(functions)s) and p.proargtypes[0] in (select oid from vector_type)
            and p.oid in (select objid from made_by_extension where classid = 'pg_proc'::regclass))
    and not has_function_privilege(p.oid, 'execute')
  union all
  select case when c.name = any (%(vectors)s) then c.name else '' end,
         format('%%s on %%I.%%I', string_agg(needed.privilege, ', ' order by needed.place), c.schema, c.name)
  from unnest(%(tables)s::text[], %(privileges)s::text[]) with ordinality as needed (name, privilege, place)
  join ours c on c.name = needed.name
  where not has_table_privilege(c.oid, needed.privilege)
  group by c.schema, c.name
  union all
  select distinct c.name, format('usage on schema %%I', n.nspname)
  from ours c
  join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
  join pg_type t on t.oid = a.atttypid
  join pg_namespace n on n.oid = t.typnamespace
  where c.name = any (%(vectors)s) and n.oid not in (select extnamespace from extension)
    and not has_schema_privilege(n.oid, 'usage')
)
select vectors, lacks, quote_ident(current_user) from lacking order by 1, 2

-- name: opened
-- The tables, of those given, that have no row level security any more, or not the policies of ours.
select c.relname::text
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = %(schema)s and c.relname = any (%(tables)s)
  and not (c.relrowsecurity
           and %(policies)s::text[] <@ array(select polname::text from pg_policy where polrelid = c.oid))

-- name: hindrances
-- Triggers, rules and row level security that others have put on relations of ours, of the given ones, and
-- objects of ours that a role owns which this one is none of: the relation, the kind, what it is, the statement
-- that takes it away, and whether it can drop or hide rows of one of our own tables without an error.
with ours as (
  select c.oid, c.relname::text as name, format('%%I.%%I', n.nspname, c.relname) as named, c.relkind, c.relowner,
         c.relrowsecurity and (c.relforcerowsecurity or not pg_has_role(c.relowner, 'usage')) as filtered,
         c.relname = any (%(own)s) as own
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where n.nspname = %(schema)s and c.relname = any (%(relations)s) and c.relkind in ('r', 'v')
)
select o.name, 'trigger', format('trigger %%I of yours is on %%s', t.tgname, o.named),
       format('drop trigger %%I on %%s;', t.tgname, o.named), o.own and t.tgtype & 3 = 3
from ours o join pg_trigger t on t.tgrelid = o.oid
where o.relkind = 'r' and not t.tgisinternal and t.tgenabled in ('O', 'A')
union all
select o.name, 'rule', format('rule %%I of yours is on %%s', r.rulename, o.named),
       format('drop rule %%I on %%s;', r.rulename, o.named), o.own and r.is_instead
from ours o join pg_rewrite r on r.ev_class = o.oid
where o.relkind = 'r' and r.ev_enabled in ('O', 'A')
union all
select name, 'row security', format('%%s has row level security', named),
       format('alter table %%s no force row level security, disable row level security;', named), true
from ours where own and filtered
union all
select name, 'owner', format('%%s is owned by %%s', named, quote_ident(pg_get_userbyid(relowner))),
       format('alter %%s %%s owner to %%I;', case relkind when 'v' then 'view' else 'table' end, named, current_user), false
from ours where not pg_has_role(relowner, 'usage')
union all
select p.proname, 'owner', format('function %%s is owned by %%s', p.oid::regprocedure, quote_ident(pg_get_userbyid(p.proowner))),
       format('alter function %%s owner to %%I;', p.oid::regprocedure, current_user), false
from pg_proc p join pg_namespace n on n.oid = p.pronamespace
where n.nspname = %(schema)s and starts_with(p.prosrc, %(mark)s) and not pg_has_role(p.proowner, 'usage')
order by 1, 2, 3
