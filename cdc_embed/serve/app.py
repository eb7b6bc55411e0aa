"""The web side of a service: metrics, health, status.

``/metrics``, ``/livez`` and ``/readyz`` answer any Host, because probes ask by address. The rest
answers only the configured names, so that no page in a browser can ask in another's name.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import orjson
import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from cdc_embed.errors import ConfigError
from cdc_embed.serve.limited import BACKLOG, limited_to

START_SECONDS: Final = 10.0
LOCAL_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})


def host_in_url(host: str) -> str:
    """Write a host as in a URL and a Host header, an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """The functions that answer; from memory, never from a database."""

    registry: CollectorRegistry
    problem_alive: Callable[[], str | None]
    """A function that gives the reason to restart the process; None while it is alive."""
    problem_ready: Callable[[], str | None]
    """A function that gives the reason why it does no useful work now; None while it does."""
    status: Callable[[], Mapping[str, Any]]


def make_app(answers: Endpoints, allowed_hosts: frozenset[str]) -> Starlette:
    """Make the application; ``allowed_hosts`` are names for ``/status``, without a port."""

    def metrics(_: Request) -> Response:
        return Response(generate_latest(answers.registry), media_type=CONTENT_TYPE_LATEST)

    def livez(_: Request) -> Response:
        return _health(answers.problem_alive())

    def readyz(_: Request) -> Response:
        return _health(answers.problem_ready())

    def status(request: Request) -> Response:
        host = request.headers.get("host", "")
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        if name not in allowed_hosts:
            return PlainTextResponse("this Host is not in serve.allowed_hosts\n", 421)
        return Response(orjson.dumps(dict(answers.status())), media_type="application/json")

    return Starlette(
        routes=[
            Route("/metrics", metrics),
            Route("/livez", livez),
            Route("/readyz", readyz),
            Route("/status", status),
        ]
    )


@contextmanager
def serving(app: Starlette, host: str, port: int, idle_seconds: float) -> Iterator[int]:
    """Serve in a thread while the context lasts; give the port.

    ``port``: 0 requests a free one; ``idle_seconds``: the time that a connection has to make a
    request.
    """
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=limited_to(idle_seconds),
        backlog=BACKLOG,
        log_config=None,
        access_log=False,
        lifespan="off",
    )
    try:
        listener = config.bind_socket()
    except SystemExit:
        raise ConfigError(
            where="serve",
            problem=f"cannot listen on {host}:{port}, something else does",
            hint="set serve.port to a free port, or to 0",
        ) from None
    server = uvicorn.Server(config)
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listener]}, name="web", daemon=True
    )
    thread.start()
    deadline = time.monotonic() + START_SECONDS
    while not server.started and thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.005)  # uvicorn shows its start by a flag only
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(START_SECONDS)
        listener.close()


def _health(problem: str | None) -> Response:
    if problem is None:
        return PlainTextResponse("ok\n")
    return PlainTextResponse(f"{problem}\n", 503)
