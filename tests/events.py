"""Events of one task, for tests: short to write, with the fields that capture would fill in."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from django_taskops.events import Beat, Call, Event, EventKind, Executor, Held, Outcome
from django_taskops.journal.codec import decode
from django_taskops.states import DeadLetterReason

START = datetime(2026, 1, 1, tzinfo=UTC)
WORKER = Executor(worker="w1@shop", boot_id="boot-1", pid=7, version="1.0", acks_late=False)

BEAT = Beat(
    boot_id="boot-1",
    number=1,
    at=START,
    started_at=START - timedelta(hours=1),
    seconds=5,
    worker="w1@shop",
    host="shop-7",
    pid=7,
    pool="prefork",
    concurrency=2,
    version="1.0",
    queues=("celery", "mail"),
    tasks=("shop.price", "shop.mail"),
    running=(Held("d-1", "t-1", "shop.price"),),
    reserved=(Held("d-2", "t-2", "shop.mail"),),
    held=2,
    lag_seconds=0.25,
)


class Story:
    """What happens to one task, one event after the other, a second apart."""

    def __init__(self, task_id: str | None = None, name: str = "shop.tasks.price") -> None:
        self.task_id = task_id or str(uuid4())
        self.name = name
        self.publication = "0001"
        self.generation = 0
        self.retries = 0
        self.delivery = f"d-{uuid4()}"[:36]
        self.second = 0

    def published(self, **call: Any) -> Event:
        return self._event(
            EventKind.PUBLISHED, delivery="", call=Call(**{"queue": "celery", "envelope": b"blob"} | call)
        )

    def received(self, **call: Any) -> Event:
        return self._event(EventKind.RECEIVED, call=Call(**call) if call else None)

    def started(self) -> Event:
        return self._event(EventKind.STARTED, executor=WORKER)

    def succeeded(self, result: Any = None) -> Event:
        return self._event(EventKind.SUCCEEDED, executor=WORKER, outcome=Outcome(result=result))

    def failed(self, reason: str = DeadLetterReason.FAILED, **outcome: Any) -> Event:
        facts = {"exception_type": "KeyError", "exception_message": "'sku'", "traceback": "Traceback …"}
        return self._event(EventKind.FAILED, executor=WORKER, outcome=Outcome(**{"reason": reason} | facts | outcome))

    def ended(self, kind: EventKind, **outcome: Any) -> Event:
        return self._event(kind, executor=WORKER, outcome=Outcome(**outcome))

    def retried(self) -> Event:
        """Told of the delivery so far; what follows is the next one."""
        event = self._event(EventKind.RETRIED, executor=WORKER, outcome=Outcome(exception_type="OSError"))
        self.retries += 1
        self.delivery = f"d-{uuid4()}"[:36]
        return event

    def requeued(self) -> "Story":
        """What follows belongs to the next generation."""
        self.generation += 1
        self.retries = 0
        self.delivery = f"d-{uuid4()}"[:36]
        return self

    def _event(self, kind: EventKind, **facts: Any) -> Event:
        self.second += 1
        shared: dict[str, Any] = {
            "kind": kind,
            "task_id": self.task_id,
            "task_name": self.name,
            "at": START + timedelta(seconds=self.second),
            "position": self.second,
            "publication": self.publication,
            "generation": self.generation,
            "retries": self.retries,
            "delivery": self.delivery,
        }
        return Event(**shared | facts)


def read_event(data: bytes, position: int = 0) -> Event:
    """What `decode` makes of it, which has to be an event and no beat."""
    record = decode(data, position)
    assert isinstance(record, Event)
    return record
