"""Workers, by boot: two workers of one name, or a worker and its restart, are two rows."""

from typing import ClassVar

from django.db import models

from .manager import TaskOpsManager


class WorkerBeat(models.Model):
    """The last that was heard of one boot of a worker's main process."""

    boot_id = models.CharField(max_length=36, unique=True)
    worker = models.CharField(max_length=255)
    host = models.CharField(max_length=255, blank=True)
    pid = models.PositiveIntegerField(null=True, blank=True)
    pool = models.CharField(max_length=64, blank=True)
    version = models.CharField(max_length=100, blank=True)
    started_at = models.DateTimeField()
    beat_at = models.DateTimeField(db_index=True)
    stopped_at = models.DateTimeField(null=True, blank=True)
    details = models.JSONField(default=dict, blank=True)

    objects: ClassVar[TaskOpsManager] = TaskOpsManager()

    def __str__(self) -> str:
        return f"{self.worker} {self.boot_id}"
