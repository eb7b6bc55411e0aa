"""A question that is asked again and again is planned once, and always answered as things are."""

from collections.abc import Callable, Iterator

import psycopg2.errors
import pytest

from cdc_embed.errors import TargetRefusedError
from cdc_embed.postgres.plans import MOST_PLANS
from cdc_embed.postgres.session import Session
from cdc_embed.postgres.side import TARGET
from cdc_embed.rotation import Login
from tests.site import Site

PLANNED = "select statement from pg_prepared_statements order by prepare_time"


@pytest.fixture
def database(make_site: Callable[..., Site]) -> Site:
    site = make_site()
    site.sql("create table public.asked (a int)")
    site.sql("insert into public.asked values (1)")
    return site


@pytest.fixture
def session(database: Site) -> Iterator[Session]:
    session = Session(TARGET, Login(database.dsn), "a session")
    yield session
    session.close()


def planned(session: Session) -> list[str]:
    with session.autocommit("plans") as cursor:
        cursor.execute(PLANNED)
        return [row[0] for row in cursor.fetchall()]


def ask(session: Session, number: int = 0) -> int:
    values = {"number": number}
    found: int = session.fetch("asked", "select a + %(number)s from public.asked", values)[0][0]
    return found


def test_what_is_asked_again_is_planned_once(session: Session) -> None:
    assert [ask(session) for _ in range(4)] == [1] * 4
    assert len(planned(session)) == 1


def test_an_answer_is_that_of_the_values_that_were_asked(session: Session) -> None:
    assert [ask(session, number) for number in (1, 2, 1, 2, 1, 2)] == [2, 3] * 3
    assert len(planned(session)) == 2


def test_plans_used_long_ago_are_given_up(session: Session) -> None:
    for number in range(3 * MOST_PLANS):
        assert [ask(session, number) for _ in range(2)] == [number + 1] * 2
    assert len(planned(session)) == MOST_PLANS


def test_a_column_of_another_type_is_read_as_it_is_now(database: Site, session: Session) -> None:
    assert [ask(session) for _ in range(3)] == [1] * 3
    database.sql("alter table public.asked alter a type numeric")
    assert [ask(session) for _ in range(3)] == [1] * 3


def test_a_table_that_was_made_anew_is_found(database: Site, session: Session) -> None:
    assert [ask(session) for _ in range(3)] == [1] * 3
    database.sql("drop table public.asked")
    with pytest.raises(TargetRefusedError) as caught:
        ask(session)
    assert isinstance(caught.value.__cause__, psycopg2.errors.UndefinedTable)
    database.sql("create table public.asked (a int)")
    database.sql("insert into public.asked values (5)")
    assert [ask(session) for _ in range(3)] == [5] * 3


def test_a_new_connection_knows_no_plan_of_the_last(session: Session) -> None:
    assert [ask(session) for _ in range(3)] == [1] * 3
    session.close()
    assert [ask(session) for _ in range(3)] == [1] * 3
    assert len(planned(session)) == 1
