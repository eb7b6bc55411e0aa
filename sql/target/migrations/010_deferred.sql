-- Rows whose texts wait for the embedder, while everything else of their batches is written.

create table {schema}.deferred (
  id           bigint generated always as identity primary key,
  table_name   text not null,
  key          jsonb not null,
  xid          bigint,
  committed_at timestamptz not null
);

create unique index deferred_key on {schema}.deferred
  (table_name, jsonb_hash_extended(key, 0), jsonb_hash_extended(key, 1));

comment on table {schema}.deferred is
  'rows whose texts wait for the embedder: the service reads and embeds them beside the stream';

comment on column {schema}.deferred.xid is
  'the transaction that a read of the row must see; null: every read does';

comment on column {schema}.deferred.committed_at is
  'when the oldest change that waits was committed, or the row was read';
