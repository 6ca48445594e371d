"""Chords, kept so that one whose member has failed can still be joined: Celery has given it up by then."""

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from django.db import models
from django.utils import timezone

from .manager import TaskOpsManager
from .partly_indexed import PartlyIndexed


class Chord(PartlyIndexed):
    """One chord, as its publisher has told it. The first word stays, however often its tasks run.

    `members` are the task ids of its header, in order; a list among them is a group that ends a member. `body` is the
    name of its body's task, `body_id` the id of the last task of its body, "" where it is not known. `failed` once
    one of them has ended badly: from then on their results are kept here. `envelope` is the message of the member that
    was put back first, which holds the body's signature: from then on this app joins the chord, and not Celery.
    `joined_at` says when its body went out. `touched` where something has happened that the housekeeper has not looked
    at, or is looking at. `lost` are the members that have succeeded and of whose results nothing is left: the body
    can't have them.
    """

    group_id = models.CharField(max_length=255)
    members = models.JSONField(default=list)
    body = models.CharField(max_length=255, blank=True)
    body_id = models.CharField(max_length=255, blank=True, default="")
    created_at = models.DateTimeField(default=timezone.now, db_index=True)
    failed = models.BooleanField(default=False)
    touched = models.BooleanField(default=False)
    envelope = models.BinaryField(null=True)
    joined_at = models.DateTimeField(null=True, blank=True)
    lost = models.JSONField(default=list, blank=True)

    objects: ClassVar[TaskOpsManager] = TaskOpsManager()

    class Meta:
        base_manager_name = "objects"
        constraints = (models.UniqueConstraint(fields=["group_id"], name="taskops_chord_group"),)
        indexes = (
            models.Index(fields=["touched", "id"], name="taskops_chord_touched", condition=models.Q(touched=True)),
            models.Index(
                fields=["id"],
                name="taskops_chord_waiting",
                condition=models.Q(envelope__isnull=False, joined_at__isnull=True),
            ),
        )

    def __str__(self) -> str:
        return f"{self.body or '?'} {self.group_id}"

    @property
    def waiting(self) -> bool:
        """True where this app joins it, and has not done so yet."""
        return self.envelope is not None and self.joined_at is None

    @property
    def member_ids(self) -> list[str]:
        """All of them, in order."""
        return list(_flat(self.members))


def _flat(members: Iterable[Any]) -> Iterator[str]:
    for member in members:
        if isinstance(member, list):
            yield from _flat(member)
        else:
            yield member


class ChordResult(models.Model):
    """The result of a member of a chord that has failed, in the serializer of the result backend, which forgets it."""

    chord = models.ForeignKey(Chord, on_delete=models.CASCADE, related_name="results")
    task_id = models.CharField(max_length=255)
    content_type = models.CharField(max_length=100)
    content_encoding = models.CharField(max_length=100)
    result = models.BinaryField()

    objects: ClassVar[TaskOpsManager] = TaskOpsManager()

    class Meta:
        base_manager_name = "objects"
        constraints = (models.UniqueConstraint(fields=["chord", "task_id"], name="taskops_chord_result"),)

    def __str__(self) -> str:
        return self.task_id
