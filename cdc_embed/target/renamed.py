"""The indexes of a table of vectors that other hands renamed.

They are known by their names, so another one would be built beside them. ``setup`` and the builder
of the search index give them their names back.
"""

import structlog
from psycopg2 import sql

from cdc_embed.postgres.ddl import Ddl, compose
from cdc_embed.postgres.session import Session
from cdc_embed.sql import queries
from cdc_embed.target.schema import index_name
from cdc_embed.target.vectors import index_names

log = structlog.get_logger()


def rename_back(session: Session, schema: str, name: str, lock_timeout: str) -> None:
    """Give the indexes of a table of vectors their names back; each waits so long for a lock."""
    for ddl in rename_back_ddl(session, schema, name):
        with session.transaction(name, ddl=True) as cursor:
            cursor.execute("select set_config('lock_timeout', %s, true)", (lock_timeout,))
            cursor.execute(ddl.statement)
        log.warning("index was renamed", table=name, done=ddl.why)


def rename_back_ddl(session: Session, schema: str, name: str) -> list[Ddl]:
    """Give the indexes of a table of vectors their names back, by which they are known."""
    values = {
        "schema": schema,
        "table": name,
        "names": index_names(name),
        "hnsw": index_name(name, "hnsw"),
        "hash": index_name(name, "hash"),
    }
    found = session.fetch("pg_index", queries("target/schema")["renamed_indexes"], values)
    return [
        Ddl(
            f"give index {now} its name back",
            compose("target/schema", "rename_index", index=sql.SQL(now), name=sql.SQL(was)),
        )
        for now, was in found
    ]
