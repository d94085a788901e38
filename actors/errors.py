"""The errors that every part raises, by whose fault they are.

PromptmillError
  UserError    the user's mistake: exit status 2, one sentence that says what, where and how to mend it
  JobError     a failure of the world (storage, a lost cluster, a stalled stage): exit status 1
RowError       one row cannot be made: it becomes a reject with this reason, and the run goes on
BrokenEngine   the engine or its GPU context is beyond repair: the actor's process must end
"""


class PromptmillError(Exception):
    """Base of the errors that end a job with one sentence."""

    exit_code = 1


class UserError(PromptmillError):
    """A mistake in config, table, model or place that the user can mend."""

    exit_code = 2


class JobError(PromptmillError):
    """The job could not go on though nothing that the user wrote is wrong."""


class RowError(Exception):
    """One row cannot be made.

    Args:
        reason: a short stable key such as ``"bad_size"``, counted in the summary.
        detail: one sentence for people; must hold no prompt text.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class BrokenEngine(Exception):
    """The model's runtime is broken (a lost CUDA context, a dead engine process): only a fresh process helps."""
