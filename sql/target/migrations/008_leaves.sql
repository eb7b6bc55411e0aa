-- Partitions come and go while a table is compared: each leaf has a shape of its own, and a leaf that
-- was changed is compared alone.

alter table {schema}.reconcile
  add run bigint not null default 0,
  add leaf_digest text,
  add leaves jsonb not null default '{{}}',
  add changed_leaves bigint[] not null default '{{}}',
  add orphans boolean not null default true,
  drop constraint reconcile_stage_check,
  add constraint reconcile_stage_check check (stage in ('rows', 'leaves', 'orphans'));

update {schema}.reconcile set orphans = false where state = 'done';

comment on column {schema}.reconcile.run is
  'another number each time that the comparison begins anew';

comment on column {schema}.reconcile.shape is
  'the file of the source table, the numbers of its columns, and more, when the comparison began';

comment on column {schema}.reconcile.leaves is
  'the shape of each leaf partition that the comparison takes into account, by its oid';

comment on column {schema}.reconcile.changed_leaves is
  'the leaf partitions whose rows are still to be compared alone';

comment on column {schema}.reconcile.orphans is
  'stored keys are still to be looked for that have no row any more';
