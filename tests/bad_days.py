"""Bad days of an embedding service: what happens to its calls, and what must come of it.

A ``Day`` begins anew for each test, so its counters are in closures.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from math import inf
from random import Random
from typing import Any, Final

import httpx2

from cdc_embed.embed.base import PROBE
from tests.dialects import (
    Answer,
    FakeService,
    Fault,
    openai_error,
    to_response,
    tokens_of,
    vectors_for,
)

BAD: Final = "bad text"
"""The beginning of the texts that deserve a letter."""
FEW: Final = 20
"""The texts of a call on a day on which few are taken."""
PERMITS: Final = 40
"""The texts of all calls at once."""
HTML: Final = "<html><title>It works!</title></html>"


@dataclass(frozen=True, kw_only=True)
class Day:
    """One bad day."""

    fault: Callable[[], Fault]
    settings: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    """The reason of the bad text's letter; "": there is no bad text, and no letter."""
    bad: int = 1
    """The number of bad texts, if there is a reason."""
    within: float
    """Seconds after which everything is done."""
    calls: int | None = None
    """The calls that it can spoil at the most, however often it is asked; None: any number."""
    takes: float = inf
    """Texts of a call that the service can take on this day."""
    texts: int = 300
    rate: int = 64
    """Texts that it can be given in a second, beside some others."""
    served: float = 5.0
    """Seconds within which a text of another table has its vector."""
    proofs: float = 1.0
    """The known-good texts for each call that it spoils."""
    held: bool = False
    """Our own limits hold texts back."""


def quiet() -> Fault:
    return lambda _service, _request, _texts: None


def away(seconds: float, answer: Callable[[FakeService], Answer | httpx2.Response]) -> Fault:
    """Once it has worked, it answers so for a while."""
    began: list[float] = []

    def fault(service: FakeService, _: httpx2.Request, __: list[str]) -> Any:
        if not began:
            began.append(service.clock.now)
        until = began[0] + seconds if began else -inf
        return answer(service) if service.clock.now < until else None

    return fault


def reset(_: FakeService) -> httpx2.Response:
    raise httpx2.ReadError("Connection reset by peer")


def hung(service: FakeService) -> httpx2.Response:
    service.clock.sleep(1.0)
    raise httpx2.ReadTimeout("timed out")


def limited(service: FakeService) -> httpx2.Response:
    return to_response(service.dialect.overloaded, {"Retry-After": "20"})


def asking(service: FakeService) -> httpx2.Response:
    return to_response(service.dialect.ill, {"Retry-After": "60"})


def slow(answer: Answer | None) -> Fault:
    """One lock, 0.1 s a text, a limit of 1 s: what nobody waits for any more is worked off."""
    free = [0.0]

    def fault(service: FakeService, _: httpx2.Request, texts: list[str]) -> Any:
        clock = service.clock
        began = max(clock.now, free[0])
        free[0] = began + 0.1 * len(texts)
        if free[0] - clock.now <= 1.0:
            clock.sleep(free[0] - clock.now)
            return None
        clock.sleep(1.0)
        if answer is None:
            raise httpx2.ReadTimeout("timed out")
        return answer

    return fault


def one_text(answer: Callable[[FakeService], Answer | httpx2.Response]) -> Fault:
    """A call with the bad text gets this, whatever else it has."""

    def fault(service: FakeService, _: httpx2.Request, texts: list[str]) -> Any:
        bad = any(text.startswith(BAD) for text in texts)
        return answer(service) if bad else None

    return fault


def no_vector(number: float | None) -> Fault:
    """The vector of the bad text is of such numbers, with 200 OK."""

    def fault(_: FakeService, __: httpx2.Request, texts: list[str]) -> Any:
        if not any(text.startswith(BAD) for text in texts):
            return None
        data = [
            {"index": n, "embedding": [number if text.startswith(BAD) else 1.0] * 8}
            for n, text in enumerate(texts)
        ]
        return 200, {"data": data}

    return fault


def one_of_two(answer: Callable[[list[str]], Answer | httpx2.Response]) -> Fault:
    """Every other call goes to a broken server behind the same address."""
    calls = count()

    def fault(_: FakeService, __: httpx2.Request, texts: list[str]) -> Any:
        return answer(texts) if next(calls) % 2 else None

    return fault


def one_of_at_random(
    servers: int, answer: Callable[[FakeService], Answer | httpx2.Response], seed: int = 1
) -> Fault:
    """A part of the calls, in no order, goes to a broken server."""
    random = Random(seed)
    return lambda service, _, __: answer(service) if random.random() < 1 / servers else None


one_of_two_at_random = partial(one_of_at_random, 2)


def hanging(servers: int, seconds: float) -> Fault:
    """One of several servers never answers, and so long each call waits for it."""
    calls = count()

    def fault(service: FakeService, _: httpx2.Request, __: list[str]) -> Any:
        if next(calls) % servers:
            return None
        service.clock.sleep(seconds)
        raise httpx2.ReadTimeout("timed out")

    return fault


def bad_text_and_server() -> Fault:
    """One text always fails, and every other call goes to a broken server."""
    text, server = one_text(lambda s: s.dialect.ill), one_of_two(lambda _: (500, "no memory"))

    def fault(service: FakeService, request: httpx2.Request, texts: list[str]) -> Any:
        return server(service, request, texts) or text(service, request, texts)

    return fault


def cached() -> Fault:
    """A gateway keeps the answers of the good days; what is behind it is away for ten minutes."""
    out = away(600.0, lambda s: s.dialect.ill)

    def fault(service: FakeService, request: httpx2.Request, texts: list[str]) -> Any:
        return None if {*texts} == {PROBE} else out(service, request, texts)

    return fault


def many_texts(service: FakeService, _: httpx2.Request, texts: list[str]) -> Any:
    """It has permits for a few texts, and one for each text of a call: TEI."""
    return service.dialect.overloaded if len(texts) > FEW else None


def few_vectors(texts: list[str]) -> Answer:
    return 200, {"data": [{"index": n, "embedding": [1.0] * 8} for n in range(len(texts) + 1)]}


def wide_vectors(texts: list[str]) -> Answer:
    return 200, {"data": [{"index": n, "embedding": [1.0] * 9} for n in range(len(texts))]}


def zeros(texts: list[str]) -> Any:
    return {"data": [{"index": n, "embedding": [0.0] * 8} for n in range(len(texts))]}


def little_memory() -> Fault:
    """The model has memory for 4,000 characters; 424 and 500 say so, not 413."""

    def fault(service: FakeService, _: httpx2.Request, texts: list[str]) -> Any:
        return service.dialect.ill if sum(map(len, texts)) > 4000 else None

    return fault


def by_the_minute(limit: int) -> Fault:
    """The tokens of the last minute; a call with more of its own never passes."""
    taken: list[tuple[float, int]] = []

    def fault(service: FakeService, _: httpx2.Request, texts: list[str]) -> Any:
        now, wanted = service.clock.now, sum(map(tokens_of, texts))
        used = sum(tokens for at, tokens in taken if at > now - 60.0 + 1e-6)
        if wanted > limit:
            said = f"Request too large on tokens per min (TPM): Limit {limit}, Requested {wanted}"
            return openai_error(429, said, "tokens", "rate_limit_exceeded")
        if used + wanted > limit:
            return to_response(service.dialect.overloaded)
        taken.append((now, wanted))
        return None

    return fault


def no_room() -> Fault:
    """Others use the service: for five minutes its queue has no room for one text (vLLM's
    ``--max-num-queued-tokens``), and then for every one."""
    full = away(300.0, lambda s: s.dialect.overloaded)

    def fault(service: FakeService, request: httpx2.Request, texts: list[str]) -> Any:
        long = any(text.startswith("text number 7 ") for text in texts)
        return full(service, request, texts) if long else None

    return fault


def few_at_once() -> Fault:
    """TEI's permits: one for each text of each call, which lasts a fifth of a second."""
    here = [0]

    def fault(service: FakeService, _: httpx2.Request, texts: list[str]) -> Any:
        if here[0] + len(texts) > PERMITS:
            return service.dialect.overloaded
        here[0] += len(texts)
        service.clock.sleep(0.2)
        here[0] -= len(texts)
        return None

    return fault


def spent_by(answer: Answer) -> Callable[[], Fault]:
    return lambda: away(3600.0, lambda _: answer)


DAYS: Final[dict[str, Day]] = {
    "a good day": Day(fault=quiet, within=1.0, texts=4000),
    "away for ten minutes": Day(fault=lambda: away(600.0, lambda s: s.dialect.ill), within=700.0),
    "its connections are reset": Day(fault=lambda: away(60.0, reset), within=130.0),
    "overloaded, and says when to return": Day(fault=lambda: away(60.0, limited), within=90.0),
    "overloaded, and says nothing": Day(
        fault=lambda: away(60.0, lambda s: s.dialect.overloaded), within=130.0
    ),
    "slow": Day(
        fault=lambda: slow(None), settings={"timeout": "1s"}, within=180.0, takes=10, rate=4
    ),
    "slow behind a proxy": Day(
        fault=lambda: slow((504, "<html>504 Gateway Time-out</html>")),
        within=180.0, takes=10, rate=4,
    ),
    "one text always fails": Day(
        fault=lambda: one_text(lambda s: s.dialect.ill), reason="server_error", within=120.0,
    ),
    "one text always asks for a minute": Day(
        fault=lambda: one_text(asking), reason="server_error", within=400.0,
        served=70.0,
    ),
    "a hundred texts always fail": Day(
        fault=lambda: one_text(lambda s: s.dialect.ill), reason="server_error", bad=100,
        within=400.0, served=40.0, proofs=1.5,
    ),
    "no room for one text for five minutes": Day(
        fault=no_room, within=400.0, proofs=1.5,
    ),
    "one text is always refused": Day(
        fault=lambda: one_text(lambda _: (400, {"error": "invalid input"})), reason="refused",
        within=1.0,
    ),
    "one text gets zeros": Day(
        fault=lambda: no_vector(0.0), reason="refused", within=1.0
    ),
    "one text gets null": Day(fault=lambda: no_vector(None), reason="refused", within=1.0),
    "refuses everything for a minute": Day(
        fault=lambda: away(60.0, lambda _: (400, {"error": "bad gateway configuration"})),
        within=130.0,
    ),
    "zeros for a minute": Day(
        fault=lambda: away(60.0, lambda s: (200, zeros(s.calls[-1].texts))), within=130.0
    ),
    "too large for a minute": Day(
        fault=lambda: by_the_minute(10_000),
        settings={"tokens_per_minute": 10_000}, within=260.0, texts=1500, calls=0, takes=600,
        held=True,
    ),
    "six calls a minute of ours": Day(
        fault=quiet, settings={"requests_per_minute": 6}, within=110.0, calls=0, held=True
    ),
    "away for ten minutes, behind a limit of ours": Day(
        fault=lambda: away(600.0, lambda s: s.dialect.ill),
        settings={"requests_per_minute": 60}, within=700.0, held=True,
    ),
    "few texts at once": Day(
        fault=few_at_once, settings={"max_batch": 32}, within=10.0, rate=32
    ),
    "no money for an hour": Day(
        fault=spent_by((402, {"error": {"message": "Insufficient balance"}})), within=3900.0
    ),
    "no quota for an hour": Day(
        fault=spent_by(openai_error(429, "quota", "insufficient_quota", "insufficient_quota")),
        within=3900.0,
    ),
    "not found for a minute": Day(
        fault=lambda: away(60.0, lambda _: (404, {"error": "no such model"})), within=130.0
    ),
    "redirected for a minute": Day(
        fault=lambda: away(60.0, lambda _: to_response((302, ""), {"Location": "/login"})),
        within=130.0,
    ),
    "another method for a minute": Day(fault=lambda: away(60.0, lambda _: (405, "")),
                                       within=130.0),
    "little memory": Day(fault=little_memory, within=60.0, takes=80, texts=1000),
    "one server of two answers pages": Day(
        fault=lambda: one_of_two(lambda _: (200, HTML)), within=60.0,
        served=20.0,
    ),
    "one server of two counts wrong": Day(fault=lambda: one_of_two(few_vectors), within=60.0,
        served=20.0),
    "one server of two is another model": Day(fault=lambda: one_of_two(wide_vectors), within=60.0,
        served=20.0),
    "one server of two refuses": Day(
        fault=lambda: one_of_two(lambda _: (400, {"error": "no such model"})), within=60.0,
        served=20.0,
    ),
    "one server of two gives zeros": Day(
        fault=lambda: one_of_two(lambda texts: (200, zeros(texts))), within=60.0,
        served=20.0,
    ),
    "one server of two fails": Day(
        fault=lambda: one_of_two(lambda _: (500, {"error": "no memory"})), within=60.0,
        served=20.0,
    ),
    "one server of two refuses at random": Day(
        fault=lambda: one_of_two_at_random(lambda _: (400, {"error": "no such model"})),
        within=180.0, served=20.0,
    ),
    "one server of two gives zeros at random": Day(
        fault=lambda: one_of_two_at_random(lambda s: (200, zeros(s.calls[-1].texts))),
        within=180.0, served=20.0,
    ),
    "one server of two fails at random": Day(
        fault=lambda: one_of_two_at_random(lambda s: s.dialect.ill), within=180.0,
        served=40.0,
    ),
    "one text always hangs": Day(
        fault=lambda: one_text(hung), settings={"timeout": "1s"}, reason="timeout", within=150.0,
        served=20.0,
    ),
    "one server of two hangs": Day(
        fault=lambda: hanging(2, 1.0), settings={"timeout": "1s"}, within=30.0, served=60.0,
    ),
    "one server of three hangs for half a minute": Day(
        fault=lambda: hanging(3, 30.0), within=600.0, served=600.0, proofs=1.5,
    ),
    "one server of three fails at random": Day(
        fault=lambda: one_of_at_random(3, lambda s: s.dialect.ill), within=60.0, served=40.0,
    ),
    "one text fails, and one server of two": Day(
        fault=bad_text_and_server, reason="server_error", within=1000.0, served=90.0,
    ),
    "away behind a gateway with a cache": Day(fault=cached, within=700.0),
    "one server of two asks for a minute": Day(
        fault=lambda: one_of_two(lambda _: to_response((503, "<html>"), {"Retry-After": "60"})),
        within=180.0, served=90.0,
    ),
    "one text ends its connection": Day(
        fault=lambda: one_text(reset), reason="server_error", within=120.0
    ),
    "a firewall forbids one text": Day(
        fault=lambda: one_text(lambda _: (403, "<html>blocked</html>")), reason="refused",
        within=1.0,
    ),
    "overloaded by more than a few texts": Day(
        fault=lambda: many_texts, within=60.0, takes=FEW, texts=1000
    ),
}  # fmt: skip
"""By name; issue numbers of the tracker are in the commit."""

__all__ = ["BAD", "DAYS", "Day", "vectors_for"]
