"""The failures that an embedding service's answers tell of: of the service, or of a text.

What cannot work is told at once while nothing has worked yet, because an address or a model's name
is wrong then. The same answer of a service that has worked is an outage: a deploy, a gateway.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import httpx2

from cdc_embed.embed.answers import error_fields, retry_after_seconds, server_message
from cdc_embed.embed.base import SERVER_ERROR, TIMEOUT
from cdc_embed.embed.connections import Reply
from cdc_embed.errors import (
    CdcEmbedError,
    EmbedderError,
    EmbedderUnavailableError,
    QuotaSpentError,
    TextRefusedError,
)

KEY_HINT: Final = (
    "check the key in embedder.api_key_env or embedder.api_key_file, and its access to the model"
)
ADDRESS_HINT: Final = (
    "embedder.url is the whole address, such as http://host/v1/embeddings, and embedder.model a "
    "name of one of its models"
)
QUOTA_SECONDS: Final = 60.0
"""The least time between two tries of an account without money."""

_TOO_MANY = 429
_TRANSIENT = {408, 425, _TOO_MANY}
_REFUSED = {400, 413, 422}
_BACKEND_FAILS = 424
"""The answer of TEI for 500 of the model behind it."""
_TIMED_OUT = {408, 504}
_OVERLOADED = {_TOO_MANY, 503}
AWAY: Final = frozenset({_TOO_MANY, 502, 503, 504})
"""The answers of a service that would tell more at another time."""
UNAUTHORIZED: Final = {401, 403}
_PAYMENT_REQUIRED = 402
_SPENT = {"insufficient_quota", "billing_hard_limit_reached"}


def failure_of(
    response: Reply, where: str, *, worked: bool, secrets: Sequence[str]
) -> CdcEmbedError:
    """Return the error of an answer that is no success; it quotes none of ``secrets``.

    ``worked``: the service has embedded something since the start.
    """
    status = response.status
    problem = f"{where} answers {status}"
    spent = status == _PAYMENT_REQUIRED or not _SPENT.isdisjoint(error_fields(response.content))
    if status in UNAUTHORIZED and not spent:  # such messages can quote the key
        return EmbedderError(problem=problem, hint=KEY_HINT)
    if message := server_message(response.content, secrets):
        problem += f": {message}"
    wait = retry_after_seconds(response.headers.get("Retry-After"), datetime.now(UTC))
    if spent:
        return QuotaSpentError(problem=problem, retry_after=max(QUOTA_SECONDS, wait or 0.0))
    if status in _REFUSED or (status == _TOO_MANY and "too large" in problem.casefold()):
        return TextRefusedError(problem=problem)  # it passes at no later time either
    if response.is_redirect:
        problem += ", a redirect, which is not followed"
    if status in _TIMED_OUT:
        return EmbedderUnavailableError(problem=problem, retry_after=wait, reason=TIMEOUT)
    reason = SERVER_ERROR if status >= 500 or status == _BACKEND_FAILS else ""
    if reason or worked or status in _TRANSIENT:
        overloaded = status in _OVERLOADED
        return EmbedderUnavailableError(
            problem=problem, retry_after=wait, reason=reason, overloaded=overloaded
        )
    return EmbedderError(problem=problem, hint=ADDRESS_HINT)


def reason_of(failure: Exception) -> str:
    """Return the reason of a request without an answer, if it was sent, because its texts can be
    why."""
    if isinstance(failure, (httpx2.ReadTimeout, httpx2.WriteTimeout)):
        return TIMEOUT
    dropped = (httpx2.ReadError, httpx2.WriteError, httpx2.RemoteProtocolError)
    return SERVER_ERROR if isinstance(failure, dropped) else ""
