-- Rewrites, partitions and columns made anew are not in the log: a table's other shape tells of them.

alter table {schema}.reconcile add shape text;

comment on column {schema}.reconcile.shape is
  'the files of the source table and its partitions, and the numbers of its columns, when it began';
