"""The desk in Django's admin: runs, dead letters, audit entries. It reads, and decides through recovery alone."""

from .audit import AuditEntryAdmin
from .letters import DeadLetterAdmin
from .runs import TaskRunAdmin

__all__ = ["AuditEntryAdmin", "DeadLetterAdmin", "TaskRunAdmin"]
