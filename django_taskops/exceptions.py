"""Every error that django-taskops raises on purpose."""


class TaskOpsError(Exception):
    """Root of all errors of django-taskops."""


class InvalidOption(TaskOpsError, TypeError):
    """An option of `@tracked_task` has a value that it can't have."""

    def __init__(self, option: str, expected: str, got: object) -> None:
        self.option = option
        self.expected = expected
        self.got = got
        super().__init__(f"tracked_task({option}=...): expected {expected}, got {got!r}")


class NotRequeueable(TaskOpsError):
    """A dead letter can't be put back. `code` is machine-readable, `detail` a sentence for people."""

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        self.detail = detail
        super().__init__(f"{detail} [{code}]")


class AlreadyTaken(TaskOpsError):
    """Somebody else has decided on this dead letter since it was read."""

    def __init__(self, task_id: str, expected: str, status: str) -> None:
        self.task_id = task_id
        self.expected = expected
        self.status = status
        super().__init__(f"dead letter of task {task_id}: expected status {expected!r}, it is {status!r} by now")


class EnvelopeError(TaskOpsError):
    """A stored envelope can't be read."""
