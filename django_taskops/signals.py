"""Public Django signals, sent after commit by the housekeeper from the outbox, at least once each.

`task_dead_lettered` and `dead_letter_resolved` pass `dead_letter`. `recorder_blind` passes `reason` ("dropped", "lag"
or "quarantined"), `detail`, a sentence, and `since`, an aware instant; its sender is None.
"""

from django.dispatch import Signal

task_dead_lettered = Signal()
dead_letter_resolved = Signal()
recorder_blind = Signal()
