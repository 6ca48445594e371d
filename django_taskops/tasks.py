"""The housekeeper's work as a task, for projects that would rather have it in beat's schedule."""

from celery import shared_task

from .recovery.interrupted import finish_interrupted
from .recovery.joins import Joins
from .recovery.outbox import carry_out
from .recovery.retention import prune

PRUNING_SECONDS = 60.0


@shared_task(name="django_taskops.housekeep", ignore_result=True)
def housekeep() -> None:
    """Takes up to a minute where there is much to delete. May run beside the housekeeper of a worker."""
    Joins()()
    carry_out()
    finish_interrupted()
    prune(seconds=PRUNING_SECONDS)
