"""What is measured beside the tasks: what the broker's client sends, and the time that the app's hooks take."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from celery import signals
from kombu.transport.redis import Channel

from chaos import ledger
from chaos.ledger import Line, What

SLOW_NS = 5_000_000
SCHEDULED = Path("/proc/thread-self/schedstat")


def watch_puts() -> None:
    """Notes each message that a client puts into a queue, and each of which it can't say whether it got there."""
    channel_class: Any = Channel
    put = channel_class._put

    @wraps(put)
    def noted(channel: Any, queue: str, message: dict[str, Any], **kwargs: Any) -> Any:
        try:
            done = put(channel, queue, message, **kwargs)
        except BaseException as error:
            _note(What.PUT_FAILED, message, error=repr(error))
            raise
        _note(What.PUT, message)
        return done

    channel_class._put = noted


@contextmanager
def collecting() -> Iterator[set[str]]:
    """The ids of what this process puts meanwhile, or tries to."""
    _collected.clear()
    yield _collected


_collected: set[str] = set()


def _note(what: What, message: dict[str, Any], **detail: Any) -> None:
    headers = message.get("headers") or {}
    if "task" not in headers:
        return  # remote control
    _collected.add(headers["id"])
    ledger.append(
        Line(
            what=what,
            task_id=headers["id"],
            task=headers["task"],
            publication=headers.get("taskops_publication") or "",
            generation=headers.get("taskops_generation") or 0,
            retries=headers.get("retries") or 0,
            tag=message["properties"]["delivery_tag"],
            nonce=headers.get("taskops_nonce") or "",
            detail=detail,
        )
    )


class Stopwatch:
    """The time that this process has spent in the app's code since the task began: by the clock (`wall`), without the
    time in which the thread was ready and another had the processor (`net`), and at work itself (`cpu`)."""

    def __init__(self) -> None:
        self.began = self.wall = self.net = self.cpu = self.calls = 0
        self.slow: list[dict[str, Any]] = []
        self._depth = 0

    def timed(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(hook)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._depth:
                return hook(*args, **kwargs)
            self._depth += 1
            waited = waited_ns()  # before the clock: to read it lets another thread of this process run
            began, worked = time.monotonic_ns(), time.thread_time_ns()
            try:
                return hook(*args, **kwargs)
            finally:
                self._depth -= 1
                self.cpu += time.thread_time_ns() - worked
                self._add(hook.__qualname__, began, waited)

        return timed

    def _add(self, name: str, began: int, waited: int) -> None:
        wall = time.monotonic_ns() - began
        net = max(0, wall - (waited_ns() - waited))
        self.began = self.began or began
        self.calls, self.wall, self.net = self.calls + 1, self.wall + wall, self.net + net
        if wall > SLOW_NS:
            self.slow.append({"hook": name, "at": began, "wall": wall, "net": net})

    def tell(self, **_signal: Any) -> None:
        """At the end of each task, after the app's own receiver."""
        detail = {name: getattr(self, name) for name in ("began", "wall", "net", "cpu", "calls", "slow")}
        task = _signal["task"]
        ledger.append(Line(what=What.OURS, task_id=task.request.id, task=task.name, detail=detail))
        self.began = self.wall = self.net = self.cpu = self.calls = 0
        self.slow = []


def waited_ns() -> int:
    """For how long this thread was ready to run and did not; 0 where the kernel does not tell."""
    try:
        return int(SCHEDULED.read_text().split()[1])
    except (OSError, IndexError):
        return 0


def time_hooks() -> None:
    """Puts a stopwatch around everything of the app's that runs in the process of a task."""
    from django_taskops.capture import lifecycle, wrapper

    stopwatch = Stopwatch()
    module: Any = wrapper
    module._begin = stopwatch.timed(module._begin)
    lifecycle.refuse = stopwatch.timed(lifecycle.refuse)
    for signal in _SIGNALS:
        signal.receivers = [(key, _watched(receiver, stopwatch)) for key, receiver in signal.receivers]
        signal.sender_receivers_cache.clear() if hasattr(signal, "sender_receivers_cache") else None
    signals.task_postrun.connect(stopwatch.tell, weak=False)


_SIGNALS: tuple[Any, ...] = (
    signals.before_task_publish,
    signals.after_task_publish,
    signals.task_prerun,
    signals.task_postrun,
    signals.task_internal_error,
)


def _watched(receiver: Any, stopwatch: Stopwatch) -> Any:
    ours = getattr(receiver, "__module__", "").startswith("django_taskops.")
    return stopwatch.timed(receiver) if ours else receiver
