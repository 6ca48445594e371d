"""`python -m chaos.publisher SEED RATE COUNT`: publishes tasks of mixed behaviour until told to stop, or COUNT."""

import random
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import django
from celery import chain, chord

from chaos import app as _app  # noqa: F401 the current app of this process
from chaos import instruments, ledger
from chaos.ledger import Line, What


def main(seed: str, rate: float, count: int) -> None:
    """`rate` in calls a second, of which each publishes a task, a chain or a chord."""
    django.setup()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    chosen = random.Random(f"{seed} publisher")
    behaviours, weights = zip(*_behaviours(), strict=True)
    due = time.monotonic()
    for _ in range(count):
        _call(chosen.choices(behaviours, weights)[0](chosen))
        due = max(due + 1 / rate, time.monotonic() - 1)
        time.sleep(max(0, due - time.monotonic()))


def _call(signature: Any) -> None:
    """What it has sent is what the broker's client has put, whatever Celery and the app make of its ids."""
    with instruments.collecting() as sent:
        try:
            signature.apply_async()
        except Exception as error:
            called, detail = What.REFUSED, {"error": repr(error)}
        else:
            called, detail = What.CALLED, {}
    for task_id in sorted(sent):
        ledger.append(Line(what=called, task_id=task_id, detail=detail))


def _behaviours() -> list[tuple[Callable[[random.Random], Any], int]]:
    """Each with its weight."""
    from chaos import tasks

    def some_seconds(chosen: random.Random) -> float:
        return round(chosen.uniform(0.1, 1.5), 3)

    def fates(chosen: random.Random) -> str:
        return chosen.choice(["x.", "xx.", "x.", "x"])

    return [
        (lambda chosen: tasks.quick.s(chosen.random()), 30),
        (lambda chosen: tasks.quick.s().set(countdown=chosen.uniform(0.5, 3)), 5),
        (lambda chosen: tasks.slow.s(some_seconds(chosen)), 12),
        (lambda chosen: tasks.slow_late.s(some_seconds(chosen)), 6),
        (lambda chosen: tasks.slow_put_back.s(some_seconds(chosen)), 6),
        (lambda chosen: tasks.slow_idempotent.s(some_seconds(chosen)), 6),
        (lambda chosen: tasks.flaky.s(fates(chosen)), 8),
        (lambda chosen: tasks.flaky_late.s(fates(chosen)), 5),
        (lambda chosen: tasks.retrying.s(fates(chosen), chosen.choice([0, 0, 1])), 6),
        (lambda _: tasks.failing.s(), 6),
        (lambda _: tasks.publishing.s(2), 3),
        (lambda _: chain(tasks.quick.si(1), tasks.slow.si(0.1), tasks.quick.si(3)), 3),
        (lambda _: chain(tasks.quick.si(1), tasks.failing.si(), tasks.quick.si(3)), 1),
        (lambda _: chord([tasks.quick.si(n) for n in range(3)], tasks.collect.s()), 2),
        (lambda _: chord([tasks.quick.si(1), tasks.failing.si()], tasks.collect.s()), 1),
    ]


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
