"""Tasks that show what another library sees of them; the others are those of tests/tasks.py."""

from typing import Any

from celery import Task, shared_task

from tests import tasks


@shared_task
def publish_another() -> str:
    """The id of a task that this one publishes."""
    return str(tell_headers.delay().id)


@shared_task(bind=True)
def tell_headers(self: "Task[Any, Any]") -> dict[str, Any]:
    """The trace headers of its own message."""
    return {name: getattr(self.request, name, None) for name in ("sentry-trace", "traceparent")}


@shared_task(base=tasks.FallingBack)
def fail_despite_its_fallback() -> None:
    """Of a class with a `__call__` of its own, which lets this through."""
    raise KeyError("sku")
