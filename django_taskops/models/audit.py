"""Who did what, when and why. Rows are added, never changed."""

from typing import Any, ClassVar

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from .manager import TaskOpsManager


class AuditAction(models.TextChoices):
    REQUEUE = "requeue", _("Requeue")
    DISCARD = "discard", _("Discard")
    RESTORE = "restore", _("Restore")
    REAP = "reap", _("Reap")


class AuditEntry(models.Model):
    """`user_id` and `user_name` are text, so that no foreign key leaves the app; both "" for the app itself."""

    action = models.CharField(_("action"), max_length=32, choices=AuditAction)
    at = models.DateTimeField(_("when"), default=timezone.now, db_index=True)
    user_id = models.CharField(max_length=255, blank=True)
    user_name = models.CharField(_("who"), max_length=255, blank=True)
    why = models.TextField(_("why"), blank=True)
    object_type = models.CharField(_("kind of object"), max_length=32)
    object_id = models.CharField(_("object"), max_length=255)
    task_id = models.CharField(_("task id"), max_length=255, blank=True, db_index=True)
    outcome = models.CharField(_("outcome"), max_length=255)
    details = models.JSONField(_("details"), default=dict, blank=True)

    objects: ClassVar[TaskOpsManager] = TaskOpsManager()

    class Meta:
        verbose_name = _("audit entry")
        verbose_name_plural = _("audit entries")

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M} {self.user_name or '-'} {self.action} {self.object_id}: {self.outcome}"

    def save(self, **kwargs: Any) -> None:
        """Raises TypeError for an entry that is already stored: history is never edited."""
        if not self._state.adding:
            raise TypeError(f"expected a new audit entry, got the stored one {self.pk}: add another entry instead")
        super().save(**kwargs)
