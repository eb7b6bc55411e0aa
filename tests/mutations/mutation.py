"""A protection that can be taken out of the tree."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Mutation:
    """A protection, taken out: in ``file``, ``line`` becomes ``mutated``; ``test`` must fail."""

    name: str
    file: str
    line: str
    mutated: str
    test: str
