"""The surroundings of a history: servers, plugin, what is published, and whose the tables are."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from tests.installed import INSTALLED
from tests.site import Site

PREPARATION: Final = """
create schema other;
create type mood as enum ('happy', 'sad');
create type pair as (number integer, word text);
create domain short as varchar(12);
create schema extensions
"""

CITEXT: Final = """
create type extensions.citext;
create function extensions.citextin(cstring) returns extensions.citext
  language internal immutable strict as 'textin';
create function extensions.citextout(extensions.citext) returns cstring
  language internal immutable strict as 'textout';
create type extensions.citext (input = extensions.citextin, output = extensions.citextout,
  internallength = variable, storage = extended, category = 'S', collatable = true);
create cast (extensions.citext as text) without function as implicit;
create cast (text as extensions.citext) without function as assignment;
create function extensions.citext_cmp(a extensions.citext, b extensions.citext) returns integer
  language sql immutable as $$ select bttextcmp(lower(a::text), lower(b::text)) $$;
do $do$
declare op text; name text;
begin
  foreach op in array array['<', '<=', '=', '>=', '>'] loop
    name := 'citext_' || array_position(array['<', '<=', '=', '>=', '>'], op);
    execute format('create function extensions.%s(a extensions.citext, b extensions.citext)
      returns boolean language sql immutable
      as $$ select extensions.citext_cmp(a, b) %s 0 $$', name, op);
    execute format('create operator extensions.%s (
      leftarg = extensions.citext, rightarg = extensions.citext, function = extensions.%s)',
      op, name);
  end loop;
end $do$;
create operator class extensions.citext_ops default for type extensions.citext using btree as
  operator 1 extensions.<, operator 2 extensions.<=, operator 3 extensions.=,
  operator 4 extensions.>=, operator 5 extensions.>, function 1 extensions.citext_cmp
"""
"""The extension ``citext`` for servers that do not bring it."""

RIGHTS: Final = (
    "create extension if not exists vector with schema public",
    "grant create on database {database} to {role}",
    "grant execute on function pg_control_system() to {role}",
)
"""The rights of a service's role where the vectors go, and beside the tables."""
OWNERSHIP: Final = (
    "alter schema public owner to {role}",
    "alter schema other owner to {role}",
    "alter type mood owner to {role}",
    "alter type pair owner to {role}",
    "alter domain short owner to {role}",
    "grant usage on schema extensions to {role}",
)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Everything about a history but its statements; the default is that of a first try."""

    version: int = 18
    plugin: str = "pgoutput"
    publish: str = "rows"
    apart: int = 0
    """The version of the server where the vectors go; 0: into the source's database."""
    own_role: bool = False
    """Application and service are a role that owns the tables, and is no superuser."""

    @property
    def named(self) -> str:
        words = [f"{self.plugin} of {self.version}, {self.publish}"]
        words += [f"vectors on {self.apart}"] if self.apart else []
        return ", ".join([*words, *(["a role of its own"] if self.own_role else [])])

    @property
    def source(self) -> str:
        """The lines of the configuration's ``[source]``."""
        return f'plugin = "{self.plugin}"\npublish = "{self.publish}"'


def choose_surroundings(choice: random.Random, version: int) -> Surroundings:
    """Choose the surroundings on servers of a version."""
    plugin, publish, apart = "pgoutput", choice.choice(["rows", "rows", "columns"]), 0
    if version == INSTALLED or choice.random() < 0.3:
        apart = choice.choice([16, 18])
    if version == INSTALLED and choice.random() < 0.8:
        plugin, publish = "wal2json", "rows"
    return Surroundings(version, plugin, publish, apart, choice.random() < 0.4)


@dataclass(frozen=True, slots=True)
class Ground:
    """Two databases in their surroundings: one that cdc_embed follows, and its twin."""

    surroundings: Surroundings
    site: Site
    twin: Site
    role: str = "postgres"
    """The application's role in both, which owns the tables."""

    @property
    def both(self) -> tuple[Site, Site]:
        return self.site, self.twin


@contextmanager
def made(surroundings: Surroundings, make_site: Callable[..., Site]) -> Iterator[Ground]:
    """Make the databases, with what the application's tables need."""
    target = make_site(surroundings.apart) if surroundings.apart else None
    site, twin = make_site(surroundings.version, target=target), make_site(surroundings.version)
    citext = CITEXT
    if surroundings.version == INSTALLED:
        citext = "create extension citext with schema extensions"
    for each in (site, twin):
        each.sql(f"{PREPARATION}; {citext}")
    if surroundings.own_role:
        with _role(site, twin) as role:
            yield Ground(surroundings, site, twin, role)
    else:
        yield Ground(surroundings, site, twin)


@contextmanager
def _role(site: Site, twin: Site) -> Iterator[str]:
    """Make the role that owns the tables, and have it be the service's."""
    role, target = f"app_{site.name}", site.target or site
    servers = {each.server: each for each in (site, target)}
    for each in servers.values():
        each.sql(f"create role {role} login replication")
    for each in {site, target}:
        for statement in RIGHTS if each is target else RIGHTS[1:]:
            each.sql(statement.format(role=role, database=each.name))
    for each in (site, twin):
        for statement in OWNERSHIP:
            each.sql(statement.format(role=role))
    site.environment["CDC_EMBED_SOURCE__DSN"] = site.server.dsn(site.name, role)
    if site.target is not None:
        site.environment["CDC_EMBED_TARGET__DSN"] = target.server.dsn(target.name, role)
    yield role
    for each in {site, twin, target}:
        each.sql(f"drop owned by {role} cascade")
    for each in servers.values():
        each.sql(f"drop role {role}")
