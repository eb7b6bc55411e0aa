-- Slots of two servers can have one name: a table of vectors is kept by a slot of one source.

alter table {schema}.embedding_table
  add source_system_identifier text,
  add source_database text;

comment on column {schema}.embedding_table.source_system_identifier is
  'the server of the slot that keeps the table; before a position is recorded, it alone tells whose it is';
