"""Requests in the form that a service wants: its fields, its headers, base64 or plain numbers."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cdc_embed.config.sections import EmbedderConfig
from cdc_embed.embed.dialect import Dialect
from cdc_embed.embed.http import HttpEmbedder
from cdc_embed.errors import (
    CdcEmbedError,
    EmbedderError,
    EmbedderUnavailableError,
    UnauthorizedError,
)

KEY = "sk-very-secret-0123456789"
Answer = Callable[[dict[str, Any]], httpx2.Response]


def configured(**fields: Any) -> EmbedderConfig:
    url = "http://service/v1/embeddings?api-version=2024-02-01"
    return EmbedderConfig(**{"kind": "http", "url": url, "model": "m", "dimensions": 2, **fields})


class Service:
    """Answers each request by a function of its body, and remembers what it was asked."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.asked: list[dict[str, Any]] = []
        self.requests: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        if request.method == "GET":
            return httpx2.Response(404)
        body = json.loads(request.content)
        self.requests.append(request)
        self.asked.append(body)
        return self._answer(body)

    @property
    def encodings(self) -> list[str | None]:
        return [body.get("encoding_format") for body in self.asked]


Make = Callable[..., HttpEmbedder]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """An embedder that asks a function in place of the network."""
    made: list[HttpEmbedder] = []
    client = httpx2.Client

    def make(
        service: Service, clock: Callable[[], float] = time.monotonic, **fields: Any
    ) -> HttpEmbedder:
        transport = httpx2.MockTransport(service)
        monkeypatch.setattr(httpx2, "Client", lambda **given: client(**given, transport=transport))
        made.append(HttpEmbedder(configured(**fields), clock=clock))
        return made[-1]

    yield make
    for embedder in made:
        embedder.close()


def vectors(body: dict[str, Any]) -> httpx2.Response:
    data = [{"index": place, "embedding": [1.0, 2.0]} for place in range(len(body["input"]))]
    return httpx2.Response(200, json={"data": data})


def without_base64(status: int) -> Answer:
    def answer(body: dict[str, Any]) -> httpx2.Response:
        if "encoding_format" in body:
            return httpx2.Response(status, json={"error": "unknown field encoding_format"})
        return vectors(body)

    return answer


@pytest.mark.parametrize("status", [400, 422])
def test_a_service_that_knows_no_base64_is_asked_without(make: Make, status: int) -> None:
    """Once, whatever is asked later."""
    service = Service(without_base64(status))
    embedder = make(service)
    embedder.embed(["a"])
    embedder.embed(["b", "c"])
    embedder.embed_query("d")
    assert service.encodings == ["base64", None, None, None]


def test_an_outage_that_is_over_is_not_taken_for_a_dialect(make: Make) -> None:
    answers = iter([500, 200, 200])
    service = Service(lambda body: vectors(body) if next(answers) == 200 else httpx2.Response(500))
    embedder = make(service)
    embedder.embed(["a"])
    embedder.embed(["b"])
    assert service.encodings == ["base64", None, "base64"]


def test_a_service_that_is_ill_from_base64_is_known_by_two(make: Make) -> None:
    service = Service(without_base64(500))
    embedder = make(service)
    for text in "abc":
        embedder.embed([text])
    assert service.encodings == ["base64", None, "base64", None, None]


def test_what_is_refused_in_both_forms_is_told_of_the_first(make: Make) -> None:
    said = iter(["the first reason", "the second one"])
    service = Service(lambda _: httpx2.Response(400, json={"error": next(said)}))
    with pytest.raises(CdcEmbedError, match="the first reason"):
        make(service).embed(["a text of the table"])
    assert service.encodings == ["base64", None]


def test_a_dialect_that_works_is_kept_when_a_text_is_refused(make: Make) -> None:
    answers = iter([200, 400])
    service = Service(lambda body: vectors(body) if next(answers) == 200 else httpx2.Response(400))
    embedder = make(service)
    embedder.embed(["a"])
    with pytest.raises(CdcEmbedError):
        embedder.embed(["b"])
    assert service.encodings == ["base64", "base64"]


@pytest.mark.parametrize(("chosen", "sent"), [("base64", "base64"), ("float", None)])
def test_a_chosen_encoding_is_the_only_one_tried(make: Make, chosen: str, sent: str | None) -> None:
    service = Service(lambda _: httpx2.Response(400))
    with pytest.raises(CdcEmbedError):
        make(service, encoding_format=chosen).embed(["a"])
    assert service.encodings == [sent]


def test_documents_and_questions_have_their_own_fields(make: Make) -> None:
    """NIM, Voyage and Cohere have models for both sides; the documents' fields are of the space."""
    service = Service(vectors)
    embedder = make(
        service, document_body={"input_type": "passage"}, query_body={"input_type": "query"}
    )
    embedder.embed(["a"])
    embedder.embed_query("b")
    assert [body["input_type"] for body in service.asked] == ["passage", "query"]
    assert embedder.describe().identity == 'http:m{"input_type":"passage"}'
    assert make(Service(vectors), query_body={"a": 1}).describe().identity == "http:m"


def test_the_order_of_fields_makes_no_other_space(make: Make) -> None:
    one = make(Service(vectors), document_body={"a": 1, "b": [2]})
    two = make(Service(vectors), document_body={"b": [2], "a": 1})
    assert one.describe().identity == two.describe().identity


def test_azure_is_asked_with_its_header_and_version(make: Make, tmp_path: Path) -> None:
    """https://learn.microsoft.com/azure/ai-services/openai/reference: api-key, api-version."""
    (tmp_path / "key").write_text(KEY)
    (tmp_path / "tenant").write_text("tenant-secret\n")
    service = Service(vectors)
    embedder = make(
        service,
        api_key_file=str(tmp_path / "key"),
        api_key_header="api-key",
        headers={"X-Team": "search"},
        header_files={"X-Tenant": str(tmp_path / "tenant")},
    )
    embedder.embed(["a"])
    (request,) = service.requests
    assert request.headers["api-key"] == KEY
    assert "authorization" not in request.headers
    assert request.headers["x-team"] == "search"
    assert request.headers["x-tenant"] == "tenant-secret"
    assert request.url.query == b"api-version=2024-02-01"


def test_no_error_shows_a_header_or_the_address_query(make: Make, tmp_path: Path) -> None:
    (tmp_path / "tenant").write_text("tenant-secret-0123456789")
    said = ["tenant-secret-0123456789", "team-secret-0123456789", "api-version=2024-02-01"]
    for secret in said:
        service = Service(lambda _, secret=secret: httpx2.Response(404, json={"error": secret}))  # type: ignore[misc]
        embedder = make(
            service,
            headers={"X-Team": "team-secret-0123456789"},
            header_files={"X-Tenant": str(tmp_path / "tenant")},
        )
        with pytest.raises(EmbedderError) as caught:
            embedder.embed(["a"])
        assert secret not in str(caught.value) + caught.value.hint


def with_key(key: str) -> Callable[[httpx2.Request], bool]:
    return lambda request: request.headers.get("authorization") == f"Bearer {key}"


class Guarded(Service):
    """Takes one key."""

    def __init__(self, key: str) -> None:
        super().__init__(vectors)
        self.key = key

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        answer = super().__call__(request)
        return answer if with_key(self.key)(request) else httpx2.Response(401)


def refused_to_all(embedder: HttpEmbedder) -> CdcEmbedError:
    """The error of a key that is refused for every text, and not only for this one."""
    with pytest.raises(UnauthorizedError, match="401") as caught:
        embedder.embed(["c"])
    return caught.value.for_all_texts


def test_a_rotated_key_is_read_again(make: Make, tmp_path: Path) -> None:
    """The file first, or the service first: at most a minute lies between the two."""
    path = tmp_path / "key"
    path.write_text("first")
    service, clock = Guarded("first"), [0.0]
    embedder = make(service, clock=lambda: clock[0], api_key_file=str(path))
    embedder.embed(["a"])
    path.write_text("second")
    service.key = "second"
    embedder.embed(["b"])
    service.key = "third"
    for clock[0] in (100.0, 130.0, 159.0):
        assert isinstance(refused_to_all(embedder), EmbedderUnavailableError)
    path.unlink()
    assert isinstance(refused_to_all(embedder), EmbedderUnavailableError)
    path.write_text("third\n")
    embedder.embed(["c"])
    service.key = "lost"
    clock[0] = 1000.0
    assert isinstance(refused_to_all(embedder), EmbedderUnavailableError)
    clock[0] = 1061.0
    assert isinstance(refused_to_all(embedder), EmbedderError)


def test_a_key_that_never_worked_is_wrong_at_once(make: Make, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("wrong")
    with pytest.raises(EmbedderError, match="401"):
        make(Guarded("right"), api_key_file=str(tmp_path / "key")).embed(["a"])


def test_a_header_that_cannot_be_sent_is_refused_unseen() -> None:
    with pytest.raises(EmbedderError) as caught:
        Dialect(configured(headers={"X-Team": "geheim-ß"}))
    assert "geheim" not in str(caught.value)


def test_without_a_key_a_header_of_your_own_can_authorize() -> None:
    dialect = Dialect(configured(headers={"Authorization": "Basic x"}))
    assert dialect.headers["Authorization"] == "Basic x"


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"document_body": {"input": "x"}}, "a key of its own"),
        ({"query_body": {"encoding_format": "float"}}, "a key of its own"),
        ({"headers": {"Bad Name": "x"}}, "name of an HTTP header"),
        ({"headers": {"Content-Length": "7"}}, "the request's own"),
        (
            {"headers": {"authorization": "Bearer x"}, "api_key_file": "/proc/version"},
            "given twice",
        ),
        ({"headers": {"X-Key": "x"}, "header_files": {"x-key": "/nowhere"}}, "given twice"),
        ({"header_files": {"X-Key": "/nowhere"}}, "header_files.X-Key cannot be read"),
    ],
)
def test_what_the_request_cannot_carry_is_named(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        configured(**fields)
