-- One word for one thing: the cause of a dead letter is its reason, a source table has a table_name.

alter table {schema}.dead_letter rename column class to reason;

alter table {schema}.embedding_table rename column source_table to table_name;

alter table {schema}.reconcile rename column source_table to table_name;
