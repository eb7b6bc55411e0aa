"""Rights that are taken from the service's role: named with the GRANT, and waited for."""

from collections.abc import Callable, Iterator

import pytest

from tests.site import Site, wait_until

TABLES = """
[[tables]]
name = "office.letters"
text = ["body"]
[[tables]]
name = "notes"
text = ["body"]
"""
OF_ALL = {
    "the schema of pgvector": (
        "revoke usage on schema vectors from {role}",
        "usage on schema vectors",
    ),
    "a function of pgvector": (
        "revoke execute on function vectors.cosine_distance(vectors.vector, vectors.vector) "
        "from public",
        "execute on function vectors.cosine_distance(vectors.vector, vectors.vector)",
    ),
    "our schema": (
        "alter schema cdc_embed owner to postgres",
        "usage on schema cdc_embed",
    ),
    "one of our own tables": (
        "revoke update on cdc_embed.checkpoint from {role}",
        "update on cdc_embed.checkpoint",
    ),
}
OF_ONE = {
    "the table of vectors": (
        "revoke insert, delete on cdc_embed.office_letters_embedding from {role}",
        "insert, delete on cdc_embed.office_letters_embedding",
    ),
    "the owner of the table of vectors": (
        "alter table cdc_embed.office_letters_embedding owner to postgres",
        "select, insert, update, delete on cdc_embed.office_letters_embedding",
    ),
    "the schema of the source table": (
        "revoke usage on schema office from {role}",
        "usage on schema office",
    ),
}


@pytest.fixture
def two(make_site: Callable[..., Site]) -> Iterator[Site]:
    """Two tables that are followed by a role that has what it needs, and nothing more."""
    site = make_site(18)
    role = site.name
    site.transaction(
        f"create role {role} login replication",
        "create schema vectors",
        "create schema office",
        f"grant usage on schema vectors, office to {role}",
        "create extension vector with schema vectors",
        f"grant create, temporary on database {site.name} to {role}",
        f"grant execute on function pg_control_system() to {role}",
        "create table office.letters (id int primary key, body text)",
        "create table notes (id int primary key, body text)",
        f"alter table office.letters owner to {role}",
        f"alter table notes owner to {role}",
    )
    site.configure(tables=TABLES)
    dsn = site.server.dsn(site.name, role)
    text = site.config_path.read_text()
    site.config_path.write_text(text.replace(f'dsn = "{site.dsn}"', f'dsn = "{dsn}"', 1))
    site.cli("setup")
    site.cli("doctor")
    yield site
    site.sql(f"drop owned by {role} cascade")
    site.sql(f"drop role {role}")


def is_stored(site: Site, table: str, key: int) -> bool:
    return bool(site.sql(f"select 1 from cdc_embed.{table}_embedding where id = %s", key))


def is_right(site: Site) -> None:
    wait_until(lambda: is_stored(site, "notes", 2), "the notes are followed again")
    wait_until(lambda: is_stored(site, "office_letters", 2), "the letters are followed again")


@pytest.mark.parametrize("name", OF_ALL)
def test_a_right_that_all_tables_need_is_named_and_waited_for(two: Site, name: str) -> None:
    revoke, lacks = OF_ALL[name]
    grant = f"grant {lacks} to {two.name};"
    with two.service() as service:
        wait_until(lambda: not service.unready(), "it is ready")
        two.sql(revoke.format(role=two.name))
        two.sql("insert into notes values (2, 'a note')")
        two.sql("insert into office.letters values (2, 'a letter')")
        wait_until(lambda: "waits for: rights" in service.unready(), "it is named", 20)
        assert grant in service.status()["waiting"]["start"]
        assert grant in two.cli("doctor", expect=4).stdout
        assert grant in two.cli("setup", expect=4).stderr
        two.sql(grant)
        wait_until(lambda: not service.unready(), "it is ready again", 60)
        is_right(two)
        assert service.stop() == 0
    two.sql(f"revoke {lacks} from {two.name}")
    assert grant in two.cli("run", "--no-wait", expect=4).stderr


def test_a_right_that_only_a_start_needs_is_named_before_it(two: Site) -> None:
    """A session that has made its tables needs no right on the type any more."""
    two.sql("revoke usage on type vectors.vector from public")
    grant = f"grant usage on type vectors.vector to {two.name};"
    assert grant in two.cli("doctor", expect=4).stdout
    for command in ("setup", "run --no-wait"):
        assert grant in two.cli(*command.split(), expect=4).stderr


def test_doctor_warns_if_no_index_can_be_made(two: Site) -> None:
    """Vectors are written meanwhile; and with the grant that it gives, an index is made."""
    two.sql(f"alter schema cdc_embed owner to {two.value('select quote_ident(current_user)')}")
    two.sql(f"grant usage on schema cdc_embed to {two.name}")
    said = two.cli("doctor").stdout
    assert f"role {two.name} may not create in schema cdc_embed, so no index can be made" in said
    grant = f"grant create on schema cdc_embed to {two.name};"
    assert grant in said
    two.sql(grant)
    assert "no index can be made" not in two.cli("doctor").stdout
    with two.service() as service:
        service.logged("indexed", 2)
        assert service.stop() == 0


@pytest.mark.parametrize("name", OF_ONE)
def test_a_right_on_one_table_pauses_it_alone(two: Site, name: str) -> None:
    revoke, lacks = OF_ONE[name]
    grant = f"grant {lacks} to {two.name};"
    with two.service() as service:
        wait_until(lambda: not service.unready(), "it is ready")
        two.sql(revoke.format(role=two.name))
        two.sql("insert into office.letters values (2, 'a letter')")
        wait_until(lambda: grant in service.unready(), "it is named", 20)
        two.sql("insert into notes values (2, 'a note')")
        wait_until(lambda: is_stored(two, "notes", 2), "the other one is followed")
        assert grant in str(service.status()["tables"])
        assert grant in two.cli("doctor", expect=4).stdout
        assert grant in two.cli("setup", expect=4).stderr
        two.sql(grant)
        wait_until(lambda: not service.unready(), "it is ready again", 60)
        is_right(two)
        assert service.stop() == 0
