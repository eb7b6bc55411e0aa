"""The store's SQL, composed for one table.

Keys travel as text and the database casts them to the source's own types, so one code path serves
every key type. In every statement ``k`` is the list of keys, ``t`` the table of vectors.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from psycopg2 import sql

from cdc_embed.change.action import Metadata
from cdc_embed.change.document import COLUMNS_BYTES, VALUE_BYTES, Key, Table, TableColumn
from cdc_embed.postgres.ddl import compose
from cdc_embed.wire.messages import UNCHANGED

_COMMA = sql.SQL(", ")
_NOTED_KEY = (
    "{noted}.table_name = {table_name} and {noted}.key = {key} and "
    "jsonb_hash_extended({noted}.key, 0) = jsonb_hash_extended({key}, 0)"
)
"""A dead letter or a deferred row of a key, found by its hash, which is indexed whatever the key's
length."""
_AND = sql.SQL(" and ")


def service_statements(schema: str) -> Mapping[str, Any]:
    """Return the statements that concern no single table, by name."""
    return _Composed({"schema": sql.Identifier(schema)})


class _Composed(dict[str, Any]):
    """Statements of ``target/store.sql``, composed when first used."""

    def __init__(self, parts: Mapping[str, sql.Composable]) -> None:
        self._parts = parts

    def __missing__(self, name: str) -> sql.Composed:
        statement = compose("target/store", name, **self._parts)
        self[name] = statement
        return statement


class Statements:
    """One table's statements, by name, and the values that they share."""

    def __init__(
        self,
        schema: str,
        table: Table,
        *,
        space: int,
        vector_type: str,
        donor_spaces: Iterable[int] = (),
    ) -> None:
        self.table = table
        self.space = space
        self.values = {
            "space": space,
            "donor_spaces": [space, *donor_spaces],
            "table_name": table.full_name,
        }
        self._names = [f"k{place}" for place in range(1, len(table.key) + 1)]
        self._origins = [f"o{place}" for place in range(1, len(table.key) + 1)]
        self._composed = _Composed(self._parts(schema, vector_type))

    def __getitem__(self, name: str) -> sql.Composed:
        statement: sql.Composed = self._composed[name]
        return statement

    def keys(self, keys: Iterable[Key]) -> dict[str, Any]:
        """Return the values for a list of keys, one array for each key column."""
        return self.values | _arrays(self._names, keys)

    def origins(self, keys: Iterable[Key]) -> dict[str, Any]:
        """Return the values for a list of former keys."""
        return _arrays(self._origins, keys)

    def metadata(self, listed: Sequence[Metadata]) -> dict[str, Any]:
        """Return the values for the metadata of some rows, with a flag for each value that stays as
        stored."""
        values: dict[str, Any] = {"metadata_hashes": [metadata.hash for metadata in listed]}
        for place in range(len(self.table.metadata)):
            column = [metadata.values[place] for metadata in listed]
            values[f"v{place + 1}"] = [None if v is UNCHANGED else v for v in column]
            values[f"u{place + 1}"] = [v is UNCHANGED for v in column]
        return values

    def _parts(self, schema: str, vector_type: str) -> dict[str, sql.Composable]:
        table = self.table
        names = [sql.Identifier(name) for name in self._names]
        origins = [sql.Identifier(name) for name in self._origins]
        columns = [sql.Identifier(column.name) for column in table.key]
        types = [sql.SQL(column.type) for column in table.key]
        labels = [sql.Literal(column.name) for column in table.key]
        key_object = sql.SQL("jsonb_build_object({})").format(
            _COMMA.join(
                sql.SQL("{}, k.{}").format(label, name)
                for label, name in zip(labels, names, strict=True)
            )
        )
        return {
            "schema": sql.Identifier(schema),
            "table": sql.Identifier(schema, table.embedding_table),
            "stage": sql.Identifier("pg_temp", f"stage_{table.oid}"),
            "vector_type": sql.SQL(vector_type),
            "vectors": sql.SQL(vector_type.rpartition(".")[0]),
            "key": _COMMA.join(columns),
            "key_definitions": _COMMA.join(sql.SQL("{} text").format(name) for name in names),
            "key_names": _COMMA.join(names),
            "key_arrays": _COMMA.join(_array(name) for name in self._names),
            "key_matches": _matches("t", columns, "k", names, types),
            "key_object": key_object,
            "letter_matches": _is_noted("l", key_object),
            "deferred_matches": _is_noted("w", key_object),
            "typed_keys": _COMMA.join(
                sql.SQL("{}::{}").format(name, kind)
                for name, kind in zip(names, types, strict=True)
            ),
            "new_keys": _COMMA.join(sql.SQL("m.{}").format(name) for name in names),
            "origin_names": _COMMA.join(origins),
            "origin_arrays": _COMMA.join(_array(name) for name in self._origins),
            "origin_matches": _matches("t", columns, "m", origins, types),
            "stage_matches": _AND.join(sql.SQL("s.{0} = k.{0}").format(name) for name in names),
            "staged_matches": _AND.join(sql.SQL("s.{0} = m.{0}").format(name) for name in names),
            "annotated_matches": _matches("t", columns, "m", names, types),
            "stored_matches": _matches("t", columns, "s", names, types),
            "key_texts_match": _AND.join(
                sql.SQL("format('%%s', t.{}) = k.{}").format(column, name)
                for column, name in zip(columns, names, strict=True)
            ),
            **_metadata_parts(table.metadata),
        }


def _is_noted(alias: str, key: sql.Composed) -> sql.Composed:
    return sql.SQL(_NOTED_KEY).format(
        noted=sql.SQL(alias), table_name=sql.Placeholder("table_name"), key=key
    )


def _metadata_parts(columns: Sequence[TableColumn]) -> dict[str, sql.Composable]:
    """Return the parts for each metadata column, with a leading comma because there can be none.

    A value ``v`` travels as text; ``u`` says that it is unchanged and stays as stored.
    """
    return {
        name: sql.SQL("").join(
            sql.SQL(form).format(
                column=sql.Identifier(column.name),
                type=sql.SQL(column.type),
                v=sql.Identifier(f"v{place}"),
                u=sql.Identifier(f"u{place}"),
                values=sql.Placeholder(f"v{place}"),
                flags=sql.Placeholder(f"u{place}"),
                part=sql.SQL("{}, {}").format(
                    sql.Literal(COLUMNS_BYTES + (place - 1) * VALUE_BYTES + 1),
                    sql.Literal(VALUE_BYTES),
                ),
            )
            for place, column in enumerate(columns, start=1)
        )
        for name, form in _METADATA_FORMS.items()
    }


_METADATA_FORMS = {
    "metadata": ", {column}",
    "stage_metadata_definitions": ", {v} text",
    "typed_metadata": ", {v}::{type}",
    "metadata_arrays": ", {values}::text[], {flags}::boolean[]",
    "metadata_names": ", {v}, {u}",
    "moved_metadata": ", case when m.{u} then t.{column}::text else m.{v} end",
    "kept_metadata": ", {v} = case when m.{u} then t.{column}::text else m.{v} end",
    "annotated_metadata": ", {column} = case when m.{u} then t.{column} else m.{v}::{type} end",
    "updated_metadata": ", {column} = s.{v}::{type}",
    # a value that stays must be the value that the plan relied on
    "kept_hashes_match": " and (not m.{u} or "
    "substr(t.metadata_hash, {part}) = substr(m.metadata_hash, {part}))",
}


def _array(name: str) -> sql.Composed:
    return sql.SQL("{}::text[]").format(sql.Placeholder(name))


def _arrays(names: list[str], keys: Iterable[Key]) -> dict[str, Any]:
    listed = list(keys)
    return {name: [key[place] for key in listed] for place, name in enumerate(names)}


def _matches(
    left: str,
    columns: list[sql.Identifier],
    right: str,
    names: list[sql.Identifier],
    types: list[sql.SQL],
) -> sql.Composed:
    return _AND.join(
        sql.SQL("{}.{} = {}.{}::{}").format(
            sql.Identifier(left), column, sql.Identifier(right), name, kind
        )
        for column, name, kind in zip(columns, names, types, strict=True)
    )
