-- Rewrites, partitions and single partitions' TRUNCATE are not in the log: other files tell of them.

alter table {schema}.reconcile add files text;

comment on column {schema}.reconcile.files is
  'the files of the source table and its partitions when the comparison began';
