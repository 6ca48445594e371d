"""The tasks under fire, named by how they behave. Each tells the ledger when it starts and how it leaves."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Task, shared_task
from celery.exceptions import Retry

from chaos import ledger
from chaos.ledger import Line, What
from django_taskops import tracked_task

BoundTask = Task[Any, Any]


class Unlucky(Exception):
    """What the tasks here die of."""


@contextmanager
def told(task: BoundTask) -> Iterator[None]:
    """Around a body: its first and its last deed."""
    _tell(task, What.START, follows=_follower_of(task.request))
    try:
        yield
    except Retry:
        _tell(task, What.RETRIED)
        raise
    except BaseException as error:
        _tell(task, What.RAISED, error=type(error).__name__, final=_is_final(task))
        raise
    _tell(task, What.END)


def _is_final(task: BoundTask) -> bool:
    """False where Celery retries it, which it has not done yet."""
    retried = getattr(task, "autoretry_for", ())
    return not retried or task.request.retries >= (task.max_retries or 0)


def _follower_of(request: Any) -> str:
    """The id of the next step of its chain, or of the body of its chord: "" where nothing follows."""
    if request.chain:
        return str(request.chain[-1]["options"]["task_id"])
    return str(request.chord["options"]["task_id"]) if request.chord else ""


def _tell(task: BoundTask, what: What, **detail: Any) -> None:
    request: Any = task.request
    line = Line(
        what=what,
        task_id=request.id,
        task=task.name,
        publication=getattr(request, "taskops_publication", None) or "",
        generation=getattr(request, "taskops_generation", None) or 0,
        retries=request.retries,
        delivery=getattr(request, "taskops_delivery", None) or "",
        redelivered=bool((request.delivery_info or {}).get("redelivered")),
        tag=(request.properties or {}).get("delivery_tag") or "",
        nonce=getattr(request, "taskops_nonce", None) or "",
        detail=detail,
    )
    ledger.append(line)


def _try_luck(task: BoundTask, fates: str) -> None:
    """`fates` has a letter for each attempt, "x" for one that fails; the last one stands for those after it. What a
    person puts back succeeds."""
    generation = getattr(task.request, "taskops_generation", None) or 0
    if generation == 0 and fates[min(task.request.retries, len(fates) - 1)] == "x":
        raise Unlucky(f"attempt {task.request.retries}")


@shared_task(bind=True)
def quick(self: BoundTask, value: Any = None) -> Any:
    with told(self):
        return value


@shared_task(bind=True)
def slow(self: BoundTask, seconds: float) -> float:
    """Not idempotent: nobody may run it again unasked."""
    with told(self):
        time.sleep(seconds)
        return seconds


@shared_task(bind=True, acks_late=True)
def slow_late(self: BoundTask, seconds: float) -> float:
    with told(self):
        time.sleep(seconds)
        return seconds


@shared_task(bind=True, acks_late=True, reject_on_worker_lost=True)
def slow_put_back(self: BoundTask, seconds: float) -> float:
    with told(self):
        time.sleep(seconds)
        return seconds


@tracked_task(bind=True, idempotent=True)
def slow_idempotent(self: BoundTask, seconds: float) -> float:
    with told(self):
        time.sleep(seconds)
        return seconds


@shared_task(bind=True)
def failing(self: BoundTask) -> None:
    with told(self):
        _try_luck(self, "x")


@tracked_task(bind=True, max_retries=2, retry_backoff=False, default_retry_delay=0)
def flaky(self: BoundTask, fates: str) -> str:
    """Is retried by its policy, at once."""
    with told(self):
        _try_luck(self, fates)
        return fates


@tracked_task(bind=True, max_retries=2, retry_backoff=1, retry_backoff_max=2, acks_late=True)
def flaky_late(self: BoundTask, fates: str) -> str:
    """Is retried by its policy, after a second or two."""
    with told(self):
        _try_luck(self, fates)
        return fates


@shared_task(bind=True, max_retries=3)
def retrying(self: BoundTask, fates: str, countdown: float) -> str:
    """Retries by its own hand."""
    with told(self):
        try:
            _try_luck(self, fates)
        except Unlucky as error:
            raise self.retry(exc=error, countdown=countdown) from error
        return fates


@shared_task(bind=True)
def publishing(self: BoundTask, count: int) -> int:
    with told(self):
        for number in range(count):
            quick.delay(number)
        return count


@shared_task(bind=True)
def collect(self: BoundTask, values: Any) -> Any:
    """The body of a chord."""
    with told(self):
        return values
