"""The service that hosts a server, known by its roles, and its words for what a superuser would do.

On such a service nobody is a superuser. Settings are made outside the database, and the right to
replicate is given in its own way.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosting:
    """One way to host a server. Texts have the places ``{name}``, ``{value}`` and ``{role}``."""

    marks: frozenset[str] = frozenset()
    """The roles that are on each of its servers."""
    setting: str = "alter system set {name} = '{value}';"
    now: str = "  -- then: select pg_reload_conf();"
    restart: str = "  -- then restart PostgreSQL"
    replication: str = "alter role {role} replication;"
    renamed: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """The settings that have another name and value there."""

    def set(self, name: str, value: str, *, restart: bool = False) -> str:
        """Return how to give a setting a value."""
        name, value = self.renamed.get(name, (name, value))
        return self.setting.format(name=name, value=value) + (self.restart if restart else self.now)

    def let_replicate(self, role: str) -> str:
        """Return how to let a role, a quoted identifier, replicate."""
        return self.replication.format(role=role)


OWN: Final = Hosting()
_MEGABYTES: Final = {"max_slot_wal_keep_size": ("max_slot_wal_keep_size", "51200")}
HOSTINGS: Final = (
    Hosting(
        marks=frozenset({"rds_superuser", "rds_replication"}),
        setting="set {name} = {value} in the parameter group (Aurora: of the cluster)",
        now="",
        restart=", then reboot the instance",
        replication="grant rds_replication to {role};",
        renamed={**_MEGABYTES, "wal_level": ("rds.logical_replication", "1")},
    ),
    Hosting(
        marks=frozenset({"cloudsqlsuperuser"}),
        setting="set the database flag {name} = {value} of the instance",
        now="",
        restart=", which restarts it",
        replication="alter role {role} replication;  -- as a member of cloudsqlsuperuser",
        renamed={**_MEGABYTES, "wal_level": ("cloudsql.logical_decoding", "on")},
    ),
    Hosting(
        marks=frozenset({"azure_pg_admin"}),
        setting="set the server parameter {name} = {value}",
        now="",
        restart=", then restart the server",
        replication="alter role {role} replication;  -- as a member of azure_pg_admin",
        renamed=_MEGABYTES,
    ),
)


def hosting_of(roles: Collection[str]) -> Hosting:
    """Return the hosting of a server with these roles."""
    return next((hosting for hosting in HOSTINGS if hosting.marks & set(roles)), OWN)
