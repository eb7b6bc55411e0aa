"""Functions and views of ours that other hands altered: ``setup`` makes them right again.

Some of it CREATE OR REPLACE refuses, such as another name of a parameter.
"""

from collections.abc import Callable

import pytest

from tests.cases import cases
from tests.site import Site

ANOTHER = "create or replace function cdc_embed.visible_documents({}) returns {} language sql as {}"
GONE = "drop function cdc_embed.visible_documents cascade; "
VIEW = "create view cdc_embed.documents_search as select {} from cdc_embed.documents_embedding"
OURS = "'/* made by cdc_embed */ select true'"
ALTERED = {
    "a named parameter": ANOTHER.format("id bigint", "boolean", "'select true'"),
    "a default": ANOTHER.format("bigint default 1", "boolean", "'select true'"),
    "another result": GONE
    + ANOTHER.format("bigint", "int", "'select 1'")
    + ";"
    + VIEW.format("id")
    + " where cdc_embed.visible_documents(id) = 1",
    "another result without a view": GONE + ANOTHER.format("bigint", "int", OURS[:-5] + "1'"),
    "a named parameter without a view": GONE + ANOTHER.format("id bigint", "boolean", OURS),
    "another language": "create or replace function cdc_embed.visible_documents(bigint) returns "
    "boolean language plpgsql as 'begin return true; end'",
    "the rights of its owner": "alter function cdc_embed.visible_documents security definer",
    "a setting": "alter function cdc_embed.visible_documents set search_path = public",
    "another type in the view": "drop view cdc_embed.documents_search;"
    + VIEW.format("id::int as id, chunk, embedding, chunk_text as text, embedded_at"),
    "other columns in the view": "drop view cdc_embed.documents_search;"
    + VIEW.format("id, chunk, chunk_text as my_text"),
    "a view that reads as its owner": "alter view cdc_embed.documents_search "
    "reset (security_invoker)",
    "a view of every row": "create or replace "
    + VIEW[len("create ") :]
    .format("id, chunk, embedding, chunk_text as text, embedded_at")
    .replace(" as select", " with (security_invoker = true) as select", 1),
}


@pytest.mark.parametrize(
    "name",
    cases(
        ALTERED,
        "a named parameter",
        "another result",
        "a named parameter without a view",
        "the rights of its owner",
        "another type in the view",
        "a view that reads as its owner",
    ),
)
def test_setup_makes_what_was_altered_as_it_was(make_site: Callable[..., Site], name: str) -> None:
    site = make_site(18)
    site.sql("create table documents (id bigint primary key, title text, body text)")
    site.sql("alter table documents enable row level security")
    site.configure()
    site.cli("setup")
    described = (
        "select pg_get_viewdef('cdc_embed.documents_search'::regclass), "
        "(select reloptions from pg_class where oid = 'cdc_embed.documents_search'::regclass), "
        "pg_get_functiondef('cdc_embed.visible_documents'::regproc), "
        "(select array_agg(polname order by polname) from pg_policy)"
    )
    before = site.sql(described)
    site.sql(ALTERED[name])
    assert "cdc-embed setup" in site.cli("doctor", expect=None).stdout
    site.cli("setup")
    assert site.sql(described) == before
    site.cli("doctor")
    assert "nothing to do" in site.cli("setup").stderr


MOVED = {
    "renamed": (
        "alter view cdc_embed.documents_search rename to x",
        "alter view cdc_embed.x rename to documents_search;",
    ),
    "moved": (
        "alter view cdc_embed.documents_search set schema public",
        "alter view public.documents_search set schema cdc_embed;",
    ),
}


@pytest.mark.parametrize("name", MOVED)
def test_a_renamed_search_view_is_named_with_the_way_back(site: Site, name: str) -> None:
    moved, back = MOVED[name]
    site.sql(moved)
    told = site.cli("doctor").stdout
    assert "its search view cdc_embed.documents_search was renamed to" in told
    assert back in told
    site.sql(back)
    assert "was renamed to" not in site.cli("doctor").stdout
    assert "nothing to do" in site.cli("setup").stderr
