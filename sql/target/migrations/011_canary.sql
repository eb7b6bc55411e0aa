-- The known-good text's vector in each space, and the window that its texts were cut with: a service
-- can have another model behind the same name, and another window.

alter table {schema}.space
  add canary real[],
  add found_window integer;

comment on column {schema}.space.canary is
  'the vector of a known-good text: a model that gives another one is another model';

comment on column {schema}.space.found_window is
  'the tokens of one text that the service or its tokenizer told, or that were assumed; 0: configured';
