"""Secrets in files, which are rewritten while they are in use.

A server can take a new secret before the file has it, or the other way round. So a secret that is
refused is read again, and then waited for, a minute at most. Nothing is read on a schedule. This
module knows no file and no server: ``config`` reads, and ``postgres`` and ``embed`` ask here.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

ROTATION_SECONDS: Final = 60.0
"""The time in which a secret that is refused can still be replaced in its file."""


@dataclass(slots=True)
class Rotation:
    """A secret that is refused, to decide whether another one is there, and whether one can still
    come."""

    _read: Callable[[], bool] = field(compare=False)
    """A function that reads the secret again, and returns whether it is another one."""
    in_file: bool
    many_servers: bool = False
    """Whether one of several servers behind an address can refuse what the others take, so that a
    secret that has worked is waited for wherever it is."""
    waits_at_start: bool = False
    """Whether a secret that never worked is waited for, too, as a service does and a command does
    not."""
    seconds: float = ROTATION_SECONDS
    """The seconds for which it is waited for."""
    _worked: bool = field(default=False, init=False)
    _refused_since: float | None = field(default=None, init=False)

    def accepted(self) -> None:
        """Note that the secret was taken."""
        self._worked, self._refused_since = True, None

    def interrupted(self) -> None:
        """Note an answer that says nothing of the secret, so that its refusals begin anew."""
        self._refused_since = None

    def renewed(self) -> bool:
        """Read the secret again; return whether it is another one."""
        changed = self.in_file and self._read()
        if changed:
            self._refused_since = None
        return changed

    def may_come(self, now: float) -> bool:
        """Note that the secret is refused; return whether it, or another one, can still be taken.

        ``now`` in seconds, of any clock that goes on.
        """
        if self._refused_since is None:
            self._refused_since = now
        waits = self._worked and (self.in_file or self.many_servers)
        waits |= self.in_file and self.waits_at_start
        return waits and now - self._refused_since < self.seconds


@dataclass(slots=True)
class Login:
    """The connection string of one side, a secret."""

    dsn: str = field(repr=False)
    _read: Callable[[], str] = field(default=str, compare=False)
    """A function that reads it again; "" while it cannot be read."""
    in_file: bool = False
    """Whether it, or a secret that it names, is in a file."""
    rotation: Rotation = field(init=False, compare=False)

    def __post_init__(self) -> None:
        self.rotation = Rotation(self._read_again, in_file=self.in_file)

    def renewed(self, used: str) -> bool:
        """Return whether there is another connection string than the one that was used."""
        return self.dsn != used or self.rotation.renewed()

    def _read_again(self) -> bool:
        before, self.dsn = self.dsn, self._read() or self.dsn
        return self.dsn != before
