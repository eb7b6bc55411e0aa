"""Schemas as well-known applications have them, with the migrations that such projects write.

Each runs in two databases: in one nobody follows anything, in the other a service runs from the
first migration on. Every statement must end alike in both. Afterwards the vectors are right, or the
table is paused by name, and right after the way out that README gives.
"""

from collections.abc import Callable
from contextlib import closing
from typing import Any, NamedTuple

import psycopg2
import pytest

from tests.cases import cases
from tests.site import RunningService, Site, wait_until


class Shape(NamedTuple):
    """A schema, and what its application and its migrations do."""

    tables: tuple[str, ...]
    """The statements that make it."""
    follows: str
    """The configured tables."""
    steps: tuple[str | tuple[str, ...], ...]
    """Statements, each alone; or several in one transaction."""
    paused: str = ""
    """The table that is paused at the end."""
    then: str = ""
    """The configured tables after the way out, if it needs others."""


def entry(name: str, *texts: str, metadata: tuple[str, ...] = ()) -> str:
    listed, more = ", ".join(f'"{t}"' for t in texts), ", ".join(f'"{m}"' for m in metadata)
    return f'[[tables]]\nname = "{name}"\ntext = [{listed}]\nmetadata = [{more}]\n'


FORUM = Shape(
    tables=(
        "create table topics (id serial primary key, title varchar(100) not null)",
        "create table posts (id serial primary key, topic_id int not null references topics"
        " on delete cascade, raw text not null, likes int not null default 0, words tsvector)",
        "create function index_words() returns trigger language plpgsql as $$ begin"
        " new.words := to_tsvector('simple', new.raw); return new; end $$",
        "create trigger words before insert or update on posts"
        " for each row execute function index_words()",
        "insert into topics (title) select 'topic ' || n from generate_series(1, 3) n",
        "insert into posts (topic_id, raw) select 1 + n % 3, 'post ' || n from nine",
    ),
    follows=entry("posts", "raw", metadata=("topic_id",)) + entry("topics", "title"),
    steps=(
        "alter table posts add column edits int not null default 1, add column locale varchar(5)",
        "create index concurrently posts_by_likes on posts (likes desc, id)",
        "update posts set likes = likes + 1",
        "alter table posts add constraint short check (length(raw) < 1000) not valid",
        "alter table posts validate constraint short",
        ("drop trigger words on posts", "alter table posts drop column words"),
        "alter table posts add column words tsvector"
        " generated always as (to_tsvector('simple'::regconfig, raw)) stored",
        "create index posts_words on posts using gin (words)",
        "insert into posts (topic_id, raw) values (2, 'a late post') returning id",
        "update posts set raw = raw || ', edited', locale = 'en' where id % 2 = 0",
        "delete from topics where id = 3",
        "alter table topics alter column title type varchar(255)",
        "update topics set title = repeat('long ', 40) where id = 1",
        "select count(*) from posts where words @@ to_tsquery('simple', 'late')",
    ),
)
WIDER_KEY = Shape(
    tables=(
        "create table messages (id serial primary key, sender int, content text)",
        "insert into messages (sender, content) select n, 'message ' || n from nine",
    ),
    follows=entry("messages", "content", metadata=("sender",)),
    steps=(
        "alter table messages add column wide_id bigint",
        "create function copy_id() returns trigger language plpgsql as"
        " $$ begin new.wide_id := new.id; return new; end $$",
        "create trigger copy_id before insert on messages for each row execute function copy_id()",
        "insert into messages (sender, content) values (1, 'meanwhile')",
        "update messages set wide_id = id where wide_id is null and id < 5",
        "update messages set wide_id = id where wide_id is null",
        "create unique index concurrently messages_wide on messages (wide_id)",
        "alter table messages add constraint wide check (wide_id is not null) not valid",
        "alter table messages validate constraint wide",
        (
            "alter table messages alter wide_id set not null, drop constraint wide",
            "drop trigger copy_id on messages",
            "alter sequence messages_id_seq as bigint",
            "alter table messages drop constraint messages_pkey",
            "alter table messages rename id to narrow_id",
            "alter table messages rename wide_id to id",
            "alter table messages alter narrow_id drop default",
            "alter table messages alter id set default nextval('messages_id_seq')",
            "alter sequence messages_id_seq owned by messages.id",
            "alter table messages add primary key using index messages_wide",
            "alter table messages alter narrow_id drop not null",
        ),
        "update messages set content = content || '!' where id = 3",
        "delete from messages where id = 4",
        "insert into messages (id, content) values (5000000000, 'beyond')",
        "alter table messages drop column narrow_id",
        "update messages set content = content || '?' where id = 5",
    ),
    paused="public.messages",
)
FEEDS = Shape(
    tables=(
        "create type entry_status as enum ('unread', 'read')",
        "create table feeds (id bigserial primary key, url text not null unique)",
        "create table entries (id bigserial primary key, feed_id bigint not null references feeds"
        " on delete cascade, hash text not null, title text not null, content text,"
        " status entry_status default 'unread', unique (feed_id, hash))",
        "insert into feeds (url) values ('one'), ('two')",
        "insert into entries (feed_id, hash, title, content)"
        " select 1 + n % 2, md5(n::text), 'entry ' || n, 'content ' || n from nine",
    ),
    follows=entry("entries", "title", "content", metadata=("status",)),
    steps=(
        "alter type entry_status add value 'removed'",
        "update entries set status = 'removed' where id = 1",
        "alter table entries add starred bool default 'f', add share_code text not null default ''",
        "create unique index on entries (share_code) where share_code <> ''",
        (
            "alter table entries add changed int",
            "update entries set changed = id",
            "alter table entries alter changed set not null",
        ),
        "insert into entries (feed_id, hash, title, changed) values (1, md5('1'), 'again', 0)"
        " on conflict (feed_id, hash) do update set title = excluded.title returning id",
        "insert into entries (feed_id, hash, title, changed) values (2, md5('1'), 'twice', 0)"
        " on conflict (feed_id, hash) do update set title = excluded.title returning id",
        "alter type entry_status rename value 'removed' to 'gone'",
        "delete from feeds where id = 2",
        "select count(*) from entries where status = 'gone'",
    ),
)
UNDER_VIEWS = Shape(
    tables=(
        "create table post (id serial primary key, name varchar(20) not null, body text)",
        "create table vote (post_id int references post on delete cascade, score int)",
        "create view post_score as select p.*, (select sum(score) from vote where post_id = p.id)"
        " as score from post p",
        "create materialized view post_rank as select id, name, score from post_score",
        "create unique index on post_rank (id)",
        "insert into post (name, body) select 'post ' || n, 'body ' || n from nine",
        "insert into vote select 1 + n % 9, 1 from generate_series(1, 20) n",
    ),
    follows=entry("post", "name", "body"),
    steps=(
        "refresh materialized view concurrently post_rank",
        (
            "drop materialized view post_rank",
            "drop view post_score",
            "alter table post alter column name type varchar(200)",
            "create view post_score as select p.*, 0 as score from post p",
            "create materialized view post_rank as select * from post_score",
        ),
        "update post set name = repeat('n', 150) where id = 1",
        "alter table post add removed boolean default false not null",
        "update post_score set body = 'through the view' where id = 2",
        "delete from post where id = 3",
        "refresh materialized view post_rank",
        "select count(*) from post_rank where length(name) > 100",
    ),
)
RENAMED = Shape(
    tables=(
        "create table blog_entry (id bigint generated by default as identity primary key,"
        " headline varchar(50), body_text text, author varchar(30))",
        "insert into blog_entry (headline, body_text) select 'h ' || n, 'b ' || n from nine",
    ),
    follows=entry("blog_entry", "headline", "body_text"),
    steps=(
        "alter table blog_entry alter column headline type varchar(120)",
        "alter table blog_entry alter column author set default 'x'",
        "alter table blog_entry alter column author drop default",
        "alter table blog_entry rename column body_text to body",
        "insert into blog_entry (headline, body) values ('later', 'text')",
        "alter table blog_entry rename to article",
        "alter table article rename constraint blog_entry_pkey to article_pkey",
        "alter sequence blog_entry_id_seq rename to article_id_seq",
        "update article set body = 'new ' || body where id < 4",
        "delete from article where id = 9",
    ),
    paused="public.blog_entry",
    then=entry("article", "headline", "body"),
)
INTO_PARTITIONS = Shape(
    tables=(
        "create table events (id bigserial primary key, message text, level int)",
        "insert into events (message, level) select 'event ' || n, n % 3 from nine",
    ),
    follows=entry("events", "message", metadata=("level",)),
    steps=(
        "insert into events (message) values ('before')",
        (
            "alter table events rename to events_first",
            "alter index events_pkey rename to events_first_pkey",
            "create table events (like events_first including defaults including storage)"
            " partition by range (id)",
            "alter table events add primary key (id)",
            "alter table events_first add constraint old check (id between 1 and 999) not valid",
            "alter table events_first validate constraint old",
            "alter table events attach partition events_first for values from (1) to (1000)",
            "alter sequence events_id_seq owned by events.id",
        ),
        "create table events_next partition of events for values from (1000) to (2000)",
        "insert into events (id, message) values (1500, 'in a new partition')",
        "update events set message = 'updated ' || message where id < 3",
        "update events set id = 1001 where id = 4",
        "delete from events where id = 5",
        "insert into events (id, message) values (2500, 'nowhere')",
        "alter table events detach partition events_next",
        "alter table events attach partition events_next for values from (1000) to (3000)",
        "insert into events (id, message) values (2500, 'somewhere')",
    ),
    paused="public.events",
)
TENANTS = Shape(
    tables=(
        "create table conversations (id int primary key, account_id int not null, note text)",
        "insert into conversations select n, n % 3, 'note ' || n from nine",
    ),
    follows=entry("conversations", "note"),
    steps=(
        "create unique index concurrently by_account on conversations (account_id, id)",
        "alter table conversations drop constraint conversations_pkey,"
        " add constraint conversations_pkey primary key using index by_account",
        "insert into conversations values (1, 99, 'the same number elsewhere')",
        "update conversations set note = 'changed' where (account_id, id) = (1, 1)",
        "delete from conversations where (account_id, id) = (2, 2)",
        "update conversations set account_id = 50 where id = 3",
    ),
    paused="public.conversations",
)
TEXT_KEYS = Shape(
    tables=(
        "create table posts (id varchar(26) primary key, message varchar(100), props varchar(200))",
        "insert into posts select 'id' || n, 'message ' || n, '{}' from nine",
    ),
    follows=entry("posts", "message", metadata=("props",)),
    steps=(
        "alter table posts alter column message type varchar(65535)",
        "update posts set message = repeat('long ', 500) where id = 'id1'",
        "create index posts_message on posts using gin (to_tsvector('english', message))",
        "alter table posts add column is_pinned boolean, add column hashtags varchar(1000)",
        "insert into posts (id, message) values ('id1', 'x') on conflict (id) do update"
        " set message = posts.message || excluded.message",
        "insert into posts (id, message) values ('id1', 'x') on conflict do nothing",
        "insert into posts (id, message) values ('id1', 'x')",
        "alter table posts alter column props type jsonb using props::jsonb",
        "update posts set props = '{\"a\": 1}' where id = 'id2'",
        "update posts set id = 'other' where id = 'id3'",
        "alter table posts drop column hashtags",
    ),
    paused="public.posts",
)
COPIED = Shape(
    tables=(
        "create table notes (id int generated by default as identity primary key, body text)",
        "insert into notes (body) select 'note ' || n from nine",
    ),
    follows=entry("notes", "body"),
    steps=(
        "create table notes_copy (like notes including all)",
        "insert into notes_copy select * from notes where id <> 7",
        "insert into notes (body) values ('after the copy')",
        (
            "lock table notes in access exclusive mode",
            "insert into notes_copy select * from notes on conflict do nothing",
            "alter table notes rename to notes_gone",
            "alter table notes_copy rename to notes",
            "select setval(pg_get_serial_sequence('notes', 'id'), 1000)",
        ),
        "insert into notes (body) values ('in the copy') returning id",
        "update notes set body = 'changed' where id = 2",
        "drop table notes_gone",
        "delete from notes where id = 3",
    ),
    paused="public.notes",
)
WHOLE_IDENTITY = Shape(
    tables=(
        "create table pages (id int primary key, title text, body text)",
        "create table audit (page int, was text)",
        "create function audit_page() returns trigger language plpgsql as $$ begin"
        " insert into audit values (old.id, old.title); return null; end $$",
        "create trigger audit after update or delete on pages"
        " for each row execute function audit_page()",
        "insert into pages select n, 'title ' || n, 'body ' || n from nine",
    ),
    follows=entry("pages", "title", "body"),
    steps=(
        "alter table pages replica identity full",
        "update pages set title = 'whole' where id = 1",
        "alter table pages disable trigger audit",
        "delete from pages where id = 2",
        "alter table pages enable trigger audit",
        "alter table pages add slug text unique",
        "update pages set slug = 'p' || id",
        "alter table pages alter slug set not null",
        "merge into pages p using (values (3, 'merged'), (30, 'new')) v (id, title) on p.id = v.id"
        " when matched then update set title = v.title"
        " when not matched then insert (id, title, slug) values (v.id, v.title, 'new')",
        "with moved as (delete from pages where id = 4 returning *)"
        " insert into pages select id + 100, title, body, slug from moved",
        "alter table pages replica identity default",
        "update pages set body = null where id = 5",
        "select count(*) from audit",
    ),
)
DOMAINS = Shape(
    tables=(
        "create domain short_text as varchar(40) check (value <> '')",
        "create table tickets (id uuid primary key, subject short_text, detail jsonb, tags text[])",
        "insert into tickets select md5(n::text)::uuid, 'ticket ' || n, '{}', array['a'] from nine",
    ),
    follows=entry("tickets", "subject", metadata=("tags",)),
    steps=(
        "alter domain short_text drop constraint short_text_check",
        "alter domain short_text add constraint some check (length(value) < 30) not valid",
        "alter domain short_text validate constraint some",
        "update tickets set subject = '' where id = md5('1')::uuid",
        "alter table tickets alter column subject type text",
        "drop domain short_text",
        "update tickets set subject = repeat('long ', 30) where id = md5('2')::uuid",
        "alter table tickets alter column tags set default '{}'",
        "insert into tickets (id, subject) values (md5('n')::uuid, 'new')",
        "create index concurrently on tickets using gin (tags)",
        "update tickets set tags = tags || 'b'",
    ),
)
BULK = Shape(
    tables=(
        "create table products (sku text primary key, name text, price numeric(8, 2))",
        "create table prices (sku text references products on update cascade, price numeric)",
        "insert into products select 's' || n, 'product ' || n, n from nine",
        "insert into prices select sku, price from products",
    ),
    follows=entry("products", "name", metadata=("price",)),
    steps=(
        "update products set sku = 'new-' || sku where price < 4",
        "truncate prices, products restart identity",
        "insert into products select 's' || n, 'second ' || n, n from generate_series(1, 50) n",
        ("create temp table loaded on commit drop as select * from products where price > 45",
         "delete from products using loaded where products.sku = loaded.sku",
         "insert into products select sku, upper(name), price from loaded"),
        ("insert into products values ('gone', 'rolled back', 1)", "select 1 / 0"),
        "alter table products alter price type numeric(12, 4)",
        "cluster products using products_pkey",
        "vacuum full products",
        "alter table products set (autovacuum_enabled = false, fillfactor = 70)",
        "update products set name = name || ' again' where price < 3",
    ),
)  # fmt: skip
SHAPES = {
    "a forum with a search column": FORUM,
    "a key that outgrows int": WIDER_KEY,
    "feeds with an enum": FEEDS,
    "a table under views": UNDER_VIEWS,
    "renamed columns and tables": RENAMED,
    "a table into partitions": INTO_PARTITIONS,
    "a key with the tenant": TENANTS,
    "text keys and wider texts": TEXT_KEYS,
    "a copy in its place": COPIED,
    "the whole row as identity": WHOLE_IDENTITY,
    "domains, uuid, arrays": DOMAINS,
    "bulk loads and rewrites": BULK,
}


def run(site: Site, step: str | tuple[str, ...]) -> Any:
    """Run a step; return the SQLSTATE, the rows that the last statement touched, and its result."""
    with closing(psycopg2.connect(site.dsn)) as connection, connection.cursor() as cursor:
        connection.autocommit = isinstance(step, str)
        try:
            for statement in (step,) if isinstance(step, str) else step:
                cursor.execute(statement)
            if not connection.autocommit:
                connection.commit()
        except psycopg2.Error as exc:
            return exc.pgcode
        return cursor.rowcount, sorted(cursor.fetchall()) if cursor.description else []


def problem(service: RunningService, name: str) -> str:
    found = {each["name"]: each["problem"] for each in service.status()["tables"]}
    return found.get(name) or ""


def is_right(site: Site) -> bool:
    """Every row of every table has its vectors."""
    found = site.verify(expect=None)
    proven = all(table["checked"] and not table["problem"] for table in found["tables"])
    return not found["drift"] and not found["paused"] and proven


@pytest.mark.parametrize("name", cases(SHAPES, "a key that outgrows int", "feeds with an enum"))
def test_migrations_of_applications_end_as_without_us(
    make_site: Callable[..., Site], name: str
) -> None:
    shape = SHAPES[name]
    twin, site = make_site(18), make_site(18)
    for each in (twin, site):
        each.sql("create view nine as select generate_series(1, 9) as n")
        for statement in shape.tables:
            each.sql(statement)
    site.configure(tables=shape.follows)
    site.cli("setup")
    with site.service() as service:
        for step in shape.steps:
            expected = run(twin, step)
            assert run(site, step) == expected, step
        if shape.paused:  # and if no other table is followed, the service waits for setup
            wait_until(lambda: problem(service, shape.paused), "it is paused by name")
            if shape.then:
                assert service.stop() == 0
                site.configure(tables=shape.then)
            site.cli("setup", *(["--rebuild"] if shape.then else []))
        if service.alive:
            wait_until(lambda: is_right(site), "every row has its vectors")
            assert service.stop() == 0
    with site.service() as service:
        service.settle()
        assert is_right(site)
        assert service.stop() == 0
