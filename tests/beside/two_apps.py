"""A project with two Celery apps in one process. The second has a broker of its own where BESIDE_SECOND_BROKER names
one, and then a serializer of its own too."""

import os
from collections.abc import Callable
from typing import Any

from celery import Celery, Task
from django.conf import settings
from kombu.serialization import register
from kombu.utils import json

from tests.tasks import Declined, counters

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

SECOND_TYPE = "application/x-second"
SECOND_BROKER = os.environ.get("BESIDE_SECOND_BROKER")


def _route_to(queue: str) -> Callable[..., dict[str, str]]:
    """Not that of tests/celery_app.py, whose import would make a third app."""

    def route(
        name: str, args: Any, kwargs: Any, options: dict[str, Any], task: object = None, **rest: object
    ) -> dict[str, str]:
        return {"queue": queue}

    return route


def _new_app(name: str, broker_url: str, **own: Any) -> Celery:
    app = Celery(name, broker=broker_url, backend=settings.CELERY_RESULT_BACKEND, **own)
    app.conf.task_routes = (_route_to(f"{os.environ['BESIDE_QUEUE']}-{name}"),)
    app.conf.broker_connection_retry_on_startup = True
    app.autodiscover_tasks(["tests.beside"], related_name="found")
    return app


register("second", json.dumps, json.loads, content_type=SECOND_TYPE, content_encoding="utf-8")
first = _new_app("first", settings.CELERY_BROKER_URL)
if SECOND_BROKER:
    second = _new_app("second", SECOND_BROKER, task_serializer="second", accept_content=["json", SECOND_TYPE])
else:
    second = _new_app("second", settings.CELERY_BROKER_URL)


def break_until_healed(key: str, *, password: str = "") -> str:
    if not counters().exists(f"healed:{key}"):
        raise Declined(f"{key} is broken")
    return "healed"


bound_to_first = first.task(name="beside.bound_to_first")(break_until_healed)
bound_to_second = second.task(name="beside.bound_to_second")(break_until_healed)
only_in_first = first.task(name="beside.only_in_first", shared=False)(break_until_healed)
only_in_second = second.task(name="beside.only_in_second", shared=False)(break_until_healed)


class ClassBased(Task):  # type: ignore[type-arg]
    """Celery binds a class to the app that it is registered with, so that each app needs one."""

    name = "beside.class_based"

    def run(self, key: str, *, password: str = "") -> str:
        return break_until_healed(key, password=password)


class InFirst(ClassBased): ...


class InSecond(ClassBased): ...


class_based_in_first = first.register_task(InFirst())
class_based_in_second = second.register_task(InSecond())


@first.task
def hand_over(key: str) -> str:
    """Publishes a task of the other app, returns its id."""
    return str(bound_to_second.delay(key, password="hunter2").id)
