"""The demo's script: an application in miniature, and the numbers that it finds.

It knows the service only from outside. It commits to the source, is told of commits in the target,
and reads the tables. The command starts the service.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from statistics import quantiles
from threading import Lock
from typing import Any, Final, Protocol

from pgvector import Vector

from cdc_embed.change.document import fingerprint
from cdc_embed.demo.corpus import Page
from cdc_embed.embed.base import Vectors
from cdc_embed.lsn import LSN
from cdc_embed.service import Committed

CREATE_TABLE: Final = """
create table documents (
  id    bigint primary key,
  title text not null,
  body  text not null,
  views integer not null default 0
)
"""
LOAD_SIZE: Final = 50
"""The number of documents in one of the application's own transactions."""
EDITS: Final = 20
"""The separate commits in a step whose latency is measured."""
STALL_SECONDS: Final = 120.0
"""The seconds without a commit after which the service is given up; a slow machine needs many for
the whole corpus, but few for one batch."""

QUESTIONS: Final = (
    "how do I parse command line arguments",
    "wait for several threads to finish",
    "compare two text files and show what differs",
)


class QueryModel(Protocol):
    def embed_query(self, text: str) -> Vectors: ...


@dataclass(slots=True)
class Arrivals:
    """The rows that the service committed, as it tells its listeners."""

    seconds: list[float] = field(default_factory=list)
    written: int = 0
    _lock: Lock = field(default_factory=Lock)

    def on_committed(self, committed: Sequence[Committed]) -> None:
        with self._lock:
            self.written += len(committed)
            self.seconds += [
                row.seconds for row in committed if row.op == "write" and row.seconds is not None
            ]

    def take_latencies(self) -> list[float]:
        """Return the latencies since the last call, in seconds."""
        with self._lock:
            seconds, self.seconds = self.seconds, []
        return seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The running service as the script sees it."""

    watched: Arrivals
    is_reflected: Callable[[LSN], bool]
    """Whether the target reflects the log up to a position, and the listeners were told."""
    embedded: Callable[[], int]
    """The texts that the model has embedded so far."""
    skipped: Callable[[], dict[str, int]]
    """The changes that needed no embedding so far, by reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """One thing that the application did, and its cost."""

    title: str
    changes: int
    embedded: int
    skipped: dict[str, int]
    seconds: list[float]


@dataclass(slots=True, kw_only=True)
class Report:
    """The demo's findings; ``contract`` is their JSON form."""

    documents: int = 0
    documents_per_second: float = 0.0
    steps: list[Edit] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    searches: list[dict[str, Any]] = field(default_factory=list)
    drift: int = 0

    @property
    def latencies(self) -> list[float]:
        """The commit-to-vector seconds of the separate edits, sorted."""
        return sorted(second for step in self.steps for second in step.seconds)

    def contract(self) -> dict[str, Any]:
        p50, p95 = percentiles(self.latencies)
        return {
            "documents": self.documents,
            "documents_per_second": round(self.documents_per_second, 1),
            "latency_seconds": {"p50": p50, "p95": p95},
            "skipped": self.skipped,
            "searches": self.searches,
            "drift": self.drift,
        }


class Script:
    """Plays the application against one database."""

    def __init__(self, connect: Callable[[], Any], view: View, model: QueryModel) -> None:
        self._connect = connect
        self._view = view
        self._model = model

    def load_pages(self, pages: Sequence[Page], on_progress: Callable[[int], None]) -> Report:
        """Insert the corpus through the running stream; return when every vector is there."""
        report = Report(documents=len(pages))
        began = time.perf_counter()
        with self._cursor() as cursor:
            for first in range(0, len(pages), LOAD_SIZE):
                rows = pages[first : first + LOAD_SIZE]
                values = [(first + n + 1, page.title, page.body) for n, page in enumerate(rows)]
                marks = ", ".join(["(%s, %s, %s)"] * len(values))
                cursor.execute(
                    f"insert into documents (id, title, body) values {marks}",
                    [value for row in values for value in row],
                )
            self._wait_until_reflected(cursor, lambda: on_progress(self._view.watched.written))
        on_progress(len(pages))
        report.documents_per_second = len(pages) / (time.perf_counter() - began)
        self._view.watched.take_latencies()
        return report

    def edit(self) -> Iterator[Edit]:
        """Edit the rows as an application would, one kind of change after the other."""
        edit = "update documents set body = body || ' Edited.' where id = %s"
        yield self._step("edit the text of 20 rows", [(edit, (n,)) for n in range(1, EDITS + 1)])
        yield self._step("count a view of every row", [("update documents set views = 1", ())])
        same = "update documents set body = body, title = title where id <= 100"
        yield self._step("save 100 rows with the same text", [(same, ())])
        yield self._step(
            "change the key of 10 rows",
            [("update documents set id = id + 1000000 where id between 101 and 110", ())],
        )
        yield self._step(
            "delete 10 rows", [("delete from documents where id between 111 and 120", ())]
        )
        hot = "update documents set body = 'Version ' || %s || ' of a hot row.' where id = 1"
        yield self._step(
            "save one row 30 times", [(hot, (str(n),)) for n in range(30)], together=True
        )

    def finish(self, report: Report) -> None:
        """Compare every row with what is stored, and search."""
        with self._cursor() as cursor:
            report.drift = _drift(cursor)
            report.searches = [_search(cursor, self._model, question) for question in QUESTIONS]
        report.skipped = self._view.skipped()

    def _step(
        self, title: str, statements: list[tuple[str, tuple[Any, ...]]], *, together: bool = False
    ) -> Edit:
        """Commit each statement by itself; unless ``together``, wait until each is reflected."""
        embedded, skipped = self._view.embedded(), self._view.skipped()
        changes = 0
        with self._cursor() as cursor:
            for statement, values in statements:
                cursor.execute(statement, values)
                changes += cursor.rowcount
                if not together:
                    self._wait_until_reflected(cursor)
            self._wait_until_reflected(cursor)
        now = self._view.skipped()
        seconds = self._view.watched.take_latencies()
        return Edit(
            title=title,
            changes=changes,
            embedded=self._view.embedded() - embedded,
            skipped={r: n - skipped.get(r, 0) for r, n in now.items() if n > skipped.get(r, 0)},
            seconds=seconds if len(statements) > 1 and not together else [],
        )

    def _wait_until_reflected(
        self, cursor: Any, on_wait: Callable[[], None] = lambda: None
    ) -> None:
        """Wait until everything that is committed now is reflected in the target."""
        cursor.execute("select pg_current_wal_lsn()::text")
        end = LSN.parse(cursor.fetchone()[0])
        wait_while_written(
            lambda: self._view.is_reflected(end), lambda: self._view.watched.written, on_wait
        )

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        with closing(self._connect()) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                yield cursor


def wait_while_written(
    is_done: Callable[[], bool],
    written: Callable[[], int],
    on_wait: Callable[[], None],
    *,
    stall: float = STALL_SECONDS,
) -> None:
    """Wait for as long as more is written; TimeoutError after ``stall`` seconds with nothing."""
    before, since = written(), time.perf_counter()
    while not is_done():
        on_wait()
        now = time.perf_counter()
        if (count := written()) != before:
            before, since = count, now
        elif now - since > stall:
            raise TimeoutError(f"the demo's service has written nothing for {stall:.0f} s")
        time.sleep(0.005)


def percentiles(seconds: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the 50th and the 95th percentile, in seconds; None without data."""
    if len(seconds) < 2:
        return None, None
    cuts = quantiles(seconds, n=20)
    return round(cuts[9], 4), round(cuts[18], 4)


def _drift(cursor: Any) -> int:
    """Count rows without the fingerprint of their text, and stored documents without a row."""
    cursor.execute(
        "select s.title, s.body, t.document_hash from documents s "
        "full join cdc_embed.documents_embedding t on t.id = s.id and t.chunk = 0"
    )
    return sum(
        digest is None or title is None or bytes(digest) != fingerprint(f"{title}\n\n{body}")
        for title, body, digest in cursor.fetchall()
    )


def _search(cursor: Any, model: QueryModel, question: str) -> dict[str, Any]:
    vector = model.embed_query(question)
    cursor.execute(
        "select s.title, t.embedding <=> %s::vector as distance "
        "from cdc_embed.documents_embedding t join documents s on s.id = t.id "
        "order by distance limit 1",
        (Vector(vector).to_text(),),
    )
    title, distance = cursor.fetchone()
    return {"query": question, "title": title, "distance": round(distance, 3)}
