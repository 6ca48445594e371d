"""The seam with Celery: whatever goes wrong in a hook of ours, the user's task goes on."""

import logging
import time
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from celery.exceptions import SoftTimeLimitExceeded
from kombu.exceptions import SerializationError

P = ParamSpec("P")
R = TypeVar("R")

SECONDS_BETWEEN_LOGS = 60.0

logger = logging.getLogger("django_taskops")
_last_logged: dict[str, float] = {}


def shielded(hook: Callable[P, R]) -> Callable[P, R | None]:
    """`hook`, which then logs its exceptions, once a minute each, and returns None.

    The soft time limit of the user's task may strike while a hook runs: it is the task's, and goes through.
    """

    @wraps(hook)
    def shield(*args: P.args, **kwargs: P.kwargs) -> R | None:
        try:
            return hook(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 whatever goes wrong in ours is logged
            let_limit_through(error)
            _log(hook.__qualname__, error)
            return None

    return shield


def _log(name: str, error: Exception) -> None:
    try:
        if due(name):
            told = "django-taskops: %s failed; the task goes on, what it saw is not recorded"
            logger.error(told, name, exc_info=error)
    except Exception as broken:  # noqa: BLE001 the project's own handlers run here
        let_limit_through(broken)


def is_soft_limit(error: BaseException | None) -> bool:
    """True also of the error that kombu makes of whatever strikes while it serializes."""
    if isinstance(error, SerializationError):
        error = error.__cause__ or error.__context__
    return isinstance(error, SoftTimeLimitExceeded)


def let_limit_through(error: Exception) -> None:
    """Raises SoftTimeLimitExceeded where that is what `error` is."""
    if is_soft_limit(error):
        raise SoftTimeLimitExceeded from error


def due(name: str) -> bool:
    """True once a minute for each name: for what is logged."""
    now = time.monotonic()
    if now - _last_logged.get(name, -SECONDS_BETWEEN_LOGS) < SECONDS_BETWEEN_LOGS:
        return False
    _last_logged[name] = now
    return True
