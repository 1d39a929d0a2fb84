"""Refusals that are not about one row: the run stops at once instead of failing every row."""

from __future__ import annotations

from dataclasses import dataclass

from batcher.errors import (
    AuthRefused,
    BalanceExhausted,
    BatcherError,
    CallError,
    CredentialsError,
    InputError,
    NotFound,
    OutcomeUnknown,
    StoppedError,
    Unusable,
)

SAME_ANSWERS = 5
"""After this many consecutive refusals in the same words, with none accepted, stop the run."""
UNANSWERED_IN_A_ROW = 5
"""Stop after this many consecutive POSTs without a usable answer: each may have cost money."""


def whole_run(error: CallError, model: str) -> BatcherError | None:
    """The reason to stop after one refused POST: the remedy, then the API's message.

    None if the answer is about the row.
    """
    if isinstance(error, BalanceExhausted):
        remedy = "top it up and run the same command again"
        return StoppedError(f"the balance is used up: {remedy} ({error.message})")
    if isinstance(error, AuthRefused):
        remedy = "check it and run the same command again"
        return CredentialsError(f"the API refused the token: {remedy} ({error.message})")
    if isinstance(error, Unusable):
        remedy = "mend that, or name another one, and run the same command again"
        return InputError(f"{model} can't be used: {remedy} ({error.message})")
    if isinstance(error, NotFound):
        remedy = "check its name with `batcher models`"
        return StoppedError(f"the API knows no model {model!r}: {remedy} ({error.message})")
    return None


def no_upload(error: CallError, model: str) -> BatcherError | None:
    """The reason to stop after one refused upload. An unknown address tells nothing about the model."""
    if isinstance(error, NotFound):
        remedy = "run the same command again later, or give their URLs"
        return StoppedError(f"no files can be uploaded for {model}: {remedy} ({error.message})")
    return whole_run(error, model)


@dataclass(slots=True)
class SameAnswer:
    """Detects that the first submissions of a run are all refused for the same reason."""

    limit: int = SAME_ANSWERS
    in_a_row: int = 0
    _last: tuple[int | str | None, str] | None = None
    _over: bool = False

    def accepted(self) -> None:
        """A submission was accepted: later refusals are about the rows themselves."""
        self._over = True

    def refused(self, error: CallError) -> StoppedError | None:
        """Count a refused row; returns the reason to stop after ``limit`` in the same words."""
        answer = (error.code, error.message)
        self.in_a_row = self.in_a_row + 1 if answer == self._last else 1
        self._last = answer
        if self._over or self.in_a_row < self.limit:
            return None
        return StoppedError(
            f"the first {self.in_a_row} submissions were all refused in the same words, and none was "
            f"accepted: nothing more was submitted. The API says: {error.message}. Once that is mended, "
            "run the same command with --retry-failed"
        )


@dataclass(slots=True)
class NoAnswers:
    """Detects consecutive unanswered POSTs: what they create is paid for and unknown.

    Before the first is accepted, as many as there are slots (if more than one) are enough: all are full.
    """

    slots: int
    in_a_row: int = 0
    _ever_accepted: bool = False

    def accepted(self) -> None:
        """A submission was answered."""
        self._ever_accepted = True
        self.in_a_row = 0

    def missed(self, error: OutcomeUnknown) -> StoppedError | None:
        """Count a POST without an answer; returns the reason to stop after too many in a row."""
        self.in_a_row += 1
        fills_all = not self._ever_accepted and self.in_a_row >= max(self.slots, 2)
        if self.in_a_row < UNANSWERED_IN_A_ROW and not fills_all:
            return None
        return StoppedError(
            f"{self.in_a_row} submissions in a row were not answered, and each may have been paid for: "
            f"nothing more was submitted ({error.message})"
        )
