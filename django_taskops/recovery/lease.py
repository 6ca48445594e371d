"""Who does what one process at a time has to do: a row of the outbox, held for a while at a time.

The clock is the database's. Whoever is stopped for longer than that loses the lease and learns of it before it goes on.
"""

import secrets
import socket
import time
from datetime import timedelta
from os import getpid

from django.db.models import DateTimeField, ExpressionWrapper, Q

from ..models import OutboxEntry, OutboxKind, OutboxStatus
from ..projection.clock import DatabaseNow

RENEWALS = 3  # while a lease lasts
LOOKS = 3


class Lease:
    """For one thread. `seconds` is for how long nobody else takes it after its holder has vanished."""

    def __init__(self, name: str, seconds: float) -> None:
        self.seconds = seconds
        self.holder = f"{socket.gethostname()[:40]} {getpid()} {secrets.token_hex(4)}"
        self._key = f"{OutboxKind.LEASE}:{name}"
        self._held = False
        self._ask_at = 0.0

    def hold(self) -> bool:
        """True while this process is the one. Writes only to take the lease and to renew it. Raises what
        the database raises."""
        now = time.monotonic()
        if now >= self._ask_at:
            self._held = self._take()
            self._ask_at = now + self.seconds / (RENEWALS if self._held else LOOKS)
        return self._held

    def release(self) -> None:
        """Lets another process have it. Raises what the database raises."""
        if self._held:
            OutboxEntry.objects.filter(key=self._key, claimed_by=self.holder).update(claimed_until=None)
        self._held, self._ask_at = False, 0.0

    def _take(self) -> bool:
        entries = OutboxEntry.objects.filter(key=self._key)
        if not entries.exists():
            entry = OutboxEntry(kind=OutboxKind.LEASE, key=self._key, status=OutboxStatus.DONE)
            OutboxEntry.objects.bulk_create([entry], ignore_conflicts=True)
        free = entries.filter(Q(claimed_until=None) | Q(claimed_until__lt=DatabaseNow()) | Q(claimed_by=self.holder))
        if not free.exists():
            return False
        until = ExpressionWrapper(DatabaseNow() + timedelta(seconds=self.seconds), output_field=DateTimeField())
        return bool(free.update(claimed_by=self.holder, claimed_until=until))
