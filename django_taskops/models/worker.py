"""Workers, by boot: two workers of one name, or a worker and its restart, are two rows."""

from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _

from .manager import TaskOpsManager


class WorkerBeat(models.Model):
    """The last that was heard of one boot of a worker's main process.

    `started_at`, `beat_at` and `stopped_at` are the clock of its host; `applied_at` is the database's, when the beat
    was written here: only it may be compared with other rows. `seconds` is how often it beats. `details` holds
    `queues`, `running` and `reserved` (lists of delivery, task id and task name), `held` (how many there are, though
    not all be listed), `concurrency` and `lag_seconds` (of its host's spool).
    """

    boot_id = models.CharField(max_length=36, unique=True)
    worker = models.CharField(_("worker"), max_length=255)
    host = models.CharField(_("host"), max_length=255, blank=True)
    pid = models.PositiveIntegerField(_("process"), null=True, blank=True)
    pool = models.CharField(_("pool"), max_length=64, blank=True)
    version = models.CharField(_("version"), max_length=100, blank=True)
    number = models.BigIntegerField(default=0)
    seconds = models.FloatField(default=0)
    started_at = models.DateTimeField(_("started at"))
    beat_at = models.DateTimeField(_("last beat"), db_index=True)
    applied_at = models.DateTimeField(null=True, blank=True, editable=False)
    stopped_at = models.DateTimeField(_("stopped at"), null=True, blank=True)
    tasks = models.JSONField(default=list, blank=True)
    details = models.JSONField(default=dict, blank=True)

    objects: ClassVar[TaskOpsManager] = TaskOpsManager()

    class Meta:
        base_manager_name = "objects"
        verbose_name = _("worker")
        verbose_name_plural = _("workers")

    def __str__(self) -> str:
        return self.worker

    @property
    def running(self) -> list[list[str]]:
        """Delivery, task id and task name of what it runs."""
        return list(self.details.get("running", ()))

    @property
    def reserved(self) -> list[list[str]]:
        """The same of what waits in it."""
        return list(self.details.get("reserved", ()))

    @property
    def names_all(self) -> bool:
        """False where it holds more than it names, or does not know what it holds."""
        return bool(len(self.running) + len(self.reserved) == self.details.get("held", 0))

    @property
    def lag_seconds(self) -> float:
        """For how long something has waited in the spool of its host."""
        return float(self.details.get("lag_seconds") or 0)
