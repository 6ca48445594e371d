"""A word and a colour for each kind of event."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from django.utils.translation import pgettext_lazy

from ...events import Beat, Chord, EventKind

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

KINDS: Mapping[str, "StrOrPromise"] = {
    EventKind.PUBLISHED: pgettext_lazy("event", "published"),
    EventKind.PROGRESS: pgettext_lazy("event", "progress"),
    EventKind.RECEIVED: pgettext_lazy("event", "received"),
    EventKind.STARTED: pgettext_lazy("event", "started"),
    EventKind.ABANDONED: pgettext_lazy("event", "left by its worker"),
    EventKind.END_LOST: pgettext_lazy("event", "end not reported"),
    EventKind.UNDELIVERED: pgettext_lazy("event", "never received"),
    EventKind.BROKE: pgettext_lazy("event", "broke outside its body"),
    EventKind.WORKER_LOST: pgettext_lazy("event", "worker lost"),
    EventKind.SUCCESS_STORED: pgettext_lazy("event", "worker lost, success stored"),
    EventKind.RETURNED: pgettext_lazy("event", "returned"),
    EventKind.FAILED: pgettext_lazy("event", "failed"),
    EventKind.TIMED_OUT: pgettext_lazy("event", "time limit met"),
    EventKind.CANCELLED: pgettext_lazy("event", "cancelled"),
    EventKind.REJECTED: pgettext_lazy("event", "rejected"),
    EventKind.IGNORED: pgettext_lazy("event", "ignored"),
    EventKind.RETRIED: pgettext_lazy("event", "to be retried"),
    EventKind.REVOKED: pgettext_lazy("event", "revoked"),
    EventKind.SUCCEEDED: pgettext_lazy("event", "succeeded"),
    EventKind.UNSERIALIZABLE: pgettext_lazy("event", "result not serializable"),
    EventKind.UNKNOWN_TASK: pgettext_lazy("event", "task not registered"),
    EventKind.UNDECODABLE: pgettext_lazy("event", "message not decodable"),
    EventKind.UPSTREAM_FAILED: pgettext_lazy("event", "will never run"),
    Beat.kind: pgettext_lazy("event", "sign of life of a worker"),
    Chord.kind: pgettext_lazy("event", "chord published"),
}

TONES: Mapping[str, str] = {
    EventKind.PUBLISHED: "waiting",
    EventKind.RECEIVED: "waiting",
    EventKind.STARTED: "running",
    EventKind.PROGRESS: "running",
    EventKind.RETRIED: "warning",
    EventKind.RETURNED: "running",
    EventKind.SUCCESS_STORED: "good",
    EventKind.SUCCEEDED: "good",
    EventKind.IGNORED: "quiet",
    EventKind.REVOKED: "quiet",
    EventKind.UPSTREAM_FAILED: "quiet",
    EventKind.ABANDONED: "warning",
    Beat.kind: "quiet",
    Chord.kind: "waiting",
}
"""What is not listed is bad."""
