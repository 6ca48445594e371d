"""Takes over the tasks of a worker's app: before it forks, and again where there may be new ones."""

from typing import Any

from celery import Celery

from ..conf import conf
from . import parking, wrapper
from .request import install
from .shield import shielded


@shielded
def take_over(app: Celery) -> None:
    """Those that are taken over already stay as they are."""
    for task in list(app.tasks.values()):
        _take_over(task)


@shielded
def _take_over(task: Any) -> None:
    """Each by itself: one odd task must not cost the others their history."""
    if conf.tracks(task.name):
        wrapper.wrap(task)
        install(task)
        parking.install(task)
