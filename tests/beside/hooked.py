"""A project that overrides what Celery lets it override: each call of a hook is written down under its task's id."""

import json
import re
import time
from typing import Any

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback  # type: ignore[attr-defined]
from celery import Task
from celery.exceptions import Ignore, Reject
from celery.worker.request import Request

from tests.tasks import Declined, be_lost, count, counters


def hook_calls(task_id: str) -> list[list[Any]]:
    """The calls of one task's hooks so far, in the order in which its processes made them."""
    return [json.loads(line) for line in counters().lrange(f"hooks:{task_id}", 0, -1)]


def note(task_id: Any, hook: str, *args: Any, **kwargs: Any) -> None:
    """As it was called, with the task's id left out: two tasks with the same history say the same."""
    told = [hook, [_shown(arg, task_id) for arg in args], {name: _shown(arg, task_id) for name, arg in kwargs.items()}]
    counters().rpush(f"hooks:{task_id}", json.dumps(told))


def _shown(value: Any, task_id: str) -> str:
    if isinstance(value, ExceptionInfo):
        error = value.exception
        return f"ExceptionInfo of {_shown(error.exc if isinstance(error, ExceptionWithTraceback) else error, task_id)}"
    return re.sub(r"Job: \d+", "Job: n", repr(value)).replace(task_id, "its id")


class HookedRequest(Request):
    """In the worker's main process. Celery's strategy never calls an `on_success` of a project's."""

    def on_accepted(self, pid: Any, time_accepted: float) -> None:
        note(self.id, "Request.on_accepted")
        super().on_accepted(pid, time_accepted)

    def on_success(self, failed__retval__runtime: Any, **kwargs: Any) -> Any:
        note(self.id, "Request.on_success")
        return super().on_success(failed__retval__runtime, **kwargs)

    def on_retry(self, exc_info: Any) -> None:
        note(self.id, "Request.on_retry", exc_info)
        super().on_retry(exc_info)

    def on_timeout(self, soft: bool, timeout: float) -> None:  # noqa: FBT001 Celery's signature
        note(self.id, "Request.on_timeout", soft, timeout)
        super().on_timeout(soft, timeout)

    def on_failure(
        self,
        exc_info: Any,
        send_failed_event: bool = True,  # noqa: FBT001, FBT002 Celery's signature
        return_ok: bool = False,  # noqa: FBT001, FBT002 Celery's signature
    ) -> Any:
        note(self.id, "Request.on_failure", exc_info, send_failed_event, return_ok)
        return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)

    def acknowledge(self) -> None:
        note(self.id, "Request.acknowledge", self.acknowledged)
        super().acknowledge()

    def reject(self, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 Celery's signature
        note(self.id, "Request.reject", requeue)
        super().reject(requeue=requeue)


class Hooked(Task):  # type: ignore[type-arg]
    """In the process of the task, but for what the main process says of one that was killed."""

    Request = HookedRequest  # type: ignore[assignment]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        note(self.request.id, "__call__", *args, **kwargs)
        return super().__call__(*args, **kwargs)

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        note(task_id, "before_start", task_id, args, kwargs)

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        note(task_id, "on_success", retval, task_id, args, kwargs)

    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        note(task_id, "on_retry", exc, task_id, args, kwargs, einfo)

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        note(task_id, "on_failure", exc, task_id, args, kwargs, einfo)

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        note(task_id, "after_return", status, retval, task_id, args, kwargs, einfo)

    def retry(self, *args: Any, **kwargs: Any) -> Any:
        note(self.request.id, "retry", *args, **kwargs)
        return super().retry(*args, **kwargs)


class Behave(Hooked):
    """Does what it is told. `times` is for what it does only at first."""

    name = "beside.behave"
    max_retries = 3
    default_retry_delay = 0

    def run(self, how: str, times: int = 0) -> str:
        note(self.request.id, "run", how, times)
        getattr(self, how)(times)
        return how

    def succeed(self, _times: int) -> None: ...

    def fail(self, _times: int) -> None:
        raise Declined("no")

    def try_again(self, times: int) -> None:
        if self.request.retries < times:
            raise self.retry(exc=Declined(f"retry {self.request.retries}"))

    def ignore(self, _times: int) -> None:
        raise Ignore("leave it")

    def reject_it(self, _times: int) -> None:
        raise Reject("not for us")

    def sleep(self, _times: int) -> None:
        time.sleep(30)

    def be_killed(self, times: int) -> None:
        if count(f"killed:{self.request.id}") <= times:
            be_lost(self)


class BehaveLate(Behave):
    """Acknowledged at its end, and put back when its process is lost."""

    name = "beside.behave_late"
    acks_late = True
    reject_on_worker_lost = True


class BehaveByPolicy(Behave):
    """Retried by Celery's own policy."""

    name = "beside.behave_by_policy"
    autoretry_for = (Declined,)
