"""A thousand real English texts of Python's own documentation, which every machine with Python has.

They are the docstrings of the standard library, read from its source files without importing
them, and the language reference that ``help()`` shows. The list depends on the Python version; for
one version it is always the same. Nothing here knows the use of a page.
"""

import ast
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from pydoc_data.topics import topics
from typing import NamedTuple

# Title and body together stay below the 256 tokens that small models read, because even text that
# is half Python comes to less than one token for every 2.5 characters.
_LONGEST = 600
_SHORTEST = 150
_PROSE = 0.8  # share of letters and white space; with less it is a table, a grammar or a program

# Found in every Python from 3.11 on, and rich in text; of a package, all its public modules.
_MODULES = (
    *("argparse", "asyncio", "base64", "calendar", "collections", "configparser", "contextlib"),
    *("csv", "dataclasses", "datetime", "difflib", "email", "enum", "fractions", "functools"),
    *("glob", "graphlib", "hashlib", "heapq", "hmac", "http", "inspect", "ipaddress", "json"),
    *("logging", "os", "pathlib", "pickle", "queue", "random", "re", "sched", "secrets"),
    *("selectors", "shutil", "socket", "socketserver", "sqlite3", "ssl", "statistics", "string"),
    *("subprocess", "tarfile", "tempfile", "textwrap", "threading", "timeit", "traceback"),
    *("typing", "unittest", "urllib", "uuid", "weakref", "zipfile"),
)

# Topics that repeat others word for word.
_COLLECTIONS = {"compound", "execmodel", "specialnames"}

_Documented = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class Page(NamedTuple):
    """A text and its place, for example ``json.dumps`` or ``topic: for (2)``."""

    title: str
    body: str


def corpus() -> list[Page]:
    """Return the pages, sorted, no two with the same body; at least 1,000, in under a second."""
    titles: Counter[str] = Counter()
    bodies: set[str] = set()
    pages = []
    for title, body in (*_docstrings(), *_topics()):
        if body not in bodies:
            bodies.add(body)
            titles[title] += 1
            part = f" ({titles[title]})" if titles[title] > 1 else ""
            pages.append(Page(title + part, body))
    return sorted(pages)


def _docstrings() -> Iterator[tuple[str, str]]:
    """Give the beginning of the docstring of every public module, class and function."""
    for name, path in _sources():
        for title, docstring in _documented(name, ast.parse(path.read_bytes())):
            for body in islice(_pages(docstring), 1):
                yield title, body


def _topics() -> Iterator[tuple[str, str]]:
    """Give the texts that ``help()`` shows about the language, page by page."""
    for name in sorted(topics.keys() - _COLLECTIONS):
        for body in _pages(topics[name]):
            yield f"topic: {name}", body


def _sources() -> Iterator[tuple[str, Path]]:
    library = Path(sysconfig.get_path("stdlib"))
    for name in _MODULES:
        for path in (library / f"{name}.py", library / name / "__init__.py"):
            if path.exists():
                yield name, path
        for path in sorted((library / name).glob("[!_]*.py")):
            yield f"{name}.{path.stem}", path


def _documented(name: str, node: ast.Module | _Documented) -> Iterator[tuple[str, str]]:
    """Give name and docstring of the node and of the public classes and functions in it."""
    docstring = ast.get_docstring(node)
    if docstring:
        yield name, docstring
    for child in node.body if isinstance(node, ast.Module | ast.ClassDef) else ():
        if isinstance(child, _Documented) and not child.name.startswith("_"):
            yield from _documented(f"{name}.{child.name}", child)


def _pages(text: str) -> Iterator[str]:
    """Give whole paragraphs, as many together as fit; leave out long ones and those without prose.

    An indented paragraph belongs to the one before it.
    """
    page = ""
    for paragraph in [*re.split(r"\n\s*\n(?=\S)", text.strip()), ""]:
        longer = f"{page}\n\n{paragraph}" if page else paragraph
        if paragraph and len(longer) <= _LONGEST:
            page = longer
            continue
        if len(page) >= _SHORTEST and _is_prose(page):
            yield page
        page = paragraph if len(paragraph) <= _LONGEST else ""


def _is_prose(text: str) -> bool:
    letters = sum(c.isalpha() or c.isspace() for c in text)
    return letters >= _PROSE * len(text)
