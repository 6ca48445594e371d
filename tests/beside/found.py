"""Found by `autodiscover_tasks`."""

from celery import shared_task

from tests.tasks import Declined, counters


@shared_task
def break_where_found(key: str, *, password: str = "") -> str:
    if not counters().exists(f"healed:{key}"):
        raise Declined(f"{key} is broken")
    return "healed"
