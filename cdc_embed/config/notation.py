"""The notation of the configuration: durations, sizes, names, templates.

Each notation has a type for the models of the sections. The functions are pure, so they read no
file and no environment. A ValueError says the expected form, never the value, which can be a
secret.

Durations and sizes are PostgreSQL's notation. pydantic reads and prints another one. Its durations
are ISO 8601, its ``ByteSize`` takes MB for a million bytes and prints a rounded number.
"""

import re
import string
from collections.abc import Mapping
from typing import Annotated, Final, NamedTuple, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    JsonValue,
    PlainSerializer,
    WithJsonSchema,
)

_SECONDS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_BYTES: Final = {"TB": 1 << 40, "GB": 1 << 30, "MB": 1 << 20, "kB": 1 << 10, "B": 1}


def _measure(value: object, units: Mapping[str, float]) -> float:
    pattern = rf"(\d+(?:\.\d+)?)\s*({'|'.join(units)})"
    if not isinstance(value, str) or (match := re.fullmatch(pattern, value, re.ASCII)) is None:
        raise ValueError(f"expected a number with a unit ({', '.join(units)}) in quotes")
    return float(match[1]) * units[match[2]]


def _in_units(value: float, units: Mapping[str, float]) -> str:
    """Return the notation of a number, in the largest unit that leaves a whole number."""
    fitting = (unit for unit, size in units.items() if value and value % size == 0)
    unit = next(fitting, list(units)[-1])
    return f"{value / units[unit]:.6f}".rstrip("0").rstrip(".") + unit


Duration = Annotated[
    float,
    BeforeValidator(lambda text: _measure(text, _SECONDS)),
    PlainSerializer(lambda seconds: _in_units(seconds, _SECONDS), return_type=str),
    WithJsonSchema({"type": "string", "examples": ["500ms", "30s", "2m", "1h"]}),
]
"""Seconds, as a float; "30s" in the file."""

Size = Annotated[
    int,
    BeforeValidator(lambda text: _measure(text, _BYTES)),
    PlainSerializer(lambda size: _in_units(size, _BYTES), return_type=str),
    WithJsonSchema({"type": "string", "examples": ["64kB", "256MB", "1GB"]}),
]
"""Bytes, as an int; "256MB" in the file, with PostgreSQL's units (1 kB = 1024 B)."""


def _not_a_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("should be a number, not true or false")  # noqa: TRY004  pydantic's rule
    return value


def _above_zero(value: float) -> float:
    if value <= 0:
        raise ValueError("should be more than 0")
    return value


NOT_A_BOOL: Final = BeforeValidator(_not_a_bool)
ABOVE_ZERO: Final = AfterValidator(_above_zero)
Count = Annotated[int, Field(ge=0), NOT_A_BOOL]
"""An integer of at least 0; ``true`` is not accepted."""


# --- HTTP --------------------------------------------------------------------------------------

OWN_FIELDS: Final = frozenset({"input", "model", "dimensions", "encoding_format"})
OWN_HEADERS: Final = frozenset({"content-type", "content-length", "host", "transfer-encoding"})


def _header_name(name: str) -> str:
    """RFC 9110, section 5.6.2: a token."""
    if not re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name, re.ASCII):
        raise ValueError("expected the name of an HTTP header")
    if name.casefold() in OWN_HEADERS:
        raise ValueError("this header is the request's own")
    return name


def _request_body(fields: dict[str, object]) -> dict[str, object]:
    if own := OWN_FIELDS & fields.keys():
        raise ValueError(f"has a key of its own in [embedder]: {', '.join(sorted(own))}")
    return fields


HeaderName = Annotated[str, AfterValidator(_header_name)]
RequestBody = Annotated[dict[str, JsonValue], AfterValidator(_request_body)]
"""Fields of a request's body, as JSON."""

# --- names -------------------------------------------------------------------------------------

_PLAIN = r"[^\W\d][\w$]*"
_PART = rf'{_PLAIN}|"(?:[^"\0]|"")+"'
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def identifier(name: str) -> str:
    """Return the name itself if PostgreSQL can have it; ValueError otherwise."""
    if not name or "\0" in name:
        raise ValueError("a name cannot be empty")
    if len(name.encode()) > 63:
        raise ValueError("a name in PostgreSQL has at most 63 bytes")
    return name


def _plain(name: str) -> str:
    if not re.fullmatch(_PLAIN, name):
        raise ValueError("expected a plain name: letters, digits and _; no schema, no quotes")
    return identifier(name)


def _slot(name: str) -> str:
    if not re.fullmatch("[a-z0-9_]{1,63}", name):
        raise ValueError("a slot's name has 1 to 63 of the characters a-z, 0-9 and _")
    return name


Column = Annotated[str, AfterValidator(identifier)]
"""A column's name exactly as the catalogue has it."""
Name = Annotated[str, AfterValidator(_plain)]
"""The name of an object that ``setup`` makes, kept as it is and readable without quotes."""
OptionalName = Annotated[str, AfterValidator(lambda name: name and _plain(name))]
SlotName = Annotated[str, AfterValidator(_slot)]


class TableName(NamedTuple):
    """A table's two bare names; prints as SQL writes it."""

    schema: str
    table: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``schema.table``: as in SQL, a part without quotes is folded to lower case."""
        match = re.fullmatch(rf"(?:({_PART})\.)?({_PART})", text)
        if match is None:
            raise ValueError('expected schema.table; a part with other characters goes in "quotes"')
        schema, table = (
            part[1:-1].replace('""', '"') if part.startswith('"') else part.translate(_LOWER)
            for part in (match[1] or "public", match[2])
        )
        return cls(identifier(schema), identifier(table))

    def __str__(self) -> str:
        return ".".join(
            part
            if re.fullmatch(_PLAIN, part) and part == part.translate(_LOWER)
            else '"' + part.replace('"', '""') + '"'
            for part in self
        )


def template_columns(template: str) -> tuple[str, ...]:
    """Return the columns that ``{column}`` names, each once; ValueError for any other brace."""
    columns = []
    for match in re.finditer(r"\{\{|\}\}|\{([^{}]*)\}|[{}]", template):
        if match[0] in ("{", "}"):
            raise ValueError("a brace that belongs to no {column} is written {{ or }}")
        if match[1] is not None:
            if not re.fullmatch(_PLAIN, match[1]):
                raise ValueError("expected just a column's name between { and }")
            columns.append(identifier(match[1]))
    return tuple(dict.fromkeys(columns))
