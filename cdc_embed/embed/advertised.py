"""The facts that an embedding service tells of itself: its window, its largest call.

TEI tells them at ``/info``, vLLM its window in the list of models; both are beside the address of
the embeddings. No other service is known to tell them, so other answers are not used.

TEI: https://huggingface.github.io/text-embeddings-inference/#/Text%20Embeddings%20Inference/get_model_info
vLLM: https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import orjson

EMBEDDINGS: Final = "/embeddings"
VERSION: Final = "/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Advertised:
    """The facts that a service tells; None if it does not tell."""

    window: int | None = None
    """The tokens of one text, special tokens included."""
    max_texts: int | None = None
    """The texts of one call."""
    at_once: int | None = None
    """The number of texts of all calls at once. TEI answers 429 to a call with more."""
    cuts: bool = False
    """Whether it cuts longer texts without a word."""

    def share(self, calls: int, texts: int) -> tuple[int, int]:
        """Return how many calls at once, with how many texts each, it takes of those wanted; one
        more call and a known-good text can be beside them."""
        if self.at_once is None:
            return calls, min(texts, self.max_texts or texts)
        calls = max(1, min(calls, self.at_once - 2))
        fit = max(1, (self.at_once - 1) // (calls + 1))
        return calls, min(texts, self.max_texts or texts, fit)


Get = Callable[[str], bytes | None]
"""A function that returns the body at a path of the service, or None if it has no such page."""


def ask(get: Get, path: str, model: str) -> Advertised:
    """Ask a service whose embeddings are at ``path``; raise what ``get`` raises."""
    if not path.endswith(EMBEDDINGS):
        return Advertised()
    base = path.removesuffix(EMBEDDINGS)
    info = _object(get(f"{base.removesuffix(VERSION)}/info"))
    if window := _count(info.get("max_input_length")):
        return Advertised(
            window=window,
            max_texts=_count(info.get("max_client_batch_size")),
            at_once=_count(info.get("max_concurrent_requests")),
            cuts=info.get("auto_truncate") is True,
        )
    listed = _object(get(f"{base}/models")).get("data")
    models = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    found = (each.get("max_model_len") for each in models if each.get("id") == model)
    return Advertised(window=_count(next(found, None)))


def _object(content: bytes | None) -> dict[str, Any]:
    try:
        found = orjson.loads(content or b"{}")
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _count(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None
