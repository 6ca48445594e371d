"""The desk in Django's admin: runs, letters, decisions, workers, the recorder. It decides through recovery alone."""

from .audit import AuditEntryAdmin
from .letters import DeadLetterAdmin
from .recorder import RecorderAdmin
from .recorder.quarantine import QuarantinedEntryAdmin
from .runs import TaskRunAdmin
from .workers import WorkerBeatAdmin

__all__ = [
    "AuditEntryAdmin",
    "DeadLetterAdmin",
    "QuarantinedEntryAdmin",
    "RecorderAdmin",
    "TaskRunAdmin",
    "WorkerBeatAdmin",
]
