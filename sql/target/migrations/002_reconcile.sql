-- Reconcile: how far each table is, what the command line asks, what the tables of vectors hold.

alter table {schema}.embedding_table
  add source_oid bigint,
  add metadata text[] not null default '{{}}',
  add search_view text,
  add slot text;

comment on column {schema}.embedding_table.source_oid is
  'the source table itself: it may be renamed, or dropped and made again under its name';

comment on column {schema}.embedding_table.slot is
  'whose service follows the source table: several may share this schema';

create table {schema}.reconcile (
  source_table   text not null references {schema}.embedding_table (source_table)
                 on update cascade on delete cascade,
  space          integer not null references {schema}.space (id),
  metadata       text[] not null,
  state          text not null check (state in ('waiting', 'running', 'done')),
  reason         text not null default '',
  stage          text not null default 'rows' check (stage in ('rows', 'orphans')),
  cursor         text[],
  checked        bigint not null default 0,
  fresh          bigint not null default 0,
  missing        bigint not null default 0,
  stale          bigint not null default 0,
  metadata_stale bigint not null default 0,
  orphan         bigint not null default 0,
  dead_letter    bigint not null default 0,
  estimate       bigint,
  started_at     timestamptz,
  updated_at     timestamptz not null default now(),
  finished_at    timestamptz,
  primary key (source_table, space, metadata)
);

comment on table {schema}.reconcile is
  'the comparison of each source table with its vectors, row by row: backfill and repair';

create table {schema}.request (
  id         bigint generated always as identity primary key,
  slot       text not null,
  kind       text not null,
  arguments  jsonb not null default '{{}}',
  state      text not null default 'waiting'
             check (state in ('waiting', 'running', 'done', 'failed')),
  progress   jsonb not null default '{{}}',
  result     jsonb,
  error      text not null default '',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);

comment on table {schema}.request is
  'what the command line asks the running service to do, and what came of it';
