"""Puts dead letters back, gives up on them, carries out what facts call for. The only room that publishes tasks."""

from .decide import Decision, discard, restore
from .reap import Reaped, reap
from .requeue import requeue

__all__ = ["Decision", "Reaped", "discard", "reap", "requeue", "restore"]
