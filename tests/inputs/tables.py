"""Texts, keys and names that something on the way could read as something else."""

import uuid
from typing import Final

from tests.inputs.table import InputTable, big

CONTROLS: Final = [chr(code) for code in (*range(0x01, 0x20), *range(0x7F, 0xA0))]

TEXTS: Final = [
    "an ordinary text",
    "x",
    "🙂👍🏽 👩\u200d👩\u200d👧 🏴\U000e0067\U000e0062\U000e007f \U00010348\U0010fffd",
    "caf\u00e9 \u1e69 \uac00",
    "cafe\u0301 s\u0323\u0307 \u1100\u1161",
    "\u0301 begins with a combining mark",
    "שלום עולם مرحبا \u202eright to left\u202c \u2066isolated\u2069",
    "a\u200bb\u200cc\u200dd\u2060e\ufefff",
    "\ufeffbegins with a byte order mark",
    "\ufdd0\ufffe\uffff\U0001ffff are no characters, \ufffd is one",
    "\u2028line and paragraph\u2029 separators, next line \u0085 here",
    "windows\r\nlines\r\n\r\nand\rold ones\n",
    " \t surrounded by blanks \n ",
    "back\\slash \\n \\\\ \\x41 \\u0041 \\N",
    "'single' \"double\" `back` $$dollar$$ %s %(x)s % {brace} {{}} {0}",
    "null",
    "NULL",
    '{"json": ["\\u0000", null, 1e400]}',
    "<script>&amp;\u00a0</script> ]]> -- comment /* */ ; drop table texts",
    *(f"with {control} in it" for control in CONTROLS),
    "".join(CONTROLS),
    "5 MB " + "łąńö 表" * 330_000,
    *CONTROLS,
]
NOTHING: Final[list[tuple[str | None, str | None]]] = [
    (None, None),
    ("", ""),
    (" ", "\t\n\u00a0"),
    (None, "only the body"),
    ("only the title", ""),
]
_texts = [*NOTHING, *((text, None) for text in TEXTS), ("title", TEXTS[2])]

LABELS: Final = ("glad", "über happy", "it's", 'with "quotes"', "a,b", "{}", "back\\slash", "")

KEYS: Final[dict[str, tuple[tuple[str, ...], list[tuple[object, ...]]]]] = {
    "by uuid": (
        ("uuid",),
        [(str(uuid.UUID(int=number << 64 | 0xFFFF)),) for number in range(4)],
    ),
    "by text": (
        ("text",),
        [
            (text,)
            for text in [
                *("", " ", "a", "A", "it's", 'qu"ote', "back\\slash", "\\", "\\n", "new\nline"),
                *("tab\t", "null", "NULL", "{}", "{a,b}", "a,b", "%s", "caf\u00e9", "cafe\u0301"),
                *("🙂", "שלום", "\u200b", "\x01", "\x7f", "\x85", "[1]", '{"a": 1}', "long " * 100),
            ]
        ],
    ),
    "by timestamptz": (
        ("timestamptz",),
        [
            ("infinity",),
            ("-infinity",),
            ("0044-03-15 12:00:00+00 BC",),
            ("2024-02-29 23:59:59.999999+05:30",),
            ("2025-03-30 02:30:00 Europe/Paris",),
            ("1900-01-01 00:00:00+00:09:21",),
        ],
    ),
    "by numeric": (
        ("numeric",),
        [("0",), ("1.00",), ("-0.0001",), ("1e30",), ("12345678901234567890.123456789",), ("7",)],
    ),
    "by bytea": (("bytea",), [("\\x",), ("\\x00ff27",), ("\\x5c78",), ("\\x0a",)]),
    "by boolean": (("boolean",), [(True,), (False,)]),
    "by date": (
        ("date",),
        [("infinity",), ("0001-01-01 BC",), ("2024-02-29",), ("12345-06-07",), ("1999-12-31",)],
    ),
    "by enum": (("mood",), [(label,) for label in LABELS if label]),
    "by four": (
        ("uuid", "timestamptz", "text", "boolean"),
        [
            (str(uuid.UUID(int=number % 2)), f"2024-01-0{number} 10:00+02", "a'\\\"", number < 3)
            for number in range(1, 6)
        ],
    ),
}

NAMES: Final = [
    'we"ird; drop',
    "MixedCase",
    "mixedcase",
    "ünïcödé 表 🙂",
    "שלום",
    "with.dots",
    "{braces}",
    "{}",
    "back\\slash",
    "o'clock",
    "select",
    "user",
    " lead and trail ",
    "1st",
    "-- comment",
    "/* and */ $1 :x ?",
    "a,b*c\t(d)",
    "new\nline",
    "$$",
]


def _longest(name: str) -> str:
    """As many bytes as PostgreSQL has room for."""
    return name + "é" * ((63 - len(name.encode())) // 2) + "e" * ((63 - len(name.encode())) % 2)


def _named(place: int, name: str) -> InputTable:
    """A table with this name everywhere; every other one in a schema that needs quotes."""
    return InputTable(
        name=name,
        schema="public" if place % 2 else 'we"ird; drop',
        key={name: "integer"},
        keys=[(number,) for number in range(4)],
        text=(f"{name} t", _longest("text")),
        metadata=(f"{name} m", _longest("metadata"), _longest(name)),
    )


WIDE: Final = tuple(f"c{number}" for number in range(60))
TEMPLATE: Final = (
    "🙂 שלום \"quoted\" 'single' back\\slash $$ %s %%(x)s {{\n\t"
    + " | ".join(f"{name}: {{{name}}}" for name in WIDE)
    + " | {Größe} | {表} | {MixedCase} }}"
)
_numbers: Final = [(number,) for number in range(5)]

ENUM: Final = "create type mood as enum ({})".format(
    ", ".join("'" + label.replace("'", "''") + "'" for label in LABELS if label)
)

TABLES: Final = [
    InputTable(
        name="texts",
        key={"id": "integer"},
        keys=[(number,) for number in range(len(_texts) + 1)],
        texts=_texts,
    ),
    *(
        InputTable(name=name, key={f"k{n}": kind for n, kind in enumerate(types)}, keys=keys)
        for name, (types, keys) in KEYS.items()
    ),
    *(_named(place, name) for place, name in enumerate(NAMES)),
    InputTable(name="sixty columns", key={"id": "integer"}, keys=_numbers, text=WIDE),
    InputTable(
        name="a template",
        key={"id": "integer"},
        keys=_numbers,
        text=(*WIDE, "Größe", "表", "MixedCase"),
        template=TEMPLATE,
    ),
]

_LATIN1: Final = "".join(chr(code) for code in (*range(0x01, 0x7F), *range(0x7F, 0x100)))

LATIN1_TABLES: Final = [
    InputTable(
        name="Größe ÿ",
        key={"schlüssel": "text"},
        keys=[(text,) for text in ("ä", "ÿ\x80", "it's", "\x85", "ö")],
        text=("tïtle", "bödy"),
        texts=[(_LATIN1, None), ("caf\u00e9", big(1)), ("plain", _LATIN1 * 20), ("\x80", "\xa0")],
        metadata=("mëta",),
    ),
    InputTable(
        name="a template",
        key={"id": "integer"},
        keys=_numbers,
        text=("größe", "body"),
        template="«{größe}» {{ÿ}}\n{body}",
    ),
]
