"""No value of a row in what the service says, whatever words a database or a model has for it."""

from typing import Final

from tests.site import Site, wait_until

SECRET: Final = "s3cretword"
BY_CHECK: Final = (
    "alter table cdc_embed.documents_embedding add check (chunk_text::integer > 0) not valid"
)
BY_EXCEPTION: Final = """
create function public.refuse() returns trigger language plpgsql as
  $$ begin raise exception 'refused: %', new.chunk_text; end $$;
create trigger refuse before insert on cdc_embed.documents_embedding
  for each row execute function public.refuse()
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


def test_an_exception_of_a_function_is_not_quoted(site: Site) -> None:
    site.sql(BY_EXCEPTION)
    site.sql(f"insert into documents values (1, '{SECRET}')")
    done = site.cli("run", expect=4)
    assert "a function of the database refuses it" in done.stderr
    assert SECRET not in done.stderr + done.stdout
