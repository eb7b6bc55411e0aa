"""Embedding services as they answer, each with the place where that can be read.

A ``Dialect`` has the settings of ours, what the service takes, and the words of its failures. A
``FakeService`` speaks one, in this process and without a network; its vectors are those of the
``hash`` embedder. A ``Day`` is what happens to it.
"""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs

import httpx2

from tests.clock import Clock
from tests.embedding_server import vector_of

DIMENSIONS: Final = 8
MOST_CALLS: Final = 5000
Answer = tuple[int, Any]
"""A status and the body of an error: JSON, or a text as a proxy sends it."""
OPENAI_DOCS: Final = "https://platform.openai.com/docs/api-reference/embeddings/create"


def openai_error(status: int, message: str, kind: str, code: str | None = None) -> Answer:
    """The form of OpenAI's errors, which many others have."""
    return status, {"error": {"message": message, "type": kind, "param": None, "code": code}}


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """One kind of service."""

    sources: tuple[str, ...]
    """The documentation, or the report of a user, that has these answers."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Those of ``[embedder]`` that it wants."""
    texts: int | None = None
    """The most texts of a call; more get ``too_many``."""
    tokens: int | None = None
    """The most tokens of a call, four characters each; more get ``too_long_together``."""
    window: int | None = None
    """The most tokens of one text; more get ``too_long``."""
    cuts: int | None = None
    """The tokens of one text that it reads: it is silent about the rest."""
    too_many: Answer = (422, "")
    too_long: Answer = (400, "")
    too_long_together: Answer = (400, "")
    overloaded: Answer
    ill: Answer
    """A failure of the model, for a text or for all."""
    unauthorized: Answer
    spent: Answer = field(
        default_factory=lambda: openai_error(
            429, "You exceeded your current quota", "insufficient_quota", "insufficient_quota"
        )
    )
    no_base64: Answer | None = None
    """To a request with ``encoding_format``."""
    wants: Callable[[httpx2.Request, Mapping[str, Any]], Answer | None] = lambda _r, _b: None
    """The failure of a request that lacks what the service wants, or has what it refuses."""
    usage: bool = True
    pages: Mapping[str, Any] = field(default_factory=dict)
    """The answers to GET, by path."""


def tei() -> Dialect:
    def error(status: int, message: str, kind: str) -> Answer:
        return status, {"message": message, "code": status, "type": kind}

    return Dialect(
        sources=(
            "https://github.com/Zoo-Code-Org/Zoo-Code/issues/335",
            "https://huggingface.github.io/text-embeddings-inference",
        ),
        texts=32,
        window=400,
        pages={
            "/info": {
                "model_id": "m",
                "max_input_length": 400,
                "max_client_batch_size": 32,
                "max_concurrent_requests": 512,
                "auto_truncate": True,
            }
        },
        too_many=error(422, "batch size 60 > maximum allowed batch size 32", "Validation"),
        overloaded=error(429, "Model is overloaded", "Overloaded"),
        ill=error(424, "CUDA out of memory", "Backend"),
        unauthorized=(401, ""),
    )


def vllm() -> Dialect:
    def error(status: int, message: str, kind: str) -> Answer:
        return status, {"error": {"message": message, "type": kind, "param": None, "code": status}}

    def wants(_: httpx2.Request, body: Mapping[str, Any]) -> Answer | None:
        said = 'Model "m" does not support matryoshka representation'
        return error(400, said, "BadRequestError") if "dimensions" in body else None

    return Dialect(
        sources=(
            "https://github.com/vllm-project/vllm/issues/19798",
            "https://github.com/vllm-project/vllm/pull/16331",
            "https://github.com/vllm-project/vllm/issues/58192",
        ),
        window=2000,
        pages={"/v1/models": {"object": "list", "data": [{"id": "m", "max_model_len": 2000}]}},
        too_long=error(
            400, "This model's maximum context length is 2000 tokens.", "BadRequestError"
        ),
        overloaded=error(503, "The server is overloaded", "ServiceUnavailableError"),
        ill=error(500, "EngineCore encountered an issue", "InternalServerError"),
        unauthorized=(401, {"error": "Unauthorized"}),
        wants=wants,
    )


def infinity() -> Dialect:
    return Dialect(
        sources=("https://github.com/michaelfeil/infinity/issues/307",),
        texts=2048,
        too_many=(422, {"detail": [{"msg": "List should have at most 2048 items"}]}),
        overloaded=(429, {"error": {"message": "model overloaded", "type": "", "code": 429}}),
        ill=(500, {"error": {"message": "InternalServerError: no memory", "code": 500}}),
        unauthorized=(401, {"detail": "Unauthorized"}),
    )


def nim() -> Dialect:
    def wants(_: httpx2.Request, body: Mapping[str, Any]) -> Answer | None:
        if body.get("input_type") not in {"query", "passage"}:
            return 400, {"error": "'input_type' parameter is required for asymmetric models"}
        if "dimensions" in body:
            detail = "{'type': 'extra_forbidden', 'loc': ('body', 'dimensions')}"
            return 400, {"detail": f"Your request cannot be validated. detail={detail}"}
        return None

    return Dialect(
        sources=(
            "https://github.com/decolua/9router/issues/1378",
            "https://github.com/CortexReach/memory-lancedb-pro/issues/578",
        ),
        settings={
            "document_body": {"input_type": "passage"},
            "query_body": {"input_type": "query"},
        },
        overloaded=(503, {"object": "error", "message": "busy", "type": "internal_error"}),
        ill=(500, {"object": "error", "message": "failed", "type": "internal_error"}),
        unauthorized=(401, {"status": 401, "title": "Unauthorized"}),
        wants=wants,
    )


def ollama() -> Dialect:
    return Dialect(
        sources=(
            "https://github.com/hang-in/seCall/issues/5",
            "https://github.com/ollama/ollama/issues/4124",
        ),
        overloaded=(503, {"error": "server busy, please try again. maximum pending requests"}),
        ill=(500, {"error": "failed to encode response: json: unsupported value: NaN"}),
        unauthorized=(401, {"error": "unauthorized"}),
    )


def llama_cpp() -> Dialect:
    def error(status: int, message: str, kind: str) -> Answer:
        return status, {"error": {"code": status, "message": message, "type": kind}}

    said = "input is too large to process. increase the physical batch size"
    return Dialect(
        sources=(
            "https://github.com/ggml-org/llama.cpp/issues/11105",
            "https://github.com/lemonade-sdk/lemonade/issues/3591",
        ),
        window=512,
        too_long=error(500, said, "server_error"),
        overloaded=error(503, "Loading model", "unavailable_error"),
        ill=error(500, said, "server_error"),
        unauthorized=error(401, "Invalid API Key", "authentication_error"),
    )


def openai() -> Dialect:
    def wants(request: httpx2.Request, _: Mapping[str, Any]) -> Answer | None:
        return None if request.headers.get("authorization", "").startswith("Bearer ") else denied

    denied = openai_error(401, "Incorrect API key", "invalid_request_error", "invalid_api_key")
    return Dialect(
        sources=(OPENAI_DOCS, "https://github.com/OpenDataBox/CrackSQL/pull/27"),
        settings={"api_key": "sk-1", "max_batch": 2048},
        texts=2048,
        tokens=300_000,
        window=8192,
        too_many=openai_error(400, "'$.input' is invalid", "invalid_request_error"),
        too_long=openai_error(
            400, "This model's maximum context length is 8192 tokens", "invalid_request_error"
        ),
        too_long_together=openai_error(
            400,
            "Requested 453357 tokens, max 300000 tokens per request",
            "max_tokens_per_request",
            "max_tokens_per_request",
        ),
        overloaded=openai_error(429, "Rate limit reached for m", "requests", "rate_limit_exceeded"),
        ill=openai_error(500, "The server had an error", "server_error"),
        unauthorized=denied,
        wants=wants,
    )


def azure() -> Dialect:
    def wants(request: httpx2.Request, _: Mapping[str, Any]) -> Answer | None:
        if parse_qs(request.url.query.decode()).get("api-version") != ["2024-02-01"]:
            return 404, {"error": {"code": "404", "message": "Resource not found"}}
        return None if request.headers.get("api-key") else denied

    denied = (401, {"error": {"code": "401", "message": "Access denied due to invalid key"}})
    return Dialect(
        sources=(
            "https://learn.microsoft.com/azure/ai-services/openai/reference",
            "https://github.com/langchain-ai/langchain/issues/14018",
        ),
        settings={
            "url": "http://service/openai/deployments/d/embeddings?api-version=2024-02-01",
            "api_key": "sk-1",
            "api_key_header": "api-key",
            "max_batch": 2048,
        },
        texts=2048,
        too_many=openai_error(400, "'$.input' is invalid", "invalid_request_error"),
        overloaded=(429, {"error": {"code": "429", "message": "exceeded call rate limit"}}),
        ill=(500, {"error": {"code": "InternalServerError", "message": "backend failure"}}),
        unauthorized=denied,
        wants=wants,
    )


def gemini() -> Dialect:
    def error(status: int, message: str, kind: str) -> Answer:
        return status, [{"error": {"code": status, "message": message, "status": kind}}]

    return Dialect(
        sources=(
            "https://github.com/geldata/gel/issues/9032",
            "https://github.com/BerriAI/litellm/pull/17150",
        ),
        settings={"url": "http://service/v1beta/openai/embeddings"},
        texts=100,
        too_many=error(
            400,
            "* BatchEmbedContentsRequest.requests: at most 100 requests can be in one batch",
            "INVALID_ARGUMENT",
        ),
        overloaded=error(429, "Resource has been exhausted", "RESOURCE_EXHAUSTED"),
        ill=error(500, "An internal error has occurred", "INTERNAL"),
        unauthorized=error(401, "API keys are not supported", "UNAUTHENTICATED"),
        no_base64=error(400, "Invalid JSON payload. Unknown name", "INVALID_ARGUMENT"),
        usage=False,
    )


def voyage() -> Dialect:
    def wants(_: httpx2.Request, body: Mapping[str, Any]) -> Answer | None:
        if body.get("encoding_format", "base64") != "base64":
            return 400, {"detail": "accepted values are 'base64'"}
        known = {None, "query", "document"}
        return None if body.get("input_type") in known else (400, {"detail": "input_type"})

    return Dialect(
        sources=(
            "https://github.com/sigoden/aichat/pull/825",
            "https://github.com/vectorize-io/hindsight/issues/925",
            "https://docs.voyageai.com/reference/embeddings-api",
        ),
        settings={
            "document_body": {"input_type": "document"},
            "query_body": {"input_type": "query"},
            "max_batch": 1000,
        },
        texts=1000,
        tokens=120_000,
        too_many=(400, {"detail": "The batch size limit is 1000."}),
        too_long_together=(
            400,
            {
                "detail": "Request to model 'm' failed. The max allowed tokens per submitted batch "
                "is 120000. Your batch has 121138 tokens after truncation."
            },
        ),
        overloaded=(429, {"detail": "You have exceeded your rate limit"}),
        ill=(500, {"detail": "Internal server error"}),
        unauthorized=(401, {"detail": "Provided API key is invalid."}),
        wants=wants,
    )


def gateway() -> Dialect:
    """A gateway that refuses ``encoding_format``, before a service like OpenAI's."""
    said = "litellm.UnsupportedParamsError: Setting {'encoding_format': 'base64'} is not supported"
    return Dialect(
        sources=(
            "https://github.com/BerriAI/litellm/issues/7358",
            "https://github.com/stevereiner/flexible-graphrag/issues/17",
        ),
        overloaded=openai_error(429, "No deployments available", "None", "429"),
        ill=(502, "<html><h1>502 Bad Gateway</h1></html>"),
        unauthorized=openai_error(401, "Authentication Error", "auth_error", "401"),
        no_base64=openai_error(400, said, "None", "400"),
    )


def capping() -> Dialect:
    """It takes short texts, and few of them: SiliconFlow's answers."""
    return Dialect(
        sources=("https://github.com/apecloud/ApeRAG/issues/716",),
        texts=64,
        window=512,
        too_many=(413, {"code": 20042, "message": "input batch size 136 > maximum allowed 64"}),
        too_long=(413, {"code": 20015, "message": "input must have less than 512 tokens"}),
        overloaded=(503, {"code": 50505, "message": "Model service overloaded"}),
        ill=(500, {"code": 50500, "message": "Unknown error"}),
        unauthorized=(401, "Invalid token"),
        spent=(402, {"code": 30001, "message": "Sorry, your account balance is insufficient"}),
    )


def cutting() -> Dialect:
    """It reads the beginning of a long text, without a word: TEI's ``auto_truncate``."""
    return Dialect(
        sources=("https://huggingface.github.io/text-embeddings-inference",),
        cuts=512,
        overloaded=(429, {"error": "Model is overloaded", "error_type": "overloaded"}),
        ill=(424, {"error": "backend", "error_type": "backend"}),
        unauthorized=(401, ""),
        usage=False,
    )


DIALECTS: Final[dict[str, Callable[[], Dialect]]] = {
    "TEI": tei,
    "vLLM": vllm,
    "Infinity": infinity,
    "NIM": nim,
    "Ollama": ollama,
    "llama.cpp": llama_cpp,
    "OpenAI": openai,
    "Azure": azure,
    "Gemini": gemini,
    "Voyage": voyage,
    "a gateway without base64": gateway,
    "one that caps": capping,
    "one that cuts": cutting,
}


def tokens_of(text: str) -> int:
    return len(text) // 4


@dataclass
class Call:
    """A request, and what it was answered with."""

    texts: list[str]
    at: float
    status: int


Fault = Callable[["FakeService", httpx2.Request, list[str]], httpx2.Response | Answer | None]
"""A function that spoils a request: it gives another answer, or None."""


class FakeService:
    """One service, with a day's faults before its own answers."""

    def __init__(self, dialect: Dialect, clock: Clock, fault: Fault) -> None:
        self.dialect = dialect
        self.clock = clock
        self.fault = fault
        self.weights = ""
        """Another model has other ones, under the same name."""
        self.begun = False
        """The day has begun: the embedder was tried out before."""
        self.calls: list[Call] = []
        self.injected = 0
        """The calls that the day spoiled."""
        self.refused_base64 = 0
        self.refused_size = 0
        self.taken: list[float] = []
        """When it was well and took texts."""

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        if request.method == "GET":
            page = self.dialect.pages.get(request.url.path)
            return httpx2.Response(404) if page is None else httpx2.Response(200, json=page)
        body = json.loads(request.content)
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        call = Call(texts, self.clock.now, 0)
        self.calls.append(call)
        assert len(self.calls) < MOST_CALLS, "it is asked for ever"
        try:
            spoilt = self.fault(self, request, texts) if self.begun else None
        except httpx2.RequestError:
            self.injected += 1
            raise
        self.injected += spoilt is not None
        answer = spoilt if spoilt is not None else self._answer(request, body, texts)
        response = answer if isinstance(answer, httpx2.Response) else to_response(answer)
        call.status = response.status_code
        if spoilt is None and response.is_success:
            self.taken.append(self.clock.now)
        return response

    def begin(self) -> None:
        """Begin the day, and the count of its calls."""
        self.begun = True
        self.calls.clear()
        self.taken.clear()
        self.refused_base64 = self.refused_size = 0

    def _answer(
        self, request: httpx2.Request, body: Mapping[str, Any], texts: list[str]
    ) -> httpx2.Response | Answer:
        dialect = self.dialect
        if problem := dialect.wants(request, body):
            return problem
        if dialect.no_base64 is not None and "encoding_format" in body:
            self.refused_base64 += 1
            return dialect.no_base64
        tokens = [tokens_of(text) for text in texts]
        if dialect.texts is not None and len(texts) > dialect.texts:
            self.refused_size += 1
            return dialect.too_many
        if dialect.window is not None and max(tokens) > dialect.window:
            return dialect.too_long
        if dialect.tokens is not None and sum(tokens) > dialect.tokens:
            self.refused_size += 1
            return dialect.too_long_together
        read = [self.weights + text[: dialect.cuts and 4 * dialect.cuts] for text in texts]
        return vectors_for(read, body, usage=sum(tokens) if dialect.usage else None)


def vectors_for(
    texts: list[str], body: Mapping[str, Any], usage: int | None = None
) -> httpx2.Response:
    """The answer of a service that is well."""
    data: list[dict[str, Any]] = []
    for index, text in enumerate(texts):
        vector = vector_of(text, DIMENSIONS)
        packed = base64.b64encode(vector.astype("<f4").tobytes()).decode()
        plain = body.get("encoding_format") != "base64"
        embedding: Any = vector.tolist() if plain else packed
        data.append({"object": "embedding", "index": index, "embedding": embedding})
    answer: dict[str, Any] = {"object": "list", "model": body["model"], "data": data}
    if usage is not None:
        answer["usage"] = {"prompt_tokens": usage, "total_tokens": usage}
    return httpx2.Response(200, json=answer)


def to_response(answer: Answer, headers: Mapping[str, str] | None = None) -> httpx2.Response:
    status, body = answer
    if isinstance(body, str):
        return httpx2.Response(status, text=body, headers=headers)
    return httpx2.Response(status, json=body, headers=headers)
