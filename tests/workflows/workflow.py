"""One workflow of a test: its steps by short names, broken and healed at will."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from celery import current_app

from django_taskops.models import DeadLetter, TaskRun
from django_taskops.recovery import requeue
from django_taskops.recovery.joins import Joins
from django_taskops.recovery.outbox import carry_out
from django_taskops.states import LetterStatus
from tests.tasks import counters
from tests.workers import eventually
from tests.workflows import tasks

SECONDS = 30
SECONDS_BETWEEN_CHORES = 0.1


@dataclass(frozen=True, slots=True)
class Workflow:
    """`key` is unlike that of any other test's."""

    key: str = field(default_factory=lambda: uuid4().hex)

    def step(self, name: str, task: Any = tasks.node) -> Any:
        """A signature that takes the result of the step before."""
        return task.s(name=self.full(name))

    def __getattr__(self, name: str) -> Any:
        return self.step(name)

    def full(self, name: str) -> str:
        return f"{self.key}-{name}"

    def breaks(self, *names: str) -> None:
        for name in names:
            counters().set(f"broken:{self.full(name)}", 1)

    def heal(self, *names: str) -> None:
        for name in names:
            counters().delete(f"broken:{self.full(name)}")

    def hold(self, *names: str) -> None:
        for name in names:
            counters().set(f"held:{self.full(name)}", 1)

    def let_go(self, *names: str) -> None:
        for name in names:
            counters().set(f"go:{self.full(name)}", 1)

    def succeeded(self, name: str) -> int:
        """How often it has run to its end."""
        return int(counters().get(f"succeeded:{self.full(name)}") or 0)

    def run(self, name: str) -> TaskRun:
        """Its newest run. Raises TaskRun.DoesNotExist."""
        run: TaskRun = TaskRun.objects.filter(kwargs__name=self.full(name)).order_by("pk").latest("pk")
        return run

    def state(self, name: str) -> str:
        return self.run(name).state

    def letter(self, name: str) -> DeadLetter:
        """Its open dead letter, waited for."""

        def found() -> DeadLetter:
            letter: DeadLetter = self.run(name).dead_letters.get(status=LetterStatus.OPEN)
            return letter

        letter: DeadLetter = settled(found, f"an open letter of {name}")
        return letter

    def requeue(self, *names: str) -> None:
        """Heals them, and puts them back in this order."""
        letters = [self.letter(name) for name in names]
        self.heal(*names)
        for letter in letters:
            requeue(letter)


def settled(predicate: Callable[[], Any], message: str = "") -> Any:
    """`eventually`, while this process keeps house as well as the worker does: so that nobody waits for its turn."""
    kept_house = 0.0

    def kept() -> Any:
        nonlocal kept_house
        if time.monotonic() - kept_house > SECONDS_BETWEEN_CHORES:
            joins()
            carry_out()
            kept_house = time.monotonic()
        return predicate()

    return eventually(kept, SECONDS, message)


joins = Joins()


def result_of(task_id: str, timeout: float = SECONDS) -> Any:
    """As a poller waits for it that begins now."""
    return current_app.AsyncResult(task_id).get(timeout=timeout, disable_sync_subtasks=False)
