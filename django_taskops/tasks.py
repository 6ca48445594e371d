"""The housekeeper's work as a task, for projects that would rather have it in beat's schedule."""

from celery import shared_task

from .recovery.outbox import carry_out
from .recovery.requeue import settle_interrupted
from .recovery.retention import prune

PRUNING_SECONDS = 60.0


@shared_task(name="django_taskops.housekeep", ignore_result=True)
def housekeep() -> None:
    """Takes up to a minute where there is much to delete. May run beside the housekeeper of a worker."""
    carry_out()
    settle_interrupted()
    prune(seconds=PRUNING_SECONDS)
