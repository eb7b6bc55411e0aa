"""The rule for reading on while the driver could confirm what is not recorded; see ``stream``."""

from cdc_embed.lsn import LSN, ZERO, Progress


class Guard:
    """The rule for reading on while the reading cursor can forward a keepalive as confirmed.

    A forwarded keepalive reaches at most to where the open transaction commits, so reading waits
    until that is recorded.
    """

    def __init__(self) -> None:
        self._data_start = ZERO
        self._forwarded = ZERO
        """The highest position that the cursor can have taken for confirmed."""

    @property
    def forwards(self) -> bool:
        """Whether a keepalive would be forwarded now, because the last frame had no position."""
        return self._data_start == ZERO

    def mark_read(self, heard: LSN, data_start: LSN | None) -> None:
        """Note a read, with the end of what the server has sent, and the frame's position if there
        was one."""
        if self.forwards:
            self._forwarded = max(self._forwarded, heard)
        if data_start is not None:
            self._data_start = data_start

    def forwarded_beyond(self, progress: Progress) -> bool:
        """Return whether the cursor can hold a position that is not recorded."""
        return not progress.is_recorded(self._forwarded)

    def may_read(self, progress: Progress) -> bool:
        """Return whether a keepalive that comes next can confirm nothing that is not recorded."""
        if not self.forwards or progress.open_commit is None:
            return True
        return progress.is_recorded(progress.open_commit)

    def needs_record(self, progress: Progress) -> bool:
        """Return whether the log may be read on only after the durable position is recorded."""
        if self.forwards and progress.open_commit is not None:
            return True
        return self.forwarded_beyond(progress)
