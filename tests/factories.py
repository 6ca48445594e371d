"""One factory a model, one trait a state: what a state implies (instants, worker, reason) comes with it."""

# mypy: disallow-untyped-calls=False
# factory-boy's declarations are not annotated.

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from django.utils import timezone
from factory.declarations import LazyAttribute, LazyFunction, SelfAttribute, Sequence, SubFactory, Trait
from factory.django import DjangoModelFactory
from factory.faker import Faker
from kombu.utils import json

from django_taskops.capture.envelope import Envelope
from django_taskops.capture.headers import GENERATION, PUBLICATION
from django_taskops.journal.codec import encode
from django_taskops.models import (
    AuditAction,
    AuditEntry,
    DeadLetter,
    OutboxEntry,
    OutboxKind,
    OutboxStatus,
    QuarantinedEntry,
    Recorder,
    RunEnvelope,
    TaskAttempt,
    TaskRun,
    WorkerBeat,
)
from django_taskops.states import DeadLetterReason, LetterStatus, QuietReason, TaskState
from tests.events import Story

Row = TypeVar("Row")

if TYPE_CHECKING:

    class ModelFactory(Generic[Row]):
        """Calling a factory makes a row: factory-boy's metaclass sees to it, and its annotations keep it quiet."""

        def __new__(cls, **fields: Any) -> Row: ...  # type: ignore[misc]

        @classmethod
        def create_batch(cls, size: int, **fields: Any) -> list[Row]: ...
else:
    ModelFactory = DjangoModelFactory

TRACEBACK = """Traceback (most recent call last):
  File "shop/tasks.py", line 31, in price
    raise SupplierDown(response.status)
shop.errors.SupplierDown: 503
"""


def envelope_of(task_id: str, publication: str, generation: int = 0, task_name: str = "tests.tasks.succeed") -> bytes:
    """A message that a worker of the tests can run."""
    own = {PUBLICATION: publication, GENERATION: generation}
    message = Envelope(
        body=json.dumps([[], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]).encode(),
        content_type="application/json",
        content_encoding="utf-8",
        headers={"lang": "py", "task": task_name, "id": task_id, "root_id": task_id, "retries": 0, **own},
        properties={"correlation_id": task_id, "delivery_mode": 2},
        exchange="",
        routing_key="celery",
        queue="celery",
    )
    return message.to_bytes()


def later(seconds: float) -> Any:
    """That long after the publish."""
    return LazyAttribute(lambda row: row.published + timedelta(seconds=seconds))


class DeliveryFactory(ModelFactory[Row]):
    """What a run and an attempt have in common."""

    class Meta:
        abstract = True

    class Params:
        published = LazyFunction(lambda: timezone.now() - timedelta(minutes=5))
        received = Trait(
            state=TaskState.RECEIVED,
            delivery=Faker("uuid4"),
            seen=LazyAttribute(lambda row: int(row.published.timestamp() * 1e6)),
            received_at=later(1),
            worker="celery@shop-1",
            boot_id=Faker("uuid4"),
        )
        started = Trait(received=True, state=TaskState.STARTED, started_at=later(2), pid=4711)
        succeeded = Trait(started=True, state=TaskState.SUCCESS, finished_at=later(3.5))
        failed = Trait(
            started=True,
            state=TaskState.FAILURE,
            reason=DeadLetterReason.FAILED,
            finished_at=later(3.5),
            exception_type="shop.errors.SupplierDown",
            exception_message="503",
            traceback=TRACEBACK,
        )
        exhausted = Trait(failed=True, reason=DeadLetterReason.EXHAUSTED)
        retried = Trait(failed=True, state=TaskState.RETRY, reason="", retry_at=later(60))
        lost = Trait(started=True, state=TaskState.FAILURE, reason=DeadLetterReason.WORKER_LOST, finished_at=later(90))
        revoked = Trait(received=True, state=TaskState.REVOKED, reason=QuietReason.REVOKED, finished_at=later(1.5))
        expired = Trait(received=True, state=TaskState.REVOKED, reason=DeadLetterReason.EXPIRED, finished_at=later(1.5))
        rejected = Trait(started=True, state=TaskState.REJECTED, reason=DeadLetterReason.REJECTED, finished_at=later(3))
        ignored = Trait(started=True, state=TaskState.IGNORED, finished_at=later(3))

    publication: Any = "0006438c1f2a3b4c5d6e7f8091a2b3c4"


class TaskRunFactory(DeliveryFactory[TaskRun]):
    """Published and not received, without a trait."""

    class Meta:
        model = TaskRun

    task_id = Faker("uuid4")
    task_name = "shop.tasks.price"
    queue = "celery"
    args = LazyFunction(lambda: [42])
    kwargs = LazyFunction(lambda: {"currency": "EUR"})
    enqueued_at = SelfAttribute("published")


class TaskAttemptFactory(DeliveryFactory[TaskAttempt]):
    """Of no state worth a row, without a trait."""

    class Meta:
        model = TaskAttempt

    run = SubFactory(TaskRunFactory)
    delivery = Faker("uuid4")
    publication = SelfAttribute("run.publication")
    number = Sequence(lambda count: count + 1)
    frames = LazyFunction(lambda: ["shop.tasks:price"])


class RunEnvelopeFactory(ModelFactory[RunEnvelope]):
    class Meta:
        model = RunEnvelope

    class Params:
        missing = Trait(envelope=None, error="payload of 300000 bytes exceeds the limit of 262144")

    run = SubFactory(TaskRunFactory)
    envelope = LazyAttribute(lambda row: envelope_of(row.run.task_id, row.run.publication))


class DeadLetterFactory(ModelFactory[DeadLetter]):
    """Open, of a run that has failed with its first attempt, without a trait."""

    class Meta:
        model = DeadLetter

    class Params:
        decided = Trait(decided_at=LazyAttribute(lambda row: row.died_at + timedelta(minutes=1)))
        requeued = Trait(
            decided=True,
            status=LetterStatus.REQUEUED,
            sent_generation=LazyAttribute(lambda row: row.generation + 1),
        )
        resolved = Trait(requeued=True, status=LetterStatus.RESOLVED)
        superseded = Trait(requeued=True, status=LetterStatus.SUPERSEDED)
        discarded = Trait(decided=True, status=LetterStatus.DISCARDED)
        without_envelope = Trait(envelope=None, envelope_error="payload of 300000 bytes exceeds the limit of 262144")

    run = SubFactory(TaskRunFactory, failed=True)
    task_id = SelfAttribute("run.task_id")
    task_name = SelfAttribute("run.task_name")
    publication = SelfAttribute("run.publication")
    generation = SelfAttribute("run.generation")
    reason = SelfAttribute("run.reason")
    exception_type = SelfAttribute("run.exception_type")
    description = LazyAttribute(lambda row: f"{row.run.exception_type}: {row.run.exception_message}")
    died_at = SelfAttribute("run.finished_at")
    envelope = LazyAttribute(lambda row: envelope_of(row.task_id, row.publication, row.generation))


class AuditEntryFactory(ModelFactory[AuditEntry]):
    """A discard by somebody, without a trait."""

    class Meta:
        model = AuditEntry

    class Params:
        letter = SubFactory(DeadLetterFactory)
        requeue = Trait(action=AuditAction.REQUEUE, outcome="sent")
        restore = Trait(action=AuditAction.RESTORE, outcome=LetterStatus.OPEN)

    action = AuditAction.DISCARD
    user_id = "1"
    user_name = "maria"
    why = "the supplier has cancelled the order"
    object_type = "dead_letter"
    object_id = LazyAttribute(lambda entry: str(entry.letter.pk))
    task_id = SelfAttribute("letter.task_id")
    outcome = LetterStatus.DISCARDED


class OutboxEntryFactory(ModelFactory[OutboxEntry]):
    """Due, without a trait."""

    class Meta:
        model = OutboxEntry

    class Params:
        done = Trait(status=OutboxStatus.DONE, tries=1)

    kind = OutboxKind.DEAD_LETTERED
    key = Sequence(lambda count: f"{OutboxKind.DEAD_LETTERED}:{count}::0")


class WorkerBeatFactory(ModelFactory[WorkerBeat]):
    """Alive, without a trait."""

    class Meta:
        model = WorkerBeat

    class Params:
        silent = Trait(beat_at=datetime(2026, 1, 1, tzinfo=UTC))
        stopped = Trait(stopped_at=LazyFunction(timezone.now))

    boot_id = Faker("uuid4")
    worker = "celery@shop-1"
    started_at = datetime(2026, 1, 1, tzinfo=UTC)
    beat_at = LazyFunction(timezone.now)


class QuarantinedEntryFactory(ModelFactory[QuarantinedEntry]):
    """Of an event that can be read, without a trait."""

    class Meta:
        model = QuarantinedEntry

    class Params:
        unreadable = Trait(data=b'{"kind":"publ', task_id="", error="UnreadableEvent: expected an event")

    source = "redis"
    key = Sequence(lambda count: f"taskops:events 1795180000000-{count}@1882360000{count:06}")
    task_id = Faker("uuid4")
    error = "DataError: integer out of range"
    data = LazyAttribute(lambda row: encode(Story(row.task_id).published(args=[42])))


class RecorderFactory(ModelFactory[Recorder]):
    """Of a drain that is at work, without a trait."""

    class Meta:
        model = Recorder

    class Params:
        silent = Trait(seen_at=LazyFunction(lambda: timezone.now() - timedelta(hours=2)))
        spool = Trait(name=Sequence(lambda count: f"spool shop-{count}"), spool_files=2, spool_bytes=4096)

    name = "redis"
    holder = "shop-1 4711"
    applied = 120_000
    lag_seconds = 0.4
