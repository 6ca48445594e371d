"""What happens to tasks, told to the journal of this process."""

from django_taskops import journal
from tests.events import Story
from tests.faults.accounts import retried_once


def tell(count: int, *, confirmed: bool = True) -> list[Story]:
    """`confirmed`: waits for the reply to the last of them, too."""
    stories = [retried_once() for _ in range(count)]
    for _story, events in stories:
        for event in events:
            journal.current().append(event)
    if confirmed:
        journal.flush()
    return [story for story, _events in stories]
