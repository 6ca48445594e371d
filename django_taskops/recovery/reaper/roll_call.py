"""Asks workers that seem to be gone whether they live: their beats may only be stuck on the way."""

from celery import current_app

from ..broker import read_connection

COMMAND = "taskops_boot"
TIMEOUT_SECONDS = 1.0


def answering() -> frozenset[str]:
    """The boots of the workers that answer within a second. Raises what the broker's client raises."""
    with read_connection(current_app) as connection:
        replies = current_app.control.broadcast(COMMAND, reply=True, timeout=TIMEOUT_SECONDS, connection=connection)
    answers = [answer for reply in replies or () for answer in reply.values()]
    return frozenset(str(answer) for answer in answers if isinstance(answer, str))
