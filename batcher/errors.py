"""The error tree. Every error that this package raises is one of these.

::

    BatcherError
    ├── UsageError             64   the options make no sense together
    ├── InputError             65   the manifest or the ledger is bad; nothing was submitted
    │   ├── ManifestError           rows with problems, all of them at once
    │   └── LedgerError             a ledger that can't be read, or isn't ours to write
    ├── UnreachableError       69   the API does not answer
    ├── MachineError           71   this machine has no memory, or no files, left for it
    ├── RunDirError            73   the run directory can't be written
    ├── OutputError            74   standard output can't be written
    ├── LockedError            75   another run holds the run directory
    ├── CredentialsError       77   the token is missing or was refused
    ├── StoppedError            3   stopped on purpose before the end (balance, limits)
    │   └── OutOfTimeError          --max-runtime is over
    ├── IncompleteError         1   the run ended, and some selected job is not done
    ├── InterruptedRunError   130   SIGINT (129: SIGHUP, 143: SIGTERM)
    ├── CallError                   one call to the API failed
    │   ├── NotSent        transient   could not connect: nothing left this machine
    │   ├── TurnedAway     transient   429, or 503 with Retry-After: surely not accepted
    │   ├── Unavailable    transient   a GET met a 5xx, a time-out, a lost connection
    │   ├── Rejected       permanent   a final answer for this one request
    │   │   └── NotFound   permanent   404: unknown model, or unknown or expired request
    │   ├── Refused        permanent   a final answer that concerns the whole run
    │   │   ├── AuthRefused            401, 403, or the codes that mean the same
    │   │   ├── BalanceExhausted       402, or the code that means the same
    │   │   └── Unusable               the model or deployment is switched off, or gone
    │   └── OutcomeUnknown ambiguous   a POST that may have created a job
    └── DownloadError               one output could not be fetched
        ├── DownloadInterrupted transient   try again, from where it broke off
        ├── UrlExpired          transient   ask the API for a fresh URL
        ├── DownloadStalled     transient   tried for as long as allowed without a byte of progress
        └── DownloadRefused     permanent   a host, a size or a body that we don't accept

``kind`` is decided when an error enters (in the providers and the downloader). A *transient* call may
be repeated, a *permanent* one would fail again, and an *ambiguous* one may have cost money: it is never
repeated unless the user asks for it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence

PROBLEMS_SHOWN = 50


class RetryKind(StrEnum):
    """Whether an error may be retried."""

    TRANSIENT = "transient"
    PERMANENT = "permanent"
    AMBIGUOUS = "ambiguous"


class BatcherError(Exception):
    """Root of the tree. ``str(error)`` is one or more lines fit for a user to read."""

    exit_code: ClassVar[int] = 70


class UsageError(BatcherError):
    """Options that contradict each other or name nothing."""

    exit_code = 64


class InputError(BatcherError):
    """The manifest or the ledger is bad. Nothing was submitted."""

    exit_code = 65


class ManifestError(InputError):
    """Rows with problems. ``problems`` holds lines ``file:line: field: what is wrong``.

    ``total`` counts all of them if ``problems`` was cut short. ``advice`` is a line behind them.
    """

    def __init__(
        self, problems: Sequence[str], total: int | None = None, advice: str | None = None
    ) -> None:
        self.problems = tuple(problems)
        self.total = len(self.problems) if total is None else total
        shown = list(self.problems[:PROBLEMS_SHOWN])
        if self.total > len(shown):
            shown.append(f"... and {self.total - len(shown)} more")
        if advice is not None:
            shown.append(advice)
        super().__init__("\n".join(shown))


class LedgerError(InputError):
    """A ledger that can't be read (``ledger.jsonl:LINE: what``) or is not ours to write."""


class UnreachableError(BatcherError):
    """No call to the API succeeded within the time limit."""

    exit_code = 69


class MachineError(BatcherError):
    """The process has reached its limit of memory, or of open files. Nothing is lost."""

    exit_code = 71


class RunDirError(BatcherError):
    """The run directory can't be written."""

    exit_code = 73


class OutputError(BatcherError):
    """Output could not be printed: the disk is full, or the terminal is gone."""

    exit_code = 74


class LockedError(BatcherError):
    """Another run holds the run directory."""

    exit_code = 75


class CredentialsError(BatcherError):
    """The token is missing or was refused."""

    exit_code = 77


class StoppedError(BatcherError):
    """Stopped on purpose before the end; requests in flight were polled and downloaded."""

    exit_code = 3


class ModelCapReached(StoppedError):
    """A cap on the cost of some models has no room: their jobs stay pending, others continue."""


class OutOfTimeError(StoppedError):
    """``--max-runtime`` is over. What still runs at the API is left to the next run."""


class IncompleteError(BatcherError):
    """The run ended and some selected job is failed, unknown, cancelled or left over."""

    exit_code = 1


class InterruptedRunError(BatcherError):
    """A signal ended the run; 128 + its number is the exit code."""

    exit_code = 130


def interrupted(signal_number: int) -> InterruptedRunError:
    """The reason to stop after a signal; its exit code is 128 + the signal's number."""
    error = InterruptedRunError(f"interrupted by signal {signal_number}")
    error.exit_code = 128 + signal_number  # type: ignore[misc]
    return error


class CallError(BatcherError):
    """One call to the API failed.

    ``http_status`` and ``error_code`` are the API's own if it gave any.
    """

    kind: ClassVar[RetryKind] = RetryKind.PERMANENT

    def __init__(
        self, message: str, *, http_status: int | None = None, error_code: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.http_status = http_status
        self.error_code = error_code

    @property
    def code(self) -> int | str | None:
        """The most specific code of the error: the API's own, else the HTTP status."""
        return self.error_code if self.error_code is not None else self.http_status


class NotSent(CallError):
    """Could not connect, DNS or the TLS handshake failed: nothing left this machine."""

    kind = RetryKind.TRANSIENT


class TurnedAway(CallError):
    """429, or 503 with ``Retry-After``. ``retry_after_s`` is None if the answer gave none."""

    kind = RetryKind.TRANSIENT

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        http_status: int | None = None,
        error_code: int | None = None,
    ) -> None:
        super().__init__(message, http_status=http_status, error_code=error_code)
        self.retry_after_s = retry_after_s


class Unavailable(CallError):
    """A GET (or a cancel, which is idempotent) met a 5xx, a time-out or a lost connection."""

    kind = RetryKind.TRANSIENT


class Rejected(CallError):
    """A final answer about this one request: it created nothing."""


class NotFound(Rejected):
    """404, or a code that means the same: unknown model, unknown or expired request."""


class Refused(CallError):
    """A final answer that concerns the whole run, not this job."""


class AuthRefused(Refused):
    """The token is missing, wrong or not allowed."""


class BalanceExhausted(Refused):
    """No balance is left."""


class Unusable(Refused):
    """The model or deployment that a job names is switched off or deleted: the user must mend that."""


class OutcomeUnknown(CallError):
    """A POST that may have created, and charged for, a job."""

    kind = RetryKind.AMBIGUOUS


class DownloadError(BatcherError):
    """One output could not be fetched."""

    kind: ClassVar[RetryKind] = RetryKind.TRANSIENT


class DownloadInterrupted(DownloadError):
    """The transfer broke off or the server was not ready; try again from where it stopped."""


class UrlExpired(DownloadError):
    """The URL no longer serves the file: ask the API for the result again."""


class DownloadStalled(DownloadError):
    """Retried for as long as allowed without a byte of progress. A later run may succeed.

    ``code`` is a word for the ledger.
    """

    code: ClassVar[str] = "stalled"


class DownloadRefused(DownloadError):
    """A host, a size or a body that is not accepted. ``code`` is a word for the ledger."""

    kind = RetryKind.PERMANENT

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code
