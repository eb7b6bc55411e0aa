-- name: kept
-- Statements that give the successors of some relations what the application gave these: the place
-- in the order (0: also if a view is only replaced, 1: before a table is filled, 2: an index),
-- the columns without which it makes no sense.
select t.oid as former, t.successor, found.place, found.columns, found.statement
from (select r.successor, c.* from (values {pairs}) as r (relation, successor)
      join pg_class c on c.oid = to_regclass(r.relation)) as t
cross join lateral (select case t.relkind when 'v' then 'view' else 'table' end as word) as kind
cross join lateral (
  select 0 as place, null::name[] as columns,
         format('alter view %s set (%s = %L)', successor, o.name, substr(o.option, length(o.name) + 2)) as statement
  from (select option, split_part(option, '=', 1) as name from unnest(t.reloptions) as option) as o
  where t.relkind = 'v' and o.name <> 'security_invoker'
  union all
  select 1, null, format('alter table %s set (%s%s = %L)', successor, o.prefix, o.name, substr(o.option, length(o.name) + 2))
  from (select '' as prefix, option, split_part(option, '=', 1) as name from unnest(t.reloptions) as option
        union all
        select 'toast.', option, split_part(option, '=', 1)
        from pg_class toast, unnest(toast.reloptions) as option where toast.oid = t.reltoastrelid) as o
  where t.relkind = 'r' and o.option <> 'fillfactor=50'
  union all
  select 1, null, format('alter table %s set %s', successor, o.setting)
  from (select format('tablespace %I', s.spcname) as setting from pg_tablespace s where s.oid = t.reltablespace
        union all select format('access method %I', m.amname) from pg_am m where m.oid = t.relam and m.amname <> 'heap') as o
  where t.relkind = 'r'
  union all
  select 1, array[a.attname], format('alter table %s alter column %I set %s', successor, a.attname, o.setting)
  from pg_attribute a join pg_type y on y.oid = a.atttypid
  cross join lateral (
    -- that of a former key's column was the key's
    select 'not null' as setting
    where a.attnotnull and not exists (select from pg_index k where k.indrelid = t.oid and k.indisprimary and a.attnum = any (k.indkey))
    union all
    select 'storage ' || case a.attstorage when 'p' then 'plain' when 'e' then 'external' when 'm' then 'main' else 'extended' end
    where a.attstorage <> y.typstorage
    union all select 'compression ' || case a.attcompression when 'l' then 'lz4' else 'pglz' end where a.attcompression <> ''
    union all select 'statistics ' || a.attstattarget where a.attstattarget >= 0
    union all
    select format('(%s = %L)', split_part(option, '=', 1), split_part(option, '=', 2)) from unnest(a.attoptions) as option
  ) as o
  where t.relkind = 'r' and a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped
  union all
  select 2, null,
         case when x.oid is not null then format('alter index %s rename to %I', x.oid::regclass, i.relname)
              when t.oid = to_regclass(successor) then pg_get_indexdef(i.oid)
              else format('create %sindex %I on %s%s', case when n.indisunique then 'unique ' end,
                          'cdc_embed_index_' || i.oid, successor,
                          substr(pg_get_indexdef(i.oid), 1 + length(format('CREATE %sINDEX %I ON %s', case when n.indisunique then 'UNIQUE ' end,
                                                                           i.relname, t.oid::regclass)))) end
  from pg_index n join pg_class i on i.oid = n.indexrelid
  left join pg_class x on x.relnamespace = i.relnamespace and x.relname = 'cdc_embed_index_' || i.oid
  where t.relkind = 'r' and n.indrelid = t.oid and n.indisvalid and i.relname <> all ({indexes})
    and not exists (select from pg_constraint k where k.conindid = i.oid)
  union all
  select 3, null, format('alter %s %s owner to %I', word, successor, pg_get_userbyid(t.relowner))
  where pg_get_userbyid(t.relowner) <> current_user
  union all
  select 4, array[a.attname], format('alter table %s alter column %I set default %s', successor, a.attname, pg_get_expr(d.adbin, d.adrelid))
  from pg_attrdef d join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum
  where d.adrelid = t.oid and a.attgenerated = ''
  union all
  select 5, case when a.attname is not null then array[a.attname] end,
         format('grant %s%s on %s to %s%s', g.privilege_type, ' (' || quote_ident(a.attname) || ')', successor,
                case g.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(g.grantee)) end,
                case when g.is_grantable then ' with grant option' else '' end)
  from (select null::name as attname, t.relacl as acl
        union all
        select attname, attacl from pg_attribute where attrelid = t.oid and not attisdropped and attacl is not null) as a,
       aclexplode(a.acl) as g
  where g.grantee <> t.relowner
  union all
  select 6, null, format('alter table %s %s row level security', successor, flag.word)
  from (values ('enable', t.relrowsecurity and exists (select from pg_policy p where p.polrelid = t.oid
                                                     and p.polname not like 'cdc\_embed\_%')),
               ('force', t.relforcerowsecurity)) as flag (word, set)
  where t.relkind = 'r' and flag.set
  union all
  select 7, null, format('create policy %I on %s as %s for %s to %s%s%s', p.polname, successor,
                         case when p.polpermissive then 'permissive' else 'restrictive' end,
                         case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update'
                                       when 'd' then 'delete' else 'all' end,
                         (select string_agg(case role when 0 then 'public' else quote_ident(pg_get_userbyid(role)) end, ', ')
                          from unnest(p.polroles) as role),
                         ' using (' || pg_get_expr(p.polqual, p.polrelid) || ')',
                         ' with check (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')')
  from pg_policy p where p.polrelid = t.oid and p.polname not like 'cdc\_embed\_%'
  union all
  select o.place, null, o.statement
  from pg_trigger g
  cross join lateral (
    select 8 as place, pg_get_triggerdef(g.oid) as statement
    union all
    select 15, format('alter table %s %s trigger %I', successor, s.state, g.tgname)
    from (values ('D', 'disable'), ('R', 'enable replica'), ('A', 'enable always')) as s (letter, state)
    where s.letter = g.tgenabled
  ) as o
  where g.tgrelid = t.oid and not g.tgisinternal
  union all
  select o.place, null, o.statement
  from pg_rewrite w
  cross join lateral (
    select 9 as place, pg_get_ruledef(w.oid) as statement
    union all
    select 15, format('alter table %s %s rule %I', successor, s.state, w.rulename)
    from (values ('D', 'disable'), ('R', 'enable replica'), ('A', 'enable always')) as s (letter, state)
    where s.letter = w.ev_enabled
  ) as o
  where w.ev_class = t.oid and w.rulename <> '_RETURN'
  union all
  select o.place, null, o.statement
  from pg_statistic_ext s join pg_namespace n on n.oid = s.stxnamespace
  cross join lateral (
    select 10 as place, pg_get_statisticsobjdef(s.oid) as statement
    union all
    select 15, format('alter statistics %I.%I set statistics %s', n.nspname, s.stxname, s.stxstattarget) where s.stxstattarget >= 0
  ) as o
  where s.stxrelid = t.oid
  union all
  select 11, null, format('alter table %s %s', successor, o.setting)
  from (select 'replica identity ' || case t.relreplident when 'f' then 'full' else 'nothing' end as setting where t.relreplident in ('f', 'n')
        union all
        select format('replica identity using index %I', i.relname)
        from pg_index n join pg_class i on i.oid = n.indexrelid where n.indrelid = t.oid and n.indisreplident
        union all
        select format('cluster on %I', i.relname)
        from pg_index n join pg_class i on i.oid = n.indexrelid where n.indrelid = t.oid and n.indisclustered) as o
  where t.relkind = 'r'
  union all
  select 12, null, format('alter publication %I add table %s%s%s', p.pubname, successor,
                          ' (' || (select string_agg(quote_ident(a.attname), ', ') from pg_attribute a
                                   where a.attrelid = t.oid and a.attnum = any (r.prattrs::smallint[])) || ')',
                          ' where (' || pg_get_expr(r.prqual, t.oid) || ')')
  from pg_publication_rel r join pg_publication p on p.oid = r.prpubid where r.prrelid = t.oid
  union all
  select 13, case when d.objsubid > 0 then array[a.attname] end,
         case when d.objsubid > 0 then format('comment on column %s.%I is %L', successor, a.attname, d.description)
              else format('comment on %s %s is %L', word, successor, d.description) end
  from pg_description d left join pg_attribute a on a.attrelid = d.objoid and a.attnum = d.objsubid and d.objsubid > 0
  where d.classoid = 'pg_class'::regclass and d.objoid = t.oid and d.description not like 'made by cdc\_embed %'
  union all
  select 14, null, format('comment on %s is %L', part.named, d.description)
  from (select 'pg_trigger'::regclass as class, g.oid, format('trigger %I on %s', g.tgname, successor) as named
        from pg_trigger g where g.tgrelid = t.oid and not g.tgisinternal
        union all
        select 'pg_rewrite'::regclass, w.oid, format('rule %I on %s', w.rulename, successor)
        from pg_rewrite w where w.ev_class = t.oid and w.rulename <> '_RETURN'
        union all
        select 'pg_policy'::regclass, p.oid, format('policy %I on %s', p.polname, successor)
        from pg_policy p where p.polrelid = t.oid and p.polname not like 'cdc\_embed\_%'
        union all
        select 'pg_statistic_ext'::regclass, s.oid, format('statistics %I.%I', n.nspname, s.stxname)
        from pg_statistic_ext s join pg_namespace n on n.oid = s.stxnamespace where s.stxrelid = t.oid
        union all
        select 'pg_class'::regclass, i.oid, 'index ' || i.oid::regclass
        from pg_index n join pg_class i on i.oid = n.indexrelid
        where n.indrelid = t.oid and n.indisvalid and i.relname <> all ({indexes})
          and not exists (select from pg_constraint k where k.conindid = i.oid)) as part (class, oid, named)
  join pg_description d on (d.classoid, d.objoid, d.objsubid) = (part.class, part.oid, 0)
) as found

-- name: change_relations
-- Statements that can make relations anew, in one transaction. What the application gave these
-- relations is put back; what belonged to a column that is gone is not.
do $cdc_embed$
declare
  cdc_embed_relations constant text[] := {relations};
  cdc_embed_former constant oid[] := array(select to_regclass(name) from unnest(cdc_embed_relations) as name);
  cdc_embed_kept constant jsonb := (select jsonb_agg(to_jsonb(k) order by k.place) from ({kept}) as k);
  cdc_embed_statement text;
begin
  {change};
  for cdc_embed_statement in
    select distinct format('revoke all on %s from %s', r.name,
                           case g.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(g.grantee)) end)
    from unnest(cdc_embed_relations, cdc_embed_former) as r (name, former)
    join pg_class c on c.oid = to_regclass(r.name) and c.oid <> r.former, aclexplode(c.relacl) g
    where g.grantee <> c.relowner
  loop
    execute cdc_embed_statement;
  end loop;
  for cdc_embed_statement in
    select k.statement
    from jsonb_to_recordset(coalesce(cdc_embed_kept, '[]')) as k (former oid, successor text, place int, columns text[], statement text)
    where (k.place = 0 or to_regclass(k.successor) <> k.former)
      and not exists (select from unnest(k.columns) as name where not exists (
        select from pg_attribute a where a.attrelid = to_regclass(k.successor) and a.attname = name and not a.attisdropped))
    order by k.place
  loop
    execute cdc_embed_statement;
  end loop;
end
$cdc_embed$

-- name: prepare_shadow
-- Give a shadow, before it takes a table's place, what would need a rewrite or a lock afterwards.
do $cdc_embed$
declare
  cdc_embed_statement text;
begin
  for cdc_embed_statement in
    select k.statement from ({kept}) as k
    where k.place = {place}
      and not exists (select from unnest(k.columns) as name where not exists (
        select from pg_attribute a where a.attrelid = to_regclass(k.successor) and a.attname = name and not a.attisdropped))
  loop
    execute cdc_embed_statement;
  end loop;
end
$cdc_embed$

-- name: lost
-- Objects that depend on relations of ours that are made anew, or on their columns that go or get
-- another type, and cannot be put back. Parts of ours are none of them.
with ours as materialized (
  select c.oid, c.relkind, c.reltype, t.typarray, r.anew, r.columns, r.known, r.retyped
  from (values {relations}) as r (name, anew, columns, known, retyped)
  join pg_class c on c.oid = to_regclass(r.name)
  left join pg_type t on t.oid = c.reltype
), part (class, oid, comes_back) as (
  select 'pg_rewrite'::regclass, oid, case when rulename <> '_RETURN' then true end
  from pg_rewrite where ev_class in (select oid from ours)
  union all
  select 'pg_policy'::regclass, oid, case when polname not like 'cdc\_embed\_%' then true end
  from pg_policy where polrelid in (select oid from ours)
  union all
  select 'pg_trigger'::regclass, oid, case when not tgisinternal then true end
  from pg_trigger where tgrelid in (select oid from ours)
  union all
  select 'pg_statistic_ext'::regclass, oid, true from pg_statistic_ext where stxrelid in (select oid from ours)
  union all
  select 'pg_publication_rel'::regclass, r.oid, pg_has_role(p.pubowner, 'usage')
  from pg_publication_rel r join pg_publication p on p.oid = r.prpubid where r.prrelid in (select oid from ours)
  union all
  select 'pg_class'::regclass, i.oid, case when i.relname <> all ({indexes}) then true end
  from pg_index n join pg_class i on i.oid = n.indexrelid where n.indrelid in (select oid from ours)
  union all
  select 'pg_attrdef'::regclass, oid, null from pg_attrdef where adrelid in (select oid from ours)
  union all
  select 'pg_constraint'::regclass, oid, case when contype in ('p', 'n') or confrelid = to_regclass({space}) then null else false end
  from pg_constraint where conrelid in (select oid from ours)
), found (class, oid, part) as (
  select d.classid, d.objid, d.objsubid
  from ours o
  join pg_depend d on (d.refclassid = 'pg_class'::regclass and d.refobjid = o.oid)
                   or (o.anew and d.refclassid = 'pg_type'::regclass and d.refobjid in (o.reltype, o.typarray))
  left join pg_attribute a on d.refclassid = 'pg_class'::regclass and a.attrelid = o.oid
                           and a.attnum = d.refobjsubid and d.refobjsubid > 0
  left join part p on (p.class, p.oid) = (d.classid, d.objid)
  where d.deptype <> 'i' and (p.oid is null or p.comes_back is not null)
    and not (d.classid = 'pg_class'::regclass and d.objid in (select oid from ours))
    and ((o.anew and p.comes_back is not true) or a.attname <> all (o.columns)
         or (a.attname = any (o.retyped)
             and d.classid in ('pg_rewrite'::regclass, 'pg_policy'::regclass, 'pg_trigger'::regclass,
                               'pg_proc'::regclass, 'pg_publication_rel'::regclass)))
  union
  select d.classid, d.objid, d.objsubid
  from pg_proc f
  join pg_depend d on d.refclassid = 'pg_proc'::regclass and d.refobjid = f.oid
  left join part p on (p.class, p.oid) = (d.classid, d.objid)
  where f.pronamespace = to_regnamespace({schema}) and f.proname = any ({functions})
    and d.deptype <> 'i' and (p.oid is null or p.comes_back is not null)
  union
  select 'pg_class'::regclass, a.attrelid, a.attnum
  from ours o join pg_attribute a on a.attrelid = o.oid
  where o.anew and o.relkind = 'r' and a.attnum > 0 and not a.attisdropped and a.attname <> all (o.known)
)
select coalesce((select pg_describe_object('pg_class'::regclass, r.ev_class, 0) from pg_rewrite r
                 where f.class = 'pg_rewrite'::regclass and r.oid = f.oid and r.rulename = '_RETURN'),
                pg_describe_object(f.class, f.oid, f.part)) as what
from found f
union
select 'membership in ' || pg_describe_object(d.refclassid, d.refobjid, 0)
from ours o join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = o.oid and d.deptype = 'e'
where o.anew
union
select 'inheritance from ' || h.inhparent::regclass from ours o join pg_inherits h on h.inhrelid = o.oid where o.anew
union
select format('security label of provider %s on %s', l.provider, pg_describe_object(l.classoid, l.objoid, l.objsubid))
from ours o join pg_seclabel l on l.classoid = 'pg_class'::regclass and l.objoid = o.oid where o.anew
order by what
