"""What ends a measurement without a figure."""


class NotMeasured(RuntimeError):
    """The message says what was expected and what happened instead; `detail` is the end of somebody's log, which may
    name places of this machine. Other measurements go on."""

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail
