"""The errors that a user can meet. Each says what happened, where, and the next step.

A class's docstring is its message; its fields are filled in by keyword. ``hint`` holds the next
step, a command where there is one. ``exit_code`` is the exit code of the command line. Driver
errors are translated where they appear; none leaves its room.
"""

import errno
from typing import ClassVar, Final

UNAVAILABLE: Final = 75
"""The exit code for what can pass by itself."""
SCARCE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN})
"""The system is short of descriptors or memory for the moment."""


class CdcEmbedError(Exception):
    """Something went wrong."""

    exit_code: ClassVar[int] = 1
    default_hint: ClassVar[str] = ""

    def __init__(self, *, hint: str | None = None, **fields: object) -> None:
        self.fields = fields
        self.hint = hint if hint is not None else self.default_hint.format(**fields)
        said = " ".join((type(self).__doc__ or type(self).__name__).split()).format(**fields)
        # another system's words can have half a surrogate pair, which no log and no JSON takes
        super().__init__(said.encode("utf-8", "backslashreplace").decode())

    def __getattr__(self, name: str) -> object:
        try:
            return self.__dict__["fields"][name]
        except KeyError:
            raise AttributeError(name) from None


# --- configuration and preflight ---------------------------------------------------------------


class ConfigError(CdcEmbedError):
    """configuration: {where}: {problem}"""

    exit_code = 3
    default_hint = "see every key and its default with: cdc-embed config schema"


class PreflightError(CdcEmbedError):
    """{where}: {problem}"""

    exit_code = 4
    default_hint = "check everything at once with: cdc-embed doctor"


class UnfollowedError(PreflightError):
    """no table can be followed: {problem}"""


class MissingRightError(PreflightError):
    """{where}: {problem}"""


class OtherSourceError(PreflightError):
    """slot {slot}: {problem}"""

    default_hint = (
        "set source.slot or target.schema; or, if this source replaces that one, stop its service "
        "and run: cdc-embed setup --rebuild"
    )


class PoolerError(PreflightError):
    """{where}: a connection pooler (such as PgBouncer) answers, in whatever mode it is"""

    default_hint = (
        "give the address of the server itself in {setting}, not that of the pooler, because "
        "settings of our sessions would stay on connections of the application"
    )


class AuthenticationError(CdcEmbedError):
    """{where}: the server refuses the login: {problem}"""

    exit_code = 4
    default_hint = "check the user, the password and pg_hba.conf, then run: cdc-embed doctor"


class SpaceMismatchError(CdcEmbedError):
    """table {table}: {rows} rows are stored in another vector space ({difference})"""

    exit_code = 4
    default_hint = (
        "put the old setting back, or embed again the texts that this model has not had yet "
        "(at most about {tokens} tokens): cdc-embed setup --rebuild && cdc-embed run"
    )


# --- the change log ----------------------------------------------------------------------------


class DecodeError(CdcEmbedError):
    """{message} message: {problem} in field {field} at byte {offset}"""

    default_hint = (
        "nothing was confirmed past this message; check that the slot's plugin matches "
        "source.plugin, then report the message with: cdc-embed run --debug"
    )


class TableChangedError(CdcEmbedError):
    """table {table}: {problem}"""

    exit_code = 4
    default_hint = "correct the table or its entry in the configuration, then run: cdc-embed setup"


class TablesChangedError(CdcEmbedError):
    """table {table}: its key or its vectors were changed since the service began"""

    exit_code = 75
    default_hint = "start the service again"


class ReplicationError(CdcEmbedError):
    """the replication connection ended: {problem}"""

    exit_code = UNAVAILABLE


class SlotBusyError(CdcEmbedError):
    """replication slot {slot} is active for PID {pid} ({owner})"""

    exit_code = UNAVAILABLE
    default_hint = "stop that reader, or give this service a slot of its own (source.slot)"


class HistoryGapError(CdcEmbedError):
    """slot {slot}: the change log has a gap: {problem}"""

    exit_code = 5
    default_hint = (
        "changes can be missing; make a new slot and compare every row: cdc-embed setup --rebuild"
    )


class UnexpectedError(CdcEmbedError):
    """unexpected state: {problem}"""

    default_hint = "nothing is lost; run the command again with --debug and report its output"


class RequestFailedError(CdcEmbedError):
    """{kind}: {problem}"""

    exit_code = 4
    default_hint = "see the state of the service: cdc-embed status"


class UnprovenError(CdcEmbedError):
    """table {table}: the comparison proves nothing: {problem}"""

    default_hint = (
        "run the command again; if the same comes back, check the table's key and its index, "
        "and run: cdc-embed doctor"
    )


# --- the outside systems -----------------------------------------------------------------------


class SourceUnavailableError(CdcEmbedError):
    """source database: {problem}"""

    exit_code = UNAVAILABLE
    default_hint = "check that the server runs and source.dsn is right, then: cdc-embed doctor"


class TargetUnavailableError(CdcEmbedError):
    """target database: {problem}"""

    exit_code = UNAVAILABLE
    default_hint = "check that the server runs and target.dsn is right, then: cdc-embed doctor"


class TargetRefusedError(CdcEmbedError):
    """target {table}: {problem}"""

    exit_code = 4
    default_hint = (
        "run: cdc-embed setup; if that has nothing to do, a trigger, rule or privilege of yours on "
        "the target's tables is in the way: cdc-embed doctor names it"
    )


class FencedError(CdcEmbedError):
    """another instance took over slot {slot} (epoch {epoch} has ended)"""

    exit_code = UNAVAILABLE
    default_hint = "run one service for each slot; a second one waits as standby"


class EmbedderUnavailableError(CdcEmbedError):
    """embedder: {problem}"""

    exit_code = UNAVAILABLE
    lasts: bool = False
    """Whether no short while mends it, so that it is told at once."""
    of_known_good: bool = False
    """Whether a known-good text failed, so that neither another text nor their number is to
    blame."""
    own_pause: float = 0.0
    """The seconds for which the service wants to be called no more with these texts, while it takes
    others."""
    hangs: bool = False
    """Whether a call timed out that is answered quickly as a rule, so that it is not too large."""
    untried: bool = False
    """Whether it is the failure of another call, because it was not time for this one."""
    default_hint = "the text is kept and tried again; check the embedding service"

    def __init__(
        self,
        *,
        retry_after: float | None = None,
        reason: str = "",
        overloaded: bool = False,
        hint: str | None = None,
        **fields: object,
    ) -> None:
        super().__init__(hint=hint, **fields)
        self.retry_after = retry_after
        self.reason = reason
        """The word "timeout" or "server_error" when a call was too much for the service, or a text
        is."""
        self.overloaded = overloaded
        """The service has too much to do at once."""

    def at_another_time(self, seconds: float) -> "EmbedderUnavailableError":
        """Return the failure for one who did not call and waits so long: it blames no text."""
        failure = type(self)(retry_after=seconds, hint=self.hint, problem=self.problem)
        failure.lasts, failure.untried = self.lasts, True
        return failure


class UnusableAnswerError(EmbedderUnavailableError):
    """embedder: {problem}"""

    default_hint = (
        "no text is blamed for it and every text is kept; check the embedding service, and each "
        "server behind its address"
    )


class QuotaSpentError(EmbedderUnavailableError):
    """embedder: {problem}: the account's quota is spent"""

    lasts = True
    default_hint = "add to the account's quota; every text is kept, and embedded once it is there"


class TextRefusedError(CdcEmbedError):
    """the model refuses the text: {problem}"""


class UnauthorizedError(TextRefusedError):
    """the model refuses the text: {problem}"""

    def __init__(self, *, problem: object, for_all_texts: CdcEmbedError) -> None:
        super().__init__(problem=problem)
        self.for_all_texts = for_all_texts
        """The error if a known-good text is refused, too, because then the key is wrong."""


class EmbedderError(CdcEmbedError):
    """embedder: {problem}"""

    exit_code = 4
    default_hint = "correct the [embedder] section, then run: cdc-embed doctor"


class OtherModelError(EmbedderError):
    """embedder: another model answers to the name {model}: a known-good text's vector is not the
    former one (cosine {cosine})"""

    default_hint = (
        "have the former model answer again, and start the service; or give every text a vector of "
        "the new one: cdc-embed setup --rebuild && cdc-embed run"
    )


def is_passing(error: Exception) -> bool:
    """Return whether a later attempt can succeed without a person's help."""
    if isinstance(error, CdcEmbedError):
        return error.exit_code == UNAVAILABLE
    return isinstance(error, OSError) and error.errno in SCARCE
