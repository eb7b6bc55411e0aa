"""The words of a driver's error, without the values of rows that can be in them.

They go to the log, to ``status`` and into dead letters, where no text of a row may be. The detail
of an error ("Failing row contains ...", "Key (a)=(b) already exists") is left out altogether. In
the message itself PostgreSQL quotes values and names alike, so a quotation is kept only behind a
word that a name follows.
"""

from typing import Final

import psycopg2

DEPENDED_ON: Final = "2BP01"
WITH_VALUES: Final = frozenset({"22", "23", "38", "42601", "54", "P0", "XX"})
"""Classes of errors whose message can have a value in it, and one code: data, constraints, external
routines, the syntax of a ``tsquery``, limits, exceptions of functions, internal errors."""
BEFORE_NAMES: Final = frozenset(
    {"collation", "column", "constraint", "database", "domain", "encoding", "enum", "extension"}
    | {"function", "index", "policy", "relation", "role", "schema", "sequence", "table", "trigger"}
    | {"type", "view"}
)
RAISED: Final = "a function of the database refuses it, in words that can have values in them"
CUT: Final = '"..."'


def describe(exc: psycopg2.Error, *, rows: bool = False) -> str:
    """Return a driver error in one line, without the statement that caused it and without values.

    ``rows``: the statement carried values of rows, so an exception that a function raised can be
    made of them.
    """
    message = exc.diag.message_primary or str(exc)
    state = exc.pgcode or ""
    if rows and state.startswith("P0"):
        message = RAISED
    elif state[:2] in WITH_VALUES or state in WITH_VALUES:
        message = without_values(message)
    if state == DEPENDED_ON and exc.diag.message_detail:  # the detail names objects, no values
        message += f": {exc.diag.message_detail}"
    return " ".join(message.split()) or type(exc).__name__


def without_values(message: str) -> str:
    """Cut a quotation that is no name. A value can have quotes in it, so the cut reaches to the
    last one."""
    begin = message.find('"')
    while begin >= 0 and _is_name(message[:begin]):
        begin = message.find('"', message.find('"', begin + 1) + 1 or len(message))
    if begin < 0:
        return message
    end = message.rfind('"')
    return message[:begin] + CUT + (message[end + 1 :] if end > begin else "")


def _is_name(before: str) -> bool:
    words = before.split()
    return before.endswith('".') or (bool(words) and words[-1] in BEFORE_NAMES)
