"""The tokenizer of an HTTP model, which counts tokens as the service does, and can tell the window.

It is read from a folder, or by its name from the Hugging Face hub or its cache. The weights of the
model are not needed.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cdc_embed.errors import EmbedderError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_NO_LIMIT: Final = 1_000_000
"""A larger ``model_max_length`` is the word of a library for a length that nobody knows."""
_SETTINGS = "tokenizer_config.json"


@dataclass(frozen=True, slots=True)
class Counter:
    """A tokenizer that cuts nothing."""

    _tokenizer: "Tokenizer"
    window: int | None
    """The tokens that its model takes; None if it does not tell."""

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return the tokens of each text, special tokens included."""
        return [len(encoding) for encoding in self._tokenizer.encode_batch(list(texts))]


def load_tokenizer(name: str) -> Counter:
    """Return the tokenizer in a folder, or of a name; raise EmbedderError when it cannot be
    loaded."""
    from tokenizers import Tokenizer

    folder = Path(name)
    try:
        if folder.is_dir():
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        else:
            tokenizer = Tokenizer.from_pretrained(name)
    except Exception as exc:
        reason = str(exc).partition("\n")[0]
        raise EmbedderError(
            problem=f"tokenizer {name} cannot be loaded: {reason}",
            hint="set embedder.tokenizer to a folder with a tokenizer.json, or leave it empty",
        ) from exc
    window = _window(tokenizer, _settings_file(name))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return Counter(tokenizer, window)


def _window(tokenizer: "Tokenizer", settings: Path | None) -> int | None:
    """Return the smaller of the two numbers that a tokenizer's files have for it."""
    limits = []
    if tokenizer.truncation:
        limits.append(tokenizer.truncation["max_length"])
    with suppress(OSError, ValueError, TypeError, KeyError, OverflowError):
        if settings is not None:
            limits.append(int(json.loads(settings.read_text("utf-8"))["model_max_length"]))
    return min((limit for limit in limits if 0 < limit < _NO_LIMIT), default=None)


def _settings_file(name: str) -> Path | None:
    if Path(name).is_dir():
        return Path(name) / _SETTINGS
    from huggingface_hub import hf_hub_download

    with suppress(Exception):  # many models have none, and the hub can be out of reach
        return Path(hf_hub_download(name, _SETTINGS))
    return None
