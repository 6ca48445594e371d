"""Lets those who poll a failed task wait again: in the result backend, FAILURE becomes RETRY until the re-run ends.

What the backend keeps besides (the exception, the traceback, the children) stays. A backend that is away, or can't do
it, stops nobody: its pollers go on reading FAILURE until the re-run has ended.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from celery import Celery, states
from celery.backends.base import BaseKeyValueStoreBackend
from celery.backends.redis import RedisBackend

from ..capture.shield import due

SECONDS = 5.0  # for each answer of a Redis

logger = logging.getLogger("django_taskops")


def hold(app: Celery, task_ids: Sequence[str]) -> Mapping[str, Any]:
    """Turns FAILURE into RETRY for these tasks; returns those that had it, for `give_back`. Never raises."""
    held: Mapping[str, Any] = {}
    try:
        if store := _store_of(app):
            held = store.turn(task_ids, states.FAILURE, states.RETRY)
            _listen_afresh(app.backend, held)
    except Exception:
        if due("pollers"):
            logger.warning("django-taskops: pollers of what is put back may still read FAILURE", exc_info=True)
    return held  # also where only the listening went wrong: what is not sent then has to fail again


def give_back(app: Celery, held: Mapping[str, Any]) -> None:
    """What was held fails again: it was not sent. Never raises."""
    try:
        if store := _store_of(app):
            store.turn(list(held), states.RETRY, states.FAILURE)
    except Exception:
        logger.warning("django-taskops: pollers of %s tasks that were not sent wait in vain", len(held), exc_info=True)


def _listen_afresh(backend: Any, task_ids: Iterable[str]) -> None:
    """In a process that waits for one of these results, its failure may already lie in the subscription, unread. As
    after a lost connection, what is kept now counts, and what was said before is forgotten."""
    consumer: Any = getattr(backend, "result_consumer", None)
    heard = getattr(consumer, "subscribed_to", ())
    if heard and not heard.isdisjoint(map(backend.get_key_for_task, task_ids)):
        consumer._pubsub.close()  # noqa: SLF001 Celery would leave its connections to the garbage collector
        backend.client.connection_pool.disconnect(inuse_connections=False)
        consumer._reconnect_pubsub()  # noqa: SLF001 its own way, from 5.4 to 5.7


class _Store:
    """A backend of which only its public methods are known."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend

    def turn(self, task_ids: Sequence[str], before: str, after: str) -> Mapping[str, Any]:
        turned = {}
        for task_id in task_ids:
            meta = self.backend.get_task_meta(task_id, cache=False)
            if meta["status"] == before:
                self.backend.store_result(task_id, meta["result"], after, traceback=meta.get("traceback"))
                turned[task_id] = meta
        return turned


class _KeyValueStore(_Store):
    """What they keep is a text with the status in it."""

    def turn(self, task_ids: Sequence[str], before: str, after: str) -> Mapping[str, Any]:
        keys = [self.backend.get_key_for_task(task_id) for task_id in task_ids]
        turned, news = {}, {}
        for task_id, key, kept in zip(task_ids, keys, self._kept(keys), strict=True):
            meta = self.backend.decode(kept) if kept else {}
            if meta.get("status") == before:
                news[key] = self.backend.encode({**meta, "status": after})
                turned[task_id] = meta
        self._keep(news)
        return turned

    def _kept(self, keys: Sequence[Any]) -> Sequence[Any]:
        return [self.backend.get(key) for key in keys]

    def _keep(self, news: Mapping[Any, Any]) -> None:
        for key, value in news.items():
            self.backend.set(key, value)


class _RedisStore(_KeyValueStore):
    """Two exchanges for all, as the backend itself has two for each: what is kept is also told to who listens."""

    def _kept(self, keys: Sequence[Any]) -> Sequence[Any]:
        return list(self.backend.mget(keys))

    def _keep(self, news: Mapping[Any, Any]) -> None:
        with self.backend.client.pipeline(transaction=False) as pipe:
            for key, value in news.items():
                pipe.set(key, value, ex=self.backend.expires or None)
                pipe.publish(key, value)
            pipe.execute()


class _ModelStore(_Store):
    """django-celery-results: one statement for all."""

    def turn(self, task_ids: Sequence[str], before: str, after: str) -> Mapping[str, Any]:
        rows = self.backend.TaskModel._default_manager.filter(task_id__in=task_ids, status=before)  # noqa: SLF001
        turned = dict.fromkeys(rows.values_list("task_id", flat=True))
        rows.update(status=after)
        return turned


def _store_of(app: Celery) -> _Store | None:
    """None where nothing is kept, or nobody may read what is: RPC hands each result to one reader."""
    backend: Any = app.backend
    if hasattr(backend, "TaskModel"):
        return _ModelStore(backend)
    if isinstance(backend, RedisBackend):
        return _RedisStore(impatient(app))
    if isinstance(backend, BaseKeyValueStoreBackend):
        return _KeyValueStore(backend)
    return None if type(backend).__name__ in ("DisabledBackend", "RPCBackend") else _Store(backend)


def impatient(app: Celery) -> Any:
    """The result backend of `app`: a Redis that hangs is waited for as long as a broker is, not for the two minutes
    that Celery gives it."""
    if not isinstance(app.backend, RedisBackend):
        return app.backend
    if app not in _backends:
        own = app._get_backend()  # type: ignore[attr-defined]  # noqa: SLF001 `app.backend` is the one that waits
        own.connparams.update(socket_timeout=SECONDS, socket_connect_timeout=SECONDS)
        _backends[app] = own
    return _backends[app]


_backends: dict[Celery, Any] = {}
