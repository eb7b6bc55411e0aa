"""What must be true of the source before its change log can be followed."""

from typing import Final

from cdc_embed.finding import Finding, Severity
from cdc_embed.source.slot import Server, Slot

OLDEST_VERSION: Final = 150000


def check_server(server: Server, slot: Slot | None, slots: int, plugin: str) -> list[Finding]:
    """The settings of the source's server, for a slot that is there or to be made."""
    allowed = _allows(server.allowed_plugins, plugin)
    free_slot = slot is not None or slots < server.max_replication_slots
    return [
        Finding(
            id="server_version",
            ok=server.version >= OLDEST_VERSION,
            message=f"PostgreSQL {server.version_text}",
            fix="" if server.version >= OLDEST_VERSION else "upgrade to PostgreSQL 15 or later",
        ),
        Finding(
            id="wal_level",
            ok=server.wal_level == "logical",
            message=f"wal_level is {server.wal_level}",
            fix=""
            if server.wal_level == "logical"
            else "alter system set wal_level = 'logical';  -- then restart PostgreSQL",
        ),
        Finding(
            id="replication_role",
            ok=server.may_replicate,
            message=f"role {server.user} "
            + ("may replicate" if server.may_replicate else "lacks REPLICATION"),
            fix="" if server.may_replicate else f'alter role "{server.user}" replication;',
        ),
        Finding(
            id="free_slot",
            ok=free_slot,
            message=f"{slots} of {server.max_replication_slots} replication slots are used",
            fix=""
            if free_slot
            else "alter system set max_replication_slots = ...;  -- then restart PostgreSQL",
        ),
        Finding(
            id="output_plugin",
            ok=allowed,
            message=f"output plugin {plugin}"
            + ("" if allowed else f": the server allows {server.allowed_plugins} only"),
            fix=""
            if allowed
            else f"alter system set output_plugin_libraries = '{server.allowed_plugins}, {plugin}';"
            "  -- then: select pg_reload_conf();",
        ),
        Finding(
            id="encoding",
            ok=server.encoding != "SQL_ASCII",
            message=f"database encoding {server.encoding}",
            fix="" if server.encoding != "SQL_ASCII" else "use a database with a real encoding",
        ),
        Finding(
            id="max_slot_wal_keep_size",
            ok=server.max_slot_wal_keep_size != "-1",
            severity=Severity.WARNING,
            message=f"max_slot_wal_keep_size is {server.max_slot_wal_keep_size}"
            + (
                ": a stopped service could fill the disk"
                if server.max_slot_wal_keep_size == "-1"
                else ""
            ),
            fix="alter system set max_slot_wal_keep_size = '50GB';"
            if server.max_slot_wal_keep_size == "-1"
            else "",
        ),
    ]


def check_slot(slot: Slot | None, name: str, plugin: str, database: str) -> Finding:
    """The slot is there, is ours to read, and its log is there."""
    if slot is None:
        return _slot(False, f"slot {name} does not exist", "run: cdc-embed setup")
    if slot.kind != "logical" or slot.plugin != plugin:
        return _slot(
            False,
            f"slot {name} is {slot.kind} with plugin {slot.plugin}, not {plugin}",
            "choose another source.slot, or correct source.plugin",
        )
    if slot.database != database:
        return _slot(
            False,
            f"slot {name} belongs to database {slot.database}, not {database} "
            f"(slot names are cluster-wide)",
            "choose another source.slot",
        )
    if slot.lost:
        return _slot(
            False,
            f"slot {name} is lost: the server gave its log up",
            "cdc-embed setup --rebuild",
        )
    return _slot(True, f"slot {name} is {slot.wal_status}, {slot.retained_bytes} bytes retained")


def check_reader(slot: Slot | None) -> Finding:
    """Whether someone reads the slot now."""
    if slot is None or not slot.active:
        return Finding(id="slot_free", ok=True, message="nobody reads the slot now")
    return Finding(
        id="slot_free",
        ok=False,
        severity=Severity.WARNING,
        message=f"PID {slot.active_pid} ({slot.owner}) reads the slot now; a service would wait",
        fix=f"select pg_terminate_backend({slot.active_pid});  -- if it is not a cdc_embed service",
    )


def _allows(libraries: str | None, plugin: str) -> bool:
    if libraries is None:
        return True
    return plugin in [name.strip().strip('"') for name in libraries.split(",")]


def _slot(ok: bool, message: str, fix: str = "") -> Finding:
    return Finding(id="slot", ok=ok, message=message, fix=fix)
