"""An exception as people need to read it, taken where its frames still exist."""

import traceback
from types import TracebackType

from celery.exceptions import SoftTimeLimitExceeded

from ..events import Outcome
from .text import storable

MESSAGE_MAX_CHARS = 8_000
TRACEBACK_MAX_CHARS = 64_000
MAX_FRAMES = 50
_PLUMBING = ("django_taskops.capture", "celery.app", "celery.worker")


def outcome_of(error: BaseException, *, left: BaseException | None = None, **facts: object) -> Outcome:
    """Type, message, traceback and frames of `error`, without the plumbing around the task; `facts` are passed on.
    `left`, where it is another one, is what became of `error` on its way out: the traceback tells of both."""
    inner = _task_frames(error.__traceback__)
    last = error if left is None else left
    shown = _task_frames(last.__traceback__) or last.__traceback__
    return Outcome(
        exception_type=storable(qualified(type(error))),
        exception_message=_middle_cut(message_of(error), MESSAGE_MAX_CHARS),
        traceback=_middle_cut(_format(last, shown), TRACEBACK_MAX_CHARS),
        frames=tuple(_names(inner)[-MAX_FRAMES:]),
        **facts,  # type: ignore[arg-type]
    )


def qualified(kind: type) -> str:
    """The importable name of a class; that of a builtin without its module."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def message_of(error: BaseException) -> str:
    try:
        return str(error)
    except SoftTimeLimitExceeded:
        raise
    except Exception as broken:  # noqa: BLE001 the user's own __str__ runs here
        return f"<{type(error).__name__} whose text can't be shown: {type(broken).__name__}>"


def _task_frames(tb: TracebackType | None) -> TracebackType | None:
    inner = tb
    while inner is not None and inner.tb_frame.f_globals.get("__name__", "").startswith(_PLUMBING):
        inner = inner.tb_next
    return inner


def _format(error: BaseException, tb: TracebackType | None) -> str:
    try:
        return "".join(traceback.TracebackException(type(error), error, tb).format())
    except SoftTimeLimitExceeded:
        raise
    except Exception as broken:  # noqa: BLE001 reprs of the user's own objects run here
        return f"<traceback that can't be shown: {type(broken).__name__}>"


def _names(tb: TracebackType | None) -> list[str]:
    frames = (frame for frame, _ in traceback.walk_tb(tb))
    return [storable(f"{frame.f_globals.get('__name__', '?')}:{frame.f_code.co_qualname}") for frame in frames]


def _middle_cut(text: str, limit: int) -> str:
    if len(text) > limit:
        head, tail = limit // 3, limit - limit // 3
        text = f"{text[:head]}\n… {len(text) - limit:,} characters left out …\n{text[-tail:]}"
    return storable(text, len(text) * 6)
