"""The phases of a service, for ``status``, readiness and the metrics."""

from enum import Enum


class Phase(Enum):
    """A phase of one instance of the service; the value is the word that users read.

    From STARTING, STANDBY and RECONNECTING an instance tries to take the slot:

        -> STREAMING       the slot is its own, and it follows the log
        -> STANDBY         another session reads the slot; it tries again every second
        -> RECONNECTING    a database is away; it tries again after a growing delay

    From STREAMING:

        -> DRAINING        a stop was requested: batches in flight are committed and confirmed
        -> RECONNECTING    a connection was lost, or another instance took over

    From DRAINING:

        -> RECONNECTING    a connection was lost; batches in flight are still committed

    From every phase:

        -> STOPPED         ``run`` returned or raised

    From STOPPED the service goes to STARTING with another instance, if a gap in the history is
    repaired or other tables are to be followed.
    """

    STARTING = "starting"
    STANDBY = "standby"
    STREAMING = "streaming"
    RECONNECTING = "reconnecting"
    DRAINING = "draining"
    STOPPED = "stopped"

    @property
    def useful(self) -> bool:
        """Whether the instance does its work, or is ready to take over from one that does."""
        return self in {Phase.STREAMING, Phase.STANDBY}
