"""The options of `@tracked_task` that are ours, and those of Celery's whose mistakes Celery finds too late."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..exceptions import InvalidOption

FAIL = "fail"
PARK = "park"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """What a task declares about its endings and re-runs. Durations in seconds; None: no limit."""

    retry_for: float | None = None
    dead_letter: bool = True
    dead_letter_queue: str | None = None
    on_exhausted: str = FAIL
    idempotent: bool = False
    stale_after: float | None = None
    sensitive: tuple[str, ...] = ()
    fingerprint: str | Callable[..., str] | None = None


OWN_OPTIONS = frozenset(field.name for field in fields(TaskOptions))


def check(options: Mapping[str, Any]) -> None:
    """Raises InvalidOption for the first option whose value can't be."""
    for name, value in options.items():
        if name in _RULES:
            expected, accepts = _RULES[name]
            if not accepts(value):
                raise InvalidOption(name, expected, value)
    if options.get("on_exhausted") == PARK and not options.get("dead_letter", True):
        raise InvalidOption("on_exhausted", "'fail' beside dead_letter=False, since nobody could let it through", PARK)


def parks(task: Any) -> bool:
    """True where the task declares that its final failure is withheld from Celery."""
    options = getattr(task, "taskops", None)
    return options is not None and options.on_exhausted == PARK


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_seconds(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= sys.float_info.max


def _is_exceptions(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(
        isinstance(item, type) and issubclass(item, BaseException) for item in value
    )


def _is_texts(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(item, str) and item for item in value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


_EXCEPTIONS = ("a tuple of exception classes", _is_exceptions)

_RULES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "autoretry_for": _EXCEPTIONS,
    "dont_autoretry_for": _EXCEPTIONS,
    "throws": _EXCEPTIONS,
    "max_retries": ("a count of at least 0, or None for no limit", lambda v: v is None or _is_count(v)),
    "retry_backoff": ("True, False or seconds above 0", lambda v: _is_bool(v) or _is_seconds(v)),
    "retry_backoff_max": ("seconds above 0", _is_seconds),
    "retry_jitter": ("True or False", _is_bool),
    "retry_for": ("seconds above 0, or None for no deadline", lambda v: v is None or _is_seconds(v)),
    "dead_letter": ("True or False", _is_bool),
    "dead_letter_queue": ("the name of a queue, or None", lambda v: v is None or (isinstance(v, str) and bool(v))),
    "on_exhausted": ("'fail' or 'park'", lambda v: v in (FAIL, PARK)),
    "idempotent": ("True or False", _is_bool),
    "stale_after": ("seconds above 0, or None", lambda v: v is None or _is_seconds(v)),
    "sensitive": ("a tuple of argument names", _is_texts),
    "fingerprint": ("a text, a callable or None", lambda v: v is None or isinstance(v, str) or callable(v)),
}
