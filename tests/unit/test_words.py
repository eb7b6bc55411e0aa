"""The words of the code, read from its source: the patterns of "plain words" that a program sees.

Rules are functions from texts of modules to what breaks them, so that each can be shown a module
that does. What makes a sentence clear is for a reader to judge.
"""

import ast
import io
import re
import tokenize
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Final

import pytest

import cdc_embed
from cdc_embed.sql import folder

Texts = dict[str, str]
"""The text of each module, by its path."""
Rule = Callable[[Texts], list[str]]
Function = ast.FunctionDef | ast.AsyncFunctionDef

QUESTION = re.compile(r"(What|Who|Whose|Whom|Which|Where|How|Why)\b")
NO_VERB = re.compile(
    r"(Whether|The|A|An|This|These|Those|Its|One|Some|All|Any|Every|Everything|Nothing|None)\b"
)

NO_NOUN = re.compile(
    r"(Of|By|For|Over|So|As|At|In|To|With|Without|From|Since|When|Until|Before|After|Between|Set|"
    r"Called|Taken|Returns|Raises|Gives|Makes|Tells|Reads|Finds|Tries|Closes|"
    r"Those|None|Less|Its?|They|Let|Reading|Nothing|Nobody|True)\b"
)

REASON = re.compile(
    r": (it|they|this|these|those|there|nobody|nothing|otherwise)"
    r" (is|are|was|were|has|have|had|can|cannot|must|do|does)\b"
)
"""A clause after a colon: a reason, which "because" or a full stop tells; lists have no verb."""

NOT_USED = {"item", "manager", "helper", "handle", "sync", "ack", "offset", "payload"}
"""Words for vague or foreign things. ``payload`` is for raw bytes only."""

FORMER = {
    "Absence", "Comparer", "Desk", "Later", "Named", "Published", "Stock",
    "COMES_BACK", "SOON", "both", "let_go", "now_or_never", "source_table",
    "Struck", "acquit", "apart", "is_of_two_minds", "struck", "TWO_MINDS_SECONDS",
}  # fmt: skip
"""Names that had several meanings or none; each thing has another one now."""

PHRASES = re.compile(
    r"\bstands? still\b|\blets? go\b|\bbelieves?\b|\bhears?\b|\bknows nothing\b", re.IGNORECASE
)
"""Persons for things, and seven ways to say that the changes of a table are undelivered."""


LONGEST_TEST_NAME = 60
"""So that the promise of a test is read at once, and fits on a line wherever it is named."""


LONGEST_MODULE = 350
"""Lines of a module of the product: it answers one question, and a longer one answers two."""
LONGEST_FUNCTION = 45
"""Lines of a function of the product below its signature, which fit a screen."""
MOST_PARAMETERS: Final = 5
"""Parameters of a function of the product: more of them are some one thing."""
LARGEST_ROOM: Final = 0.15
"""The part of the product's lines that a room holds at the most."""
CLOCKS: Final = re.compile(r"[A-Z_]*(SECONDS|DELAY|TIMEOUT|SILENCE|MINUTE|NEVER|PAUSE)[A-Z_]*")
"""The names of constants that are a time."""


SLEEP: Final = re.compile(r"(time\.)?sleep|(threading\.)?Event\(\)\.wait")
"""The calls that wait for nothing but the clock."""


def read_texts(top: Path) -> Texts:
    return {
        str(path.relative_to(top.parent)): path.read_text(encoding="utf-8")
        for path in sorted(top.rglob("*.py"))
    }


TEXTS = read_texts(Path(cdc_embed.__file__).parent)
TESTS = read_texts(Path(__file__).parents[1])


@cache
def nodes(text: str) -> tuple[ast.AST, ...]:
    """Return the whole tree of a module; remembered, because every rule walks it."""
    return tuple(ast.walk(ast.parse(text)))


def docstrings(text: str) -> Iterator[tuple[ast.AST, str, int]]:
    """Yield (owner, text, line) of every docstring; that of a value belongs to the value."""
    for node in nodes(text):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        for before, statement in zip([node, *body], body, strict=False):
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                value = statement.value.value
                if isinstance(value, str):
                    yield before, value.strip(), statement.lineno


def is_method(node: ast.AST) -> bool:
    """Return whether it is a function, but not a property, which is a value to its readers."""
    return isinstance(node, Function) and not any(
        "property" in ast.unparse(decorator) for decorator in node.decorator_list
    )


def given_names(text: str) -> Iterator[tuple[str, int, ast.expr | None]]:
    """Yield (name, line, annotation) of everything that a module gives a name to."""
    annotated = {id(node.target) for node in nodes(text) if isinstance(node, ast.AnnAssign)}
    for node in nodes(text):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name, node.lineno, None
            case ast.arg():
                yield node.arg, node.lineno, node.annotation
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name, node.lineno, node.annotation
            case ast.Name(ctx=ast.Store()) if id(node) not in annotated:
                yield node.id, node.lineno, None
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr, node.lineno, None


def words_of(name: str) -> set[str]:
    """Return the words of ``_by_item`` or ``ItemManager`` in small letters."""
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+", name)
    return {part.lower() for part in parts}


def sayings(text: str) -> Iterator[tuple[str, int]]:
    """Yield (text, line) of every comment, docstring, message and log line."""
    for node in nodes(text):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield " ".join(node.value.split()), node.lineno
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.string, token.start[0]


def explanations(text: str) -> Iterator[tuple[str, int]]:
    """Yield (text, line) of every docstring and of every block of comments."""
    for _, doc, line in docstrings(text):
        yield " ".join(doc.split()), line
    lines = [each.lstrip() for each in ["", *text.splitlines()]]
    for start in range(1, len(lines)):
        if lines[start].startswith("# ") and not lines[start - 1].startswith("# "):
            block = takewhile(lambda each: each.startswith("# "), lines[start:])
            yield " ".join(each.removeprefix("# ") for each in block), start


# -- the rules --------------------------------------------------------------------------------


def questions(texts: Texts) -> list[str]:
    return [
        f"{path}:{line}: {doc[:60]}"
        for path, text in texts.items()
        for _, doc, line in docstrings(text)
        if QUESTION.match(doc)
    ]


def functions_without_a_verb(texts: Texts) -> list[str]:
    return [
        f"{path}:{line}: {doc[:60]}"
        for path, text in texts.items()
        for owner, doc, line in docstrings(text)
        if is_method(owner) and NO_VERB.match(doc)
    ]


def values_without_a_noun(texts: Texts) -> list[str]:
    """Find values of which one learns only how much, when or where, not of what."""
    return [
        f"{path}:{line}: {doc[:60]}"
        for path, text in texts.items()
        for owner, doc, line in docstrings(text)
        if isinstance(owner, ast.Assign | ast.AnnAssign) and NO_NOUN.match(doc)
    ]


def is_flag(node: ast.AST) -> bool:
    """Return whether it is an attribute or a property that is true or false."""
    match node:
        case ast.AnnAssign(annotation=annotation):
            kind = annotation
        case ast.FunctionDef(returns=ast.expr() as returns) if not is_method(node):
            kind = returns
        case ast.Assign(value=ast.Constant(value=bool())):
            return True
        case _:
            return False
    return ast.unparse(kind) in {"bool", "bool | None"}


def flags_without_whether(texts: Texts) -> list[str]:
    """Find flags described by a statement, which reads as if it were always true. Those of the
    configuration are described for its schema."""
    return [
        f"{path}:{line}: {doc[:60]}"
        for path, text in texts.items()
        for owner, doc, line in docstrings(text)
        if is_flag(owner) and not doc.startswith("Whether ") and Path(path).parent.name != "config"
    ]


def vague_names(texts: Texts) -> list[str]:
    return [
        f"{path}:{line}: {name}"
        for path, text in texts.items()
        for name, line, annotation in given_names(text)
        if NOT_USED & words_of(name)
        and not (name == "payload" and annotation and ast.unparse(annotation) == "bytes")
    ]


def former_names(texts: Texts) -> list[str]:
    return [
        f"{path}:{line}: {name}"
        for path, text in texts.items()
        for name, line, _ in given_names(text)
        if name.removeprefix("_") in FORMER
    ]


def figures_of_speech(texts: Texts) -> list[str]:
    return [
        f"{path}:{line}: {found[0]}"
        for path, text in texts.items()
        for saying, line in sayings(text)
        if (found := PHRASES.search(saying))
    ]


def reasons_after_colons(texts: Texts) -> list[str]:
    return [
        f"{path}:{line}: {found[0]}"
        for path, text in texts.items()
        for saying, line in explanations(text)
        if (found := REASON.search(saying))
    ]


def long_names_of_tests(texts: Texts) -> list[str]:
    return [
        f"{path}:{node.lineno}: {node.name}"
        for path, text in texts.items()
        for node in nodes(text)
        if isinstance(node, Function)
        and node.name.startswith("test_")
        and len(node.name) > LONGEST_TEST_NAME
    ]


def long_modules(texts: Texts) -> list[str]:
    lengths = {path: len(text.splitlines()) for path, text in texts.items()}
    return [f"{path}: {length}" for path, length in lengths.items() if length > LONGEST_MODULE]


def long_functions(texts: Texts) -> list[str]:
    return [
        f"{path}:{node.lineno}: {node.name}"
        for path, text in texts.items()
        for node in nodes(text)
        if isinstance(node, Function)
        and (node.end_lineno or 0) - node.body[0].lineno >= LONGEST_FUNCTION
    ]


def parameters(arguments: ast.arguments) -> list[str]:
    """Return the names, but for the one that a call binds by itself: an object, a class, the
    context of a command."""
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    named += [extra for extra in (arguments.vararg, arguments.kwarg) if extra is not None]
    return [each.arg for each in named if each.arg not in {"self", "cls", "ctx"}]


def many_parameters(texts: Texts) -> list[str]:
    return [
        f"{path}:{node.lineno}: {node.name}"
        for path, text in texts.items()
        for node in nodes(text)
        if isinstance(node, Function) and len(parameters(node.args)) > MOST_PARAMETERS
    ]


def large_rooms(texts: Texts) -> list[str]:
    lines: Counter[str] = Counter()
    for path, text in texts.items():
        lines[Path(path).parts[1]] += len(text.splitlines())
    return [
        f"{room}: {count}" for room, count in lines.items() if count > LARGEST_ROOM * lines.total()
    ]


def equal_names_of_classes(texts: Texts) -> list[str]:
    places = defaultdict(list)
    for path, text in texts.items():
        for node in nodes(text):
            if isinstance(node, ast.ClassDef):
                places[node.name.lstrip("_")].append(path)
    return [f"{name}: {', '.join(paths)}" for name, paths in places.items() if len(paths) > 1]


def patched_clocks(texts: Texts) -> list[str]:
    """Find constants of a time that are set from outside: what waits gets it as an argument."""
    found = []
    for path, text in texts.items():
        for node in nodes(text):
            match node:
                case ast.Call(func=ast.Attribute(attr="setattr") | ast.Name(id="patch")):
                    words = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
                    names = [word.split(".")[-1] for word in words if isinstance(word, str)]
                case ast.Attribute(attr=name, ctx=ast.Store()):
                    names = [name]
                case _:
                    continue
            found += [f"{path}: {name}" for name in names if CLOCKS.fullmatch(name)]
    return found


SLEEPERS: Final = ("tests/quiet.py", "tests/site.py")
"""The modules that may sleep: a test waits for a signal, or says that nothing happens meanwhile."""


def sleeps(texts: Texts) -> list[str]:
    """Find waits for nothing but the clock."""
    found = []
    for path, text in texts.items():
        for node in nodes(text):
            match node:
                case ast.Call(func=function) if path not in SLEEPERS:
                    if SLEEP.fullmatch(ast.unparse(function)):
                        found.append(f"{path}:{node.lineno}")
    return found


# -- the tree as it is -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule",
    [
        questions,
        functions_without_a_verb,
        values_without_a_noun,
        flags_without_whether,
        vague_names,
        former_names,
        figures_of_speech,
    ],
)
def test_the_code_says_it_in_plain_words(rule: Rule) -> None:
    assert len(TEXTS) > 40
    assert rule(TEXTS) == []


@pytest.mark.parametrize("rule", [long_modules, long_functions, many_parameters, large_rooms])
def test_modules_and_functions_are_read_in_one_sitting(rule: Rule) -> None:
    assert rule(TEXTS) == []


def test_a_colon_gives_no_reason() -> None:
    found = {place.partition(":")[0] for place in reasons_after_colons(TEXTS)}
    assert found == set()


def test_a_name_of_a_class_stands_for_one_thing() -> None:
    assert equal_names_of_classes(TEXTS) == []


def test_no_test_patches_a_time_that_could_be_an_argument() -> None:
    assert len(TESTS) > 100
    assert patched_clocks(TESTS) == []


def test_no_test_sleeps() -> None:
    assert len(TESTS) > 100
    assert {path for path in SLEEPERS if sleeps({"x.py": TESTS[path]})} == set(SLEEPERS)
    assert sleeps(TESTS) == []


def test_no_docstring_of_a_test_begins_with_a_question() -> None:
    assert len(TESTS) > 100
    assert questions(TESTS) == []


def test_no_test_has_a_name_of_more_than_sixty_letters() -> None:
    assert len(TESTS) > 100
    assert long_names_of_tests(TESTS) == []


def test_a_statement_is_described_by_what_it_returns_or_changes() -> None:
    """Not by a question. Migrations keep the text that servers have the checksum of."""
    files = [path for path in folder().rglob("*.sql") if path.parent.name != "migrations"]
    described = re.compile(r"^-- name: \w+\n-- (.+)$", re.MULTILINE)
    lines = [line for path in files for line in described.findall(path.read_text())]
    assert len(lines) > 100
    assert [line for line in lines if QUESTION.match(line)] == []


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        (questions, '"""What the module holds."""'),
        (questions, 'class X:\n    """Which rows are left."""'),
        (questions, 'class X:\n    @property\n    def x(self):\n        """How many there are."""'),
        (questions, 'LIMIT = 1\n"""How many at once."""'),
        (questions, 'class X:\n    limit: int\n    """Why it waits."""'),
        (functions_without_a_verb, 'def f():\n    """Whether it is there."""'),
        (functions_without_a_verb, 'async def f():\n    """The rows."""'),
        (functions_without_a_verb, 'class X:\n    def f(self):\n        """A new connection."""'),
        (values_without_a_noun, 'X = 5.0\n"""After so long it is given up."""'),
        (values_without_a_noun, 'class X:\n    x: Read\n    """Returns the rows."""'),
        (flags_without_whether, 'class X:\n    x: bool\n    """It is on."""'),
        (flags_without_whether, 'self.x = False\n"""It is on."""'),
        (
            flags_without_whether,
            'class X:\n    @property\n    def x(self) -> bool:\n        """It is on."""',
        ),
        (vague_names, "def handle(): ..."),
        (vague_names, "class TableManager: ..."),
        (vague_names, "for item in rows: ..."),
        (vague_names, "def f(last_offset): ..."),
        (vague_names, "self.payload = x"),
        (vague_names, "payload: str = x"),
        (former_names, "def f(both): ..."),
        (former_names, "class Desk: ..."),
        (former_names, "SOON = 1.0"),
        (figures_of_speech, "# the server hears it"),
        (figures_of_speech, 'log.error("table stands still")'),
        (figures_of_speech, 'def f():\n    """Let go of\n    it."""'),
        (values_without_a_noun, 'X = 5\n"""None: it has no end."""'),
        (reasons_after_colons, '"""Nothing is read: it is gone."""'),
        (reasons_after_colons, "# a row is left out: this\n# can be a deferred one"),
        (long_names_of_tests, f"class X:\n    def test_{'x' * 56}(self): ..."),
        (long_modules, "x = 1\n" * 351),
        (long_functions, "def f():\n" + "    x = 1\n" * 46),
        (many_parameters, "def f(a, b, /, c, *, d, e, f): ..."),
        (many_parameters, "class X:\n    def f(self, a, b, c, *d, e, **f): ..."),
        (equal_names_of_classes, "class X: ...\ndef f():\n    class _X: ..."),
        (patched_clocks, 'monkeypatch.setattr(blame, "STRIKES_SECONDS", 6.0)'),
        (patched_clocks, 'patch("x.y.FIRST_DELAY", 6.0).start()'),
        (patched_clocks, "blame.STRIKES_SECONDS = 1"),
        (patched_clocks, 'monkeypatch.setattr(counts, "PAUSES", (0.01,))'),
        (sleeps, "time.sleep(1)"),
        (sleeps, "from time import sleep\nsleep(1)"),
        (sleeps, "Event().wait(1)"),
        (sleeps, "threading.Event().wait(timeout=1)"),
    ],
)
def test_a_rule_notices_what_breaks_it(rule: Rule, code: str) -> None:
    assert len(rule({"x.py": code})) == 1


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        (questions, 'def f():\n    """Return what is left; None when nothing is."""'),
        (questions, 'def f():\n    print("Which table?")'),
        (functions_without_a_verb, 'class X:\n    """The rows."""'),
        (
            functions_without_a_verb,
            'class X:\n    @property\n    def f(self):\n        """A row."""',
        ),
        (functions_without_a_verb, 'X = 1\n"""Whether it is on."""'),
        (values_without_a_noun, 'X = 5.0\n"""The seconds after which it is given up."""'),
        (values_without_a_noun, 'def f():\n    """Of no value."""'),
        (flags_without_whether, 'class X:\n    x: bool | None\n    """Whether it is on."""'),
        (vague_names, "for name, value in rows.items(): ..."),
        (vague_names, "class Frame:\n    payload: bytes"),
        (vague_names, "def asynchronous(handled): ..."),
        (former_names, "import both"),
        (figures_of_speech, "# the target lets another writer go on"),
        (reasons_after_colons, '"""The fields: this one, those of it, and can."""'),
        (reasons_after_colons, 'log.info("the table: it is there")'),
        (long_names_of_tests, f"def test_{'x' * 55}(): ..."),
        (long_modules, "x = 1\n" * 350),
        (long_functions, "def f():\n" + "    x = 1\n" * 45),
        (many_parameters, "class X:\n    def f(self, a, b, c, *, d, e=lambda x: x): ..."),
        (equal_names_of_classes, "class X: ...\nclass Y: ..."),
        (patched_clocks, 'monkeypatch.setattr(stored, "PAGES", 10)'),
        (patched_clocks, "STRIKES_SECONDS: Final = 1"),
        (sleeps, "assert committed.wait(30)"),
    ],
)
def test_a_rule_leaves_alone_what_is_allowed(rule: Rule, code: str) -> None:
    assert rule({"x.py": code}) == []


def test_a_large_room_is_noticed() -> None:
    rooms = {
        f"cdc_embed/{room}/x.py": "x = 1\n" * lines
        for room, lines in zip("abcdefg", [15, 15, 14, 14, 14, 14, 14], strict=True)
    }
    assert large_rooms(rooms) == []
    assert large_rooms({**rooms, "cdc_embed/a/y.py": "x = 1\n"}) == ["a: 16"]
