"""Durations, sizes, names, templates and connection strings as the configuration writes them."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from cdc_embed.config.dsn import check_dsn
from cdc_embed.config.notation import (
    Count,
    Duration,
    Size,
    TableName,
    template_columns,
)
from cdc_embed.config.redaction import redact_dsn

DURATION = TypeAdapter[float](Duration)
SIZE = TypeAdapter[int](Size)
COUNT = TypeAdapter[int](Count)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("30s", 30), ("2m", 120), ("1h", 3600), ("1.5 s", 1.5), ("0ms", 0)],
)
def test_a_duration_is_seconds(text: str, seconds: float) -> None:
    assert DURATION.validate_python(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("1B", 1), ("64kB", 65536), ("256MB", 1 << 28), ("1GB", 1 << 30), ("0.5kB", 512)],
)
def test_a_size_is_bytes_in_postgresql_units(text: str, size: int) -> None:
    assert SIZE.validate_python(text) == size
    assert isinstance(SIZE.validate_python(text), int)


@pytest.mark.parametrize("value", ["", "30", "s", "-1s", "1 d", "1s ", "1e3s", "٣s", 30, 0.5, None])
def test_what_is_no_duration_is_refused(value: object) -> None:
    with pytest.raises(ValidationError, match="expected a number with a unit"):
        DURATION.validate_python(value)


@pytest.mark.parametrize("value", ["", "1", "1KB", "1mb", "-1MB", 1024])
def test_what_is_no_size_is_refused(value: object) -> None:
    with pytest.raises(ValidationError, match="expected a number with a unit"):
        SIZE.validate_python(value)


@pytest.mark.parametrize("value", [True, -1, "x", 0.5, None])
def test_what_is_no_count_is_refused(value: object) -> None:
    with pytest.raises(ValidationError):
        COUNT.validate_python(value)


@given(st.integers(min_value=0, max_value=10**9))
def test_a_duration_survives_being_shown(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    shown = DURATION.dump_python(seconds)
    assert DURATION.validate_python(shown) == pytest.approx(seconds)


@given(st.integers(min_value=0, max_value=1 << 50))
def test_a_size_survives_being_shown(size: int) -> None:
    assert SIZE.validate_python(SIZE.dump_python(size)) == size


@pytest.mark.parametrize(
    ("text", "schema", "table"),
    [
        ("documents", "public", "documents"),
        ("app.Documents", "app", "documents"),
        ('app."Documents"', "app", "Documents"),
        ('"my app"."a.b"', "my app", "a.b"),
        ('public."we""ird; drop"', "public", 'we"ird; drop'),
        ("Ä.über$1", "Ä", "über$1"),
    ],
)
def test_a_table_name_is_read_as_sql_reads_it(text: str, schema: str, table: str) -> None:
    assert TableName.parse(text) == (schema, table)


@pytest.mark.parametrize(
    "text", ["", ".", "a.", ".a", "a.b.c", 'a"b', '""', "a-b", "1a", " a", "a;"]
)
def test_what_is_no_table_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        TableName.parse(text)


NAMES = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=15
)


@given(NAMES, NAMES)
def test_a_table_name_survives_being_shown(schema: str, table: str) -> None:
    name = TableName(schema, table)
    assert TableName.parse(str(name)) == name


def test_a_template_names_each_of_its_columns_once() -> None:
    assert template_columns("{{x}} {a}: {Überschrift} {a} {{{b}}}") == ("a", "Überschrift", "b")
    assert template_columns("no columns {{}}") == ()


@pytest.mark.parametrize("template", ["{", "}", "{a", "a}", "{a}}", "{{a}", "{a{b}}"])
def test_a_stray_brace_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match="brace"):
        template_columns(template)


@pytest.mark.parametrize("template", ["{}", "{ a }", "{a.b}", "{a[0]}", "{a!r}", "{a:>5}", "{0}"])
def test_formatting_in_a_template_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match="column's name"):
        template_columns(template)


SECRET = "hunter2canary"


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("", ""),
        ("postgresql://", "postgresql://"),
        ("postgres://db:5433/app", "host=db port=5433 dbname=app"),
        (f"postgresql://app:{SECRET}@db/app", "host=db dbname=app user=app"),
        (
            f"postgresql://app:a:b%40?{SECRET}@[::1]:5432/app",
            "host=::1 port=5432 dbname=app user=app",
        ),
        (f"postgresql://:{SECRET}@a:1,b:2/app", "host=a,b port=1,2 dbname=app"),
        (
            f"postgresql:///app?host=/run&password={SECRET}&sslmode=require&sslpassword={SECRET}",
            "host=/run dbname=app sslmode=require",
        ),
        (
            f"postgresql://db/app?user=me@corp&password={SECRET}@x",
            "host=db dbname=app user=me@corp",
        ),
        (
            f"host=db port=5432 dbname=app user=me password={SECRET}",
            "host=db port=5432 dbname=app user=me",
        ),
        (f"password = '{SECRET} host=\\' x'  host = 'a b'", "host='a b'"),
        (f"password={SECRET}\\ host=x dbname=app", "dbname=app"),
        (f"password={SECRET}", "postgresql://"),
        (f"passfile=/x sslkey=/y options='-c a={SECRET}' service=prod", "service=prod"),
    ],
)
def test_a_shown_dsn_says_where_and_who_but_not_the_password(dsn: str, shown: str) -> None:
    assert redact_dsn(dsn) == shown


@pytest.mark.parametrize(
    "dsn",
    [
        SECRET,
        f"host=db password={SECRET} x",
        f"host=db password='{SECRET}",
        f"postgresql://app:x@{SECRET}@db/app",
        f"postgresql://app:x/{SECRET}@db/app",
        f"postgresql://app:{SECRET}?x/y@db/app",
        f"postgresql://app:{SECRET}/x@db",
        f"postgresql://app:{SECRET}%zz@db/app",
        f"postgresql://app:{SECRET}",
        f"host=db port={SECRET}",
        f"host=db passwort={SECRET}",
    ],
)
def test_a_dsn_that_libpq_would_quote_is_refused_but_not_shown(dsn: str) -> None:
    with pytest.raises(ValueError, match="neither a postgresql:// URI nor key=value") as caught:
        redact_dsn(dsn)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("dsn", "problem"),
    [
        (f"postgresql+psycopg2://app:{SECRET}@db/app", "begins with postgresql+psycopg2://, which"),
        (
            f"postgres+asyncpg://app:{SECRET}@db/app",
            "begins with postgres+asyncpg://, which",
        ),
        (
            f"jdbc:postgresql://db/app?user=app&password={SECRET}",
            "begins with jdbc:, which",
        ),
        (f"JDBC:postgresql://db/app?user=app&password={SECRET}", "begins with jdbc:, which"),
        (f"mysql://app:{SECRET}@db/app", "begins with mysql://"),
        (f"PostgreSQL://app:{SECRET}@db/app", "begins with PostgreSQL://"),
        (f'"postgresql://app:{SECRET}@db/app"', "has quotes around it"),
        (f"'host=db password={SECRET}'", "has quotes around it"),
        (f"postgresql://app:{SECRET}@db/app?schema=public", "has ?schema=, which is Prisma's"),
        (f"postgresql://app:{SECRET}@db/app?sslmode=require&pgbouncer=true", "has ?pgbouncer=, "),
        (
            f"postgresql://app:{SECRET}@db/app?connection_limit=5",
            "has ?connection_limit=, ",
        ),
        (f"postgresql://app:{SECRET}@db/app?nope=5", "has ?nope=, which libpq does not know"),
        (
            f"DATABASE_URL=postgresql://app:{SECRET}@db/app",
            "begins with DATABASE_URL=, which",
        ),
        (f"DATABASE_URL: postgresql://app:{SECRET}@db/app", "begins with DATABASE_URL:, which"),
        (f"DATABASE_URL : 'postgres://app:{SECRET}@db/app'", "begins with DATABASE_URL :, which"),
        (f"export URL='postgres://app:{SECRET}@db/app'", "begins with URL=, which is not a part"),
        (f"psql postgresql://app:{SECRET}@db/app", "begins with psql, which is a program"),
        ("${DATABASE_URL}", "is the name of a variable"),
        (f"Host=db;Username=app;Password={SECRET}", "has semicolons between its pairs"),
        (
            f"postgresql://app:{SECRET}@db/app?sslmode=no-verify",
            "sslmode is none of",
        ),
        (
            f"postgresql://app:{SECRET}@db/app?target_session_attrs=rw",
            "target_session_attrs is none of any, read-write, ",
        ),
        (
            f"host=db password={SECRET} channel_binding=requires",
            "channel_binding is none of disable, prefer, require",
        ),
        (f"postgresql://app:{SECRET}@db/app?gssencmode=on", "gssencmode is none of disable"),
        (
            f"postgresql://app:{SECRET}@db/app?connect_timeout=5s",
            "connect_timeout is no number of seconds, without a unit",
        ),
        (f"host=db password={SECRET} keepalives_idle=5s", "keepalives_idle is no number of sec"),
        (f"host=db password={SECRET} keepalives_interval=''", "keepalives_interval is no number"),
        (f"host=db password={SECRET} keepalives_count=three", "keepalives_count is no number"),
        (f"host=db password={SECRET} keepalives=on", "keepalives is no number"),
        (f"host=db password={SECRET} connect_timeout=2147483648", "connect_timeout is no number"),
        (
            f"postgresql://app:{SECRET}@db/app?tcp_user_timeout=30s",
            "tcp_user_timeout is no number of milliseconds, without a unit",
        ),
        (f"postgresql://app:x?{SECRET}=1@db/app?schema=x", "has ?schema=, which is Prisma's"),
        (f"postgresql://app:x/?{SECRET}=1@db/app", "neither a postgresql:// URI nor"),
        (f"postgresql://app:?@{SECRET}@db/app", "neither a postgresql:// URI nor"),
        (f"postgresql://db?password={SECRET}@x", "neither a postgresql:// URI nor"),
    ],
)
def test_a_string_of_another_program_says_which_part_is_wrong(dsn: str, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)) as caught:
        check_dsn(dsn)
    assert SECRET not in str(caught.value)


def test_every_problem_of_a_connection_string_is_told_at_once() -> None:
    dsn = f'DATABASE_URL="postgresql+asyncpg://app:{SECRET}@db/app?schema=x&pgbouncer=true"'
    with pytest.raises(ValueError, match="connection string") as caught:
        check_dsn(dsn)
    assert str(caught.value) == (
        "the connection string begins with DATABASE_URL=, which is not a part of it; it has quotes "
        "around it; it begins with postgresql+asyncpg://, which is SQLAlchemy's; it has ?schema=, "
        "which is Prisma's, and tables.name has the schema; it has ?pgbouncer=, which is for a "
        "pooler, and the address must be that of the server itself: write "
        "postgresql://user:password@host:5432/database"
    )


PASSWORDS = st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S", "Zs"]), max_size=9)


@given(PASSWORDS, PASSWORDS)
@example("?@", "")
@example("", "://")
def test_no_password_is_ever_shown(before: str, after: str) -> None:
    password = before + "\x7fSECRET\x7f" + after
    quoted = password.replace("\\", "\\\\").replace("'", "\\'")
    assert redact_dsn(f"host=db password='{quoted}' user=me") == "host=db user=me"
    try:
        shown = redact_dsn(f"postgresql://me:{password}@db/app")
    except ValueError as exc:
        shown = str(exc)
    assert "SECRET" not in shown
