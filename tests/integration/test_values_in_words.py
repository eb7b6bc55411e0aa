"""No value of a row in what the service says, whatever words a database or a model has for it."""

from typing import Final

import pytest

from tests.site import Site, wait_until

SECRET: Final = "s3cretword"
BY_CHECK: Final = (
    "alter table cdc_embed.documents_embedding add check (chunk_text::integer > 0) not valid"
)
TRIGGER: Final = """
create trigger refuse before insert on cdc_embed.documents_embedding
  for each row execute function public.refuse()
"""
BY_EXCEPTION: Final = """
create function public.refuse() returns trigger language plpgsql as
  $$ begin raise exception 'refused: %', new.chunk_text using errcode = '{state}',
     hint = new.chunk_text, detail = new.chunk_text, constraint = new.chunk_text; end $$;
"""
BY_DYNAMIC_SQL: Final = """
create function public.refuse() returns trigger language plpgsql as
  $$ begin execute format('select %L::integer + %s', new.chunk_text, new.chunk_text); end $$;
"""
BY_ASSERT: Final = """
create function public.refuse() returns trigger language plpgsql as
  $$ begin assert false, new.chunk_text; end $$;
"""


def test_a_dead_letter_has_no_value_of_its_row(site: Site) -> None:
    site.sql(BY_CHECK)
    with site.service() as service:
        site.sql(f"insert into documents values (1, '{SECRET}')")
        wait_until(
            lambda: site.value("select count(*) from cdc_embed.dead_letter"), "a dead letter"
        )
        error = site.value("select error from cdc_embed.dead_letter")
        assert SECRET not in error + "".join(service.output)
        assert SECRET not in site.cli("dlq", "list", "--json").stdout


@pytest.mark.parametrize(
    ("state", "function"),
    [
        *((state, BY_EXCEPTION.format(state=state)) for state in ("23514", "22023", "54000")),
        ("22P02", BY_DYNAMIC_SQL),
    ],
    ids=["23514", "22023", "54000", "dynamic SQL"],
)
def test_a_letter_has_no_words_of_a_function(site: Site, state: str, function: str) -> None:
    site.sql(function + TRIGGER)
    with site.service() as service:
        site.sql(f"insert into documents values (1, '{SECRET}')")
        wait_until(
            lambda: site.value("select count(*) from cdc_embed.dead_letter"), "a dead letter"
        )
        error = site.value("select error from cdc_embed.dead_letter")
        assert f"refuses it with SQLSTATE {state}" in error
        assert SECRET not in error + "".join(service.output)
        assert SECRET not in site.cli("dlq", "list", "--json").stdout
        assert SECRET not in site.cli("status", "--json", expect=None).stdout


@pytest.mark.parametrize(
    "function",
    [
        *(BY_EXCEPTION.format(state=state) for state in ("P0001", "09000", "42501", "2BP01")),
        BY_ASSERT,
    ],
    ids=["P0001", "09000", "42501", "2BP01", "assert"],
)
def test_an_exception_of_a_function_is_not_quoted(site: Site, function: str) -> None:
    site.sql(function + TRIGGER)
    site.sql(f"insert into documents values (1, '{SECRET}')")
    with site.service() as service:

        def said() -> str:
            return str(service.status()["waiting"])

        wait_until(lambda: "refuse, refuses it with SQLSTATE" in said(), "it is named")
        assert SECRET not in said() + "".join(service.output)
