"""The beats of a worker: what its main process says of itself, from a thread of its own, as long as it lives."""

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .. import journal
from ..conf import conf
from ..events import Beat, Held
from ..journal import forks
from . import headers as own
from .lifecycle import now
from .shield import shielded
from .text import storable, storable_id
from .worker import boot_id, in_main_process

LONGEST_SECONDS = 5.0
BEATS_PER_TIMEOUT = 4
MAX_HELD = 1000
UNKNOWN = -1
BEATS_BETWEEN_TASKS = 60  # then their names are said again, whether they have changed or not
SECONDS_TO_STOP = 2.0
MAX_LOOKS = 20

logger = logging.getLogger("django_taskops")


class Pulse:
    """A thread. `look` is asked at each beat for what is to be said beside the process: fields of `Beat`."""

    def __init__(self, look: Callable[[], Mapping[str, Any]], boot_id: str) -> None:
        self.boot_id = boot_id
        self.number = 0
        self._look = look
        self._started_at = now()
        self._seen: Mapping[str, Any] = {}
        self._told: frozenset[str] = frozenset()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="taskops-pulse", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, *, last_beat: bool = True) -> None:
        """The last beat says that it is the last. Only the first call has an effect."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(SECONDS_TO_STOP)
        if last_beat:
            self._beat(stopped=True)

    def _run(self) -> None:
        while not self._stopping.is_set():
            with forks.kept_away():
                self._beat()
            self._stopping.wait(seconds_between_beats())

    @shielded
    def _beat(self, *, stopped: bool = False) -> None:
        self.number += 1
        said = self._said()
        tasks = frozenset(said.pop("tasks", ()))
        if tasks == self._told and self.number % BEATS_BETWEEN_TASKS:
            said["tasks"] = None
        else:
            said["tasks"], self._told = tuple(sorted(tasks)), tasks
        beat = Beat(
            boot_id=self.boot_id,
            number=self.number,
            at=now(),
            started_at=self._started_at,
            seconds=seconds_between_beats(),
            host=storable(socket.gethostname(), 255),
            pid=os.getpid(),
            version=storable(conf.version(), 100),
            lag_seconds=_spool_lag(),
            stopped=stopped,
            **said,
        )
        journal.current().append_later(beat)

    def _said(self) -> dict[str, Any]:
        """What `look` sees; where it fails, what it saw last, and that nobody knows what is held."""
        try:
            self._seen = self._look()
        except Exception:
            logger.debug("django-taskops: a beat without what is held", exc_info=True)
            self._seen = {**self._seen, "running": (), "reserved": (), "held": UNKNOWN}
        return dict(self._seen)


def seconds_between_beats() -> float:
    return min(LONGEST_SECONDS, conf.WORKER_TIMEOUT / BEATS_PER_TIMEOUT)


def start(sender: Any = None, **_signal: Any) -> None:
    """When a worker is ready. `sender` is its consumer."""
    pulse = Pulse(_Look(sender), boot_id())
    _pulses.append(pulse)
    pulse.start()


def stop(**_signal: Any) -> None:
    """Where a worker shuts down, and at the exit of its main process: after a cold shutdown nothing else is called."""
    if in_main_process():
        while _pulses:
            _pulses.pop().stop()


_pulses: list[Pulse] = []


class _Look:
    """At a worker, through its consumer."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer

    def __call__(self) -> Mapping[str, Any]:
        from celery.worker import state  # much to import, for processes that are no worker

        consumer = self._consumer
        active = {id(request): request for request in _members(state.active_requests)}
        waiting = {id(request): request for request in _members(state.reserved_requests)}
        waiting |= {id(request): request for request in _scheduled(consumer)}
        running = [_held(request) for request in active.values()]
        reserved = [_held(request) for key, request in waiting.items() if key not in active]
        pool = getattr(consumer, "pool", None)
        return {
            "worker": storable(consumer.hostname, 255),
            "pool": storable(type(pool).__module__.rpartition(".")[2], 64),
            "concurrency": getattr(pool, "limit", None),
            "queues": tuple(storable(name) for name in _queues(consumer)),
            "tasks": [name for name in list(consumer.app.tasks) if conf.tracks(name)],
            "running": tuple(running[:MAX_HELD]),
            "reserved": tuple(reserved[: max(0, MAX_HELD - len(running))]),
            "held": len(running) + len(reserved),
        }


def _queues(consumer: Any) -> Iterable[str]:
    """What it reads now: remote control may have changed it. Empty while it reconnects."""
    task_consumer = getattr(consumer, "task_consumer", None)
    return [queue.name for queue in list(getattr(task_consumer, "queues", None) or ())]


def _members(requests: Iterable[Any]) -> list[Any]:
    """Of a weak set that the main thread changes meanwhile. Raises RuntimeError where it does so all the time."""
    for _look in range(MAX_LOOKS - 1):
        try:
            return list(requests)
        except RuntimeError:
            continue
    return list(requests)


def _scheduled(consumer: Any) -> list[Any]:
    """What waits in the worker for its time, or for the task's rate limit."""
    found = [argument for item in consumer.timer.schedule.queue for argument in item.entry.args or ()]
    for bucket in list(consumer.task_buckets.values()):
        found += [item[0] for item in list(getattr(bucket, "contents", ()))] if bucket else []
    return [request for request in found if hasattr(request, "request_dict")]


def _held(request: Any) -> Held:
    delivery = request.request_dict.get(own.DELIVERY) or ""
    return Held(str(delivery), storable_id(request.id), storable(request.name))


def _spool_lag() -> float:
    try:
        return round(journal.spool_lag(), 3)
    except Exception:  # noqa: BLE001 a folder or a setting that can't be used: nothing waits there
        return 0.0
