"""The rooms that a room may import: the shape of the tree, read from its source.

Rules are functions from parsed modules to what breaks them, so that each can be shown a module
that does.
"""

import ast
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import cdc_embed

Modules = dict[str, ast.Module]
Rule = Callable[[Modules], list[str]]

PACKAGE = "cdc_embed"
FACE = f"{PACKAGE}.service"
"""The one package with a face: the library's door passes on the names that users need."""

ORDER = {
    "config": 1,
    "postgres": 1,
    "wire": 1,
    "change": 2,
    "source": 3,
    "embed": 3,
    "target": 3,
    "flow": 4,
    "setup": 5,
    "reconcile": 6,
    "serve": 7,
    "service": 8,
    "demo": 9,
    "cli": 10,
}
"""The rooms. Each may import what stands before it; those of one number never one another."""

WORDS: dict[str, set[str]] = {
    "": set(),  # the package itself: its version
    "errors": set(),
    "lsn": set(),
    "sql": set(),
    "metrics": {""},
    "finding": {"errors"},
    "rotation": set(),
}
"""The top-level modules, which any room may import, and what of ours each may import itself."""

PURE_ROOMS = {"wire", "change"}
PURE_WORDS = {"errors", "lsn"}
OUTSIDE_WORLD = {
    "asyncio", "http", "logging", "os", "pathlib", "psycopg2", "random", "secrets", "select",
    "socket", "structlog", "subprocess", "sys", "threading", "time",
}  # fmt: skip
DSN_PARSER = {
    "psycopg2.ProgrammingError", "psycopg2.extensions.make_dsn", "psycopg2.extensions.parse_dsn",
}  # fmt: skip
CLOCKS = {"now", "today", "utcnow"}
PLUGINS = {"pgoutput", "wal2json"}


@cache
def read_modules() -> Modules:
    folder = Path(cdc_embed.__file__).parent
    modules = {}
    for path in folder.rglob("*.py"):
        parts = [PACKAGE, *path.relative_to(folder).with_suffix("").parts]
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules[name] = ast.parse(path.read_bytes(), name)
    return modules


@cache
def nodes(tree: ast.Module) -> tuple[ast.AST, ...]:
    """The whole tree of a module; remembered, because every rule walks it."""
    return tuple(ast.walk(tree))


def room(module: str) -> str:
    """The stage or the top-level word that a module of ours belongs to."""
    return module.removeprefix(PACKAGE).removeprefix(".").split(".")[0]


def imports(modules: Modules, name: str) -> Iterator[str]:
    """Every module that is imported anywhere in it, also inside functions."""
    for node in nodes(modules[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                yield inner if inner in modules else source


def imports_of_ours(modules: Modules, name: str) -> Iterator[str]:
    return (other for other in imports(modules, name) if other.split(".")[0] == PACKAGE)


def reachable(modules: Modules, name: str) -> set[str]:
    """Everything that importing it may import, step by step; names from outside included."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for other in imports(modules, waiting.pop()):
            if other not in found:
                found.add(other)
                if other in modules:
                    waiting.append(other)
    return found


def attributes(tree: ast.Module, name: str) -> list[ast.Attribute]:
    return [each for each in nodes(tree) if isinstance(each, ast.Attribute) and each.attr == name]


# -- the rules --------------------------------------------------------------------------------


def unknown_rooms(modules: Modules) -> list[str]:
    return [name for name in modules if room(name) not in ORDER and room(name) not in WORDS]


def backward_imports(modules: Modules) -> list[str]:
    broken = []
    for name in modules:
        for other in imports_of_ours(modules, name):
            here, there = room(name), room(other)
            if here in ORDER and there in ORDER and here != there and ORDER[there] >= ORDER[here]:
                broken.append(f"{name} imports {other}")
    return broken


def imports_by_words(modules: Modules) -> list[str]:
    return [
        f"{name} imports {other}"
        for name in modules
        for other in imports_of_ours(modules, name)
        if room(name) in WORDS and room(other) not in WORDS[room(name)]
    ]


def cycles(modules: Modules) -> list[str]:
    graph = {name: set(imports_of_ours(modules, name)) for name in modules}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as exc:
        return [" <- ".join(exc.args[1])]
    return []


def shims(modules: Modules) -> list[str]:
    packages = {name.rpartition(".")[0] for name in modules}
    return [
        f"{name} imports {other}"
        for name in modules
        if name in packages and name != FACE
        for other in imports(modules, name)
    ]


def relative_imports(modules: Modules) -> list[str]:
    return [
        name
        for name, tree in modules.items()
        for node in nodes(tree)
        if isinstance(node, ast.ImportFrom) and node.level
    ]


def impure_imports(modules: Modules) -> list[str]:
    return [
        f"{name} reaches {other}"
        for name in modules
        if room(name) in PURE_ROOMS
        for other in reachable(modules, name)
        if other.split(".")[0] in OUTSIDE_WORLD
        or (room(other) in WORDS and other in modules and room(other) not in PURE_WORDS)
    ]


def clocks_in_pure_rooms(modules: Modules) -> list[str]:
    return [
        f"{name} calls {node.func.attr}()"
        for name, tree in modules.items()
        if room(name) in PURE_ROOMS
        for node in nodes(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in CLOCKS
    ]


def drivers_out_of_place(modules: Modules) -> list[str]:
    broken = []
    for name in modules:
        for node in nodes(modules[name]):
            if isinstance(node, ast.Import):
                found = {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found = {f"{node.module}.{alias.name}" for alias in node.names}
            else:
                continue
            found = {other for other in found if other.split(".")[0] == "psycopg2"}
            if name in {
                f"{PACKAGE}.config.{each}" for each in ("dsn", "redaction")
            }:  # how libpq reads a connection string
                found -= DSN_PARSER
            if room(name) not in {"postgres", "source", "target", "demo"}:
                broken += [f"{name} imports {other}" for other in found]
    return broken


def embedders_that_reach_the_driver(modules: Modules) -> list[str]:
    return [
        name for name in modules if room(name) == "embed" and "psycopg2" in reachable(modules, name)
    ]


def deciding_by_exception(modules: Modules) -> list[str]:
    """A ``try`` of a pure room whose handlers do anything but end in another exception."""
    return [
        f"{name} line {node.lineno}"
        for name, tree in modules.items()
        if room(name) in PURE_ROOMS
        for node in nodes(tree)
        if isinstance(node, ast.Try | ast.TryStar)
        and (
            node.finalbody
            or not all(isinstance(each.body[-1], ast.Raise) for each in node.handlers)
        )
    ]


def modules_that_try(modules: Modules) -> list[str]:
    return [
        name
        for name, tree in modules.items()
        if room(name) in PURE_ROOMS
        and any(isinstance(node, ast.Try | ast.TryStar) for node in nodes(tree))
    ]


def questions_about_the_plugin(modules: Modules) -> list[str]:
    """Comparisons of a plugin with anything but another plugin (or None), and matches on one."""
    return [
        f"{name} line {node.lineno}"
        for name, tree in modules.items()
        if name not in {f"{PACKAGE}.service.plugin", f"{PACKAGE}.source.checks"}
        for node in nodes(tree)
        if (isinstance(node, ast.Compare) and asks_for_plugin(node))
        or (isinstance(node, ast.MatchValue) and names_plugin(node.value))
    ]


def asks_for_plugin(node: ast.Compare) -> bool:
    sides = [node.left, *node.comparators]
    known = [side for side in sides if not (isinstance(side, ast.Constant) and side.value is None)]
    plugins = [holds_plugin(side) for side in known]
    return any(map(names_plugin, known)) or (any(plugins) and not all(plugins))


def names_plugin(node: ast.expr) -> bool:
    constants = (each.value for each in ast.walk(node) if isinstance(each, ast.Constant))
    return any(constant in PLUGINS for constant in constants)


def holds_plugin(node: ast.expr) -> bool:
    """``plugin``, ``x.plugin`` or ``x.plugin.name``."""
    if isinstance(node, ast.Attribute) and node.attr == "name":
        node = node.value
    found = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    return found == "plugin"


def colours_in_the_core(modules: Modules) -> list[str]:
    coloured = (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await)
    return [
        name
        for name, tree in modules.items()
        if room(name) != "serve"
        and (
            any(isinstance(node, coloured) for node in nodes(tree))
            or {"asyncio", "anyio"} & {other.split(".")[0] for other in imports(modules, name)}
        )
    ]


def confirmations(modules: Modules) -> list[str]:
    """Every use of a stream's ``report``, whether it is called at once or handed on."""
    stream = f"{PACKAGE}.source.stream"
    return [
        name for name, tree in modules.items() if name != stream for _ in attributes(tree, "report")
    ]


def feedback(modules: Modules) -> list[str]:
    return [name for name, tree in modules.items() for _ in attributes(tree, "send_feedback")]


# -- the tree as it is -------------------------------------------------------------------------


def test_every_module_stands_in_a_known_room() -> None:
    assert len(read_modules()) > 40
    assert unknown_rooms(read_modules()) == []
    assert {room(name) for name in read_modules()} == set(ORDER) | set(WORDS)


def test_imports_point_from_later_stages_to_earlier_ones() -> None:
    assert backward_imports(read_modules()) == []


def test_the_shared_words_import_no_room_and_only_named_words() -> None:
    assert imports_by_words(read_modules()) == []


def test_no_modules_import_one_another_in_a_circle() -> None:
    assert cycles(read_modules()) == []


def test_only_the_door_passes_on_names_and_imports_are_explicit() -> None:
    assert shims(read_modules()) == []
    assert relative_imports(read_modules()) == []


def test_wire_and_change_reach_neither_outside_world_nor_clock() -> None:
    assert impure_imports(read_modules()) == []
    assert clocks_in_pure_rooms(read_modules()) == []


def test_the_driver_is_imported_only_where_databases_are_used() -> None:
    assert drivers_out_of_place(read_modules()) == []
    assert embedders_that_reach_the_driver(read_modules()) == []


def test_wire_and_change_make_exceptions_errors_and_swallow_none() -> None:
    assert deciding_by_exception(read_modules()) == []
    assert {room(name) for name in modules_that_try(read_modules())} == {"wire"}


def test_only_command_line_and_source_checks_ask_for_the_plugin() -> None:
    assert questions_about_the_plugin(read_modules()) == []


def test_nothing_but_the_web_page_is_asynchronous() -> None:
    assert colours_in_the_core(read_modules()) == []


def test_exactly_one_line_confirms() -> None:
    assert confirmations(read_modules()) == ["cdc_embed.flow.confirm"]
    assert feedback(read_modules()) == ["cdc_embed.source.stream"]


@cache
def found_now(rule: Rule) -> list[str]:
    return rule(read_modules())


@pytest.mark.parametrize(
    ("rule", "name", "code"),
    [
        (unknown_rooms, "utils", ""),
        (unknown_rooms, "common.text", ""),
        (backward_imports, "wire.x", "from cdc_embed.change.batch import Batch"),
        (backward_imports, "wire.x", "import cdc_embed.change.batch"),
        (backward_imports, "wire.x", "from cdc_embed import change"),
        (backward_imports, "change.x", "def f():\n  from cdc_embed.source import rows"),
        (backward_imports, "source.x", "from cdc_embed.target import store"),
        (backward_imports, "embed.x", "from cdc_embed.source import rows"),
        (backward_imports, "target.x", "from cdc_embed.embed.base import Embedder"),
        (backward_imports, "flow.x", "from cdc_embed.serve.app import make_app"),
        (backward_imports, "serve.x", "from cdc_embed.demo.corpus import documents"),
        (backward_imports, "demo.x", "from cdc_embed.cli.run import run"),
        (imports_by_words, "lsn", "from cdc_embed.errors import CdcEmbedError"),
        (imports_by_words, "errors", "from cdc_embed.wire.messages import Begin"),
        (imports_by_words, "finding", "from cdc_embed.config.load import Config"),
        (cycles, "errors", "from cdc_embed.postgres.session import Session"),
        (cycles, "wire.messages", "from cdc_embed.wire.pgoutput import decode"),
        (shims, "wire", "from cdc_embed.wire.messages import Begin"),
        (relative_imports, "wire.x", "from .messages import Begin"),
        (impure_imports, "wire.x", "import time"),
        (impure_imports, "change.x", "from time import monotonic"),
        (impure_imports, "change.x", "from cdc_embed.postgres.session import Session"),
        (impure_imports, "change.x", "from cdc_embed.metrics import Metrics"),
        (clocks_in_pure_rooms, "change.x", "datetime.now(UTC)"),
        (drivers_out_of_place, "wire.x", "import psycopg2"),
        (drivers_out_of_place, "config.redaction", "import psycopg2"),
        (drivers_out_of_place, "config.x", "from psycopg2.extensions import parse_dsn"),
        (drivers_out_of_place, "reconcile.x", "from psycopg2 import sql"),
        (drivers_out_of_place, "flow.x", "import psycopg2"),
        (drivers_out_of_place, "flow.x", "from psycopg2.extras import execute_values"),
        (drivers_out_of_place, "setup.x", "from psycopg2 import sql"),
        (
            embedders_that_reach_the_driver,
            "embed.x",
            "from cdc_embed.postgres.session import Session",
        ),
        (deciding_by_exception, "wire.x", "try: f()\nexcept ValueError: pass"),
        (deciding_by_exception, "change.x", "try: f()\nexcept KeyError: g()\nelse: h()"),
        (deciding_by_exception, "change.x", "try: f()\nfinally: g()"),
        (modules_that_try, "change.x", "try: f()\nexcept KeyError: raise Error from None"),
        (questions_about_the_plugin, "flow.x", "if plugin == 'pgoutput': f()"),
        (questions_about_the_plugin, "flow.x", "if config.source.plugin != WAL2JSON: f()"),
        (questions_about_the_plugin, "source.x", "x = slot.plugin in ('pgoutput', 'wal2json')"),
        (questions_about_the_plugin, "wire.x", "match name:\n  case 'wal2json': f()"),
        (colours_in_the_core, "flow.x", "import asyncio"),
        (colours_in_the_core, "embed.x", "async def embed(): ..."),
        (confirmations, "flow.x", "stream.report(lsn, lsn)"),
        (confirmations, "flow.x", "confirm = self._stream.report"),
        (feedback, "source.x", "cursor.send_feedback(flush_lsn=lsn)"),
    ],
)
def test_a_rule_notices_what_breaks_it(rule: Rule, name: str, code: str) -> None:
    broken = {**read_modules(), f"{PACKAGE}.{name}": ast.parse(code)}
    assert len(rule(broken)) > len(found_now(rule))


@pytest.mark.parametrize(
    ("rule", "name", "code"),
    [
        (backward_imports, "target.x", "from cdc_embed.change.plan import Plan"),
        (drivers_out_of_place, "source.x", "from psycopg2 import sql"),
        (questions_about_the_plugin, "flow.x", "if slot.plugin != self.plugin.name: f()"),
        (questions_about_the_plugin, "flow.x", "if slot.plugin is None: f()"),
        (deciding_by_exception, "wire.x", "try: f()\nexcept ValueError: raise Error from None"),
    ],
)
def test_a_rule_leaves_alone_what_is_allowed(rule: Rule, name: str, code: str) -> None:
    assert rule({**read_modules(), f"{PACKAGE}.{name}": ast.parse(code)}) == found_now(rule)


# -- what an import costs ----------------------------------------------------------------------


def imported_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter has after a statement."""
    script = f"import sys\n{statement}\nprint(*sorted(sys.modules))"
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "from cdc_embed.cli.asking import ask",
        "from cdc_embed.embed.http import HttpEmbedder",
        "from cdc_embed.service import load_config, running",
    ],
)
def test_a_service_with_a_remote_model_loads_no_model_library(statement: str) -> None:
    heavy = {"torch", "sentence_transformers", "transformers"}
    assert imported_by(statement) & heavy == set()


def test_the_door_loads_no_web_server() -> None:
    assert imported_by("import cdc_embed.service") & {"uvicorn", "starlette"} == set()


def test_the_package_itself_imports_nothing() -> None:
    assert imported_by("import cdc_embed") - imported_by("") == {"cdc_embed"}


def test_help_imports_nothing_that_does_the_work() -> None:
    work = {"pydantic", "psycopg2", "numpy", "structlog", "prometheus_client", "uvicorn", "httpx2"}
    assert imported_by("import cdc_embed.cli.main") & work == set()


def test_help_takes_little_processor_time() -> None:
    """The best of three, user and system together."""
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "cdc_embed.cli", "--help"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert "verify" in done.stdout
    assert min(seconds) < 0.4
