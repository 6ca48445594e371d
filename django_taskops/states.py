"""The vocabulary of states and reasons. Pure: imports nothing of ours, needs no configured settings."""

from django.db.models.enums import TextChoices
from django.utils.translation import gettext_lazy as _


class TaskState(TextChoices):
    """Celery's own state names; IGNORED is the one that Celery has but never stores."""

    PENDING = "PENDING", _("Pending")
    RECEIVED = "RECEIVED", _("Received")
    STARTED = "STARTED", _("Started")
    RETRY = "RETRY", _("Waiting for retry")
    SUCCESS = "SUCCESS", _("Succeeded")
    FAILURE = "FAILURE", _("Failed")
    REVOKED = "REVOKED", _("Revoked")
    REJECTED = "REJECTED", _("Rejected")
    IGNORED = "IGNORED", _("Ignored")


UNFINISHED = frozenset({TaskState.PENDING, TaskState.RECEIVED, TaskState.STARTED, TaskState.RETRY})
FINISHED = frozenset(TaskState) - UNFINISHED
SETTLED = frozenset({TaskState.SUCCESS, TaskState.IGNORED})
"""Ended as the task wanted."""


class DeadLetterReason(TextChoices):
    """Why a run died: each of these leaves a dead letter."""

    FAILED = "failed", _("Exception, no retry policy")
    EXHAUSTED = "exhausted", _("Retries used up")
    NON_RETRYABLE = "non_retryable", _("Exception that is never retried")
    TIME_LIMIT = "time_limit", _("Hard time limit")
    SOFT_TIME_LIMIT = "soft_time_limit", _("Soft time limit")
    WORKER_LOST = "worker_lost", _("Worker process lost")
    END_LOST = "end_lost", _("End not reported")
    CANCELLED = "cancelled", _("Cancelled by the worker's shutdown")
    UNSERIALIZABLE_RESULT = "unserializable_result", _("Result not serializable")
    UNKNOWN_TASK = "unknown_task", _("Task not registered")
    UNDECODABLE = "undecodable", _("Message not decodable")
    POISON = "poison", _("Keeps killing workers")
    UNDELIVERED = "undelivered", _("Published, never received")
    REJECTED = "rejected", _("Rejected by the task")
    EXPIRED = "expired", _("Expired before it ran")


class QuietReason(TextChoices):
    """Why a run ended where nobody has to act: no dead letter."""

    REPLACED = "replaced", _("Replaced by another task")
    REVOKED = "revoked", _("Revoked by somebody")
    UPSTREAM_FAILED = "upstream_failed", _("An earlier step failed")
    DUPLICATE = "duplicate", _("Delivered again after it was put back")


REASON_CHOICES = [*DeadLetterReason.choices, *QuietReason.choices]


class LetterStatus(TextChoices):
    """What has become of a dead letter."""

    OPEN = "open", _("Open")
    REQUEUED = "requeued", _("Requeued")
    RESOLVED = "resolved", _("Resolved")
    DISCARDED = "discarded", _("Discarded")
    SUPERSEDED = "superseded", _("Superseded")
