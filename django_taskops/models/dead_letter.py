"""Runs that failed for good and wait for a person."""

from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _

from ..states import DeadLetterReason, LetterStatus
from .manager import TaskOpsManager
from .partly_indexed import PartlyIndexed
from .run import TaskRun


class DeadLetter(PartlyIndexed):
    """One per (run, publication, generation). It keeps its run. `parked` as long as Celery has not been told of the
    failure; `let_through_at` since when it may know."""

    run = models.ForeignKey(TaskRun, on_delete=models.PROTECT, related_name="dead_letters", verbose_name=_("run"))
    task_id = models.CharField(_("task id"), max_length=255, db_index=True)
    task_name = models.CharField(_("task"), max_length=255, blank=True)
    publication = models.CharField(max_length=32, blank=True, editable=False)
    generation = models.PositiveIntegerField(_("generation"), default=0)
    reason = models.CharField(_("reason"), max_length=32, choices=DeadLetterReason)
    description = models.TextField(_("description"), blank=True)
    exception_type = models.CharField(_("exception"), max_length=255, blank=True)
    status = models.CharField(_("status"), max_length=16, choices=LetterStatus, default=LetterStatus.OPEN)
    parked = models.BooleanField(_("parked"), default=False)
    let_through_at = models.DateTimeField(_("let through at"), null=True, blank=True)
    died_at = models.DateTimeField(_("died at"))
    decided_at = models.DateTimeField(_("decided at"), null=True, blank=True)
    sent_generation = models.PositiveIntegerField(null=True, blank=True, editable=False)
    requeued_as = models.CharField(_("requeued as"), max_length=255, blank=True)
    previous = models.ForeignKey(
        "self",
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="followed_by",
        verbose_name=_("previous letter"),
    )
    envelope = models.BinaryField(null=True)
    envelope_error = models.CharField(_("not re-runnable"), max_length=255, blank=True)

    objects: ClassVar[TaskOpsManager] = TaskOpsManager()

    class Meta:
        base_manager_name = "objects"
        verbose_name = _("dead letter")
        verbose_name_plural = _("dead letters")
        permissions = (
            ("requeue_deadletter", "Can requeue dead letters"),
            ("discard_deadletter", "Can discard dead letters"),
            ("restore_deadletter", "Can restore discarded dead letters"),
            ("edit_payload", "Can edit the arguments of a requeue"),
            ("terminate_task", "Can terminate running tasks"),
            ("purge_queue", "Can purge queues"),
            ("redrive_failuregroup", "Can redrive failure groups"),
            ("manage_failuregroup", "Can manage failure groups"),
        )
        constraints = (
            models.UniqueConstraint(fields=["run", "publication", "generation"], name="taskops_letter_generation"),
        )
        indexes = (
            models.Index(fields=["status", "-id"], name="taskops_letter_status"),
            models.Index(fields=["task_name", "-id"], name="taskops_letter_name"),
            models.Index(fields=["-died_at"], name="taskops_letter_open", condition=models.Q(status=LetterStatus.OPEN)),
            models.Index(fields=["requeued_as"], name="taskops_letter_requeued", condition=~models.Q(requeued_as="")),
        )

    def __str__(self) -> str:
        return f"{self.task_name or '?'} {self.task_id}: {self.get_reason_display()}"
