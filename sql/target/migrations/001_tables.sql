-- What the service remembers: its position, its vector spaces, its tables, its dead letters.

create table {schema}.checkpoint (
  slot                     text primary key,
  source_system_identifier text not null,
  source_database          text not null,
  source_timeline          integer not null,
  target_system_identifier text not null,
  target_database          text not null,
  target_timeline          integer not null,
  commit_lsn               pg_lsn not null default '0/0',
  ordinal                  bigint not null default 0,
  end_lsn                  pg_lsn not null default '0/0',
  confirmed_lsn            pg_lsn not null,
  batch_seq                bigint not null default 0,
  epoch                    bigint not null default 0,
  updated_at               timestamptz not null default now()
) with (fillfactor = 10);

comment on table {schema}.checkpoint is
  'position of each replication slot: everything up to greatest(end_lsn, confirmed_lsn) is reflected here';

create table {schema}.space (
  id              integer generated always as identity primary key,
  model           text not null,
  dimensions      integer not null,
  document_prompt text not null,
  query_prompt    text not null,
  preparation     text not null,
  created_at      timestamptz not null default now(),
  unique (model, dimensions, document_prompt, query_prompt, preparation)
);

comment on table {schema}.space is
  'vector spaces: vectors of two spaces must never be compared';

create table {schema}.embedding_table (
  source_table    text primary key,
  embedding_table text not null unique,
  space           integer not null references {schema}.space (id),
  created_at      timestamptz not null default now()
);

comment on table {schema}.embedding_table is
  'the tables of vectors that setup made, and the space each holds';

create table {schema}.dead_letter (
  id          bigint generated always as identity primary key,
  table_name  text not null,
  key         jsonb not null,
  fingerprint bytea not null,
  space       integer not null references {schema}.space (id),
  class       text not null,
  error       text not null,
  attempts    integer not null default 1,
  first_at    timestamptz not null default now(),
  last_at     timestamptz not null default now(),
  unique (table_name, key)
);

comment on table {schema}.dead_letter is
  'documents that cannot be embedded; a later change of the row clears its letter';
