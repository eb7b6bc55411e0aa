"""The preconditions of the source for following its change log."""

from typing import Final

from cdc_embed.finding import Finding, Severity, judge
from cdc_embed.source.slot import Server, Slot

OLDEST_VERSION: Final = 150000


def check_server(server: Server, slot: Slot | None, slots: int, plugin: str) -> list[Finding]:
    """Check the source's server, for a slot that exists or is to be made."""
    may = "may replicate" if server.may_replicate else "may not replicate"
    hosting = server.hosting
    return [
        judge(
            "server_version",
            server.version >= OLDEST_VERSION,
            f"PostgreSQL {server.version_text}",
            "upgrade to PostgreSQL 15 or later",
        ),
        judge(
            "wal_level",
            server.wal_level == "logical",
            f"wal_level is {server.wal_level}",
            hosting.set("wal_level", "logical", restart=True),
        ),
        judge(
            "replication_role",
            server.may_replicate,
            f"role {server.user} {may}",
            hosting.let_replicate(server.user),
        ),
        judge(
            "free_slot",
            slot is not None or slots < server.max_replication_slots,
            f"{slots} of {server.max_replication_slots} replication slots are used",
            hosting.set("max_replication_slots", str(max(2 * slots, 10)), restart=True),
        ),
        _check_plugin(server, plugin),
        judge(
            "encoding",
            server.encoding != "SQL_ASCII",
            f"database encoding {server.encoding}",
            "use a database with another encoding than SQL_ASCII",
        ),
        _check_limit(server),
    ]


def _check_plugin(server: Server, plugin: str) -> Finding:
    libraries = server.allowed_plugins
    allowed = _allows(libraries, plugin)
    return judge(
        "output_plugin",
        allowed,
        f"output plugin {plugin}" + ("" if allowed else f": the server allows {libraries} only"),
        server.hosting.set("output_plugin_libraries", f"{libraries}, {plugin}"),
    )


def _check_limit(server: Server) -> Finding:
    size = server.max_slot_wal_keep_size
    limited = size != "-1"
    return judge(
        "max_slot_wal_keep_size",
        limited,
        f"max_slot_wal_keep_size is {size}"
        + ("" if limited else ": a stopped service could fill the disk"),
        server.hosting.set("max_slot_wal_keep_size", "50GB"),
        Severity.WARNING,
    )


def check_slot(slot: Slot | None, name: str, plugin: str, database: str) -> Finding:
    """Check that the slot exists, that it is ours to read, and that its log is there."""
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
            f"slot {name} is lost: the server removed its log",
            "cdc-embed setup --rebuild",
        )
    return _slot(True, f"slot {name} is {slot.wal_status}, {slot.retained_bytes} bytes retained")


def check_reader(slot: Slot | None) -> Finding:
    """Check whether another session reads the slot now."""
    if slot is None or not slot.active:
        return Finding(id="slot_free", ok=True, message="no session reads the slot now")
    return Finding(
        id="slot_free",
        ok=False,
        severity=Severity.WARNING,
        message=f"PID {slot.active_pid} ({slot.owner}) reads the slot now; a service would wait",
        fix=f"select pg_catalog.pg_terminate_backend({slot.active_pid});"
        "  -- if it is not a cdc_embed service",
    )


def _allows(libraries: str | None, plugin: str) -> bool:
    if libraries is None:
        return True
    return plugin in [name.strip().strip('"') for name in libraries.split(",")]


def _slot(ok: bool, message: str, fix: str = "") -> Finding:
    return Finding(id="slot", ok=ok, message=message, fix=fix)
