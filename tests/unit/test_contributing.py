"""CONTRIBUTING.md: short, and every name, path and link in it is there."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from tests.mutations.catalogue import MUTATIONS
from tests.mutations.mutation import ROOT

GUIDE: Final = "CONTRIBUTING.md"
MOST_LINES: Final = 350
FACTS: Final = [f"T{number}" for number in range(1, 8)]

BLOCK: Final = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
CODE: Final = re.compile(r"`([^`]+)`")
LINK: Final = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
ITALICS: Final = re.compile(r"(?<![\w_])_(?=\w)(.+?)_(?![\w_])", re.DOTALL)
FILE: Final = re.compile(r"[\w./-]+\.(?:py|sql|md|toml|txt)|(?:[\w-]+/)+")
TEST: Final = re.compile(r"test_\w+")
FACT: Final = re.compile(r"\bT[1-7]\b")


def text(file: str = GUIDE) -> str:
    return (ROOT / file).read_text(encoding="utf-8")


def code() -> list[str]:
    """Return everything in backquotes, outside of blocks."""
    return [" ".join(found.split()) for found in CODE.findall(BLOCK.sub("", text()))]


def paths() -> list[str]:
    """Return every path that is named, also those in blocks and pictures."""
    named = [name for name in code() if FILE.fullmatch(name)]
    words = (word for block in BLOCK.findall(text()) for word in re.split(r'[\s"<>,\[\]]+', block))
    return sorted({*named, *(word for word in words if "/" in word and FILE.fullmatch(word))})


def is_there(path: str) -> bool:
    """Whether a path leads somewhere from the top of the tree or from the package."""
    return (ROOT / path).exists() or (ROOT / "cdc_embed" / path).exists()


def anchors(file: str) -> set[str]:
    """Return the anchors of a file's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", BLOCK.sub("", text(file)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def section(fact: str) -> str:
    """Return what stands under the heading of a fact; empty if there is none."""
    found = re.search(rf"^### {fact} .+?(?=^##|\Z)", text(), re.MULTILINE | re.DOTALL)
    return found[0] if found else ""


@cache
def modules() -> dict[str, ast.Module]:
    """Return the tests' modules, by path."""
    return {
        str(path.relative_to(ROOT)): ast.parse(path.read_bytes())
        for path in (ROOT / "tests").rglob("*.py")
    }


def docstrings(tree: ast.Module) -> Iterator[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds):
            yield ast.get_docstring(node) or ""


@cache
def citations() -> dict[str, set[str]]:
    """Return the facts that each of the tests' modules cites."""
    cited = {
        path: {fact for found in docstrings(tree) if GUIDE in found for fact in FACT.findall(found)}
        for path, tree in modules().items()
    }
    return {path: facts for path, facts in cited.items() if facts}


def test_the_guide_can_be_read_in_one_sitting() -> None:
    assert len(text().splitlines()) <= MOST_LINES


def test_every_path_in_the_guide_is_there() -> None:
    assert len(paths()) > 50
    assert [path for path in paths() if not is_there(path)] == []


def test_every_test_in_the_guide_is_there() -> None:
    functions = {
        node.name
        for tree in modules().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    }
    named = {name for name in code() if TEST.fullmatch(name)}
    assert len(named) > 30
    assert named - functions == set()


def test_every_mutation_in_the_guide_is_there() -> None:
    prose = CODE.sub("", BLOCK.sub("", text()))
    named = {" ".join(found.split()) for found in ITALICS.findall(prose)} - {"italics"}
    assert len(named) > 20
    assert named - {mutation.name for mutation in MUTATIONS} == set()


@pytest.mark.parametrize("file", [GUIDE, "README.md"])
def test_every_relative_link_and_anchor_leads_somewhere(file: str) -> None:
    links = [link for link in LINK.findall(BLOCK.sub("", text(file))) if "://" not in link]
    assert links
    for link in links:
        path, _, anchor = link.partition("#")
        assert Path(ROOT, path or file).exists(), link
        assert not anchor or anchor in anchors(path or file), link


@pytest.mark.parametrize("fact", FACTS)
def test_each_fact_names_the_tests_that_cite_it(fact: str) -> None:
    citing = {path for path, facts in citations().items() if fact in facts}
    assert citing
    assert {path for path in citing if path not in section(fact)} == set()


def test_a_fact_is_cited_with_the_file_that_explains_it() -> None:
    speaking = {
        path
        for path, tree in modules().items()
        if any(FACT.search(found) for found in docstrings(tree))
    }
    assert speaking - citations().keys() == set()
