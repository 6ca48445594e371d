"""`python -m chaos.requeuer SEED NAME`: puts back open letters, beside another process that does the same."""

import random
import signal
import sys
import time
from typing import Any

import django

from chaos import app, ledger
from chaos.ledger import Line, What

SECONDS_BETWEEN_LOOKS = 0.5
LETTERS_AT_A_TIME = 8
SHARE_DISCARDED = 0.05


def main(seed: str, name: str) -> None:
    """All processes of one seed choose the same letters at about the same time."""
    django.setup()
    app.hasten()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    chosen = random.Random(f"{seed} requeuer")
    while True:
        _look(chosen, name)
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _look(chosen: random.Random, name: str) -> None:
    from django.db import Error, connection

    from django_taskops.models import DeadLetter
    from django_taskops.states import LetterStatus

    try:
        letters = list(DeadLetter.objects.filter(status=LetterStatus.OPEN).order_by("pk")[:LETTERS_AT_A_TIME])
    except Error:
        connection.close()  # the next look finds the database again
        return
    for letter in letters:
        _decide(letter, name, discards=chosen.random() < SHARE_DISCARDED)


def _decide(letter: Any, name: str, *, discards: bool) -> None:
    from django.db import connection

    from django_taskops.recovery import discard, requeue

    decide = discard if discards else requeue
    facts = {"letter": letter.pk, "by": name, "action": decide.__name__}
    try:
        decision = decide(letter, by=name, reason="chaos")
    except Exception as error:
        ledger.append(Line(what=What.DECLINED, detail={**facts, "error": type(error).__name__, "why": str(error)}))
        connection.close_if_unusable_or_obsolete()
    else:
        told = {**facts, "outcome": decision.outcome}
        ledger.append(
            Line(what=What.DECIDED, task_id=decision.task_id, generation=decision.generation or 0, detail=told)
        )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
