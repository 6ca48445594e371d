"""A small catalogue of tasks, named by how they behave."""

import json
import os
import signal
import sys
import threading
import time
from typing import Any, NoReturn

import redis
from celery import Task, shared_task
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from celery.worker.request import Request
from django.conf import settings
from django.db import connections

from django_taskops import set_progress, tracked_task
from example_site.embedded import redis_database

COUNTERS = 3  # the database of Redis; 1 and 2 are the broker's and the results'


class Declined(Exception):
    """What the tasks here die of."""


class CannotBePickled(Exception):
    def __init__(self, lock: object, code: int) -> None:
        super().__init__("holds a lock")
        self.lock, self.code = lock, code


def counters() -> redis.Redis:
    return redis.Redis.from_url(redis_database(os.environ["REDIS_URL"], COUNTERS))


def calls(key: str) -> int:
    """How often `flaky(key)` and the like were called so far."""
    return int(counters().get(key) or 0)


def count(key: str) -> int:
    return int(counters().incr(key))


def heal(key: str) -> None:
    """From now on `broken_until_healed(key)` succeeds."""
    counters().set(f"healed:{key}", 1)


# What succeeds


@shared_task
def succeed(*args: Any, **kwargs: Any) -> str:
    return "done"


@shared_task
def add(x: int, y: int) -> int:
    return x + y


@shared_task
def collect(values: list[Any]) -> list[Any]:
    """The body of a chord."""
    return values


@shared_task
def echo(*args: Any, **kwargs: Any) -> dict[str, Any]:
    return {"args": list(args), "kwargs": kwargs}


@shared_task
def opened_databases() -> dict[str, str]:
    """What this process would write to: alias and name of each database."""
    return {alias: str(connections[alias].settings_dict["NAME"]) for alias in connections}


@shared_task
def taskops_settings() -> dict[str, Any]:
    return dict(settings.TASKOPS)


@tracked_task
def tracked_add(x: int, y: int) -> int:
    return x + y


@shared_task
def sleep_for(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@shared_task
def wait_for(key: str, timeout: float = 30) -> str:
    """Counts `started:<key>`, then goes on when the test sets `go:<key>`."""
    count(f"started:{key}")
    deadline = time.monotonic() + timeout
    while not counters().exists(f"go:{key}"):
        if time.monotonic() > deadline:
            raise TimeoutError(f"expected go:{key} within {timeout} s")
        time.sleep(0.02)
    return key


def let_go(key: str) -> None:
    counters().set(f"go:{key}", 1)


@shared_task(bind=True)
def report_progress(self: "Task[Any, Any]", total: int = 3) -> int:
    for done in range(1, total + 1):
        set_progress(done, total)
    return total


# What raises


@shared_task
def fail(message: str = "the supplier said no") -> NoReturn:
    raise Declined(message)


@shared_task
def fail_with_cause() -> NoReturn:
    try:
        raise KeyError("sku")
    except KeyError as error:
        raise Declined("the order has no sku") from error


@shared_task
def fail_unpicklably() -> NoReturn:
    raise CannotBePickled(threading.Lock(), 7)


@shared_task(throws=(Declined,))
def fail_as_expected() -> NoReturn:
    raise Declined("no stock left")


@shared_task
def broken_until_healed(key: str) -> str:
    count(key)
    if not counters().exists(f"healed:{key}"):
        raise Declined(f"{key} is broken")
    return "healed"


@tracked_task(max_retries=0)
def tracked_broken_until_healed(key: str) -> str:
    count(key)
    if not counters().exists(f"healed:{key}"):
        raise Declined(f"{key} is broken")
    return "healed"


@shared_task
def return_unserializable() -> object:
    return object()


@shared_task
def run_out_of_memory() -> NoReturn:
    raise MemoryError("no more")


# What is retried


@shared_task(autoretry_for=(Declined,), max_retries=3, default_retry_delay=0)
def flaky(key: str, failures: int) -> int:
    """Fails `failures` times, then returns how often it was called."""
    return _fail_at_first(key, failures)


@tracked_task(max_retries=3, retry_backoff=1, retry_backoff_max=1)
def tracked_flaky(key: str, failures: int) -> int:
    return _fail_at_first(key, failures)


def _fail_at_first(key: str, failures: int) -> int:
    called = count(key)
    if called <= failures:
        raise Declined(f"call {called} of {key}")
    return called


@shared_task(bind=True, max_retries=3, default_retry_delay=0)
def retry_manually(self: "Task[Any, Any]", key: str, failures: int) -> int:
    called = count(key)
    if called <= failures:
        raise self.retry(exc=Declined(f"call {called} of {key}"))
    return called


@shared_task(bind=True, max_retries=3)
def retry_with_other_arguments(self: "Task[Any, Any]", left: int) -> int:
    if left:
        raise self.retry(args=(left - 1,), kwargs={}, countdown=0)
    return left


@shared_task(bind=True, max_retries=3)
def retry_later(self: "Task[Any, Any]", seconds: float = 3600) -> NoReturn:
    raise self.retry(countdown=seconds)


# What leaves by another door


@shared_task
def ignore() -> NoReturn:
    raise Ignore


@shared_task(acks_late=True)
def reject(requeue: bool = False) -> NoReturn:  # noqa: FBT001, FBT002 - a task's arguments
    raise Reject("not for us", requeue=requeue)


@shared_task(bind=True)
def replace_by_add(self: "Task[Any, Any]", x: int, y: int) -> None:
    self.replace(add.s(x, y))


@shared_task(soft_time_limit=1)
def soft_limit() -> None:
    time.sleep(30)


@shared_task(soft_time_limit=1)
def soft_limit_caught() -> str:
    try:
        time.sleep(30)
    except SoftTimeLimitExceeded:
        return "cleaned up"
    return "slept"


@shared_task(time_limit=1)
def hard_limit() -> None:
    time.sleep(30)


@shared_task
def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@shared_task(bind=True, acks_late=True, reject_on_worker_lost=True)
def kill_self_once(self: "Task[Any, Any]", key: str) -> int:
    """Kills its process at the first call; the broker delivers it again."""
    called = count(key)
    if called == 1:
        be_lost(self)
    return called


def be_lost(task: "Task[Any, Any]", timeout: float = 30) -> None:
    """Kills the process of the running task, once the worker's main process knows that it has it: until then it would
    give the task to another child, as if nothing had happened."""
    request: Any = task.request
    inspect = task.app.control.inspect([request.hostname], timeout=1, limit=1)
    deadline = time.monotonic() + timeout
    while request.id not in [active["id"] for active in (inspect.active() or {}).get(request.hostname, ())]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"expected {request.hostname} to know within {timeout} s that it runs {request.id}")
    os.kill(os.getpid(), signal.SIGKILL)


@shared_task
def sys_exit(code: int = 1) -> None:
    sys.exit(code)


NOTICES = "tests.dead"


@tracked_task(dead_letter_queue=NOTICES, throws=(Declined,))
def notifies_of_its_death(sku: str) -> NoReturn:
    raise Declined(sku)


# What projects do to their tasks

declare: Any = shared_task  # with options that the stubs do not know


class NarrowRetry(Task):  # type: ignore[type-arg]
    """With fewer parameters than Celery's, as projects have it."""

    def retry(self, exc: Any = None, countdown: float = 0, **options: Any) -> Any:  # type: ignore[override]
        return super().retry(exc=exc, countdown=countdown, **options)


@shared_task(base=NarrowRetry, bind=True, max_retries=3)
def retry_through_a_narrow_override(self: "Task[Any, Any]", key: str, failures: int) -> int:
    called = count(key)
    if called <= failures:
        raise self.retry(exc=Declined(f"call {called}"))
    return called


class FallingBack(Task):  # type: ignore[type-arg]
    """Answers for a body that fails."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().__call__(*args, **kwargs)
        except Declined:
            return "fallback"


@shared_task(base=FallingBack)
def fail_with_fallback() -> NoReturn:
    raise Declined("the fallback answers")


class Locked(Task):  # type: ignore[type-arg]
    def __call__(self, *_args: Any, **_kwargs: Any) -> Any:
        return "somebody else has the lock"


@shared_task(base=Locked)
def never_reached() -> None: ...


class BadStart(Task):  # type: ignore[type-arg]
    def before_start(self, *_args: Any, **_kwargs: Any) -> None:
        raise Declined("not today")


@shared_task(base=BadStart)
def fail_before_its_start() -> None: ...


class KeywordRequest(Request):
    def on_failure(self, exc_info: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        return super().on_failure(exc_info, **kwargs)


@declare(Request="tests.tasks:KeywordRequest")  # type: ignore[untyped-decorator]
def kill_self_under_a_request_of_our_own() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@declare(bind=True, retry_on_worker_lost=True, max_retries=2, default_retry_delay=0)  # type: ignore[untyped-decorator]
def kill_self_at_first(self: "Task[Any, Any]", key: str) -> int:
    """Since Celery 5.7 the worker's main process retries it."""
    called = count(key)
    if called == 1:
        be_lost(self)
    return called


@shared_task(soft_time_limit=1)
def report_progress_for_ever() -> str:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        set_progress(1, 1)
    return "the limit was swallowed"


@shared_task(soft_time_limit=1)
def publish_for_ever(queue: str) -> str:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        add.apply_async((1, 2), queue=queue)
    return "the limit was swallowed"


@shared_task(bind=True)
def look_at_its_request(self: "Task[Any, Any]") -> int:
    return len(json.dumps(vars(self.request), default=str))


class KilledAtItsEnd(Task):  # type: ignore[type-arg]
    def on_success(self, *_args: Any, **_kwargs: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@shared_task(base=KilledAtItsEnd)
def succeed_and_be_killed() -> str:
    return "stored before"


@shared_task(acks_late=True)
def kill_self_the_second_time(key: str) -> str:
    if count(key) > 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return "stored before"
