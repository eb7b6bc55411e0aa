"""One running service with tables of every kind, shared by all cases of a kind of source."""

from dataclasses import dataclass
from typing import Final

from cdc_embed.lsn import LSN
from tests.oracle import Documents, drift
from tests.site import EmbeddingServer, RunningService, Site, wait_until

SCHEMA: Final = """
create type mood as enum ('glad', 'sad');
create domain label as varchar(40) check (value <> 'forbidden');
create function big(seed int) returns text language sql immutable
  return (select string_agg(md5((seed * 1000 + n)::text), ' ') from generate_series(1, 200) n);
create table documents (id bigint primary key, title text, body text, views integer default 0);
create table scratch (like documents including all);
create table bodies (id bigint primary key, body text, views integer default 0);
create table whole (like documents including all);
alter table whole replica identity full;
create table pairs (a integer, b text, title text, body text, views integer, primary key (a, b));
create table words (id text primary key, title text, body text, views integer);
create table moods (id integer primary key, title label, body mood);
create table sums (
  id integer primary key, title text, body text,
  size integer generated always as (length(body)) stored
);
create table notes (id integer generated always as identity primary key, title text, body text);
create table replies (
  id integer generated always as identity primary key, title text, body text,
  note integer references notes
);
create table events (
  id integer, day date, title text, body text, views integer, primary key (id, day)
) partition by range (day);
create table january partition of events for values from ('2024-01-01') to ('2024-02-01');
create table february partition of events for values from ('2024-02-01') to ('2024-03-01');
create table rest_of_year partition of events for values from ('2024-03-01') to ('2025-01-01')
  partition by range (day);
create table spring partition of rest_of_year for values from ('2024-03-01') to ('2024-06-01');
create table autumn_and_later partition of rest_of_year default;
create table blockers (id integer primary key, title text, body text);
alter table documents alter body set storage external;
alter table bodies alter body set storage external;
alter table whole alter body set storage external;
alter table pairs alter body set storage external;
alter table words alter body set storage external
"""
"""``big`` is stored out of line: an update of another column leaves it out of the log. A table that
is truncated or rewritten is compared again some time later: that is what ``scratch`` is for."""
WITHOUT_AUTOVACUUM: Final = """
do $$ declare r record; begin
  for r in select oid::regclass as name from pg_class
           where relkind = 'r' and relnamespace = 'public'::regnamespace loop
    execute format('alter table %s set (autovacuum_enabled = false)', r.name);
  end loop;
end $$
"""
"""After it ANALYZEs a table its Relation is sent again, and reading pauses: at any moment."""

TABLES: Final = {
    "documents": Documents(name="documents"),
    "scratch": Documents(name="scratch"),
    "bodies": Documents(name="bodies", text=("body",)),
    "whole": Documents(name="whole"),
    "pairs": Documents(name="pairs", key=("a", "b")),
    "words": Documents(name="words"),
    "moods": Documents(name="moods"),
    "sums": Documents(name="sums"),
    "replies": Documents(name="replies"),
    "notes": Documents(name="notes"),
    "blockers": Documents(name="blockers"),
}
A_DAY_OF_EACH_PARTITION: Final = ("2024-01-01", "2024-02-01", "2024-03-01", "2024-12-31")
PARTITIONED: Final = {"events": Documents(name="events", key=("id", "day"))}


@dataclass(frozen=True, kw_only=True)
class Case:
    given: tuple[str, ...] = ()
    when: tuple[str, ...]
    texts: int
    """Texts embedded when all of it is one batch."""
    alone: int | range | None = None
    """When each transaction comes by itself, where that is another number; a range where it
    depends on how much of a transaction is there when its first change is taken."""
    pauses: bool = False
    """Some frame has no position, so that reading pauses (a new Relation, an origin) and there
    are several batches; not with wal2json, whose frames all have one."""


class Stage:
    """One service that all cases of a source share."""

    def __init__(self, site: Site, embedder: EmbeddingServer, *, partitions: bool) -> None:
        self.site = site
        self.embedder = embedder
        self._tables = TABLES | (PARTITIONED if partitions else {})
        site.sql(SCHEMA)
        site.sql(WITHOUT_AUTOVACUUM)
        site.configure(
            tables="".join(
                f'[[tables]]\nname = "{name}"\ntext = {list(table.text)}\n'
                "chunk = { max_tokens = 100000 }\n"
                for name, table in self._tables.items()
            ),
            embedder=embedder.configuration + "\ndimensions = 8\nconcurrency = 1\n",
            more='[index]\nkind = "none"\n',
        )
        site.cli("setup")
        self._start()
        for _ in self._tables:
            self._service.wait_for("reconciled")
        # the first write makes a schema of temporary tables, and that has every Relation sent again
        self.site.sql("insert into documents values (1, 'a', 'text')")
        self._service.settle()

    def _start(self) -> None:
        self._service = RunningService(self.site)

    @property
    def service(self) -> RunningService:
        """The service; a new one where a case has ended it."""
        if not self._service.alive:
            self._service.end()
            self._start()
        return self._service

    def close(self) -> None:
        self._service.end()

    def clear(self) -> None:
        """Empty every table, and have each Relation announced, those of partitions too.

        Reading pauses after one. No fault of a case that failed is left.
        """
        self.embedder.faults()
        keyed = ("documents", "scratch", "bodies", "whole", "moods", "sums", "blockers")
        touch = [
            *(f"insert into {name} (id) values (0)" for name in keyed),
            "insert into words (id) values ('')",
            "insert into pairs (a, b) values (0, '')",
            "insert into notes default values",
            "insert into replies default values",
            *(f"insert into events values (0, '{day}')" for day in A_DAY_OF_EACH_PARTITION),
        ]
        empty = [f"delete from {name}" for name in TABLES | PARTITIONED]
        self.site.sql("; ".join([*empty, *touch, *empty]))

    def settle(self) -> None:
        """Let all that was done be reflected, then forget what was counted."""
        self.service.settle()
        self.embedder.reset()

    def run(self, *transactions: str) -> int:
        """Texts embedded for these transactions, each of them settled before the next."""
        for transaction in transactions:
            self.site.sql(transaction)
            self.service.settle()
        return self.embedder.texts()

    def run_at_once(self, *transactions: str, pauses: bool = False) -> int:
        """Texts embedded for these transactions, all of them in one batch.

        The embedder is held at another text until all of them have been received; with ``pauses``
        until all have been sent, as reading waits for what is being embedded.
        """
        self.embedder.faults(hang=60)
        self.site.sql("insert into blockers values (1, 'a text', 'that takes its time')")
        wait_until(lambda: self.embedder.counts()["in_flight"], "the embedder is busy")
        for transaction in transactions:
            self.site.sql(transaction)
        end = LSN.parse(self.site.value("select pg_current_wal_lsn()::text"))
        arrived = self._sent if pauses else self._received
        wait_until(lambda: arrived() >= end, "all of it has come")
        self.embedder.faults()
        self.service.settle()
        return self.embedder.texts() - 1

    def _received(self) -> LSN:
        return LSN.parse(self.service.status()["lsn"]["received"])

    def _sent(self) -> LSN:
        return LSN.parse(
            self.site.value(
                "select sent_lsn::text from pg_stat_replication join pg_replication_slots "
                "on active_pid = pid where slot_name = %s",
                self.site.name,
            )
        )

    def drift(self) -> dict[str, list[str]]:
        return drift(self.site, self._tables.values())
