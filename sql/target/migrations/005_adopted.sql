-- A publication that setup did not make: which tables setup added to it, so that teardown knows.

alter table {schema}.embedding_table add adopted_publication text;

comment on column {schema}.embedding_table.adopted_publication is
  'the publication of somebody else to which setup added the source table; null if to none';
