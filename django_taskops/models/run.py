"""Runs, the deliveries of a run that did not succeed, and the envelopes of unfinished runs."""

from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _

from ..states import FINISHED, REASON_CHOICES, TaskState
from .manager import TaskOpsManager
from .partly_indexed import PartlyIndexed


class Delivery(PartlyIndexed):
    """What a run shows of its current delivery, and an attempt keeps of an older one."""

    delivery = models.CharField(max_length=36, blank=True, editable=False)
    publication = models.CharField(max_length=32, blank=True, editable=False)
    generation = models.PositiveIntegerField(_("generation"), default=0)
    nesting = models.PositiveSmallIntegerField(default=0, editable=False)
    seen = models.BigIntegerField(default=0, editable=False)
    verdict = models.CharField(max_length=16, blank=True, editable=False)
    state = models.CharField(_("state"), max_length=16, choices=TaskState, default=TaskState.PENDING)
    reason = models.CharField(_("reason"), max_length=32, blank=True, choices=REASON_CHOICES)
    received_at = models.DateTimeField(_("received at"), null=True, blank=True)
    started_at = models.DateTimeField(_("started at"), null=True, blank=True)
    finished_at = models.DateTimeField(_("finished at"), null=True, blank=True)
    retry_at = models.DateTimeField(_("retry at"), null=True, blank=True)
    worker = models.CharField(_("worker"), max_length=255, blank=True)
    boot_id = models.CharField(max_length=36, blank=True, editable=False)
    pid = models.PositiveIntegerField(_("process"), null=True, blank=True)
    acks_late = models.BooleanField(null=True, editable=False)
    version = models.CharField(_("version"), max_length=100, blank=True)
    progress = models.JSONField(_("progress"), null=True, blank=True)
    exception_type = models.CharField(_("exception"), max_length=255, blank=True)
    exception_message = models.TextField(_("message"), blank=True)
    traceback = models.TextField(_("traceback"), blank=True)

    objects: ClassVar[TaskOpsManager] = TaskOpsManager()

    class Meta:
        abstract = True


class TaskRun(Delivery):
    """One Celery task id, from publish to its end. Shows the verdict of its newest delivery.

    `task_id` and `task_name` hold any text: what the database can't hold is escaped, what is too long is cut.
    """

    task_id = models.CharField(_("task id"), max_length=255)
    task_name = models.CharField(_("task"), max_length=255, blank=True)
    retries = models.PositiveIntegerField(_("retries"), default=0)
    queue = models.CharField(_("queue"), max_length=255, blank=True)
    priority = models.SmallIntegerField(_("priority"), null=True, blank=True)
    args = models.JSONField(_("arguments"), null=True, blank=True)
    kwargs = models.JSONField(_("keyword arguments"), null=True, blank=True)
    result = models.JSONField(_("result"), null=True, blank=True)
    enqueued_at = models.DateTimeField(_("enqueued at"), null=True, blank=True)
    eta = models.DateTimeField(_("not before"), null=True, blank=True)
    expires = models.DateTimeField(_("expires"), null=True, blank=True)
    parent_id = models.CharField(_("parent"), max_length=255, blank=True)
    root_id = models.CharField(_("root"), max_length=255, blank=True)
    group_id = models.CharField(_("group"), max_length=255, blank=True)
    group_index = models.PositiveIntegerField(null=True, blank=True)
    periodic_task = models.CharField(_("periodic task"), max_length=255, blank=True)
    owner = models.CharField(_("owner"), max_length=255, blank=True)
    trace_id = models.CharField(_("trace"), max_length=64, blank=True)
    requeued_from = models.CharField(_("requeued from"), max_length=255, blank=True)
    described = models.CharField(max_length=100, blank=True, editable=False)

    class Meta:
        base_manager_name = "objects"
        verbose_name = _("task run")
        verbose_name_plural = _("task runs")
        permissions = (("view_payload", "Can view arguments and results of task runs"),)
        constraints = (models.UniqueConstraint(fields=["task_id"], name="taskops_run_task_id"),)
        indexes = (
            models.Index(fields=["task_name", "-id"], name="taskops_run_name"),
            models.Index(fields=["finished_at"], name="taskops_run_finished"),
            models.Index(
                fields=["state", "-id"],
                name="taskops_run_not_success",
                condition=~models.Q(state=TaskState.SUCCESS),
            ),
            models.Index(
                fields=["state", "boot_id", "started_at"],
                name="taskops_run_started",
                condition=models.Q(state=TaskState.STARTED),
            ),
            models.Index(fields=["root_id"], name="taskops_run_root", condition=~models.Q(root_id="")),
            models.Index(fields=["group_id"], name="taskops_run_group", condition=~models.Q(group_id="")),
            models.Index(
                fields=["requeued_from"],
                name="taskops_run_requeued",
                condition=~models.Q(requeued_from=""),
            ),
        )

    def __str__(self) -> str:
        return f"{self.task_name or '?'} {self.task_id}"

    @property
    def ready(self) -> bool:
        return self.state in FINISHED

    @property
    def successful(self) -> bool:
        return self.state == TaskState.SUCCESS

    def starts(self) -> int:
        """How often a worker started it since its newest publish by the project, the successful start included."""
        started = {
            attempt.delivery
            for attempt in self.attempts.all()
            if attempt.publication == self.publication and attempt.started_at is not None
        }
        return len(started - {self.delivery}) + (self.started_at is not None)


class TaskAttempt(Delivery):
    """One delivery of a run that did not succeed, or that another delivery has followed."""

    run = models.ForeignKey(TaskRun, on_delete=models.CASCADE, related_name="attempts", verbose_name=_("run"))
    number = models.PositiveIntegerField(_("number"), default=1)
    frames = models.JSONField(default=list, blank=True)

    class Meta:
        base_manager_name = "objects"
        verbose_name = _("task attempt")
        verbose_name_plural = _("task attempts")
        ordering = ("publication", "generation", "nesting", "number", "seen")
        constraints = (models.UniqueConstraint(fields=["run", "delivery"], name="taskops_attempt_delivery"),)
        indexes = (
            models.Index(
                fields=["state", "boot_id"],
                name="taskops_attempt_started",
                condition=models.Q(state=TaskState.STARTED),
            ),
        )

    def __str__(self) -> str:
        return f"{self.run_id} #{self.number} {self.state}"

    @property
    def retries(self) -> int:
        return self.number - 1


class RunEnvelope(models.Model):
    """The message of a run that has not succeeded, kept apart so that the runs stay slim."""

    run = models.OneToOneField(TaskRun, on_delete=models.CASCADE, primary_key=True, related_name="stored_envelope")
    envelope = models.BinaryField(null=True)
    error = models.CharField(max_length=255, blank=True)

    objects: ClassVar[TaskOpsManager] = TaskOpsManager()

    class Meta:
        base_manager_name = "objects"

    def __str__(self) -> str:
        return f"{self.run_id} {self.error}".strip()
