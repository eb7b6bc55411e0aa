"""The finding of a check: one line for a person, one row for a script."""

from dataclasses import dataclass
from enum import Enum

from cdc_embed.errors import PreflightError


class Severity(Enum):
    ERROR = "error"
    """The level of a finding with which ``run`` cannot work."""
    WARNING = "warning"
    """The level of a finding with which ``run`` works now, but can fail later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one check. ``fix`` is the SQL, setting or command that makes it pass."""

    id: str
    ok: bool
    message: str
    fix: str = ""
    severity: Severity = Severity.ERROR
    table: str = ""
    """The full name of the source table that alone is concerned; empty if all are."""

    @property
    def failed(self) -> bool:
        return not self.ok and self.severity is Severity.ERROR


def judge(
    id: str,  # noqa: A002  the word of doctor's contract
    ok: bool,
    message: str,
    fix: str,
    severity: Severity = Severity.ERROR,
) -> Finding:
    """Return the finding of one check; only a failed one has a fix."""
    return Finding(id=id, ok=ok, message=message, fix="" if ok else fix, severity=severity)


def expect(
    findings: list[Finding], error: type[PreflightError] = PreflightError, **fields: object
) -> None:
    """Raise an error with every failed finding and its fix; else do nothing."""
    failed = [finding for finding in findings if finding.failed]
    if failed:
        fixes = [finding.fix for finding in failed if finding.fix]
        raise error(
            where="preflight",
            problem="; ".join(finding.message for finding in failed),
            hint="\n".join(fixes) or None,
            **fields,
        )
