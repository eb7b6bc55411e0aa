"""A secret that is refused: read again, and waited for a minute."""

import pytest

from cdc_embed.config.load import Config
from cdc_embed.rotation import ROTATION_SECONDS, Login, Rotation


def test_a_secret_that_has_worked_is_waited_for_a_minute() -> None:
    rotation = Rotation(lambda: False, in_file=True)
    rotation.accepted()
    assert [rotation.may_come(now) for now in (5.0, 64.0, 66.0)] == [True, True, False]
    assert ROTATION_SECONDS == 60.0


def test_the_minute_begins_anew_with_each_secret() -> None:
    changed = [True, False]
    rotation = Rotation(changed.pop, in_file=True)
    rotation.accepted()
    assert rotation.may_come(0.0)
    assert not rotation.renewed()
    assert not rotation.may_come(60.0)
    assert rotation.renewed()
    assert rotation.may_come(100.0)
    rotation.accepted()
    assert rotation.may_come(500.0)


def test_the_minute_begins_anew_after_another_failure() -> None:
    """While a service is away, nobody can know whether it takes the secret."""
    rotation = Rotation(lambda: False, in_file=True)
    rotation.accepted()
    assert rotation.may_come(5.0)
    rotation.interrupted()
    assert rotation.may_come(110.0)
    assert not rotation.may_come(171.0)


@pytest.mark.parametrize("waits", [True, False])
def test_a_secret_that_never_worked_is_for_a_service_to_wait_for(waits: bool) -> None:
    rotation = Rotation(lambda: False, in_file=True)
    rotation.waits_at_start = waits
    assert rotation.may_come(0.0) is waits
    assert not rotation.may_come(60.0)


def test_a_secret_in_no_file_can_have_no_other_content() -> None:
    rotation = Rotation(lambda: True, in_file=False)
    rotation.waits_at_start = True
    rotation.accepted()
    assert not rotation.renewed()
    assert not rotation.may_come(0.0)


def test_a_secret_that_others_take_is_waited_for_a_minute() -> None:
    """In no file, but one of several servers behind the address can be the one that refuses it."""
    rotation = Rotation(lambda: False, in_file=False, many_servers=True)
    assert not rotation.may_come(0.0)
    rotation.accepted()
    assert [rotation.may_come(now) for now in (5.0, 64.0, 66.0)] == [True, True, False]


def test_a_login_that_another_thread_has_read_is_another_one() -> None:
    found = ["host=c", "", "host=b"]
    login = Login("host=a", found.pop, in_file=True)
    assert login.renewed("host=a")
    assert login.dsn == "host=b"
    assert login.renewed("host=a"), "found holds one that is unreadable still"
    assert found == ["host=c", ""]
    assert not login.renewed("host=b")
    assert login.dsn == "host=b"


@pytest.mark.parametrize(
    ("dsn", "waits"),
    [
        ("postgresql://app@db/app?passfile=/run/pgpass", True),
        ("service=app", True),
        ("host=db sslcert=/run/c sslkey=/run/k", True),
        ("postgresql://app:pw@db/app?sslrootcert=/etc/ca", False),
    ],
)
def test_secrets_that_libpq_reads_from_a_file_can_change(dsn: str, waits: bool) -> None:
    config = Config(source={"dsn": dsn}, tables=[{"name": "t", "text": ["body"]}])  # type: ignore[arg-type]
    config.source_login.rotation.accepted()
    assert config.source_login.rotation.may_come(0.0) is waits
