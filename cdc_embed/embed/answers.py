"""The answers of an embedding service: vectors, the time to try again, error messages."""

import base64
import math
from collections.abc import Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import numpy as np
import orjson

from cdc_embed.embed.base import Vectors, check_vectors
from cdc_embed.errors import UnusableAnswerError

_MESSAGE_LENGTH = 200
_QUOTE_LENGTH = 12  # so many characters in common make a service's message a quotation


def parse_body(content: bytes) -> Any:
    """Return the body of an answer, which is large, so it is parsed once; None when it is no
    JSON."""
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return None


def tokens_used(body: Any) -> int | None:
    """Return the tokens that the service counted for its answer; None when it tells none."""
    try:
        counted = body["usage"].get("prompt_tokens", body["usage"].get("total_tokens"))
    except (TypeError, KeyError, AttributeError):
        return None
    return counted if isinstance(counted, int) and counted >= 0 else None


def decode_vectors(body: Any, *, count: int, dimensions: int) -> Vectors:
    """Return the vectors of an answer: float32 array (count, d), in the order of the texts.

    ``dimensions`` 0 accepts any width. Raises UnusableAnswerError for any other body: a page of a
    proxy, for example; and TextRefusedError for a vector that cannot be stored or found.
    """
    try:
        data = body["data"]
        vectors = {
            int(each.get("index", place)): _vector(each["embedding"])
            for place, each in enumerate(data)
        }
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as exc:
        raise UnusableAnswerError(problem="its answer is not a list of embeddings") from exc
    if len(data) != count or vectors.keys() != set(range(count)):
        problem = f"its answer does not hold one vector for each of {count} texts"
        raise UnusableAnswerError(problem=problem)
    widths = {len(vector) for vector in vectors.values()}
    if len(widths) != 1 or 0 in widths:
        problem = f"its answer has vectors of {sorted(widths)} dimensions, expected one width"
        raise UnusableAnswerError(problem=problem)
    stacked: Vectors = np.stack([vectors[index] for index in range(count)])
    check_vectors(stacked, count, dimensions or stacked.shape[1])
    return stacked


def _vector(embedding: object) -> Vectors:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), "<f4").astype(np.float32)
    with np.errstate(over="ignore"):
        vector = np.asarray(embedding, dtype=np.float32)
    if vector.ndim != 1:
        raise ValueError
    return vector


def retry_after_seconds(value: str | None, now: datetime) -> float | None:
    """Return the seconds from ``now`` of a Retry-After header, which has seconds or an HTTP
    date."""
    try:
        seconds = float(value or "nan")
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value or "") - now).total_seconds()
        except (ValueError, TypeError):  # TypeError: a date without a zone
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def server_message(content: bytes, secrets: Sequence[str]) -> str:
    """Return the message in an error's body, shortened; "" when it quotes one of ``secrets``."""
    text = ": ".join(error_fields(content, ("type", "error_type", "message", "error", "detail")))
    text = "".join(filter(str.isprintable, _plain(text)))[:_MESSAGE_LENGTH]
    return "" if _quotes(text, secrets) else text


def error_fields(content: bytes, names: Sequence[str] = ("type", "code")) -> list[str]:
    """Return the words of these fields of an error's body, which has many forms."""
    body = parse_body(content)
    if not isinstance(body, dict):
        return []
    error = body.get("error")
    fields = error if isinstance(error, dict) else body
    return [words for name in names if isinstance(words := fields.get(name), str)]


def _quotes(message: str, secrets: Sequence[str]) -> bool:
    message = message.casefold()
    pieces = {
        message[begin : begin + _QUOTE_LENGTH]
        for begin in range(max(1, len(message) - _QUOTE_LENGTH + 1))
    }
    plain = [text for secret in secrets if (text := _plain(secret).casefold())]
    joined = "\0".join(plain)
    return any(text in message for text in plain) or any(piece in joined for piece in pieces)


def _plain(text: str) -> str:
    return " ".join(text.split())
