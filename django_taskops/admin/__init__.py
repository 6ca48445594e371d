"""The desk in Django's admin: runs, dead letters, audit entries, the recorder. It decides through recovery alone."""

from .audit import AuditEntryAdmin
from .letters import DeadLetterAdmin
from .recorder import RecorderAdmin
from .recorder_quarantine import QuarantinedEntryAdmin
from .runs import TaskRunAdmin

__all__ = ["AuditEntryAdmin", "DeadLetterAdmin", "QuarantinedEntryAdmin", "RecorderAdmin", "TaskRunAdmin"]
