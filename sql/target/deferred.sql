-- name: deferred_page
-- The next rows of some tables that wait for the embedder.
select id, table_name, key from {schema}.deferred
where table_name = any (%(table_names)s::text[]) and id > %(after)s
order by id limit %(limit)s
