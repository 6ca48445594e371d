"""Tasks that are parked when they fail for good, and what stands behind them."""

import os
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from celery import shared_task
from celery.exceptions import Ignore, Reject

from django_taskops import tracked_task
from tests.tasks import Declined, count, counters

if TYPE_CHECKING:
    from celery import Task


class OutOfStock(Exception):
    """What no policy here covers."""


def _raise_unexpected() -> NoReturn:
    raise OutOfStock("no stock")


def _raise_expected() -> NoReturn:
    raise Declined("declined")


def _reject() -> NoReturn:
    raise Reject("not for us", requeue=False)


def _sleep() -> None:
    time.sleep(30)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _exit() -> None:
    os._exit(3)


_DEATHS: dict[str, Callable[[], object]] = {
    "exception": _raise_unexpected,
    "retries": _raise_expected,
    "soft limit": _sleep,
    "hard limit": _sleep,
    "killed": _kill,
    "exit": _exit,
    "rejected": _reject,
    "unserializable": object,
}


def _do(key: str, how: str) -> object:
    """Counts, and dies as told until `heal(key)`."""
    count(key)
    if counters().exists(f"healed:{key}"):
        return f"{key} healed"
    return _DEATHS[how]()


OPTIONS: dict[str, Any] = {
    "on_exhausted": "park",
    "autoretry_for": (Declined,),
    "max_retries": 1,
    "retry_backoff": False,
    "default_retry_delay": 0,
}


@tracked_task(**OPTIONS)  # type: ignore[untyped-decorator]
def early(key: str, how: str) -> object:
    return _do(key, how)


@tracked_task(acks_late=True, **OPTIONS)  # type: ignore[untyped-decorator]
def late(key: str, how: str) -> object:
    return _do(key, how)


@tracked_task(bind=True, on_exhausted="park", autoretry_for=(), max_retries=1)
def by_hand(self: "Task[Any, Any]", key: str, how: str) -> object:
    """Retries by itself."""
    try:
        return _do(key, how)
    except Declined as error:
        raise self.retry(exc=error, countdown=0) from error


@tracked_task(on_exhausted="park", max_retries=None, retry_for=0.001, retry_jitter=False)
def within(key: str, how: str) -> object:
    """Retries for a moment."""
    return _do(key, how)


@tracked_task(**OPTIONS)  # type: ignore[untyped-decorator]
def ignored() -> NoReturn:
    raise Ignore


@shared_task
def follow(result: Any, key: str) -> list[Any]:
    """What stands behind: a step of a chain, the body of a chord."""
    return [result, count(f"followed:{key}")]


@shared_task
def note(task_id: str) -> None:
    """An errback of the old kind: sent as a task."""
    count(f"noted:{task_id}")


@shared_task
def note_at_once(request: Any, exc: Any, traceback: Any, key: str = "") -> None:
    """An errback of the new kind: called by whoever tells of the failure."""
    counters().rpush(f"noted at once:{key}", f"{request.id} {type(exc).__name__} {exc}")


@shared_task
def raise_at_once(request: Any, exc: Any, traceback: Any, key: str = "") -> NoReturn:
    """One that fails."""
    count(f"raised:{key}")
    raise OutOfStock(key)
