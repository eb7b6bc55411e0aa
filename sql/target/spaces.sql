-- name: canaries
-- The space of each table of vectors of a slot, with its canary, and whether other slots write into it.
-- A table that other hands dropped has no vectors.
select e.table_name, e.embedding_table, s.id, s.model, s.dimensions, s.document_prompt, s.query_prompt, s.canary,
       exists (select from {schema}.embedding_table o where o.space = s.id and o.slot <> e.slot),
       (select c.relname::text from pg_class c where c.oid = to_regclass(format('%%I.%%I', %(schema)s, e.search_view)))
from {schema}.embedding_table e join {schema}.space s on s.id = e.space
join pg_attribute a on a.attrelid = to_regclass(format('%%I.%%I', %(schema)s, e.embedding_table))
  and a.attname = 'embedding' and not a.attisdropped
where e.slot = %(slot)s
order by e.table_name

-- name: windows
-- The window that each space's texts were cut with.
select id, found_window from {schema}.space where found_window is not null

-- name: keep_canary
-- Store the canary of the spaces of a slot's tables that have none.
update {schema}.space set canary = %(canary)s::real[], found_window = %(window)s
where canary is null and model = %(model)s
  and id in (select space from {schema}.embedding_table where slot = %(slot)s)

-- name: replace_canary
-- Replace the canary of a space that has no vectors.
update {schema}.space set canary = {canary}::real[], found_window = {window} where id = {space}

-- name: retire_space
-- Give a space another name, because another model answers to its own.
update {schema}.space set model = {retired} where id = {space}

-- name: rename_spaces
-- Give the spaces of a model its new name, but for those of other slots; no vector is touched.
update {schema}.space s set model = {model}
where (model, dimensions, document_prompt, query_prompt) = ({former}, {dimensions}, {document_prompt}, {query_prompt})
  and not exists (select from {schema}.embedding_table e where e.space = s.id and e.slot <> {slot})

-- name: has_model
-- Whether a space has this model's name already.
select exists (select from {schema}.space where model = %(model)s)

-- name: drawn_vectors
-- Stored texts with their vectors.
select chunk_text, embedding::real[] from {table} where space = {space} and chunk_text is not null

-- name: drawn_texts
-- Texts that the search view reads from the source, where none is stored.
select text from {view} where text is not null order by random() limit {count}

-- name: vectors_of
-- The stored vectors of some texts.
select distinct on (chunk_hash) chunk_hash, embedding::real[] from {table}
where space = {space} and chunk_hash = any (%(hashes)s)

-- name: has_vectors
-- Whether a table has vectors; those of former preparations are of the same model.
select exists (select from {table})
