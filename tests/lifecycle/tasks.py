"""Tasks that end in each of the ways that docs/lifecycle.md names, where tests.tasks has none that does."""

import os
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

from celery import Task, shared_task
from celery.exceptions import Reject, Retry
from kombu import Connection

from django_taskops import tracked_task
from tests.tasks import Declined, add, count, declare, wait_for

NOBODY_LISTENS = "redis://127.0.0.1:1/0"
MESSAGE_MIB = 10

# What raises


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Vast(Exception):
    """Its message takes megabytes."""


@shared_task
def fail_unprintably() -> NoReturn:
    raise Unprintable


@shared_task
def fail_in_a_circle() -> NoReturn:
    first, second = Declined("first"), Declined("second")
    first.__cause__, second.__cause__ = second, first
    raise first


@shared_task
def fail_at_length() -> NoReturn:
    raise Vast("x" * MESSAGE_MIB * 2**20)


@declare(autoretry_for=(Exception,), dont_autoretry_for=(Declined,), max_retries=3)  # type: ignore[untyped-decorator]
def fail_with_an_excluded_exception() -> NoReturn:
    raise Declined("this one is never retried")


@shared_task
def two_arguments(x: int, y: int) -> int:
    return x + y


@shared_task(ignore_result=True)
def fail_without_a_result() -> NoReturn:
    raise Declined("nobody stores it")


@shared_task(ignore_result=True)
def succeed_without_a_result() -> str:
    return "nobody stores it"


# What is retried


@shared_task(bind=True, max_retries=2, default_retry_delay=0)
def retry_bare(self: "Task[Any, Any]") -> None:
    """`self.retry()` in an `except`, with no exception named."""
    try:
        raise Declined("the supplier is away")
    except Declined:
        self.retry(countdown=0)


@shared_task(bind=True, max_retries=3)
def retry_without_throwing(self: "Task[Any, Any]", key: str) -> str:
    if count(key) == 1:
        self.retry(countdown=0, throw=False)
        return "goes on"
    return "second"


@shared_task(bind=True, max_retries=3)
def retry_without_throwing_and_fail(self: "Task[Any, Any]", key: str) -> str:
    if count(key) == 1:
        self.retry(countdown=1, throw=False)
        return "goes on"
    raise Declined("the second time")


@shared_task(bind=True, max_retries=3)
def retry_and_go_on(self: "Task[Any, Any]", key: str) -> str:
    if count(key) == 1:
        with suppress(Retry):
            self.retry(countdown=1)
        return "goes on"
    raise Declined("the second time")


@shared_task(bind=True, max_retries=3)
def retry_at_an_instant(self: "Task[Any, Any]", key: str) -> str:
    if count(key) == 1:
        raise self.retry(eta=datetime.now(UTC) + timedelta(seconds=0.3))
    return "in time"


@tracked_task(retry_backoff=600, retry_jitter=False, retry_for=60)
def fail_past_its_deadline() -> NoReturn:
    raise Declined("still away")


@shared_task(bind=True, max_retries=3)
def retry_where_no_broker_is(self: Any) -> NoReturn:
    with Connection(NOBODY_LISTENS, connect_timeout=1) as dead:
        raise self.retry(exc=Declined("lost on the way"), connection=dead, countdown=0)


# What leaves by another door


@shared_task
def reject_early(*, requeue: bool = False) -> NoReturn:
    raise Reject("not for us", requeue=requeue)


@shared_task(acks_late=True)
def reject_late_once(key: str) -> str:
    if count(key) == 1:
        raise Reject("later", requeue=True)
    return "now"


@shared_task
def leave_by_os_exit() -> None:
    os._exit(7)


@shared_task
def leave_by_keyboard_interrupt() -> NoReturn:
    raise KeyboardInterrupt


@shared_task
def leave_by_sys_exit() -> None:
    sys.exit(1)


@shared_task(acks_late=True, acks_on_failure_or_timeout=False, time_limit=1)
def hard_limit_put_back(key: str) -> str:
    """Its message is given back to the broker at the first hard limit."""
    if count(key) == 1:
        time.sleep(30)
    return "second time"


# Hooks


class BrokenOnFailure(Task):  # type: ignore[type-arg]
    def on_failure(self, *_args: Any, **_kwargs: Any) -> None:
        raise RuntimeError("on_failure is broken")


class BrokenOnSuccess(Task):  # type: ignore[type-arg]
    def on_success(self, *_args: Any, **_kwargs: Any) -> None:
        raise RuntimeError("on_success is broken")


@shared_task(base=BrokenOnFailure)
def fail_with_a_broken_hook() -> NoReturn:
    raise Declined("the task's own")


@shared_task(base=BrokenOnSuccess)
def succeed_with_a_broken_hook() -> str:
    return "done"


# What calls others


@shared_task
def call_others() -> int:
    """One by the broker, one as a plain function."""
    add.delay(20, 22)
    return int(add(1, 2))


@shared_task
def errback(*_args: Any) -> str:
    return "told"


@shared_task(acks_late=True)
def wait_late(key: str) -> str:
    """As `wait_for`, and the broker delivers it again where its worker goes away."""
    return str(wait_for(key))


@tracked_task(idempotent=True, max_retries=3)
def wait_idempotent(key: str) -> str:
    """As `wait_for`, declared harmless to run again."""
    return str(wait_for(key))


@tracked_task(idempotent=True, max_retries=0)
def wait_idempotent_once(key: str) -> str:
    """Declared harmless to run again, and granted one start."""
    return str(wait_for(key))


@shared_task(bind=True, max_retries=3)
def retry_into(self: "Task[Any, Any]", queue: str) -> NoReturn:
    """Its next attempt is sent to another queue."""
    raise self.retry(queue=queue, countdown=0)


@shared_task
def log_in(user: object, password: str) -> str:
    return "in"
