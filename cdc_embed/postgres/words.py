"""The words of a driver's error, without the values of rows that can be in them.

They go to the log, to ``status`` and into dead letters, where no text of a row may be. The detail
of an error ("Failing row contains ...", "Key (a)=(b) already exists") is left out altogether. In
the message itself PostgreSQL quotes values and names alike, so a quotation is kept only behind a
word that a name follows. A function's own words, such as those of a trigger's RAISE, can be made of
a row and have any SQLSTATE, so they are left out whole, with their detail and hint.
"""

import re
from typing import Final

import psycopg2

DEPENDED_ON: Final = "2BP01"
WITH_VALUES: Final = frozenset({"22", "23", "38", "42601", "54", "P0", "XX"})
"""The classes of errors whose message can have a value in it, and one code: data, constraints,
external routines, the syntax of a ``tsquery``, limits, exceptions of functions, internal errors."""
RAISES: Final = frozenset({"exec_stmt_raise", "exec_stmt_assert"})
"""The functions of PostgreSQL that give an exception of PL/pgSQL."""
LANGUAGE: Final = re.compile(r"\bPL/\w+")
FUNCTION: Final = re.compile(r"[\w/]+ function \"?([\w.$]+)")
"""A function's name in the first line of the context; a later line can be a statement."""
STATEMENT: Final = re.compile(r'^SQL statement "(.*?)"\nPL/pgSQL', re.DOTALL)
"""The statement in the context of an error of one of our DO blocks."""
BEFORE_NAMES: Final = frozenset(
    {"collation", "column", "constraint", "database", "domain", "encoding", "enum", "extension"}
    | {"function", "index", "policy", "relation", "role", "schema", "sequence", "table", "trigger"}
    | {"type", "view"}
)
RAISED: Final = (
    "a function of the database{name} refuses it with SQLSTATE {state}, "
    "in words that can have values in them"
)
CUT: Final = '"..."'


def describe(exc: psycopg2.Error, *, rows: bool = False, ddl: bool = False) -> str:
    """Return a driver error in one line, without the statement that caused it and without values.

    ``rows``: the statement carried values of rows, so whatever function it ran can quote them.
    ``ddl``: it read no row, so the words are those of an event trigger, for a person.
    """
    message = exc.diag.message_primary or str(exc)
    state = exc.pgcode or ""
    if not ddl and is_of_a_function(exc, rows=rows):
        found = FUNCTION.match(exc.diag.context or "")
        return RAISED.format(name=f", {found[1]}," if found else "", state=state)
    if state[:2] in WITH_VALUES or state in WITH_VALUES:
        message = without_values(message)
    if state == DEPENDED_ON and exc.diag.message_detail:  # the detail names objects, no values
        message += f": {exc.diag.message_detail}"
    return " ".join(message.split()) or type(exc).__name__


def describe_statement(exc: BaseException | None) -> str:
    """Return an error of DDL in one line, with the statement of ours that met it; empty if it is
    not the driver's."""
    if not isinstance(exc, psycopg2.Error):
        return ""
    found = STATEMENT.search(exc.diag.context or "")
    statement = found[1] if found else exc.diag.internal_query  # the latter where it has a mistake
    said = exc.diag.message_primary or str(exc)
    return " ".join((f"{said} ({statement})" if statement else said).split())


def is_of_a_function(exc: psycopg2.Error, *, rows: bool) -> bool:
    """Return whether the words of an error can be those of a function that is not PostgreSQL's.

    The context of an error has no fixed form, but for a statement with rows it comes only from
    COPY, from the wait for a row's lock ("while updating tuple") and from functions; an output
    plugin's is that of a statement without rows.
    """
    context = exc.diag.context or ""
    foreign = rows and context and not context.startswith(("COPY ", "while "))
    return bool(exc.diag.source_function in RAISES or LANGUAGE.search(context) or foreign)


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
