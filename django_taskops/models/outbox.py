"""What has to happen because of a fact, written in the fact's transaction and carried out afterwards."""

from typing import ClassVar

from django.db import models
from django.utils import timezone

from .manager import TaskOpsManager
from .partly_indexed import PartlyIndexed


class OutboxKind(models.TextChoices):
    DEAD_LETTERED = "task_dead_lettered"
    DEAD_LETTER_QUEUE = "dead_letter_queue"
    RESOLVED = "dead_letter_resolved"
    BLIND = "recorder_blind"
    REQUEUE = "requeue"
    CLAIM = "claim"
    RERUN = "rerun"
    LET_THROUGH = "let_through"
    ALERT = "alert"
    LEASE = "lease"
    DRAFT = "draft"
    MANY = "decide_many"
    CHORD = "chord"


class OutboxStatus(models.TextChoices):
    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"


class OutboxEntry(PartlyIndexed):
    """`key` is unique: writing the same consequence again changes nothing."""

    kind = models.CharField(max_length=32)  # an OutboxKind; no choices, which would ask for a migration each time
    key = models.CharField(max_length=255)
    payload = models.JSONField(default=dict, blank=True)
    status = models.CharField(max_length=16, choices=OutboxStatus, default=OutboxStatus.PENDING)
    created_at = models.DateTimeField(default=timezone.now)
    available_at = models.DateTimeField(default=timezone.now)
    tries = models.PositiveIntegerField(default=0)
    claimed_by = models.CharField(max_length=64, blank=True)
    claimed_until = models.DateTimeField(null=True, blank=True)
    error = models.TextField(blank=True)

    objects: ClassVar[TaskOpsManager] = TaskOpsManager()

    class Meta:
        verbose_name_plural = "outbox entries"
        constraints = (models.UniqueConstraint(fields=["key"], name="taskops_outbox_key"),)
        indexes = (
            models.Index(
                fields=["status", "available_at"],
                name="taskops_outbox_pending",
                condition=models.Q(status=OutboxStatus.PENDING),
            ),
            models.Index(
                fields=["kind", "created_at"],
                name="taskops_outbox_blind",
                condition=models.Q(kind=OutboxKind.BLIND),
            ),
        )

    def __str__(self) -> str:
        return f"{self.kind} {self.key} {self.status}"
