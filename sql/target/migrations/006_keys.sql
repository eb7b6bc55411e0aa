-- Which columns of the source a table of vectors is keyed by, and what its search view is made of.

alter table {schema}.embedding_table
  add key_columns smallint[],
  add definition text;

comment on column {schema}.embedding_table.key_columns is
  'the numbers of the key''s columns in the source: a column keeps its number when it is renamed';

comment on column {schema}.embedding_table.definition is
  'the checksum of the search view, its functions and its policies';
