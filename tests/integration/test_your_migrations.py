"""README, "Your migrations": each statement of its tables, run while a service follows the table.

The tables are the test's own list: a line that is added there runs here. Each statement has a table
of its own, in a schema of its own, and all of them are followed by one service.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from tests.oracle import Documents
from tests.site import RunningService, Site, wait_until

README = (Path(__file__).parents[2] / "README.md").read_text()
SECTION = README.partition("### Your migrations")[2].partition("\n### ")[0]
NOTICED = 12.0
"""Seconds for ten that are promised; the machine has other work."""

RESTARTED = 5
"""Texts that were in hand when the instance began again, with other tables."""

LETTERS = """
create type mood as enum ('good', 'bad');
create table letters (
  id int primary key, code text not null unique default gen_random_uuid(), tenant int default 1,
  title varchar(80), body text, kind varchar(10), mood mood, spare varchar(10)
);
insert into letters (id, title, body, kind, mood)
select i, '{schema} title ' || i, '{schema} body ' || i, 'k', 'good' from generate_series(1, 5) i
"""
EVENTS = """
create type mood as enum ('good', 'bad');
create table events (id int primary key, title varchar(80), body text, kind varchar(10), mood mood)
  partition by range (id);
create table events_1 partition of events for values from (0) to (100);
create table events_2 partition of events for values from (100) to (200);
create table older (like events including all);
insert into events select i, '{schema} title ' || i, '{schema} body ' || i, 'k', 'good'
from (select generate_series(1, 5) union all select generate_series(101, 105)) as a (i);
insert into older values (301, '{schema} old', 'old {schema}', 'k', 'good')
"""
ENTRY = '[[tables]]\nname = "{}.{}"\ntext = {}\nmetadata = {}\n'
TEXT, METADATA = '["title", "body"]', '["kind", "mood"]'
COMPARED = (
    "table or its publication was altered, every row is compared",
    "partitions were changed",
)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One statement of the README, with the outcome and the way out that stand beside it."""

    statement: str
    outcome: str
    then: Sequence[str]
    text: str

    @property
    def kind(self) -> str:
        return "events" if "events" in self.statement else "letters"

    @property
    def restart(self) -> bool:
        return "restart" in self.text

    @property
    def setup(self) -> str:
        return next((part for part in self.then if part.startswith("setup")), "")

    @property
    def sql(self) -> list[str]:
        return [part for part in self.then if not re.match(r"setup|\w+ = ", part)]

    @property
    def settings(self) -> dict[str, str]:
        pairs = [part.split(" = ") for part in self.then if re.match(r"\w+ = ", part)]
        return dict(pairs)

    @property
    def gone(self) -> bool:
        return "out of the configuration" in self.text


def lines(head: str) -> list[Line]:
    """The statements of the table that begins with a heading."""
    found = []
    table = SECTION.partition(f"| {head} |")[2].partition("\n\n")[0]
    prefix = "alter table letters " if head.startswith("`alter") else ""
    for row in table.splitlines()[2:]:
        statements, outcome, then = row.strip("|").split("|")
        found += [
            Line(
                statement=prefix + statement,
                outcome=outcome.strip(" *"),
                then=re.findall(r"`([^`]+)`", way),
                text=way,
            )
            for statement in re.findall(r"`([^`]+)`", statements)
            for way in then.split("; or ")
        ]
    return found


EACH = [*lines("`alter table letters …`"), *lines("another statement")]
BATCHES = {
    "at once": [line for line in EACH if not line.restart],
    "restart": [line for line in EACH if line.restart and line.setup == "setup"],
    "rebuild": [line for line in EACH if line.restart and line.setup != "setup"],
}
ALL = lines("of all tables")


Found = Iterator[tuple["Followed", str]]
"""Tables with which something is wrong, and the words for it."""


class Followed:
    """The table of one line, in its own schema."""

    def __init__(self, site: Site, role: str, line: Line, schema: str) -> None:
        self._site = site
        self._role = role
        self.line = line
        self.name = line.kind
        self.schema = schema
        self.config = ENTRY.format(schema, line.kind, TEXT, METADATA)
        self.texts: set[str] = set()

    @property
    def full_name(self) -> str:
        return f"{self.schema}.{self.name}"

    def run(self, *statements: str, role: str = "") -> None:
        """Run statements of the README as the application's role, or as another, in this schema."""
        own = f"set role {role or self._role}; set search_path = {self.schema}, public"
        with closing(self._site.connect()) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            cursor.execute(own)
            for statement in statements:
                named = re.sub(r"\bapp\b", self._role, statement)
                named = re.sub(r"\bother\b", f"{self._role}_other", named)
                named = re.sub(r"\boffice\b", self.schema, named)
                named = re.sub(r"\bagency\b", f"{self.schema}_agency", named)
                named = re.sub(r"\bfast$", f"fast_{self._site.name}", named)
                cursor.execute(named)

    def move(self) -> None:
        """Take the place and the columns that the README's way out names."""
        settings = self.line.settings
        if "name" in settings:
            name = settings["name"].strip('"').replace("agency", f"{self.schema}_agency")
            self.schema, _, self.name = (
                name.rpartition(".")
                if "." in name
                else (
                    self.schema,
                    "",
                    name,
                )
            )
        text, metadata = settings.get("text", TEXT), settings.get("metadata", METADATA)
        self.config = ENTRY.format(self.schema, self.name, text, metadata)

    def change(self) -> None:
        """The application's own statements, once the outcome is known."""
        columns = {
            row[0]
            for row in self._site.sql(
                "select attname::text from pg_attribute where attrelid = %s::regclass",
                self.full_name,
            )
        }
        key = "id" if "id" in columns else "letter_id"
        names = [name for name in (key, "title", "headline", "body") if name in columns]
        values = ", ".join("50" if name == key else f"'{self.schema} new {name}'" for name in names)
        for statement in (
            f"insert into {self.full_name} ({', '.join(names)}) values ({values})",
            f"update {self.full_name} set body = body || ' edited' where {key} = 1",
            f"delete from {self.full_name} where {key} = 2",
        ):
            self._site.sql(statement)

    def documents(self) -> Documents:
        """The documents that the configuration asks for now."""
        key = self._site.sql(
            "select a.attname::text from pg_index i join pg_attribute a on a.attrelid = i.indrelid "
            "and a.attnum = any (i.indkey) where i.indrelid = %s::regclass "
            "order by not i.indisreplident, not i.indisprimary limit 1",
            self.full_name,
        )
        columns = [re.findall(r'"(\w+)"', row) for row in self.config.splitlines()[2:]]
        return Documents(
            name=self.name,
            schema=self.schema,
            key=[row[0] for row in key],
            text=columns[0],
            metadata=columns[1],
            embedding_table=f"{self.schema}_{self.name}_embedding",
        )

    def note(self) -> None:
        """Remember the texts that the table has now: each may be embedded once."""
        expected = self.documents().expected(self._site.sql)
        self.texts |= {text for text, _ in expected.values()}


@contextmanager
def owned(site: Site) -> Iterator[str]:
    """A role that owns the tables and what setup makes, and can do no more."""
    role = f"app_{site.name}"
    for statement in (
        "create extension vector with schema public",
        f"create role {role} login replication",
        f"create role {role}_other",
        f"grant {role}_other to {role} with inherit false, set true",
        f"grant create on database {site.name} to {role}",
        f"grant execute on function pg_control_system() to {role}",
        f"create schema archive authorization {role}",
        "create table tenants (id int primary key)",
        "insert into tenants values (1)",
        f"grant select, references on tenants to {role}",
        "create table papers ()",
        f"alter table papers owner to {role}",
    ):
        site.sql(statement)
    site.sql("set allow_in_place_tablespaces = on")
    space = f"fast_{site.name}"
    site.sql(f"create tablespace {space} owner {role} location ''")
    try:
        yield role
    finally:
        site.sql(f"alter database {site.name} owner to postgres")
        site.sql(f"drop owned by {role}, {role}_other cascade")
        site.sql(f"drop tablespace {space}")
        site.sql(f"drop role {role}, {role}_other")


def configure(site: Site, role: str, tables: Sequence[str]) -> None:
    site.configure(tables="".join(tables))
    config, dsn = site.config_path.read_text(), site.server.dsn(site.name, role)
    site.config_path.write_text(config.replace(f'dsn = "{site.dsn}"', f'dsn = "{dsn}"', 1))


def follow(site: Site, role: str, listed: Sequence[Line]) -> list[Followed]:
    """Make the table of each line, and set all of them up."""
    made = []
    for number, line in enumerate(listed):
        table = Followed(site, role, line, f"line_{number}")
        site.sql(f"create schema {table.schema} authorization {role}")
        site.sql(f"grant all on schema {table.schema} to {role}_other")
        table.run(
            *(EVENTS if line.kind == "events" else LETTERS).format(schema=table.schema).split(";\n")
        )
        table.note()
        made.append(table)
    configure(site, role, [table.config for table in made])
    site.cli("setup")
    return made


def states(service: RunningService) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in service.status()["tables"]}


def embedded(service: RunningService) -> float:
    return service.metric("cdc_embed_embed_texts_total", source="model")


def compared(service: RunningService, name: str) -> bool:
    return any(entry["event"] in COMPARED and entry["table"] == name for entry in service.log)


def wrong(service: RunningService, tables: Sequence[Followed]) -> Found:
    """The lines whose outcome, in the README's words, is another one than promised."""
    now = states(service)
    for table in tables:
        found = "compared" if compared(service, table.full_name) else "nothing"
        if (now.get(table.full_name) or {"problem": None})["problem"]:
            found = "paused"
        if not table.line.outcome.startswith((found, "refused")):
            yield table, f"{table.line.statement}: {found}, not {table.line.outcome}"


def unfollowed(service: RunningService, site: Site, tables: Sequence[Followed]) -> Found:
    """The tables that are not followed and equal, whose statement this is."""
    now = states(service)
    for table in tables:
        problem = (now.get(table.full_name) or {"problem": "unknown"})["problem"]
        if found := problem or table.documents().drift(site):
            yield table, f"{table.line.statement}: {found}"


def refuse(table: Followed) -> None:
    """Have PostgreSQL refuse the statement, and alter the table the README's way."""
    with pytest.raises(psycopg2.Error, match="publication"):
        table.run(table.line.statement)
    out, *back = table.line.sql
    table.run(out, table.line.statement, *back)


def wait_until_none(
    look: Callable[[Sequence[Followed]], Found], tables: Sequence[Followed], seconds: float
) -> None:
    """Wait until nothing is wrong with any table; else fail with all that is.

    The table that was wrong is the first one of the next look, which costs a statement or two each.
    """
    order = list(tables)

    def nothing() -> bool:
        table, _ = next(look(order), (None, ""))
        if table is not None:
            order.remove(table)
            order.insert(0, table)
        return table is None

    try:
        wait_until(nothing, "nothing is wrong", seconds)
    except AssertionError:
        raise AssertionError("\n".join(said for _, said in look(tables))) from None


def migrate(service: RunningService, tables: Sequence[Followed], site: Site) -> None:
    """Run each statement, see its outcome, and take the way out that needs no setup."""
    for table in tables:
        if "refused" in table.line.outcome:
            refuse(table)
        else:
            table.run(table.line.statement)
    wait_until_none(partial(wrong, service), tables, NOTICED)
    again = [table for table in tables if not table.line.setup]
    for table in tables:
        table.move()
        if not table.line.gone:
            table.change()
            table.note()
        if table.line.outcome.startswith("paused"):
            table.run(*table.line.sql, role="postgres")
    wait_until_none(partial(unfollowed, service, site), again, 60)
    quiet = [table for table in again if table.line.outcome.startswith("nothing")]
    assert list(wrong(service, quiet)) == []


@pytest.mark.parametrize("batch", BATCHES)
def test_each_migration_has_the_promised_outcome(
    make_site: Callable[..., Site], batch: str
) -> None:
    site = make_site(18)
    with owned(site) as role:
        tables = follow(site, role, BATCHES[batch])
        with site.service() as service:
            wait_until_none(partial(unfollowed, service, site), tables, 120)
            migrate(service, tables, site)
            if batch == "at once":
                site.cli("setup")
                wait_until_none(partial(unfollowed, service, site), tables, 60)
            texts = embedded(service)
            assert service.stop() == 0
        kept = [table for table in tables if not table.line.gone]
        if batch != "at once":
            configure(site, role, [table.config for table in kept])
            site.cli("setup", *(["--rebuild"] if batch == "rebuild" else []))
            with site.service() as service:
                wait_until_none(partial(unfollowed, service, site), kept, 60)
                texts += embedded(service)
                assert service.stop() == 0
        site.cli("verify")
        assert texts <= sum(len(table.texts) for table in tables) + RESTARTED


@pytest.mark.parametrize("line", ALL, ids=lambda line: str(line.statement))
def test_what_concerns_every_table_ends_no_service(
    make_site: Callable[..., Site], line: Line
) -> None:
    site = make_site(18)
    with owned(site) as role:
        (table,) = follow(site, role, [line])
        with site.service() as service:
            wait_until_none(partial(unfollowed, service, site), [table], 60)
            site.sql(line.statement)
            table.change()
            said = "waits for: setup" if line.outcome.startswith("not ready") else table.full_name
            wait_until(lambda: said in service.readiness()[1], "it is named", NOTICED)
            done = site.cli("status", expect=None)
            assert re.search("paused: |cdc-embed setup", done.stdout + done.stderr)
            assert "cdc-embed setup" in site.cli("doctor", expect=None).stdout
            table.run(*line.sql, role="postgres")
            site.cli("setup")
            wait_until(lambda: service.readiness()[1] == "ok\n", "it is followed again", 30)
            wait_until(lambda: not table.documents().drift(site), "it is compared", 30)
            assert service.stop() == 0
        site.cli("verify")
