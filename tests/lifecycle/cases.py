"""How a task can end: what is published, and what stands in the tables afterwards. docs/lifecycle.md has the same."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import uuid4

import celery
from celery import current_app

from django_taskops.models import TaskRun
from django_taskops.states import DeadLetterReason
from tests import tasks
from tests.lifecycle import tasks as more
from tests.workers import eventually

if TYPE_CHECKING:
    from celery.result import AsyncResult

Published: TypeAlias = "AsyncResult[Any] | str | Mapping[str, Any]"
"""A result, a task id, or how else to find the run: the filter of a query."""

POOLS = ("prefork", "threads", "solo")
BROKERS = ("redis", "rabbitmq")
UNTIL_REVOKED = 8  # seconds that its revocation has to arrive before the task would start
TO_ANSWER = 0.5  # seconds; on gevent a worker calls itself ready before it listens to what is told to all


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """`starts` is how often the body is entered."""

    state: str
    reason: str = ""
    starts: int = 1

    @property
    def letter(self) -> bool:
        return self.reason in DeadLetterReason.values


@dataclass(frozen=True, slots=True, kw_only=True)
class Case(Ending):
    """`then` is done to what was published, once everything is. `since` is the Celery that ends it like this."""

    publish: Callable[[], Published]
    pools: tuple[str, ...] = POOLS
    brokers: tuple[str, ...] = BROKERS
    then: Callable[[Any], object] | None = None
    since: tuple[int, int] = (5, 4)

    def is_seen(self, pool: str, broker: str) -> bool:
        return pool in self.pools and broker in self.brokers and celery.VERSION[:2] >= self.since


def key() -> str:
    return uuid4().hex


def run_of(published: Published) -> TaskRun:
    """Raises TaskRun.DoesNotExist."""
    if isinstance(published, str):
        published = {"task_id": published}
    elif not isinstance(published, Mapping):
        published = {"task_id": published.id}
    run: TaskRun = TaskRun.objects.get(**published)
    return run


def send_raw(body: str, *, content_type: str = "application/json", **headers: Any) -> Published:
    """A message that no Celery would publish."""
    headers = {"id": str(uuid4()), "task": "tests.tasks.succeed"} | headers
    headers = {name: value for name, value in headers.items() if value is not None}
    with current_app.producer_or_acquire(None) as producer:
        producer.publish(
            body,
            exchange="",
            routing_key=tasks_queue(),
            content_type=content_type,
            content_encoding="utf-8",
            headers=headers,
        )
    nameless = {"task_id__startswith": "undecodable-", "task_name": headers.get("task", "")}
    return str(headers["id"]) if "id" in headers else nameless


def tasks_queue() -> str:
    from tests.celery_app import route

    return route("", (), {}, {})["queue"]


def wait_until_started(result: "AsyncResult[Any]") -> None:
    eventually(lambda: TaskRun.objects.get(task_id=result.id, state="STARTED"))


def revoke(result: "AsyncResult[Any]") -> None:
    eventually(lambda: current_app.control.revoke(result.id, reply=True, timeout=TO_ANSWER))


def revoke_by_stamp(_result: "AsyncResult[Any]") -> None:
    stamp = {"order": "order-7"}
    eventually(lambda: current_app.control.revoke_by_stamped_headers(stamp, reply=True, timeout=TO_ANSWER))


def terminate(result: "AsyncResult[Any]") -> None:
    wait_until_started(result)
    result.revoke(terminate=True, signal="SIGKILL")


CHILD = ("prefork",)

CASES: dict[str, Case] = {
    "it returns": Case(publish=lambda: tasks.add.delay(1, 2), state="SUCCESS"),
    "it returns, `ignore_result`": Case(publish=more.succeed_without_a_result.delay, state="SUCCESS"),
    "it calls other tasks, and one as a function": Case(publish=more.call_others.delay, state="SUCCESS"),
    # exceptions
    "an exception, no retry policy": Case(publish=tasks.fail.delay, state="FAILURE", reason="failed"),
    "an exception, `ignore_result`": Case(publish=more.fail_without_a_result.delay, state="FAILURE", reason="failed"),
    "an exception in `throws`": Case(publish=tasks.fail_as_expected.delay, state="FAILURE", reason="non_retryable"),
    "an exception in `dont_autoretry_for`": Case(
        publish=more.fail_with_an_excluded_exception.delay, state="FAILURE", reason="non_retryable"
    ),
    "an exception that can't be pickled": Case(publish=tasks.fail_unpicklably.delay, state="FAILURE", reason="failed"),
    "an exception whose `str()` raises": Case(publish=more.fail_unprintably.delay, state="FAILURE", reason="failed"),
    "an exception that is its own cause's cause": Case(
        publish=more.fail_in_a_circle.delay, state="FAILURE", reason="failed"
    ),
    "an exception with a message of 10 MiB": Case(publish=more.fail_at_length.delay, state="FAILURE", reason="failed"),
    "arguments that do not fit, sent by name": Case(
        publish=lambda: current_app.send_task("tests.lifecycle.tasks.two_arguments", args=(1, 2, 3)),
        state="FAILURE",
        reason="failed",
    ),
    "arguments that do not fit a tracked task": Case(
        publish=lambda: current_app.send_task("tests.tasks.tracked_add", args=(1, 2, 3)),
        state="FAILURE",
        reason="non_retryable",
    ),
    "a result that can't be serialized": Case(
        publish=tasks.return_unserializable.delay, state="FAILURE", reason="unserializable_result"
    ),
    "an exception, and `on_failure` raises": Case(
        publish=more.fail_with_a_broken_hook.delay, state="FAILURE", reason="failed", pools=("prefork", "threads")
    ),
    "it returns, and `on_success` raises": Case(publish=more.succeed_with_a_broken_hook.delay, state="SUCCESS"),
    "an exception, with `link_error`": Case(
        publish=lambda: tasks.fail.apply_async(link_error=more.errback.s()), state="FAILURE", reason="failed"
    ),
    "it returns, with `link`": Case(
        publish=lambda: tasks.add.apply_async((1, 2), link=tasks.succeed.s()), state="SUCCESS"
    ),
    # retries
    "autoretry, then it returns": Case(publish=lambda: tasks.flaky.delay(key(), 2), state="SUCCESS", starts=3),
    "autoretry until none is left": Case(
        publish=lambda: tasks.flaky.delay(key(), 9), state="FAILURE", reason="exhausted", starts=4
    ),
    "`self.retry(exc=...)`, then it returns": Case(
        publish=lambda: tasks.retry_manually.delay(key(), 1), state="SUCCESS", starts=2
    ),
    "`self.retry(exc=...)` until none is left": Case(
        publish=lambda: tasks.retry_manually.delay(key(), 9), state="FAILURE", reason="exhausted", starts=4
    ),
    "`self.retry()` until none is left": Case(
        publish=more.retry_bare.delay, state="FAILURE", reason="exhausted", starts=3
    ),
    "`self.retry(throw=False)`, and it goes on": Case(
        publish=lambda: more.retry_without_throwing.delay(key()), state="SUCCESS", starts=2
    ),
    "`self.retry(throw=False)`, it goes on, and the next attempt fails": Case(
        publish=lambda: more.retry_without_throwing_and_fail.delay(key()), state="FAILURE", reason="failed", starts=2
    ),
    "`self.retry()`, it catches the `Retry`, and the next attempt fails": Case(
        publish=lambda: more.retry_and_go_on.delay(key()), state="FAILURE", reason="failed", starts=2
    ),
    "`self.retry(eta=...)`, then it returns": Case(
        publish=lambda: more.retry_at_an_instant.delay(key()), state="SUCCESS", starts=2
    ),
    "the next retry would come after `retry_for`": Case(
        publish=more.fail_past_its_deadline.delay, state="FAILURE", reason="exhausted"
    ),
    "a retry that the broker does not take": Case(
        publish=more.retry_where_no_broker_is.delay, state="REJECTED", reason="rejected"
    ),
    # other doors
    "`Ignore`": Case(publish=tasks.ignore.delay, state="IGNORED"),
    "`self.replace()`": Case(publish=lambda: tasks.replace_by_add.delay(1, 2), state="SUCCESS", starts=2),
    "`Reject`": Case(publish=more.reject_early.delay, state="REJECTED", reason="rejected"),
    "`Reject`, `acks_late`": Case(publish=tasks.reject.delay, state="REJECTED", reason="rejected"),
    "`Reject(requeue=True)`, acknowledged before": Case(
        publish=lambda: more.reject_early.delay(requeue=True), state="REJECTED", reason="rejected"
    ),
    "`Reject(requeue=True)`, `acks_late`": Case(
        publish=lambda: more.reject_late_once.delay(key()), state="SUCCESS", starts=2
    ),
    # limits and killed processes
    "soft time limit": Case(publish=tasks.soft_limit.delay, state="FAILURE", reason="soft_time_limit", pools=CHILD),
    "soft time limit, caught": Case(publish=tasks.soft_limit_caught.delay, state="SUCCESS", pools=CHILD),
    "hard time limit": Case(publish=tasks.hard_limit.delay, state="FAILURE", reason="time_limit", pools=CHILD),
    "hard time limit, message put back": Case(
        publish=lambda: more.hard_limit_put_back.delay(key()), state="SUCCESS", starts=2, pools=CHILD, since=(5, 5)
    ),
    "child killed": Case(publish=tasks.kill_self.delay, state="FAILURE", reason="worker_lost", pools=CHILD),
    "child killed, message put back": Case(
        publish=lambda: tasks.kill_self_once.delay(key()), state="SUCCESS", starts=2, pools=CHILD
    ),
    "child killed after it returned": Case(publish=tasks.succeed_and_be_killed.delay, state="SUCCESS", pools=CHILD),
    "`os._exit()`": Case(publish=more.leave_by_os_exit.delay, state="FAILURE", reason="worker_lost", pools=CHILD),
    "`sys.exit()`": Case(
        publish=more.leave_by_sys_exit.delay, state="FAILURE", reason="worker_lost", pools=("prefork", "threads")
    ),
    "`KeyboardInterrupt`": Case(
        publish=more.leave_by_keyboard_interrupt.delay,
        state="FAILURE",
        reason="worker_lost",
        pools=("prefork", "threads"),
    ),
    # revoked, expired
    "revoked before it starts": Case(
        publish=lambda: tasks.add.apply_async((1, 2), countdown=UNTIL_REVOKED),
        then=revoke,
        state="REVOKED",
        reason="revoked",
        starts=0,
    ),
    "revoked by a stamped header": Case(
        publish=lambda: stamped("order-7").apply_async(countdown=UNTIL_REVOKED),
        then=revoke_by_stamp,
        state="REVOKED",
        reason="revoked",
        starts=0,
    ),
    "revoked with `terminate`": Case(
        publish=lambda: tasks.sleep_for.delay(60), then=terminate, state="REVOKED", reason="revoked", pools=CHILD
    ),
    "expired in the queue": Case(
        publish=lambda: tasks.add.apply_async((1, 2), expires=0.001),
        state="REVOKED",
        reason="expired",
        starts=0,
        brokers=("redis",),
    ),
    "expired before its eta": Case(
        publish=lambda: tasks.add.apply_async((1, 2), expires=1, countdown=2),
        state="REVOKED",
        reason="expired",
        starts=0,
        brokers=("redis",),  # RabbitMQ drops it, if no worker has it by then
    ),
    # messages that are no task
    "a name that no worker knows": Case(
        publish=lambda: current_app.send_task("tests.tasks.nowhere"), state="FAILURE", reason="unknown_task", starts=0
    ),
    "a content type that is not accepted": Case(
        publish=lambda: send_raw("x", content_type="application/x-unheard-of"),
        state="FAILURE",
        reason="undecodable",
        starts=0,
    ),
    "a body that is garbage": Case(
        publish=lambda: send_raw("{no json"), state="FAILURE", reason="undecodable", starts=0
    ),
    "a body that is no triple": Case(publish=lambda: send_raw("[1]"), state="FAILURE", reason="undecodable", starts=0),
    "keyword arguments that are no mapping": Case(
        publish=lambda: send_raw("[[], [1], {}]"), state="FAILURE", reason="undecodable", starts=0
    ),
    "an eta that is none": Case(
        publish=lambda: send_raw("[[], {}, {}]", eta="tomorrow"), state="FAILURE", reason="undecodable", starts=0
    ),
    "no header `id`": Case(
        publish=lambda: send_raw("[[], {}, {}]", id=None), state="FAILURE", reason="undecodable", starts=0
    ),
    "a header `timelimit` that is none": Case(
        publish=lambda: send_raw("[[], {}, {}]", timelimit=["a", "b"]), state="FAILURE", reason="undecodable", starts=0
    ),
    "a header `stamped_headers` that is none": Case(
        publish=lambda: send_raw("[[], {}, {}]", stamped_headers=5), state="FAILURE", reason="undecodable", starts=0
    ),
    "a header `task` that is no name": Case(
        publish=lambda: send_raw("[[], {}, {}]", task={"x": 1}), state="FAILURE", reason="undecodable", starts=0
    ),
    "no headers at all": Case(
        publish=lambda: send_raw('{"hello": "world"}', id=None, task=None),
        state="FAILURE",
        reason="undecodable",
        starts=0,
    ),
}


def stamped(order: str) -> Any:
    signature: Any = tasks.add.s(1, 2)
    signature.stamp(order=order)
    return signature


STAGED: dict[str, Ending] = {
    "warm shutdown in the middle": Ending(state="SUCCESS"),
    "soft shutdown, and it ends in time": Ending(state="SUCCESS"),
    "cold shutdown in the middle": Ending(state="FAILURE", reason="cancelled"),
    "cold shutdown in the middle, `acks_late`": Ending(state="SUCCESS", starts=2),
    "`MemoryError`": Ending(state="FAILURE", reason="failed"),
    "`sys.exit()` in a solo worker": Ending(state="FAILURE", reason="worker_lost"),
    "an exception, and `on_failure` raises, in a solo worker": Ending(state="FAILURE", reason="failed"),
    "result backend down, it returns": Ending(state="SUCCESS"),
    "result backend down, an exception": Ending(state="FAILURE", reason="failed"),
    "result backend down, hard time limit": Ending(state="FAILURE", reason="time_limit"),
    "result backend down, child killed": Ending(state="FAILURE", reason="worker_lost"),
    "result backend down, a name that no worker knows": Ending(state="FAILURE", reason="unknown_task", starts=0),
    "delivered again while the first delivery runs": Ending(state="SUCCESS", starts=2),
    "it returns, and what follows can't be published": Ending(state="FAILURE", reason="failed"),
    "a step before it in the chain failed": Ending(state="FAILURE", reason="upstream_failed", starts=0),
    "a member of its chord failed": Ending(state="FAILURE", reason="upstream_failed", starts=0),
    "whole worker killed": Ending(state="FAILURE", reason="worker_lost"),
    "whole worker killed, `acks_late`": Ending(state="SUCCESS", starts=2),
    "whole worker killed, message prefetched": Ending(state="SUCCESS"),
    "whole worker killed for the third time": Ending(state="FAILURE", reason="poison", starts=3),
    "its worker lives and does not run it any more": Ending(state="FAILURE", reason="end_lost"),
    "queue purged": Ending(state="FAILURE", reason="undelivered", starts=0),
    "expired in RabbitMQ": Ending(state="REVOKED", reason="expired", starts=0),
    "eager, it returns": Ending(state="SUCCESS"),
    "eager, an exception": Ending(state="FAILURE", reason="failed"),
    "eager, an exception, propagated": Ending(state="FAILURE", reason="failed"),
    "eager, retries, then it returns": Ending(state="SUCCESS", starts=2),
}
"""Those that need a worker of their own, or none: the tests beside this file show them by these names."""


def found(published: Published, name: str) -> bool:
    """`shows`, of the run of what was published. For `eventually`."""
    return shows(run_of(published), name)


def shows(run: TaskRun, name: str) -> bool:
    """True where the tables say of `run` what STAGED says of `name`."""
    ending = STAGED[name]
    run.refresh_from_db()
    seen = (run.state, run.reason, run.starts(), run.dead_letters.count())
    expected = (ending.state, ending.reason, ending.starts, int(ending.letter))
    assert seen == expected, f"expected {expected}, got {seen}"
    return True
