"""The body and the headers of a request, where services with OpenAI's interface differ.

Base64 is a quarter of the bytes and no parsing of numbers, but some gateways refuse the word. So it
is tried without once while nothing has worked, and what works is remembered.
"""

from collections.abc import Sequence
from typing import Any, Final

import orjson

from cdc_embed.config.sections import EmbedderConfig
from cdc_embed.embed.failures import KEY_HINT
from cdc_embed.errors import EmbedderError, TextRefusedError

BEARER_HEADER: Final = "Authorization"
"""The header that carries the key behind a word; every other one carries the bare key."""
_UNKNOWN_FIELD = {400, 422}
"""The answers of services that do not know a field."""
_ILL_OR_UNKNOWN = 500
"""The status with which some refuse a form; it can be an outage that is over, so it must come
twice."""


class Dialect:
    """The form in which one service wants to be asked."""

    def __init__(self, config: EmbedderConfig) -> None:
        fixed: dict[str, Any] = {"model": config.model}
        if config.dimensions:
            fixed["dimensions"] = config.dimensions
        self._bodies = (fixed | config.document_body, fixed | config.query_body)
        self._base64 = config.encoding_format != "float"
        self._settled = config.encoding_format != "auto"
        self._ill = 0
        self._config = config
        self.headers: dict[str, str] = {}
        self.take_secrets()

    def take_secrets(self) -> None:
        """Take the secrets as they were read last; raise for one that no header can carry."""
        config = self._config
        headers = {"Content-Type": "application/json", **config.resolved_headers()}
        key = config.resolved_api_key()
        if key:
            bearer = config.api_key_header.casefold() == BEARER_HEADER.casefold()
            headers[config.api_key_header] = f"Bearer {key}" if bearer else key
        if not all(value.isascii() and value.isprintable() for value in headers.values()):
            problem = "the API key or a header has characters that an HTTP header cannot carry"
            raise EmbedderError(problem=problem, hint=KEY_HINT)
        self.headers = headers
        self.secrets = [*filter(None, (key, *config.resolved_headers().values()))]

    def body(self, inputs: Sequence[str], *, query: bool, plain: bool = False) -> bytes:
        """Return a request's body; ``plain``: it asks for no encoding of the vectors."""
        body = self._bodies[query] | {"input": inputs}
        if self._base64 and not plain:
            body["encoding_format"] = "base64"
        try:
            return orjson.dumps(body)
        except orjson.JSONEncodeError as exc:
            raise TextRefusedError(problem="it is not valid Unicode") from exc

    def may_be_unknown(self, status: int) -> bool:
        """Return whether an answer can come from a service that knows no ``encoding_format``."""
        unknown = status in _UNKNOWN_FIELD or status == _ILL_OR_UNKNOWN
        return self._base64 and not self._settled and unknown

    def settle(self, refused: int | None) -> None:
        """Remember which body works; ``refused``: the status of the one with base64."""
        if self._settled:
            return
        self._ill += refused == _ILL_OR_UNKNOWN
        if refused is None or refused in _UNKNOWN_FIELD or self._ill > 1:
            self._base64, self._settled = refused is None, True
