"""Targets that fail: statements in the target itself raise what they are told to."""

from tests.site import Site


def fail(
    site: Site, state: str, times: int = 1, *, on: str = "insert on cdc_embed.documents_embedding"
) -> None:
    """The next ``times`` statements of a kind raise this SQLSTATE; those that follow do not.

    A sequence counts them: it is not rolled back with the statement that fails.
    """
    mend(site)
    site.sql("create sequence faults minvalue 0 start 0")
    site.sql(
        "create function fault() returns trigger language plpgsql as $$ begin "
        f"if nextval('public.faults') < {times} then "
        f"raise exception 'told to fail' using errcode = '{state}'; end if; "
        "return null; end $$"
    )
    site.sql(f"create trigger fault before {on} for each statement execute function fault()")


def mend(site: Site) -> None:
    """No statement fails any more."""
    site.sql("drop function if exists fault cascade")
    site.sql("drop sequence if exists faults")


def faults_met(site: Site) -> int:
    """Count the tries of a statement of the kind that ``fail`` names."""
    called, count = site.sql("select is_called, last_value from faults")[0]
    return int(count) + 1 if called else 0
