-- Dead letters of keys of any length: an index row has a limit, the hashes of a key have none.

alter table {schema}.dead_letter drop constraint if exists dead_letter_table_name_key_key;

create unique index dead_letter_key on {schema}.dead_letter
  (table_name, jsonb_hash_extended(key, 0), jsonb_hash_extended(key, 1));
