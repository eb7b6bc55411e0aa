"""A test that is skipped in CI is a failure there, whatever the value of ``CI``."""

from types import SimpleNamespace
from typing import Any

import pytest

from tests import conftest


def reported(outcome: Any) -> str:
    """The outcome that the hook makes of another one."""
    report = pytest.TestReport("x", ("x", 0, "x"), {}, outcome, None, "call")
    item, call = SimpleNamespace(nodeid="x"), SimpleNamespace(excinfo=None)
    hook = conftest.pytest_runtest_makereport(item, call)  # type: ignore[arg-type]
    next(hook)
    with pytest.raises(StopIteration) as ended:
        hook.send(report)
    made: pytest.TestReport = ended.value.value
    return made.outcome


@pytest.mark.parametrize("value", ["true", "1", "True", "yes"])
def test_a_skipped_test_fails_in_ci(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("CI", value)
    assert reported("skipped") == "failed"
    assert reported("passed") == "passed"


@pytest.mark.parametrize("value", [None, ""])
def test_a_skipped_test_is_skipped_elsewhere(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("CI", raising=False)
    if value is not None:
        monkeypatch.setenv("CI", value)
    assert reported("skipped") == "skipped"
