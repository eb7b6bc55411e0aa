-- name: service_tables
-- Those of our own tables that exist, of the given ones, the comment of each, and whether a crash leaves
-- its rows.
select c.relname::text, obj_description(c.oid, 'pg_class'), c.relpersistence = 'p'
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = %(schema)s and c.relkind = 'r' and c.relname = any (%(names)s)

-- name: moved_tables
-- Those of our own tables, of the given ones, that have another name or schema now, known by their comments:
-- the name, what it is now, as SQL writes it, and the way back. Another schema that has several of them is that of
-- another service.
select g.name, format('%%I.%%I', n.nspname, c.relname),
       concat_ws(' ',
         case when n.nspname <> %(schema)s then format('alter table %%I.%%I set schema %%I;', n.nspname, c.relname, %(schema)s) end,
         case when c.relname <> g.name then format('alter table %%I.%%I rename to %%I;', %(schema)s, c.relname, g.name) end)
from jsonb_each_text(%(comments)s::jsonb) as g (name, comment)
join pg_description d on d.classoid = 'pg_class'::regclass and d.objsubid = 0 and d.description = g.comment
join pg_class c on c.oid = d.objoid and c.relkind = 'r'
join pg_namespace n on n.oid = c.relnamespace
where g.name = any (%(names)s) and to_regclass(format('%%I.%%I', %(schema)s, g.name)) is null
  and (n.nspname = %(schema)s or not exists (
    select from pg_class o join pg_description od on od.classoid = 'pg_class'::regclass and od.objsubid = 0 and od.objoid = o.oid
    join jsonb_each_text(%(comments)s::jsonb) as other (name, comment) on other.comment = od.description
    where o.relnamespace = n.oid and other.name <> all (%(names)s)))
order by g.name, c.oid

-- name: take_place
-- Put tables that were just made in a schema beside ours in the place of our own of that name.
-- Stored vectors are of no space that will ever be recorded, if the record of the spaces is one of
-- them. A table of vectors is known by most of its telling columns.
do $cdc_embed$
declare
  cdc_embed_names constant text[] := {names};
  cdc_embed_last integer := 0;
  cdc_embed_each record;
  cdc_embed_space record;
begin
  for cdc_embed_each in select name from unnest(cdc_embed_names) as name loop
    execute format('drop table if exists %I.%I cascade', {schema}, cdc_embed_each.name);
  end loop;
  for cdc_embed_each in select name from unnest(cdc_embed_names) as name loop
    execute format('alter table %I.%I set schema %I', {beside}, cdc_embed_each.name, {schema});
  end loop;
  for cdc_embed_each in
    select format('alter table %s drop constraint %I, add constraint %I %s', k.conrelid::regclass, k.conname, k.conname,
                  replace(pg_get_constraintdef(k.oid), format('REFERENCES %I.', {beside}), format('REFERENCES %I.', {schema})))
             as statement
    from pg_constraint k
    join pg_class t on t.oid = k.conrelid join pg_class f on f.oid = k.confrelid
    where k.contype = 'f' and t.relnamespace = to_regnamespace(quote_ident({schema}))
      and f.relnamespace = to_regnamespace(quote_ident({beside}))
  loop
    execute cdc_embed_each.statement;
  end loop;
  execute format('drop schema %I cascade', {beside});
  if 'space' = any (cdc_embed_names) then
    for cdc_embed_each in
      select c.oid::regclass as vectors
      from pg_class c
      where c.relnamespace = to_regnamespace(quote_ident({schema})) and c.relkind = 'r'
        and {least} <= (select count(*) from jsonb_each_text({telling}::jsonb) as t (name, type)
                        join pg_attribute a on a.attrelid = c.oid and a.attname = t.name and not a.attisdropped
                          and a.atttypid = to_regtype(t.type))
        and exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'space' and not a.attisdropped
                      and a.atttypid = 'integer'::regtype)
    loop
      for cdc_embed_space in execute format('select max(space) as last from %s', cdc_embed_each.vectors) loop
        cdc_embed_last := greatest(cdc_embed_last, cdc_embed_space.last);
      end loop;
    end loop;
    execute format('alter table %I.space alter id restart with %s', {schema}, cdc_embed_last + 1);
  end if;
end
$cdc_embed$
