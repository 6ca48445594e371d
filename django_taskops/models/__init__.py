"""The tables. No foreign key leaves the app, no migration depends on settings."""

from .audit import AuditAction, AuditEntry
from .chord import Chord, ChordResult
from .dead_letter import DeadLetter
from .outbox import OutboxEntry, OutboxKind, OutboxStatus
from .recorder import QuarantinedEntry, Recorder
from .run import RunEnvelope, TaskAttempt, TaskRun
from .worker import WorkerBeat

__all__ = [
    "AuditAction",
    "AuditEntry",
    "Chord",
    "ChordResult",
    "DeadLetter",
    "OutboxEntry",
    "OutboxKind",
    "OutboxStatus",
    "QuarantinedEntry",
    "Recorder",
    "RunEnvelope",
    "TaskAttempt",
    "TaskRun",
    "WorkerBeat",
]
