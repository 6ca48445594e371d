"""How the recorder itself is doing: what it could not apply, and what each host's drain last said of itself."""

from typing import ClassVar

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from .manager import TaskOpsManager


class QuarantinedEntry(models.Model):
    """An entry of the journal that can't be applied, kept byte for byte, so that nothing else waits for it."""

    source = models.CharField(_("journal"), max_length=100)
    key = models.CharField(_("entry"), max_length=255)
    data = models.BinaryField()
    error = models.TextField(_("error"))
    task_id = models.CharField(_("task id"), max_length=255, blank=True)
    quarantined_at = models.DateTimeField(_("quarantined at"), default=timezone.now)

    objects: ClassVar[TaskOpsManager] = TaskOpsManager()

    class Meta:
        base_manager_name = "objects"
        verbose_name = _("quarantined entry")
        verbose_name_plural = _("quarantined entries")
        constraints = (models.UniqueConstraint(fields=["source", "key"], name="taskops_quarantine_key"),)

    def __str__(self) -> str:
        return f"{self.source} {self.key}"


class Recorder(models.Model):
    """What the drain last said of one source: "redis", or "spool" and the name of its host.

    The counters run since the row was made; `dropped_seen` is the source's own count at that time, which begins anew
    where its Redis does. `lag_seconds` is the age of the oldest event when it was applied last, None before the first.
    """

    name = models.CharField(_("recorder"), max_length=255)
    holder = models.CharField(_("drained by"), max_length=255, blank=True)
    applied = models.BigIntegerField(_("applied"), default=0)
    quarantined = models.BigIntegerField(_("quarantined"), default=0)
    dropped = models.BigIntegerField(_("dropped"), default=0)
    dropped_seen = models.BigIntegerField(default=0, editable=False)
    lag_seconds = models.FloatField(_("lag in seconds"), null=True, blank=True)
    spool_files = models.PositiveIntegerField(_("spool files"), default=0)
    spool_bytes = models.BigIntegerField(_("bytes in the spool"), default=0)
    seen_at = models.DateTimeField(_("seen at"), default=timezone.now)

    objects: ClassVar[TaskOpsManager] = TaskOpsManager()

    class Meta:
        base_manager_name = "objects"
        verbose_name = _("recorder")
        verbose_name_plural = _("recorders")
        constraints = (models.UniqueConstraint(fields=["name"], name="taskops_recorder_name"),)

    def __str__(self) -> str:
        return self.name
